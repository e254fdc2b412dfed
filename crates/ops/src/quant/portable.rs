//! The kernel in plain Rust.

use super::format::{LINE, QuantFormat, STEP, STEPS, TABLE, WIDE};
use super::tile::{Kernel, Tile};
use crate::gemm::LANES;

pub(super) const KERNEL: Kernel = Kernel { run, widen, rows: 1, panels: |_, _| 1 };

unsafe fn run(t: &Tile, format: QuantFormat, rows: usize, panels: usize) {
    debug_assert_eq!((rows, panels), (1, 1));
    // SAFETY: the caller promises sixteen sums.
    let sums = unsafe { &mut *t.sums.cast::<[f32; LANES]>() };
    if t.first {
        sums.fill(0.0);
    }
    for b in 0..t.blocks {
        // SAFETY: the caller promises `blocks` blocks of the panel and of the row.
        let (block, x, meta) = unsafe {
            (
                std::slice::from_raw_parts(t.w.add(b * format.block_bytes()), format.block_bytes()),
                std::slice::from_raw_parts(t.x.add(b * 2 * STEPS * STEP), 2 * STEPS * STEP),
                std::slice::from_raw_parts(t.meta.add(2 * b), 2),
            )
        };
        for g in 0..2 {
            let mut dots = [meta[g].start; LANES];
            for s in g * STEPS..(g + 1) * STEPS {
                for lane in 0..LANES {
                    for i in 0..STEP {
                        let code = unsigned(format, block, s, lane * STEP + i);
                        dots[lane] += code * i32::from(x[s * STEP + i] as i8);
                    }
                }
            }
            for lane in 0..LANES {
                let scale = QuantFormat::scale(block, g, lane) * meta[g].scale;
                sums[lane] = (dots[lane] as f32).mul_add(scale, sums[lane]);
            }
        }
    }
}

/// The byte of a step: a code plus 128.
fn unsigned(format: QuantFormat, block: &[u8], step: usize, byte: usize) -> i32 {
    match format {
        QuantFormat::Int8 => i32::from(block[LINE + step * LINE + byte]),
        QuantFormat::Int4 => {
            let pair = block[LINE + step / 2 * LINE + byte];
            i32::from(TABLE[usize::from(if step.is_multiple_of(2) { pair & 15 } else { pair >> 4 })])
        }
    }
}

unsafe fn widen(from: *const u8, blocks: usize, _ahead: usize, to: *mut u8) {
    let narrow = QuantFormat::Int4.block_bytes();
    for b in 0..blocks {
        // SAFETY: the caller promises the blocks.
        let (from, to) = unsafe {
            (
                std::slice::from_raw_parts(from.add(b * narrow), narrow),
                std::slice::from_raw_parts_mut(to.add(b * WIDE), WIDE),
            )
        };
        to[..LINE].copy_from_slice(&from[..LINE]);
        for step in 0..2 * STEPS {
            for byte in 0..LINE {
                to[LINE + step * LINE + byte] = unsigned(QuantFormat::Int4, from, step, byte) as u8;
            }
        }
    }
}
