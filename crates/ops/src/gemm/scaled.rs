//! Products of E4M3 operands with scales (report 3.3.2): `C[m, n] (acc)= A[m, k] B[k, n]`. A is in tiles of 1x128, B in
//! panels of codes with one scale for each lane and 128 of k.
//!
//! The tasks convert both operands to bf16 (exactly), 512 of k at a time, into scratch that stays in the second-level
//! cache. So memory traffic is half of bf16's. Sums over 128 of k are promoted to f32 and scaled there. The order of a
//! sum is that of `gemm`, with these blocks. It depends on k alone.

use super::task::{Blocks, Part, cut, each_block, rows_of_blocks};
use super::{LANES, Microkernel, Out, STEP_BYTES, Scales, Tile};
use crate::fp8::TILE;
use crate::fp8::grid::to_bf16;
use crate::slots::Slots;
use crate::{Acc, Cx, DType};

/// Number of elements of k that are in bf16 at a time. Part of the definition of the result's bits.
pub(super) const CHUNK: usize = 512;
/// Panels per task: half a MiB of bf16. So a row is decoded for some 500 lanes at a time.
const PANELS: usize = 33;

/// The part of k that is in scratch at a time.
#[derive(Clone, Copy)]
struct Scratch {
    /// Elements of k.
    chunk: usize,
    /// Bytes from one row to the next. It is one cache line more than the elements, so that rows do not use the same
    /// cache sets.
    row: usize,
    /// The same for panels.
    panel: usize,
}

impl Scratch {
    fn new(chunk: usize) -> Self {
        Self { chunk, row: chunk * 2 + 64, panel: chunk / 2 * STEP_BYTES + 64 }
    }
}

/// One product.
#[derive(Clone, Copy)]
pub(crate) struct ScaledProduct {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    /// A's codes, row by row.
    pub(crate) a: *const u8,
    /// Bytes from one row to the next.
    pub(crate) a_row: usize,
    /// A's scales, `ceil(k / 128)` per row.
    pub(crate) a_scales: *const f32,
    /// Elements from one row of them to the next.
    pub(crate) a_scales_row: usize,
    /// B's codes in panels: `[ceil(n/16)][ceil(k/2)][16][2]`.
    pub(crate) b: *const u8,
    /// B's scales `[ceil(k/128)][lanes]`.
    pub(crate) b_scales: *const f32,
    /// Number of lanes with scales, in whole panels.
    pub(crate) b_lanes: usize,
    pub(crate) c: *mut u8,
    /// Bytes from one row of C to the next.
    pub(crate) c_row: usize,
    pub(crate) c_dtype: DType,
    pub(crate) acc: Acc,
}

// SAFETY: a product only names memory; what tasks do with it is `multiply_scaled`'s contract.
unsafe impl Send for ScaledProduct {}
// SAFETY: as above.
unsafe impl Sync for ScaledProduct {}

/// Computes the products `product(0)` … `product(groups - 1)`.
///
/// # Safety
/// The operands must be valid for their extents. The memory of B and C must not overlap, nor the C of different groups.
pub(crate) unsafe fn multiply_scaled(cx: &Cx, groups: usize, product: impl Fn(usize) -> ScaledProduct + Sync) {
    // SAFETY: the caller's promise.
    unsafe { multiply_scaled_with(cx, (Microkernel::of(cx.isa(), DType::Bf16, false), CHUNK), groups, product) };
}

/// The same with a given kernel for plain rows of bf16. The kernel processes `chunk` elements of k at a time (whole
/// `CHUNK`s).
///
/// # Safety
/// As above, and the processor must have the kernel's instructions.
pub(super) unsafe fn multiply_scaled_with(
    cx: &Cx,
    (kernel, chunk): (Microkernel, usize),
    groups: usize,
    product: impl Fn(usize) -> ScaledProduct + Sync,
) {
    let size = |g: usize| (product(g).m, product(g).n);
    let wide = (kernel.panels)(kernel.rows);
    let blocks = |g: usize, rows: usize| Blocks::cut(size(g).0, size(g).1, rows, PANELS, wide);
    let rows = rows_of_blocks(cx, groups, &blocks);
    let first = product(0);
    let widest = Blocks::cut(rows, first.n, rows, PANELS, wide).panels;
    let sizes = Scratch::new(chunk);
    let sums = if first.k > sizes.chunk { rows * widest * LANES * 4 } else { 0 };
    let slots = Slots::new(cx, cx.threads().count(), rows * sizes.row + widest * sizes.panel + sums);
    each_block(cx, groups, rows, &blocks, size, |g, blocks, part| {
        // SAFETY: the caller's promise; blocks of one product are disjoint in C. The scratch has room for the largest.
        slots.with(|scratch| unsafe { block(cx, kernel, &product(g), blocks, part, sizes, scratch) });
    });
}

unsafe fn block(
    cx: &Cx,
    kernel: Microkernel,
    p: &ScaledProduct,
    blocks: &Blocks,
    part: Part,
    sizes: Scratch,
    scratch: *mut u8,
) {
    let Part { rows: (row0, row1), panels: (panel0, panel1) } = part;
    let (rows, panels) = (row1 - row0, panel1 - panel0);
    let row_tiles = rows.div_ceil(kernel.rows);
    let np = (kernel.panels)(rows.div_ceil(row_tiles));
    let panel_tiles = panels.div_ceil(np);
    let c_size = p.c_dtype.size();
    let all_steps = p.k.div_ceil(2);
    let a_at = scratch;
    let b_at = scratch.wrapping_add(blocks.rows * sizes.row);
    let sums: *mut f32 = b_at.wrapping_add(blocks.panels * sizes.panel).cast();
    let sums_row = panels * LANES;
    for k0 in (0..p.k.max(1)).step_by(sizes.chunk) {
        let count = (p.k - k0).min(sizes.chunk);
        let (first, last) = (k0 == 0, k0 + sizes.chunk >= p.k);
        let steps = count.div_ceil(2);
        // SAFETY: rows, panels and their parts exist, as the caller promises; scratch has room for them.
        unsafe {
            for r in 0..rows {
                let to: *mut u16 = a_at.add(r * sizes.row).cast();
                to_bf16(cx.isa(), p.a.add((row0 + r) * p.a_row + k0), count, to);
                if count % 2 == 1 {
                    *to.add(count) = 0;
                }
            }
            for j in 0..panels {
                let codes = p.b.add(((panel0 + j) * all_steps + k0 / 2) * (STEP_BYTES / 2));
                to_bf16(cx.isa(), codes, steps * (STEP_BYTES / 2), b_at.add(j * sizes.panel).cast());
            }
            for j in 0..panel_tiles {
                let (j0, j1) = (cut(panels, panel_tiles, j), cut(panels, panel_tiles, j + 1));
                for i in 0..row_tiles {
                    let (i0, i1) = (cut(rows, row_tiles, i), cut(rows, row_tiles, i + 1));
                    let at = sums.wrapping_add(i0 * sums_row + j0 * LANES);
                    let lane = (panel0 + j0) * LANES;
                    let mut tile = Tile {
                        a: a_at.add(i0 * sizes.row),
                        a_row: sizes.row,
                        a_panel: 0,
                        half: false,
                        b: b_at.add(j0 * sizes.panel),
                        b_panel: sizes.panel,
                        steps,
                        ahead: 0,
                        sums: std::ptr::null(),
                        sums_row,
                        c: p.c.add((row0 + i0) * p.c_row + lane * c_size),
                        c_row: p.c_row,
                        cols: ((panel0 + j1) * LANES).min(p.n) - lane,
                        out: Out::new(p.c_dtype, p.acc),
                        scales: Some(Scales {
                            a: p.a_scales.add((row0 + i0) * p.a_scales_row + k0 / TILE),
                            a_row: p.a_scales_row,
                            a_block: 1,
                            b: p.b_scales.add(k0 / TILE * p.b_lanes + lane),
                            b_block: p.b_lanes,
                        }),
                    };
                    if !last {
                        (tile.c, tile.c_row, tile.cols) = (at.cast(), sums_row * 4, (j1 - j0) * LANES);
                        tile.out = if first { Out::WriteF32 } else { Out::AddF32 };
                    } else if !first {
                        tile.sums = at;
                    }
                    (kernel.run)(&tile, i1 - i0, j1 - j0);
                }
            }
        }
    }
}
