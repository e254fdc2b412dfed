//! Products of codes as computed by a tensor core with a short accumulator (report 3.3.2 and 3.5.2), simulated.
//! Hopper's tensor cores take 32 of k at a time. They align the products and the previous sum to the largest exponent
//! among them. They keep about 14 bits and cut off the rest, toward zero, in sign-magnitude form.
//!
//! With promotion, the sum over 128 of k is added to f32 and scaled there, and the accumulator starts again from zero.
//! Without promotion, one accumulator holds the sum over all of k, in units of the first scale. If all scales are one,
//! as with one scale per tensor, exactly the products of codes are added.

use super::outer::{Outer, STEPS, outer_with};
use super::scaled::{CHUNK, ScaledProduct, multiply_scaled_with};
use super::{LANES, Microkernel, SCALED, STEP_BYTES, Tile, portable, steps};
use crate::kernel::{Pointwise, dispatch};
use crate::{Acc, Cx, DType, Isa};

/// Steps per instruction: 32 of k.
const INSTRUCTION: usize = 16;
/// The weight of the last of the accumulator's 14 bits relative to the first.
const LAST_BIT: f32 = 1.0 / 8192.0;

/// Like [`super::multiply_scaled`], with a short accumulator, promoted or not.
///
/// # Safety
/// As there.
pub(crate) unsafe fn multiply_scaled(
    cx: &Cx,
    promote: bool,
    groups: usize,
    product: impl Fn(usize) -> ScaledProduct + Sync,
) {
    // Without promotion the kernel must see all of k at once.
    let chunk = if promote { CHUNK } else { product(0).k.max(1).next_multiple_of(CHUNK) };
    // SAFETY: the caller's promise; the kernel is of the context's path.
    unsafe { multiply_scaled_with(cx, (kernel(cx.isa(), promote, false), chunk), groups, product) };
}

/// Like [`super::outer::outer`] for operands with scales, with a short accumulator, promoted or not.
///
/// # Safety
/// As there; every product must have scales.
pub(crate) unsafe fn outer(
    cx: &Cx,
    promote: bool,
    groups: usize,
    rows: usize,
    size: (usize, usize),
    acc: Acc,
    product: impl Fn(usize) -> Outer + Sync,
) {
    let dtype = DType::Bf16;
    let block = if promote { STEPS } else { steps(dtype, rows).max(STEPS) };
    // SAFETY: the caller's promise; the kernel is of the context's path.
    unsafe { outer_with(cx, (kernel(cx.isa(), promote, true), block), groups, rows, size, dtype, acc, product) };
}

/// The kernel of an instruction path. A is packed, or plain rows.
fn kernel(isa: Isa, promote: bool, packed: bool) -> Microkernel {
    let run = match (promote, packed) {
        (true, false) => on::<true, 4>(isa),
        (true, true) => on::<true, STEP_BYTES>(isa),
        (false, false) => on::<false, 4>(isa),
        (false, true) => on::<false, STEP_BYTES>(isa),
    };
    Microkernel { run, rows: 4, panels: |_| 1 }
}

fn on<const PROMOTE: bool, const STEP: usize>(isa: Isa) -> super::RunTile {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bf16 | Isa::Amx => run::<PROMOTE, STEP, 2>,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => run::<PROMOTE, STEP, 1>,
        _ => run::<PROMOTE, STEP, 0>,
    }
}

unsafe fn run<const PROMOTE: bool, const STEP: usize, const ISA: usize>(t: &Tile, rows: usize, panels: usize) {
    debug_assert_eq!(panels, 1);
    let isa = [Isa::Portable, Isa::Avx2, Isa::Avx512Bf16][ISA];
    for row in 0..rows {
        dispatch(isa, Row::<PROMOTE, STEP> { tile: t, row });
    }
}

/// One row of a tile of one panel.
struct Row<'a, const PROMOTE: bool, const STEP: usize> {
    tile: &'a Tile,
    row: usize,
}

impl<const PROMOTE: bool, const STEP: usize> Pointwise for Row<'_, PROMOTE, STEP> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { tile: t, row } = self;
        let Some(scales) = t.scales else { return };
        let mut sums = [0f32; LANES];
        let mut acc = [0f32; LANES];
        let mut unit = [0f32; LANES];
        for block in 0..t.steps.div_ceil(SCALED) {
            let mut scale = [0f32; LANES];
            // SAFETY: the caller of the kernel promises scales for every row, lane and block.
            unsafe {
                let a = *scales.a.add(row * scales.a_row + block * scales.a_block);
                for (j, scale) in scale.iter_mut().enumerate() {
                    *scale = a * *scales.b.add(block * scales.b_block + j);
                }
            }
            if block == 0 {
                // With tiny scales the product may be zero.
                unit = scale.map(|s| s.max(f32::MIN_POSITIVE));
            }
            let factor: [f32; LANES] = std::array::from_fn(|j| if PROMOTE { 1.0 } else { scale[j] / unit[j] });
            let end = t.steps.min((block + 1) * SCALED);
            for first in (block * SCALED..end).step_by(INSTRUCTION) {
                let mut products = [[0f32; LANES]; 2 * INSTRUCTION];
                for s in first..end.min(first + INSTRUCTION) {
                    // SAFETY: and so many steps of the row and the panel.
                    let (a, b) = unsafe {
                        let a = t.a.add(row * t.a_row + s * STEP).cast::<u32>().read_unaligned();
                        (a, t.b.add(s * STEP_BYTES).cast::<[u32; LANES]>().read_unaligned())
                    };
                    let a = portable::widen(a);
                    let at = 2 * (s - first);
                    for j in 0..LANES {
                        let b = portable::widen(b[j]);
                        products[at][j] = a.0 * b.0 * factor[j];
                        products[at + 1][j] = a.1 * b.1 * factor[j];
                    }
                }
                add(&mut acc, &products);
            }
            if PROMOTE {
                for j in 0..LANES {
                    sums[j] += acc[j] * scale[j];
                }
                acc = [0.0; LANES];
            }
        }
        if !PROMOTE {
            sums = std::array::from_fn(|j| acc[j] * unit[j]);
        }
        let t = Tile {
            c: t.c.wrapping_add(row * t.c_row),
            sums: if t.sums.is_null() { t.sums } else { t.sums.wrapping_add(row * t.sums_row) },
            ..*t
        };
        // SAFETY: the row of C is the tile's.
        unsafe { portable::store(&[sums], &t) };
    }
}

/// Adds products to a sum. Everything below [`LAST_BIT`] of the largest power of two among them is cut off.
#[inline(always)]
fn add(acc: &mut [f32; LANES], products: &[[f32; LANES]; 2 * INSTRUCTION]) {
    let mut top = acc.map(f32::abs);
    for p in products {
        for j in 0..LANES {
            let size = p[j].abs();
            top[j] = if size > top[j] { size } else { top[j] };
        }
    }
    // The power of two of the largest value gives the unit. It is far from the ends of f32's range for any scales.
    let (mut unit, mut units) = ([0f32; LANES], [0f32; LANES]);
    for j in 0..LANES {
        let top = if top[j] < 1e-30 { 1e-30 } else { top[j] };
        unit[j] = f32::from_bits(top.to_bits() & 0x7f80_0000) * LAST_BIT;
        units[j] = 1.0 / unit[j];
    }
    // 33 whole numbers below 2^14, which are exact in f32.
    let mut sum = [0f32; LANES];
    for values in products.iter().chain([&*acc]) {
        for j in 0..LANES {
            sum[j] += (values[j] * units[j]).trunc();
        }
    }
    for j in 0..LANES {
        acc[j] = sum[j] * unit[j];
    }
}
