//! The instructions that kernels may use, detected once at run time.

use std::str::FromStr;
use std::sync::OnceLock;

/// An instruction path. Every operation has a portable form; the others are chosen at run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Plain Rust, any processor.
    Portable,
    /// 256-bit vectors with fused multiply-add.
    Avx2,
    /// AVX-512 F/BW/VL/DQ with the BF16 dot product.
    Avx512Bf16,
    /// The same with AMX tiles for products of BF16.
    Amx,
}

/// All paths, slowest first.
const ALL: [Isa; 4] = [Isa::Portable, Isa::Avx2, Isa::Avx512Bf16, Isa::Amx];

impl Isa {
    /// The best path of this processor. If the environment variable `HADAL_ISA` names a path (`portable`, `avx2`,
    /// `avx512bf16`, `amx`) that the processor has, it is used instead.
    pub fn detect() -> Self {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| {
            let best = Self::best();
            match std::env::var("HADAL_ISA").ok().and_then(|v| v.parse().ok()) {
                Some(forced) if forced <= best => forced,
                _ => best,
            }
        })
    }

    /// All paths that this processor can run, slowest first.
    pub fn available() -> Vec<Self> {
        let best = Self::best();
        ALL.into_iter().filter(|i| *i <= best).collect()
    }

    fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512bf16")
                && is_x86_feature_detected!("fma")
            {
                return if amx::available() { Self::Amx } else { Self::Avx512Bf16 };
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return Self::Avx2;
            }
        }
        Self::Portable
    }

    /// Whether kernels may use AVX-512 with the BF16 dot product.
    pub(crate) fn has_avx512(self) -> bool {
        self >= Self::Avx512Bf16
    }

    /// The name of the path in `HADAL_ISA`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512Bf16 => "avx512bf16",
            Self::Amx => "amx",
        }
    }
}

impl FromStr for Isa {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        ALL.into_iter()
            .find(|i| i.name() == s)
            .ok_or_else(|| format!("unknown instruction path `{s}`: use portable, avx2, avx512bf16 or amx"))
    }
}

#[cfg(target_arch = "x86_64")]
mod amx {
    #[cfg(target_os = "linux")]
    use std::arch::asm;
    use std::arch::x86_64::{__cpuid, __cpuid_count};

    /// Bits of leaf 7's edx: BF16 products, tiles.
    const FEATURES: u32 = 1 << 22 | 1 << 24;
    /// State of the tiles' data, as `arch_prctl` numbers it.
    const TILE_DATA: usize = 18;

    /// Whether the processor has AMX, and the system lets this process use it. The second half must be asked for once per
    /// process, because the tiles enlarge what is saved when threads are switched.
    pub(super) fn available() -> bool {
        let leaves = __cpuid(0).eax;
        leaves >= 7 && __cpuid_count(7, 0).edx & FEATURES == FEATURES && permitted()
    }

    #[cfg(target_os = "linux")]
    fn permitted() -> bool {
        const ARCH_PRCTL: usize = 158;
        const REQUEST_PERMISSION: usize = 0x1023;
        let result: isize;
        // SAFETY: a system call that takes two numbers. An older kernel answers with an error.
        unsafe {
            asm!(
                "syscall",
                inlateout("rax") ARCH_PRCTL => result,
                in("rdi") REQUEST_PERMISSION,
                in("rsi") TILE_DATA,
                out("rcx") _,
                out("r11") _,
                options(nostack),
            );
        }
        result == 0
    }

    #[cfg(not(target_os = "linux"))]
    fn permitted() -> bool {
        let _ = TILE_DATA;
        false
    }
}
