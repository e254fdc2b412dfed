//! Packing with AVX-512: sixteen words of a row at a time, transposed in registers or interleaved with permutes.

use super::places::{Panels, Rows};
use super::{LANES, STEP_BYTES, fence};
use crate::DType;
use std::arch::x86_64::*;

/// Number of rows that `columns` prefetches.
const AHEAD: usize = 16;
/// Number of steps that `interleave` packs of one or two panels before it moves to the next.
const RUN: usize = 4;

/// A mask of the first `n` of 32.
fn mask32(n: usize) -> __mmask32 {
    if n >= 32 { u32::MAX } else { (1 << n) - 1 }
}
/// A mask of the first `n` of 16.
fn mask16(n: usize) -> __mmask16 {
    if n >= 16 { u16::MAX } else { (1 << n) - 1 }
}

/// Sixteen f32 from `p`, with zeros after the first `n`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn load_f32<const SRC_F32: bool>(p: *const u8, n: usize) -> __m512 {
    // SAFETY: masked loads touch only the n elements the caller promises.
    unsafe {
        if SRC_F32 {
            _mm512_maskz_loadu_ps(mask16(n), p.cast())
        } else {
            let v = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask16(n), p.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(v))
        }
    }
}

/// Sixteen words from `p` (32 bf16 or 16 f32), with zeros after the first `n` elements.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn load_words<const SRC_F32: bool, const BF16: bool>(p: *const u8, n: usize) -> __m512i {
    // SAFETY: masked loads touch only the n elements the caller promises; pointers past them are not read.
    unsafe {
        match (SRC_F32, BF16) {
            (_, false) => _mm512_castps_si512(load_f32::<SRC_F32>(p, n)),
            (false, true) => _mm512_maskz_loadu_epi16(mask32(n), p.cast()),
            (true, true) => {
                let lo = load_f32::<true>(p, n);
                let hi = load_f32::<true>(p.wrapping_add(64), n.saturating_sub(16));
                std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(hi, lo))
            }
        }
    }
}

/// Stores a step, past the caches if `stream` is set. Panels are aligned to a step.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn store(to: *mut u8, stream: bool, v: __m512i) {
    debug_assert!(to.cast::<__m512i>().is_aligned());
    // SAFETY: the caller promises an aligned step.
    unsafe { if stream { _mm512_stream_si512(to.cast(), v) } else { _mm512_store_si512(to.cast(), v) } }
}

macro_rules! by_format {
    ($src:expr, $dst:expr, $f:ident($($arg:expr),*)) => {
        match ($src == DType::F32, $dst == DType::Bf16) {
            (true, true) => $f::<true, true>($($arg),*),
            (true, false) => $f::<true, false>($($arg),*),
            (false, true) => $f::<false, true>($($arg),*),
            (false, false) => $f::<false, false>($($arg),*),
        }
    };
}

pub(super) unsafe fn lanes_from_rows(src: Rows, rows: usize, cols: usize, dst: Panels) {
    // SAFETY: the caller answers for memory and processor.
    unsafe { by_format!(src.dtype, dst.dtype, transpose(src, rows, cols, dst)) }
    if dst.stream {
        fence();
    }
}

pub(super) unsafe fn lanes_from_cols(src: Rows, rows: usize, cols: usize, dst: Panels) {
    // SAFETY: the caller answers for memory and processor.
    unsafe { by_format!(src.dtype, dst.dtype, interleave(src, rows, cols, dst)) }
    if dst.stream {
        fence();
    }
}

/// Sixteen words of each of sixteen rows become sixteen steps.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn transpose<const SRC_F32: bool, const BF16: bool>(src: Rows, rows: usize, cols: usize, dst: Panels) {
    let size = if SRC_F32 { 4 } else { 2 };
    let per_step = if BF16 { 2 } else { 1 };
    let mut col = 0;
    while col < cols {
        let left = cols - col;
        let mut words = [_mm512_setzero_si512(); LANES];
        for (lane, word) in words.iter_mut().enumerate().take(rows) {
            // SAFETY: `left` elements of the row are left.
            *word = unsafe { load_words::<SRC_F32, BF16>(src.ptr.add(lane * src.stride + col * size), left) };
        }
        let words = transpose16(&words);
        let count = left.div_ceil(per_step).min(LANES);
        for (i, word) in words.iter().enumerate().take(count) {
            // SAFETY: the panel has the step.
            unsafe { store(dst.ptr.add((col / per_step + i) * STEP_BYTES), dst.stream, *word) };
        }
        col += LANES * per_step;
    }
}

/// The transpose of sixteen vectors of sixteen words.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn transpose16(v: &[__m512i; 16]) -> [__m512i; 16] {
    let mut a = *v;
    // Pairs of words, then of double words, inside 128-bit lanes. Then the lanes themselves, twice.
    for i in 0..8 {
        a[2 * i] = _mm512_unpacklo_epi32(v[2 * i], v[2 * i + 1]);
        a[2 * i + 1] = _mm512_unpackhi_epi32(v[2 * i], v[2 * i + 1]);
    }
    let mut b = a;
    for i in 0..4 {
        b[4 * i] = _mm512_unpacklo_epi64(a[4 * i], a[4 * i + 2]);
        b[4 * i + 1] = _mm512_unpackhi_epi64(a[4 * i], a[4 * i + 2]);
        b[4 * i + 2] = _mm512_unpacklo_epi64(a[4 * i + 1], a[4 * i + 3]);
        b[4 * i + 3] = _mm512_unpackhi_epi64(a[4 * i + 1], a[4 * i + 3]);
    }
    // b[4i + c], lane l: column 4l + c of rows 4i .. 4i + 4.
    let mut out = b;
    for c in 0..4 {
        let (p, q) = (_mm512_shuffle_i32x4::<0x88>(b[c], b[4 + c]), _mm512_shuffle_i32x4::<0xdd>(b[c], b[4 + c]));
        let (r, s) =
            (_mm512_shuffle_i32x4::<0x88>(b[8 + c], b[12 + c]), _mm512_shuffle_i32x4::<0xdd>(b[8 + c], b[12 + c]));
        out[c] = _mm512_shuffle_i32x4::<0x88>(p, r);
        out[8 + c] = _mm512_shuffle_i32x4::<0xdd>(p, r);
        out[4 + c] = _mm512_shuffle_i32x4::<0x88>(q, s);
        out[12 + c] = _mm512_shuffle_i32x4::<0xdd>(q, s);
    }
    out
}

/// The even halves of a vector, then the odd ones.
static HALVES: [u16; 32] = {
    let mut idx = [0; 32];
    let mut i = 0;
    while i < 32 {
        idx[i] = (2 * (i % 16) + i / 16) as u16;
        i += 1;
    }
    idx
};

/// One panel of codes, `[steps][16][2]`, from sixteen rows of them. The rows are `stride` apart and readable up to the
/// next multiple of 64.
///
/// # Safety
/// Source and panel must be valid for these extents, and the processor have the path's features.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(crate) unsafe fn codes_from_rows(src: *const u8, stride: usize, steps: usize, to: *mut u8) {
    // SAFETY: 64 codes of a row are 32 steps; the caller promises both.
    unsafe {
        let halves = _mm512_loadu_si512(HALVES.as_ptr().cast());
        for first in (0..steps).step_by(32) {
            let mut words = [_mm512_setzero_si512(); LANES];
            for (lane, word) in words.iter_mut().enumerate() {
                *word = _mm512_loadu_si512(src.add(lane * stride + 2 * first).cast());
            }
            // A word has two steps of a lane.
            for (i, word) in transpose16(&words).into_iter().enumerate() {
                let (at, word) = (first + 2 * i, _mm512_permutexvar_epi16(halves, word));
                if at + 2 <= steps {
                    _mm512_storeu_si512(to.add(at * 32).cast(), word);
                } else if at < steps {
                    _mm256_storeu_si256(to.add(at * 32).cast(), _mm512_castsi512_si256(word));
                }
            }
        }
    }
}

/// Indices that interleave two vectors of 32 halves: the first or the second sixteen of each.
const fn interleaving(first: u16) -> [u16; 32] {
    let mut idx = [0; 32];
    let mut i = 0;
    while i < 16 {
        idx[2 * i] = first + i as u16;
        idx[2 * i + 1] = 32 + first + i as u16;
        i += 1;
    }
    idx
}
static LOW: [u16; 32] = interleaving(0);
static HIGH: [u16; 32] = interleaving(16);

/// Neighbouring rows side by side: sixteen columns of a pair of rows (bf16) or of a row (f32) become one step.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn interleave<const SRC_F32: bool, const BF16: bool>(src: Rows, rows: usize, cols: usize, dst: Panels) {
    let size = if SRC_F32 { 4 } else { 2 };
    let (wide, per_step) = if BF16 { (32, 2) } else { (16, 1) };
    let steps = rows.div_ceil(per_step);
    // SAFETY: columns stay in the rows and panels that the caller promises.
    unsafe {
        for first in (0..steps).step_by(RUN) {
            let rows = (rows - first * per_step).min(RUN * per_step);
            for col in (0..cols).step_by(wide) {
                let from = src.ptr.add(first * per_step * src.stride + col * size);
                let to = dst.ptr.add(col / LANES * dst.panel + first * STEP_BYTES);
                if cols - col >= wide {
                    columns::<SRC_F32, BF16, true>(from, src.stride, rows, wide, to, dst.panel, dst.stream);
                } else {
                    columns::<SRC_F32, BF16, false>(from, src.stride, rows, cols - col, to, dst.panel, dst.stream);
                }
            }
        }
    }
}

/// One or two panels of `interleave`: `left` columns, or as many as fit if FULL.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn columns<const SRC_F32: bool, const BF16: bool, const FULL: bool>(
    mut from: *const u8,
    stride: usize,
    rows: usize,
    left: usize,
    mut to: *mut u8,
    panel: usize,
    stream: bool,
) {
    let left = if FULL { 32 } else { left };
    // SAFETY: loads stay in the rows and columns, stores in the panels and steps, that the caller promises; prefetches
    // may name any address.
    unsafe {
        if !BF16 {
            for _ in 0..rows {
                prefetch::<SRC_F32, BF16>(from.wrapping_add(AHEAD * stride));
                store(to, stream, load_words::<SRC_F32, false>(from, left));
                from = from.add(stride);
                to = to.add(STEP_BYTES);
            }
            return;
        }
        let (low, high) = (_mm512_loadu_si512(LOW.as_ptr().cast()), _mm512_loadu_si512(HIGH.as_ptr().cast()));
        for _ in 0..rows / 2 {
            let next = from.add(stride);
            prefetch::<SRC_F32, BF16>(from.wrapping_add(AHEAD * stride));
            prefetch::<SRC_F32, BF16>(next.wrapping_add(AHEAD * stride));
            let (even, odd) = (load_words::<SRC_F32, true>(from, left), load_words::<SRC_F32, true>(next, left));
            store(to, stream, _mm512_permutex2var_epi16(even, low, odd));
            if left > LANES {
                store(to.add(panel), stream, _mm512_permutex2var_epi16(even, high, odd));
            }
            from = next.add(stride);
            to = to.add(STEP_BYTES);
        }
        if rows % 2 == 1 {
            let (even, odd) = (load_words::<SRC_F32, true>(from, left), _mm512_setzero_si512());
            store(to, stream, _mm512_permutex2var_epi16(even, low, odd));
            if left > LANES {
                store(to.add(panel), stream, _mm512_permutex2var_epi16(even, high, odd));
            }
        }
    }
}

/// Prefetches the elements that one load of `columns` reads.
#[inline]
#[target_feature(enable = "avx512f")]
fn prefetch<const SRC_F32: bool, const BF16: bool>(p: *const u8) {
    _mm_prefetch::<_MM_HINT_T0>(p.cast());
    if SRC_F32 && BF16 {
        _mm_prefetch::<_MM_HINT_T0>(p.wrapping_add(64).cast());
    }
}

pub(super) unsafe fn convert_row(src: *const u8, from: DType, n: usize, dst: *mut u8, to: DType) {
    // SAFETY: the caller answers for memory and processor.
    unsafe { by_format!(from, to, convert(src, n, dst)) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn convert<const SRC_F32: bool, const BF16: bool>(src: *const u8, n: usize, dst: *mut u8) {
    let size = if SRC_F32 { 4 } else { 2 };
    let wide = if BF16 { 32 } else { 16 };
    let mut i = 0;
    while i < n {
        // SAFETY: masked to the elements that are left.
        unsafe {
            let words = load_words::<SRC_F32, BF16>(src.add(i * size), n - i);
            if BF16 {
                _mm512_mask_storeu_epi16(dst.add(i * 2).cast(), mask32(n - i), words);
            } else {
                _mm512_mask_storeu_epi32(dst.add(i * 4).cast(), mask16(n - i), words);
            }
        }
        i += wide;
    }
}
