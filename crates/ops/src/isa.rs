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
}

impl Isa {
    /// The best path of this processor. If the environment variable `HADAL_ISA` names a path (`portable`, `avx2`,
    /// `avx512bf16`) that the processor has, it is used instead.
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
        [Self::Portable, Self::Avx2, Self::Avx512Bf16].into_iter().filter(|i| *i <= best).collect()
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
                return Self::Avx512Bf16;
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return Self::Avx2;
            }
        }
        Self::Portable
    }

    /// The name of the path in `HADAL_ISA`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512Bf16 => "avx512bf16",
        }
    }
}

impl FromStr for Isa {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        [Self::Portable, Self::Avx2, Self::Avx512Bf16]
            .into_iter()
            .find(|i| i.name() == s)
            .ok_or_else(|| format!("unknown instruction path `{s}`: use portable, avx2 or avx512bf16"))
    }
}
