//! The micro-kernel for all matrix products of attention: eight rows times panels of sixteen lanes.
//!
//! Operands are scratch buffers of 32-bit words. A word is one f32, or two bf16 that are neighbours along the
//! contraction. From `A`, one word is read per row and step and broadcast. So its rows can have any layout: `rs` words
//! from row to row, `cs` from step to step. From `B`, sixteen lanes are read per step, with `bs` words from step to
//! step. Every element of the result is one chain over the steps in ascending order. So its bits do not depend on its
//! row in the tile or on its panel.

/// Rows of one strip.
pub(crate) const ROWS: usize = 8;

/// The left operand: eight rows of words.
#[derive(Clone, Copy)]
pub(crate) struct Rows {
    /// Word of row 0, step 0.
    pub(crate) ptr: *const u32,
    /// Words from row to row.
    pub(crate) rs: usize,
    /// Words from step to step.
    pub(crate) cs: usize,
}

/// The right operand: lanes of words.
#[derive(Clone, Copy)]
pub(crate) struct Panels {
    /// Word of lane 0, step 0.
    pub(crate) ptr: *const u32,
    /// Words from step to step.
    pub(crate) bs: usize,
    /// Number of groups of sixteen lanes.
    pub(crate) count: usize,
}

/// The initial value of the result.
#[derive(Clone, Copy)]
pub(crate) enum Start {
    /// Zero.
    Zero,
    /// The present value.
    Load,
    /// The present value, with each row multiplied by its factor.
    Scale(*const f32),
}

/// The number of panels in the next tile, out of `left`. It is three (24 accumulators), unless that would leave a
/// single last panel where two pairs are possible.
#[inline(always)]
fn take(left: usize) -> usize {
    if left == 4 { 2 } else { left.min(3) }
}

macro_rules! strip {
    ($(#[$attr:meta])* $name:ident, $tile:ident) => {
        /// `c[8, 16 count] = start + a b` over `k` steps; rows of `c` are `ldc` apart.
        ///
        /// # Safety
        /// All words read and written must be in bounds; the instruction path must be available.
        $(#[$attr])*
        pub(crate) unsafe fn $name(a: Rows, b: Panels, k: usize, c: *mut f32, ldc: usize, start: Start) {
            let mut done = 0;
            while done < b.count {
                let n = take(b.count - done);
                // SAFETY: the tile stays inside the strip.
                unsafe {
                    let (bp, cp) = (b.ptr.add(16 * done), c.add(16 * done));
                    match n {
                        1 => $tile::<1>(a, bp, b.bs, k, cp, ldc, start),
                        2 => $tile::<2>(a, bp, b.bs, k, cp, ldc, start),
                        _ => $tile::<3>(a, bp, b.bs, k, cp, ldc, start),
                    }
                }
                done += n;
            }
        }
    };
}

strip!(strip_plain, tile_plain);
#[cfg(target_arch = "x86_64")]
strip!(
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
    strip_bf16,
    tile_bf16
);
#[cfg(target_arch = "x86_64")]
strip!(
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    strip_avx512,
    tile_avx512
);
#[cfg(target_arch = "x86_64")]
strip!(
    #[target_feature(enable = "avx2,fma")]
    strip_avx2,
    tile_avx2
);

#[inline(always)]
unsafe fn tile_plain<const P: usize>(
    a: Rows,
    b: *const u32,
    bs: usize,
    k: usize,
    c: *mut f32,
    ldc: usize,
    start: Start,
) {
    // Besides the operands, sixteen 128-bit registers hold two rows of sixteen lanes.
    for p in 0..P {
        for i in (0..ROWS).step_by(2) {
            // SAFETY: the caller vouches for the strip; rows i, i + 1 and panel p lie in it.
            unsafe {
                let mut acc = [[0f32; 16]; 2];
                for (r, acc) in acc.iter_mut().enumerate() {
                    if !matches!(start, Start::Zero) {
                        *acc = c.add((i + r) * ldc + 16 * p).cast::<[f32; 16]>().read_unaligned();
                    }
                    if let Start::Scale(s) = start {
                        let s = *s.add(i + r);
                        for v in acc.iter_mut() {
                            *v *= s;
                        }
                    }
                }
                for j in 0..k {
                    let bv = b.add(j * bs + 16 * p).cast::<[f32; 16]>().read_unaligned();
                    for (r, acc) in acc.iter_mut().enumerate() {
                        let av = f32::from_bits(*a.ptr.add((i + r) * a.rs + j * a.cs));
                        for l in 0..16 {
                            acc[l] += av * bv[l];
                        }
                    }
                }
                for (r, acc) in acc.iter().enumerate() {
                    c.add((i + r) * ldc + 16 * p).cast::<[f32; 16]>().write_unaligned(*acc);
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{ROWS, Rows, Start};
    use std::arch::x86_64::*;

    macro_rules! tile512 {
        ($name:ident, |$acc:ident, $a:ident, $b:ident| $step:expr) => {
            #[inline(always)]
            pub(super) unsafe fn $name<const P: usize>(
                a: Rows,
                b: *const u32,
                bs: usize,
                k: usize,
                c: *mut f32,
                ldc: usize,
                start: Start,
            ) {
                // SAFETY: the caller has the instructions and vouches for the strip.
                unsafe {
                    let mut acc = [[_mm512_setzero_ps(); P]; ROWS];
                    if !matches!(start, Start::Zero) {
                        for i in 0..ROWS {
                            for p in 0..P {
                                acc[i][p] = _mm512_loadu_ps(c.add(i * ldc + 16 * p));
                            }
                        }
                    }
                    if let Start::Scale(s) = start {
                        for i in 0..ROWS {
                            let s = _mm512_set1_ps(*s.add(i));
                            for p in 0..P {
                                acc[i][p] = _mm512_mul_ps(acc[i][p], s);
                            }
                        }
                    }
                    for j in 0..k {
                        let mut bv = [_mm512_setzero_si512(); P];
                        for p in 0..P {
                            bv[p] = _mm512_loadu_si512(b.add(j * bs + 16 * p).cast());
                        }
                        for i in 0..ROWS {
                            let $a = _mm512_set1_epi32(a.ptr.add(i * a.rs + j * a.cs).cast::<i32>().read());
                            for p in 0..P {
                                let ($acc, $b) = (acc[i][p], bv[p]);
                                acc[i][p] = $step;
                            }
                        }
                    }
                    for i in 0..ROWS {
                        for p in 0..P {
                            _mm512_storeu_ps(c.add(i * ldc + 16 * p), acc[i][p]);
                        }
                    }
                }
            }
        };
    }

    tile512!(tile_bf16, |acc, a, b| _mm512_dpbf16_ps(
        acc,
        std::mem::transmute::<__m512i, __m512bh>(a),
        std::mem::transmute::<__m512i, __m512bh>(b)
    ));
    tile512!(tile_avx512, |acc, a, b| _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), acc));

    #[inline(always)]
    pub(super) unsafe fn tile_avx2<const P: usize>(
        a: Rows,
        b: *const u32,
        bs: usize,
        k: usize,
        c: *mut f32,
        ldc: usize,
        start: Start,
    ) {
        // Four rows of sixteen lanes: eight of the sixteen registers accumulate.
        const R: usize = 4;
        for p in 0..P {
            for i in (0..ROWS).step_by(R) {
                // SAFETY: the caller has AVX2 and FMA and vouches for the strip; the quarter lies in it.
                unsafe {
                    let c = c.add(i * ldc + 16 * p);
                    let mut acc = [[_mm256_setzero_ps(); 2]; R];
                    if !matches!(start, Start::Zero) {
                        for r in 0..R {
                            acc[r] = [_mm256_loadu_ps(c.add(r * ldc)), _mm256_loadu_ps(c.add(r * ldc + 8))];
                        }
                    }
                    if let Start::Scale(s) = start {
                        for r in 0..R {
                            let s = _mm256_set1_ps(*s.add(i + r));
                            acc[r] = [_mm256_mul_ps(acc[r][0], s), _mm256_mul_ps(acc[r][1], s)];
                        }
                    }
                    for j in 0..k {
                        let bp = b.add(j * bs + 16 * p).cast::<f32>();
                        let (b0, b1) = (_mm256_loadu_ps(bp), _mm256_loadu_ps(bp.add(8)));
                        for r in 0..R {
                            let av = _mm256_broadcast_ss(&*a.ptr.add((i + r) * a.rs + j * a.cs).cast::<f32>());
                            acc[r] = [_mm256_fmadd_ps(av, b0, acc[r][0]), _mm256_fmadd_ps(av, b1, acc[r][1])];
                        }
                    }
                    for r in 0..R {
                        _mm256_storeu_ps(c.add(r * ldc), acc[r][0]);
                        _mm256_storeu_ps(c.add(r * ldc + 8), acc[r][1]);
                    }
                }
            }
        }
    }
}
#[cfg(target_arch = "x86_64")]
use x86::{tile_avx2, tile_avx512, tile_bf16};
