//! Products contracted over rows: `C[m, n] (acc)= A[t, m]^T B[t, n]`, the gradients of weights.
//!
//! Both operands must be packed, because their pairs are in different rows. A task owns a tile of C. It packs what it
//! needs, [`STEPS`] steps at a time, into scratch that stays in its second-level cache. An element is packed once for
//! every tile in its row or column of tiles. That costs less than moving packed operands through memory.

use super::pack::lanes_from_cols;
use super::places::{Panels, Rows};
use super::{LANES, Microkernel, Out, STEP_BYTES, Scales, Tile, fence, steps};
use crate::fp8::TILE;
use crate::slots::Slots;
use crate::{Acc, Cx, DType};

/// Steps of one block of the contraction (512 rows of bf16). Part of the definition of the result's bits.
pub(super) const STEPS: usize = 256;
/// Possible sizes of a tile of C, largest first.
const SIZES: [(usize, usize); 6] = [(512, 512), (512, 256), (256, 256), (128, 256), (128, 128), (64, 128)];
/// Largest number of bytes for the packed parts of one tile's operands: about half of the second-level cache.
const SCRATCH: usize = 640 << 10;

/// One product over rows. A and B have any float format and are packed into `dtype`.
#[derive(Clone, Copy)]
pub(crate) struct Outer {
    /// Rows to contract.
    pub(crate) rows: usize,
    pub(crate) a: Rows,
    pub(crate) b: Rows,
    /// First element of a contiguous `[m, n]` f32 matrix.
    pub(crate) c: *mut u8,
    /// Scales of A's and B's columns for every 128 rows, `[tiles, m]` and `[tiles, n]`, if A and B are on the grid of
    /// E4M3. They must be readable for one more vector.
    pub(crate) scales: Option<[*const f32; 2]>,
}

// SAFETY: only names memory; what tasks do with it is `outer`'s contract.
unsafe impl Send for Outer {}
// SAFETY: as above.
unsafe impl Sync for Outer {}

/// A tile of C.
#[derive(Clone, Copy)]
struct Place {
    /// First row and column.
    at: (usize, usize),
    /// Rows and columns.
    size: (usize, usize),
}

/// If all C together have at least this many bytes, they are written past the caches.
const STREAM: usize = 4 << 20;

/// Computes the products `product(0)` … `product(groups - 1)`, all `m` by `n`, over `rows` rows in total.
///
/// # Safety
/// Operands must be valid for their extents, and the C of different groups must not overlap.
pub(crate) unsafe fn outer(
    cx: &Cx,
    groups: usize,
    rows: usize,
    (m, n): (usize, usize),
    dtype: DType,
    acc: Acc,
    product: impl Fn(usize) -> Outer + Sync,
) {
    let kernel = Microkernel::of(cx.isa(), dtype, true);
    // SAFETY: the caller's promise.
    unsafe { outer_with(cx, (kernel, STEPS), groups, rows, (m, n), dtype, acc, product) };
}

/// The same with a given kernel for packed operands of `dtype`. The kernel processes `block` steps of the contraction
/// at a time.
///
/// # Safety
/// As above, and the processor must have the kernel's instructions.
pub(super) unsafe fn outer_with(
    cx: &Cx,
    (kernel, block): (Microkernel, usize),
    groups: usize,
    rows: usize,
    (m, n): (usize, usize),
    dtype: DType,
    acc: Acc,
    product: impl Fn(usize) -> Outer + Sync,
) {
    if m == 0 || n == 0 || groups == 0 {
        return;
    }
    let per_step = if dtype == DType::Bf16 { 2 } else { 1 };
    let (height, width) = size(cx, groups, (m, n), steps(dtype, rows / groups).min(STEPS));
    let (down, across) = (m.div_ceil(height), n.div_ceil(width));
    // One line more than the steps, so that neighbouring panels do not use the same cache sets.
    let panel = (block + 1) * STEP_BYTES;
    let slots = Slots::new(cx, cx.threads().count(), (width + height) / LANES * panel);
    cx.threads().each(groups * down * across, |task| {
        let at = (task / across % down * height, task % across * width);
        let place = Place { at, size: (height.min(m - at.0), width.min(n - at.1)) };
        let product = product(task / (down * across));
        let lines = (product.c as usize).is_multiple_of(64) && n.is_multiple_of(LANES);
        let once = product.rows <= block * per_step;
        let out = match Out::new(DType::F32, acc) {
            Out::WriteF32 if lines && once && groups * m * n * 4 >= STREAM => Out::StreamF32,
            out => out,
        };
        // SAFETY: the caller's promise; tiles are disjoint.
        slots.with(|scratch| unsafe {
            tile(cx, kernel, &product, place, (m, n), dtype, out, scratch, (block * per_step, panel));
        });
        if out == Out::StreamF32 {
            fence();
        }
    });
}

/// Height and width of tiles. A larger tile packs each element less often. So this chooses the largest one that keeps
/// its operands in cache and spreads evenly over the threads. A tile's size does not affect the order of any sum, so it
/// may depend on the threads.
fn size(cx: &Cx, groups: usize, (m, n): (usize, usize), steps: usize) -> (usize, usize) {
    let even = |n: usize, most: usize| n.div_ceil(n.div_ceil(most)).next_multiple_of(LANES);
    let tasks = |(h, w): (usize, usize)| groups * m.div_ceil(h) * n.div_ceil(w);
    let threads = cx.threads().count();
    let even_out = |tasks: usize| tasks >= 8 * threads || groups == 1 && tasks.is_multiple_of(threads);
    let sizes = SIZES.map(|(h, w)| (even(m, h), even(n, w)));
    let fits = |&(h, w): &(usize, usize)| (h + w) * steps * 4 <= SCRATCH && even_out(tasks((h, w)));
    sizes.into_iter().find(fits).unwrap_or(sizes[SIZES.len() - 1])
}

/// One tile of a C with `c_rows` rows and `c_cols` columns. It processes at most `most` rows of the operands at a time,
/// in panels of `panel` bytes.
unsafe fn tile(
    cx: &Cx,
    kernel: Microkernel,
    p: &Outer,
    place: Place,
    (c_rows, c_cols): (usize, usize),
    dtype: DType,
    out: Out,
    scratch: *mut u8,
    (most, panel): (usize, usize),
) {
    let Place { at: (m0, n0), size: (m, n) } = place;
    let panels = n.div_ceil(LANES);
    let np = (kernel.panels)(kernel.rows);
    let mut row = 0;
    loop {
        let rows = (p.rows - row).min(most);
        // SAFETY: rows and columns exist; the scratch has room for all panels of both operands.
        unsafe {
            let a = Panels { ptr: scratch, panel, dtype, stream: false };
            let b = Panels { ptr: scratch.add(m.div_ceil(LANES) * panel), ..a };
            lanes_from_cols(cx.isa(), p.a.at(row, m0), rows, m, a);
            lanes_from_cols(cx.isa(), p.b.at(row, n0), rows, n, b);
            let out = if row == 0 { out } else { Out::AddF32 };
            for j0 in (0..panels).step_by(np) {
                let wide = np.min(panels - j0);
                for i in (0..m).step_by(kernel.rows) {
                    let t = Tile {
                        a: a.ptr.add(i / LANES * panel + i % LANES * 4),
                        a_row: 4,
                        a_panel: panel,
                        half: false,
                        b: b.ptr.add(j0 * panel),
                        b_panel: panel,
                        steps: steps(dtype, rows),
                        ahead: 0,
                        sums: std::ptr::null(),
                        sums_row: 0,
                        c: p.c.add(((m0 + i) * c_cols + n0 + j0 * LANES) * 4),
                        c_row: c_cols * 4,
                        cols: (wide * LANES).min(n - j0 * LANES),
                        out,
                        scales: p.scales.map(|[a, b]| Scales {
                            a: a.add(row / TILE * c_rows + m0 + i),
                            a_row: 1,
                            a_block: c_rows,
                            b: b.add(row / TILE * c_cols + n0 + j0 * LANES),
                            b_block: c_cols,
                        }),
                    };
                    (kernel.run)(&t, kernel.rows.min(m - i), wide);
                }
            }
        }
        row += rows;
        if row >= p.rows {
            return;
        }
    }
}
