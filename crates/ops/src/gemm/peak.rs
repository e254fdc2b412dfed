//! The rate of the multiply instruction alone: what a product's speed is a share of.

use crate::{Cx, DType, Isa};
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Flops of one call of `burst`, and a function that runs it.
struct Burst {
    flops: u64,
    run: unsafe fn(f32) -> f32,
}

impl Burst {
    fn of(isa: Isa, dtype: DType) -> Self {
        match (isa, dtype) {
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512Bf16, DType::Bf16) => Self { flops: ROUNDS * CHAINS as u64 * 64, run: x86::dpbf16 },
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512Bf16, _) => Self { flops: ROUNDS * CHAINS as u64 * 32, run: x86::fma512 },
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx2, _) => Self { flops: ROUNDS * 12 * 16, run: x86::fma256 },
            _ => Self { flops: ROUNDS * 8 * 8, run: scalar },
        }
    }
}

/// Instructions in flight.
#[cfg(target_arch = "x86_64")]
const CHAINS: usize = 24;
/// Rounds of a burst: some microseconds.
const ROUNDS: u64 = 2048;

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{CHAINS, ROUNDS, black_box};
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) unsafe fn dpbf16(seed: f32) -> f32 {
        let words = _mm512_castps_si512(_mm512_set1_ps(seed));
        // SAFETY: vectors of one size.
        let mut v = black_box(unsafe { std::mem::transmute::<__m512i, __m512bh>(words) });
        let mut acc = [_mm512_setzero_ps(); CHAINS];
        for _ in 0..ROUNDS {
            // Opaque, but in a register: otherwise the loop would be one multiplication.
            // SAFETY: an empty statement that claims to change v.
            unsafe { std::arch::asm!("/* {0} */", inout(zmm_reg) v, options(nomem, nostack, preserves_flags)) };
            for a in &mut acc {
                *a = _mm512_dpbf16_ps(*a, v, v);
            }
        }
        acc.iter().map(|a| _mm512_reduce_add_ps(*a)).sum()
    }

    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn fma512(seed: f32) -> f32 {
        let mut v = black_box(_mm512_set1_ps(seed));
        let mut acc = [_mm512_setzero_ps(); CHAINS];
        for _ in 0..ROUNDS {
            // SAFETY: an empty statement that claims to change v.
            unsafe { std::arch::asm!("/* {0} */", inout(zmm_reg) v, options(nomem, nostack, preserves_flags)) };
            for a in &mut acc {
                *a = _mm512_fmadd_ps(v, v, *a);
            }
        }
        acc.iter().map(|a| _mm512_reduce_add_ps(*a)).sum()
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn fma256(seed: f32) -> f32 {
        let mut v = black_box(_mm256_set1_ps(seed));
        let mut acc = [_mm256_setzero_ps(); 12];
        for _ in 0..ROUNDS {
            // SAFETY: an empty statement that claims to change v.
            unsafe { std::arch::asm!("/* {0} */", inout(ymm_reg) v, options(nomem, nostack, preserves_flags)) };
            for a in &mut acc {
                *a = _mm256_fmadd_ps(v, v, *a);
            }
        }
        let mut total = 0.0;
        for a in acc {
            // SAFETY: vectors of one size.
            total += unsafe { std::mem::transmute::<__m256, [f32; 8]>(a) }.iter().sum::<f32>();
        }
        total
    }
}

unsafe fn scalar(seed: f32) -> f32 {
    let mut acc = [[0f32; 4]; 8];
    let mut v = seed;
    for _ in 0..ROUNDS {
        v = black_box(v);
        for a in &mut acc {
            for x in a {
                *x += v * v;
            }
        }
    }
    acc.iter().flatten().sum()
}

/// Billions of floating-point operations a second that all threads together reach with the multiply instruction of the
/// context's path and compute format when every operand is in registers. Runs for about `seconds`.
pub fn peak_gflops(cx: &Cx, seconds: f64) -> f64 {
    let burst = Burst::of(cx.isa(), cx.compute());
    let bursts = AtomicU64::new(0);
    let start = Instant::now();
    let threads = cx.threads().count();
    cx.threads().each(threads, |_| {
        while start.elapsed().as_secs_f64() < seconds {
            for _ in 0..8 {
                // SAFETY: chosen by the context's path, which the processor has.
                black_box(unsafe { (burst.run)(black_box(1e-3)) });
            }
            bursts.fetch_add(8, Ordering::Relaxed);
        }
    });
    (bursts.into_inner() * burst.flops) as f64 / start.elapsed().as_secs_f64() / 1e9
}
