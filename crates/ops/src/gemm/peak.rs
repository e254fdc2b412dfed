//! The peak rate of the multiply instruction, with which the speed of a product is compared.

use crate::{Cx, DType, Isa};
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// A loop of independent multiplications, all in registers.
struct Burst {
    /// Flops of one run.
    flops: u64,
    run: unsafe fn(),
}

impl Burst {
    fn of(isa: Isa, dtype: DType) -> Self {
        match (isa, dtype) {
            #[cfg(target_arch = "x86_64")]
            (Isa::Amx, DType::Bf16) => Self { flops: ROUNDS * 4 * 16 * 1024, run: x86::tdpbf16 },
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512Bf16, DType::Bf16) => Self { flops: ROUNDS * 24 * 64, run: x86::dpbf16 },
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512Bf16 | Isa::Amx, _) => Self { flops: ROUNDS * 24 * 32, run: x86::fma512 },
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx2, _) => Self { flops: ROUNDS * 12 * 16, run: x86::fma256 },
            _ => Self { flops: ROUNDS * 8 * 8, run: plain },
        }
    }

    /// Of products of bytes, if the processor has an instruction for them that the path may use.
    fn of_bytes(isa: Isa) -> Option<Self> {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 | Isa::Amx if is_x86_feature_detected!("avx512vnni") => {
                Some(Self { flops: ROUNDS * 24 * 128, run: x86::dpbusd512 })
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 if is_x86_feature_detected!("avxvnni") => {
                Some(Self { flops: ROUNDS * 12 * 64, run: x86::dpbusd256 })
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Some(Self { flops: ROUNDS * 12 * 32, run: x86::maddwd }),
            _ => None,
        }
    }
}

/// Rounds of a burst. They take some ten microseconds.
const ROUNDS: u64 = 2048;

/// Written in assembly, because a compiler that spills an accumulator would change the measurement.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::ROUNDS;
    use std::arch::asm;

    macro_rules! burst {
        ($name:ident, $features:literal, $op:literal, $zero:literal, $a:tt, [$($r:tt)*]) => {
            #[target_feature(enable = $features)]
            pub(super) fn $name() {
                // SAFETY: touches only the registers it declares.
                unsafe {
                    asm!(
                        concat!($zero, " ", $a, ",", $a, ",", $a),
                        $(concat!($zero, " ", $r, ",", $r, ",", $r),)*
                        ".p2align 5",
                        "2:",
                        $(concat!($op, " ", $r, ",", $a, ",", $a),)*
                        "dec {rounds}",
                        "jnz 2b",
                        rounds = inout(reg) ROUNDS => _,
                        out($a) _,
                        $(out($r) _,)*
                        options(nomem, nostack),
                    );
                }
            }
        };
    }
    macro_rules! burst512 {
        ($name:ident, $features:literal, $op:literal) => {
            burst!($name, $features, $op, "vpxord", "zmm31", [
                "zmm0" "zmm1" "zmm2" "zmm3" "zmm4" "zmm5" "zmm6" "zmm7" "zmm8" "zmm9" "zmm10" "zmm11" "zmm12" "zmm13" "zmm14" "zmm15" "zmm16" "zmm17" "zmm18" "zmm19" "zmm20" "zmm21" "zmm22" "zmm23"
            ]);
        };
    }
    /// Four products of tiles in turn.
    pub(super) fn tdpbf16() {
        crate::gemm::amx::configure(32);
        // SAFETY: no compiled code uses tile registers. Their contents do not matter.
        unsafe {
            asm!(
                "2:",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "dec {rounds}",
                "jnz 2b",
                rounds = inout(reg) ROUNDS => _,
                options(nomem, nostack),
            );
        }
        crate::amx::release();
    }
    burst512!(dpbf16, "avx512f,avx512bf16", "vdpbf16ps");
    burst512!(fma512, "avx512f", "vfmadd231ps");
    burst512!(dpbusd512, "avx512f,avx512vnni", "vpdpbusd");
    burst!(dpbusd256, "avx2,avxvnni", "{{vex}} vpdpbusd", "vpxor", "ymm15", ["ymm0" "ymm1" "ymm2" "ymm3" "ymm4" "ymm5" "ymm6" "ymm7" "ymm8" "ymm9" "ymm10" "ymm11"]);
    burst!(maddwd, "avx2", "vpmaddwd", "vpxor", "ymm15", ["ymm0" "ymm1" "ymm2" "ymm3" "ymm4" "ymm5" "ymm6" "ymm7" "ymm8" "ymm9" "ymm10" "ymm11"]);
    burst!(fma256, "avx2,fma", "vfmadd231ps", "vpxor", "ymm15", ["ymm0" "ymm1" "ymm2" "ymm3" "ymm4" "ymm5" "ymm6" "ymm7" "ymm8" "ymm9" "ymm10" "ymm11"]);
}

fn plain() {
    let mut acc = [[0f32; 4]; 8];
    let mut v = 1e-3f32;
    for _ in 0..ROUNDS {
        v = black_box(v);
        for a in &mut acc {
            for x in a {
                *x += v * v;
            }
        }
    }
    black_box(acc);
}

/// Billions of floating-point operations per second that all threads together reach with the multiply instruction of
/// the context's path and compute format, when all operands are in registers. It runs for about `seconds`.
pub fn peak_gflops(cx: &Cx, seconds: f64) -> f64 {
    rate(cx, &Burst::of(cx.isa(), cx.compute()), seconds)
}

/// The same of products of bytes: billions of multiplications and additions a second. Zero where the path has no
/// instruction for them.
pub fn peak_int8_gops(cx: &Cx, seconds: f64) -> f64 {
    Burst::of_bytes(cx.isa()).map_or(0.0, |burst| rate(cx, &burst, seconds))
}

fn rate(cx: &Cx, burst: &Burst, seconds: f64) -> f64 {
    let bursts = AtomicU64::new(0);
    let start = Instant::now();
    let threads = cx.threads().count();
    cx.threads().each(threads, |_| {
        while start.elapsed().as_secs_f64() < seconds {
            // SAFETY: chosen by the context's path, which the processor has.
            unsafe { (burst.run)() };
            bursts.fetch_add(1, Ordering::Relaxed);
        }
    });
    (bursts.into_inner() * burst.flops) as f64 / start.elapsed().as_secs_f64() / 1e9
}
