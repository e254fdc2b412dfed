//! Register tiles in plain Rust: up to 4 rows by 1 panel. Processors without their own path use them.

use super::{LANES, Microkernel, Out, SCALED, STEP_BYTES, Tile};
use crate::DType;
use half::bf16;

pub(super) fn kernel(dtype: DType, packed: bool) -> Microkernel {
    let run = match (dtype, packed) {
        (DType::Bf16, false) => dispatch::<true, 4>,
        (DType::Bf16, true) => dispatch::<true, 64>,
        (_, false) => dispatch::<false, 4>,
        (_, true) => dispatch::<false, 64>,
    };
    Microkernel { run, rows: 4, panels: |_| 1 }
}

unsafe fn dispatch<const BF16: bool, const STEP: usize>(t: &Tile, rows: usize, panels: usize) {
    debug_assert_eq!(panels, 1);
    // SAFETY: the caller answers for the tile.
    unsafe {
        match rows {
            1 => tile::<1, BF16, STEP>(t),
            2 => tile::<2, BF16, STEP>(t),
            3 => tile::<3, BF16, STEP>(t),
            4 => tile::<4, BF16, STEP>(t),
            _ => unreachable!("tile of {rows} rows"),
        }
    }
}

/// Sums of a tile's rows; shared with the AVX2 kernel.
pub(super) type Sums<const R: usize> = [[f32; LANES]; R];

/// The first and second bf16 of a word in memory, widened.
#[inline]
pub(super) fn widen(word: u32) -> (f32, f32) {
    let (low, high) = (f32::from_bits(word << 16), f32::from_bits(word & 0xffff_0000));
    if cfg!(target_endian = "little") { (low, high) } else { (high, low) }
}

/// A word whose second bf16 is zero.
#[inline]
fn alone(first: u16) -> u32 {
    if cfg!(target_endian = "little") { u32::from(first) } else { u32::from(first) << 16 }
}

#[inline]
fn step<const R: usize, const BF16: bool>(acc: &mut Sums<R>, a: [u32; R], b: &[u32; LANES]) {
    for r in 0..R {
        if BF16 {
            let (first, second) = widen(a[r]);
            for j in 0..LANES {
                let b = widen(b[j]);
                acc[r][j] = acc[r][j] + first * b.0 + second * b.1;
            }
        } else {
            let v = f32::from_bits(a[r]);
            for j in 0..LANES {
                acc[r][j] += v * f32::from_bits(b[j]);
            }
        }
    }
}

/// Sums of `n` steps from step `first` on.
#[inline]
unsafe fn sum<const R: usize, const BF16: bool, const STEP: usize>(t: &Tile, first: usize, n: usize) -> Sums<R> {
    let mut acc = [[0.0; LANES]; R];
    // SAFETY: the caller promises the steps.
    unsafe {
        let (mut a, mut b) = (t.a.add(first * STEP), t.b.add(first * STEP_BYTES));
        for _ in 0..n {
            let av = std::array::from_fn(|r| a.add(r * t.a_row).cast::<u32>().read_unaligned());
            step::<R, BF16>(&mut acc, av, &b.cast::<[u32; LANES]>().read_unaligned());
            a = a.add(STEP);
            b = b.add(STEP_BYTES);
        }
    }
    acc
}

unsafe fn tile<const R: usize, const BF16: bool, const STEP: usize>(t: &Tile) {
    // SAFETY: the caller promises `steps` (and one more if `half`) steps of every row and of the panel.
    unsafe {
        if t.scales.is_some() {
            let mut sums = [[0.0; LANES]; R];
            for block in 0..t.steps.div_ceil(SCALED) {
                let first = block * SCALED;
                let part = sum::<R, BF16, STEP>(t, first, SCALED.min(t.steps - first));
                promote(&mut sums, &part, t, block);
            }
            store(&sums, t);
            return;
        }
        let mut acc = sum::<R, BF16, STEP>(t, 0, t.steps);
        if t.half {
            let (a, b) = (t.a.add(t.steps * STEP), t.b.add(t.steps * STEP_BYTES));
            let av = std::array::from_fn(|r| alone(a.add(r * t.a_row).cast::<u16>().read_unaligned()));
            step::<R, BF16>(&mut acc, av, &b.cast::<[u32; LANES]>().read_unaligned());
        }
        store(&acc, t);
    }
}

/// Adds a block's sums, times its scales; shared with the AVX2 kernel.
///
/// # Safety
/// The tile's scales must be there for its rows, its panel's lanes and the block.
#[inline]
pub(super) unsafe fn promote<const R: usize>(sums: &mut Sums<R>, part: &Sums<R>, t: &Tile, block: usize) {
    let Some(s) = t.scales else { return };
    for r in 0..R {
        // SAFETY: as promised by the caller.
        let (a, b) = unsafe { (*s.a.add(r * s.a_row + block * s.a_block), s.b.add(block * s.b_block)) };
        for j in 0..LANES {
            // SAFETY: as promised by the caller.
            sums[r][j] += part[r][j] * (a * unsafe { *b.add(j) });
        }
    }
}

/// Writes or adds a tile's sums; shared with the AVX2 kernel.
///
/// # Safety
/// C must have `R` rows of `cols` columns that no one else touches.
#[inline]
pub(super) unsafe fn store<const R: usize>(sums: &Sums<R>, t: &Tile) {
    for (r, row) in sums.iter().enumerate() {
        // SAFETY: as promised by the caller.
        let c = unsafe { t.c.add(r * t.c_row) };
        for (j, v) in row.iter().enumerate().take(t.cols) {
            // SAFETY: as promised by the caller.
            unsafe {
                let v = if t.sums.is_null() { *v } else { *t.sums.add(r * t.sums_row + j) + v };
                match t.out {
                    Out::WriteF32 | Out::StreamF32 => *c.cast::<f32>().add(j) = v,
                    Out::AddF32 => *c.cast::<f32>().add(j) += v,
                    Out::WriteBf16 => *c.cast::<bf16>().add(j) = bf16::from_f32(v),
                    Out::AddBf16 => {
                        let p = c.cast::<bf16>().add(j);
                        *p = bf16::from_f32((*p).to_f32() + v);
                    }
                }
            }
        }
    }
}
