//! `TileKernel`: an instruction path and an element type, as used by the attention drivers.
//!
//! | kernel | elements | words | products |
//! | --- | --- | --- | --- |
//! | `Avx512Bf16` | bf16 | two bf16 | dpbf16 or AMX, f32 sums; weights P and dS rounded to bf16 |
//! | `Avx512F32` | f32 | one f32 | fused multiply-add |
//! | `Avx2`, `Plain` | either | one f32 | f32; bf16 inputs are widened exactly, P and dS stay f32 |

use super::Scratch;
use super::lanes::{Lanes, Plain};
use super::tile::{self, Panels, Rows, Start};
use crate::kernel::Elem;
use crate::slots::Slots;
use crate::{Cx, Isa};
use half::bf16;
use std::marker::PhantomData;

/// An element type of the tensors that attention reads and writes.
pub(crate) trait AttentionElem: Elem {
    /// The AVX-512 kernel for it.
    #[cfg(target_arch = "x86_64")]
    type Wide: TileKernel<E = Self>;
    /// The kernel with AMX, if it has products of this type.
    #[cfg(target_arch = "x86_64")]
    type Tiles: TileKernel<E = Self>;
}
impl AttentionElem for f32 {
    #[cfg(target_arch = "x86_64")]
    type Wide = Avx512F32;
    #[cfg(target_arch = "x86_64")]
    type Tiles = Avx512F32;
}
impl AttentionElem for bf16 {
    #[cfg(target_arch = "x86_64")]
    type Wide = Avx512Bf16<false>;
    #[cfg(target_arch = "x86_64")]
    type Tiles = Avx512Bf16<true>;
}

/// The body of a parallel loop, generic over the kernel.
pub(crate) trait Work<E: AttentionElem>: Sync {
    /// Largest number of scratch words that a task needs. Every piece counts as whole cache lines.
    fn scratch<K: TileKernel<E = E>>(&self) -> usize {
        0
    }

    /// Task number `task`.
    ///
    /// # Safety
    /// The kernel's instructions must be available, and each task must run once.
    unsafe fn run<K: TileKernel<E = E>>(&self, task: usize, scratch: Scratch);
}

/// Runs tasks `0..n` on the threads of `cx` with the kernel of its instruction path.
pub(crate) fn each<E: AttentionElem>(cx: &Cx, n: usize, work: &impl Work<E>) {
    // SAFETY: `cx` only holds an instruction path that this processor has.
    unsafe {
        match cx.isa() {
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => each_with::<E::Tiles>(cx, n, work),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => each_with::<E::Wide>(cx, n, work),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => each_with::<Avx2<E>>(cx, n, work),
            _ => each_with::<PlainKernel<E>>(cx, n, work),
        }
    }
}

/// Runs tasks `0..n` with kernel `K`. Each has its own scratch.
///
/// # Safety
/// The kernel's instructions must be available.
unsafe fn each_with<K: TileKernel>(cx: &Cx, n: usize, work: &impl Work<K::E>) {
    let words = work.scratch::<K>();
    let slots = Slots::new(cx, cx.threads().count().min(n), 4 * words);
    cx.threads().each(n, |task| {
        // SAFETY: the caller's; `each` runs every task once, and the memory is this task's for so long.
        slots.with(|memory| unsafe { K::enter(work, task, Scratch::new(memory.cast(), words)) });
    });
}

/// Instruction path and element type. All methods are inlined into callers that have the instructions enabled, except
/// `strip`, which is a separate function.
pub(crate) trait TileKernel: 'static {
    /// Element type of the tensors.
    type E: AttentionElem;
    /// Sixteen f32.
    type L: Lanes;
    /// Elements per word: the number of contraction steps that one word holds.
    const PAIR: usize;

    /// Runs a task with the instructions enabled.
    unsafe fn enter(work: &impl Work<Self::E>, task: usize, scratch: Scratch);

    /// See `tile`.
    unsafe fn strip(a: Rows, b: Panels, k: usize, c: *mut f32, ldc: usize, start: Start);

    /// A word of the first element and, if a word holds two, the second.
    unsafe fn word(first: Self::E, second: Self::E) -> u32;

    /// Reads `words` whole words of a row.
    #[inline(always)]
    unsafe fn copy_words(src: *const Self::E, words: usize, dst: *mut u32) {
        for w in 0..words {
            // SAFETY: the caller's rows hold that many words.
            unsafe {
                let s = src.add(w * Self::PAIR);
                *dst.add(w) = Self::word(*s, *s.add(Self::PAIR - 1));
            }
        }
    }

    /// Copies `rows <= 16` rows of `cols <= 16 PAIR` elements, `stride` apart, to `words` rows of sixteen lanes, `ld`
    /// apart. Lane r of row w is word w of row r. It is zero beyond the rows and columns.
    #[inline(always)]
    unsafe fn transpose(
        src: *const Self::E,
        stride: usize,
        rows: usize,
        cols: usize,
        dst: *mut u32,
        ld: usize,
        words: usize,
    ) {
        let zero = Self::E::round(0.0);
        for w in 0..words {
            for r in 0..16 {
                // SAFETY: only elements within `rows` and `cols` are read; the caller has the words.
                unsafe {
                    let get = |c: usize| if r < rows && c < cols { *src.add(r * stride + c) } else { zero };
                    *dst.add(w * ld + r) = Self::word(get(w * Self::PAIR), get(w * Self::PAIR + Self::PAIR - 1));
                }
            }
        }
    }

    /// Reads the first `n <= 16` elements of a row as f32, followed by zeros.
    #[inline(always)]
    unsafe fn widen(src: *const Self::E, n: usize) -> Self::L {
        let mut a = [0f32; 16];
        // SAFETY: the caller's row holds n elements; `a` holds 16 values.
        unsafe {
            for i in 0..n {
                a[i] = (*src.add(i)).get();
            }
            Self::L::load(a.as_ptr())
        }
    }

    /// Writes two consecutive contraction steps (rows `row`, which is even, and `row + 1`) of sixteen lanes to
    /// `[steps][ld]` words.
    #[inline(always)]
    unsafe fn store_steps(dst: *mut u32, ld: usize, row: usize, even: Self::L, odd: Self::L) {
        // SAFETY: the caller's buffer has both rows.
        unsafe {
            even.store(dst.add(row * ld).cast());
            odd.store(dst.add((row + 1) * ld).cast());
        }
    }

    /// Writes sixteen neighbours along the contraction to row-major words.
    #[inline(always)]
    unsafe fn store_row(dst: *mut u32, v: Self::L) {
        // SAFETY: the caller's buffer has 16 / PAIR words here.
        unsafe { v.store(dst.cast()) }
    }

    /// Writes the first `n <= 16` lanes to a tensor.
    #[inline(always)]
    unsafe fn emit(dst: *mut Self::E, n: usize, v: Self::L) {
        let mut a = [0f32; 16];
        // SAFETY: `a` holds 16 values and the caller's row `n` elements.
        unsafe {
            v.store(a.as_mut_ptr());
            for i in 0..n {
                *dst.add(i) = Self::E::round(a[i]);
            }
        }
    }
}

/// Plain Rust.
pub(crate) struct PlainKernel<E>(PhantomData<E>);
impl<E: AttentionElem> TileKernel for PlainKernel<E> {
    type E = E;
    type L = Plain;
    const PAIR: usize = 1;
    unsafe fn enter(work: &impl Work<E>, task: usize, scratch: Scratch) {
        // SAFETY: the caller's.
        unsafe { work.run::<Self>(task, scratch) }
    }
    #[inline(always)]
    unsafe fn strip(a: Rows, b: Panels, k: usize, c: *mut f32, ldc: usize, start: Start) {
        // SAFETY: the caller's.
        unsafe { tile::strip_plain(a, b, k, c, ldc, start) }
    }
    #[inline(always)]
    unsafe fn word(first: E, _: E) -> u32 {
        first.get().to_bits()
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512Bf16, Avx512F32};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{AttentionElem, Panels, PhantomData, Rows, Scratch, Start, TileKernel, Work, tile};
    use crate::attention::amx;
    use crate::attention::lanes::{Ymm2, Zmm};
    use crate::attention::transpose::transpose16;
    use half::bf16;
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
    unsafe fn enter_avx512<K: TileKernel, W: Work<K::E>>(work: &W, task: usize, scratch: Scratch) {
        // SAFETY: the caller's.
        unsafe { work.run::<K>(task, scratch) }
    }

    #[target_feature(enable = "avx2,fma")]
    unsafe fn enter_avx2<K: TileKernel, W: Work<K::E>>(work: &W, task: usize, scratch: Scratch) {
        // SAFETY: the caller's.
        unsafe { work.run::<K>(task, scratch) }
    }

    /// AVX2 and FMA.
    pub(crate) struct Avx2<E>(PhantomData<E>);
    impl<E: AttentionElem> TileKernel for Avx2<E> {
        type E = E;
        type L = Ymm2;
        const PAIR: usize = 1;
        unsafe fn enter(work: &impl Work<E>, task: usize, scratch: Scratch) {
            // SAFETY: the caller's.
            unsafe { enter_avx2::<Self, _>(work, task, scratch) }
        }
        #[inline(always)]
        unsafe fn strip(a: Rows, b: Panels, k: usize, c: *mut f32, ldc: usize, start: Start) {
            // SAFETY: the caller's.
            unsafe { tile::strip_avx2(a, b, k, c, ldc, start) }
        }
        #[inline(always)]
        unsafe fn word(first: E, _: E) -> u32 {
            first.get().to_bits()
        }
    }

    /// AVX-512 on f32.
    pub(crate) struct Avx512F32;
    impl TileKernel for Avx512F32 {
        type E = f32;
        type L = Zmm;
        const PAIR: usize = 1;
        unsafe fn enter(work: &impl Work<f32>, task: usize, scratch: Scratch) {
            // SAFETY: the caller's.
            unsafe { enter_avx512::<Self, _>(work, task, scratch) }
        }
        #[inline(always)]
        unsafe fn strip(a: Rows, b: Panels, k: usize, c: *mut f32, ldc: usize, start: Start) {
            // SAFETY: the caller's.
            unsafe { tile::strip_avx512(a, b, k, c, ldc, start) }
        }
        #[inline(always)]
        unsafe fn word(first: f32, _: f32) -> u32 {
            first.to_bits()
        }
        #[inline(always)]
        unsafe fn transpose(
            src: *const f32,
            stride: usize,
            rows: usize,
            cols: usize,
            dst: *mut u32,
            ld: usize,
            words: usize,
        ) {
            // SAFETY: the caller has AVX-512 and the words; the mask keeps to a row's elements.
            unsafe {
                let mut x = [_mm512_setzero_si512(); 16];
                if rows == 16 && cols == 16 {
                    for r in 0..16 {
                        x[r] = _mm512_loadu_si512(src.add(r * stride).cast());
                    }
                } else {
                    for r in 0..rows {
                        x[r] = _mm512_maskz_loadu_epi32(((1u32 << cols) - 1) as __mmask16, src.add(r * stride).cast());
                    }
                }
                transpose16(x, dst, ld, words);
            }
        }
        #[inline(always)]
        unsafe fn widen(src: *const f32, n: usize) -> Zmm {
            // SAFETY: the mask keeps to the row.
            Zmm(unsafe { _mm512_maskz_loadu_ps(((1u32 << n) - 1) as __mmask16, src) })
        }
    }

    /// AVX-512 with BF16 products, which AMX computes if TILES.
    pub(crate) struct Avx512Bf16<const TILES: bool>;
    impl<const TILES: bool> TileKernel for Avx512Bf16<TILES> {
        type E = bf16;
        type L = Zmm;
        const PAIR: usize = 2;
        unsafe fn enter(work: &impl Work<bf16>, task: usize, scratch: Scratch) {
            if TILES {
                amx::begin();
            }
            // SAFETY: the caller's.
            unsafe { enter_avx512::<Self, _>(work, task, scratch) }
            if TILES {
                amx::end();
            }
        }
        #[inline(always)]
        unsafe fn strip(a: Rows, b: Panels, k: usize, c: *mut f32, ldc: usize, start: Start) {
            // SAFETY: the caller's.
            unsafe {
                if TILES {
                    amx::strip(a, b, k, c, ldc, start);
                } else {
                    tile::strip_bf16(a, b, k, c, ldc, start);
                }
            }
        }
        #[inline(always)]
        unsafe fn word(first: bf16, second: bf16) -> u32 {
            u32::from(first.to_bits()) | u32::from(second.to_bits()) << 16
        }
        #[inline(always)]
        unsafe fn copy_words(src: *const bf16, words: usize, dst: *mut u32) {
            let whole = words & !15;
            // SAFETY: the caller's rows hold the words; the mask keeps to the last ones.
            unsafe {
                for w in (0..whole).step_by(16) {
                    _mm512_storeu_si512(dst.add(w).cast(), _mm512_loadu_si512(src.add(2 * w).cast()));
                }
                if whole < words {
                    let mask = ((1u32 << (words - whole)) - 1) as __mmask16;
                    let v = _mm512_maskz_loadu_epi32(mask, src.add(2 * whole).cast());
                    _mm512_mask_storeu_epi32(dst.add(whole).cast(), mask, v);
                }
            }
        }
        #[inline(always)]
        unsafe fn transpose(
            src: *const bf16,
            stride: usize,
            rows: usize,
            cols: usize,
            dst: *mut u32,
            ld: usize,
            words: usize,
        ) {
            // SAFETY: the caller has AVX-512 and the words; the mask keeps to a row's elements.
            unsafe {
                let mut x = [_mm512_setzero_si512(); 16];
                if rows == 16 && cols == 32 {
                    for r in 0..16 {
                        x[r] = _mm512_loadu_si512(src.add(r * stride).cast());
                    }
                } else {
                    for r in 0..rows {
                        x[r] = _mm512_maskz_loadu_epi16(((1u64 << cols) - 1) as __mmask32, src.add(r * stride).cast());
                    }
                }
                transpose16(x, dst, ld, words);
            }
        }
        #[inline(always)]
        unsafe fn widen(src: *const bf16, n: usize) -> Zmm {
            // SAFETY: the mask keeps to the row.
            unsafe {
                let v = _mm256_maskz_loadu_epi16(((1u32 << n) - 1) as __mmask16, src.cast());
                Zmm(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(v))))
            }
        }
        #[inline(always)]
        unsafe fn store_steps(dst: *mut u32, ld: usize, row: usize, even: Zmm, odd: Zmm) {
            // SAFETY: the caller has AVX-512 BF16 and the row of words.
            unsafe {
                let lo = _mm512_cvtepu16_epi32(round(even));
                let hi = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(round(odd)));
                _mm512_storeu_si512(dst.add(row / 2 * ld).cast(), _mm512_or_si512(lo, hi));
            }
        }
        #[inline(always)]
        unsafe fn store_row(dst: *mut u32, v: Zmm) {
            // SAFETY: the caller has AVX-512 BF16 and eight words.
            unsafe { _mm256_storeu_si256(dst.cast(), round(v)) }
        }
        #[inline(always)]
        unsafe fn emit(dst: *mut bf16, n: usize, v: Zmm) {
            // SAFETY: the caller has AVX-512 BW, VL, BF16; the mask keeps to its n elements.
            unsafe { _mm256_mask_storeu_epi16(dst.cast(), ((1u32 << n) - 1) as __mmask16, round(v)) }
        }
    }

    #[inline(always)]
    unsafe fn round(v: Zmm) -> __m256i {
        // SAFETY: the caller has AVX-512 BF16; both types are 256 plain bits.
        unsafe { std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v.0)) }
    }
}
