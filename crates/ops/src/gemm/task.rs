//! From products to tasks: how a product is cut into blocks, and the loops inside one.
//!
//! Blocks are functions of shapes only. A task is up to [`ROWS`] rows by so many panels that B's part is about
//! [`B_BYTES`]: it lies in the second-level cache together with A's part, and amounts to some ten microseconds.

use super::{BLOCK, Kernel, LANES, Out, STEP_BYTES, Tile, steps};
use crate::{Acc, Cx, DType};

/// Rows of a task.
const ROWS: usize = 64;
/// Bytes of B a task works on.
const B_BYTES: usize = 256 << 10;
/// The same when there are few rows and memory is the limit.
const B_BYTES_FEW: usize = 128 << 10;

/// The left operand.
#[derive(Clone, Copy)]
pub(crate) enum Left {
    /// Plain rows of the product's format, so many bytes apart.
    Rows { ptr: *const u8, stride: usize },
    /// Panels with the rows of the product as lanes.
    Panels { ptr: *const u8 },
}

/// `C[m, n] (acc)= A[m, k] B[k, n]`, B in panels whose lanes are n.
#[derive(Clone, Copy)]
pub(crate) struct Product {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    /// Format of A and B.
    pub(crate) dtype: DType,
    pub(crate) a: Left,
    pub(crate) b: *const u8,
    pub(crate) c: *mut u8,
    /// Bytes from one row of C to the next.
    pub(crate) c_row: usize,
    pub(crate) c_dtype: DType,
    pub(crate) acc: Acc,
}

// SAFETY: a product only names memory; what tasks do with it is `multiply`'s contract.
unsafe impl Send for Product {}
// SAFETY: as above.
unsafe impl Sync for Product {}

/// How a product is cut.
struct Blocks {
    rows: usize,
    panels: usize,
    of_rows: usize,
    of_panels: usize,
}

impl Blocks {
    fn of(p: &Product) -> Self {
        let all = p.n.div_ceil(LANES);
        let bytes = if p.m < LANES { B_BYTES_FEW } else { B_BYTES };
        let most = (bytes / (steps(p.dtype, p.k).clamp(1, BLOCK) * STEP_BYTES)).max(1);
        let of_panels = all.div_ceil(most);
        // Full tiles are 3 panels wide.
        let panels = if all == 0 { 0 } else { all.div_ceil(of_panels).next_multiple_of(3).min(all) };
        let of_panels = if all == 0 { 0 } else { all.div_ceil(panels) };
        let of_rows = p.m.div_ceil(ROWS);
        let rows = if of_rows == 0 { 0 } else { p.m.div_ceil(of_rows).next_multiple_of(LANES) };
        let of_rows = if rows == 0 { 0 } else { p.m.div_ceil(rows) };
        Self { rows, panels, of_rows, of_panels }
    }
    fn count(&self) -> usize {
        self.of_rows * self.of_panels
    }
}

/// Computes the products `product(0)` … `product(groups - 1)`.
///
/// # Safety
/// The operands must be valid for their extents, B's and C's memory not overlap, and the C of different groups neither.
pub(crate) unsafe fn multiply(cx: &Cx, groups: usize, product: impl Fn(usize) -> Product + Sync) {
    let total: usize = (0..groups).map(|g| Blocks::of(&product(g)).count()).sum();
    cx.threads().each(total, |task| {
        let (mut rest, mut group) = (task, 0);
        loop {
            let p = product(group);
            let blocks = Blocks::of(&p);
            if rest < blocks.count() {
                // SAFETY: the caller's promise; blocks of one product are disjoint in C.
                unsafe { block(cx, &p, &blocks, rest) };
                return;
            }
            rest -= blocks.count();
            group += 1;
        }
    });
}

/// The end of the `i`-th of the even parts `0..n` is cut into so that none exceeds `most`.
fn cut(n: usize, parts: usize, i: usize) -> usize {
    n * i / parts
}

unsafe fn block(cx: &Cx, p: &Product, blocks: &Blocks, task: usize) {
    // The larger operand is walked once: consecutive tasks share its block.
    let (rb, pb) = if p.m > p.n {
        (task / blocks.of_panels, task % blocks.of_panels)
    } else {
        (task % blocks.of_rows, task / blocks.of_rows)
    };
    let (row0, row1) = (rb * blocks.rows, ((rb + 1) * blocks.rows).min(p.m));
    let all = p.n.div_ceil(LANES);
    let (panel0, panel1) = (pb * blocks.panels, ((pb + 1) * blocks.panels).min(all));
    let total = steps(p.dtype, p.k);
    let (packed, whole) = match p.a {
        Left::Panels { .. } => (true, total),
        // The last step of a plain row with odd k is only half there.
        Left::Rows { .. } => (false, if p.dtype == DType::Bf16 { p.k / 2 } else { p.k }),
    };
    let kernel = Kernel::of(cx.isa(), p.dtype, packed);
    let rows = row1 - row0;
    // Even tiles beat full ones with a small last one; tiles of packed rows must stay inside a panel.
    let row_tiles = rows.div_ceil(kernel.rows);
    let row_at = |i: usize| if packed { (i * kernel.rows).min(rows) } else { cut(rows, row_tiles, i) };
    let np = (kernel.panels)(rows.div_ceil(row_tiles));
    let panels = panel1 - panel0;
    let panel_tiles = panels.div_ceil(np);
    let c_size = p.c_dtype.size();

    let mut step0 = 0;
    loop {
        let step1 = (step0 + BLOCK).min(total);
        let acc = if step0 == 0 { p.acc } else { Acc::Add };
        for j in 0..panel_tiles {
            let (j0, j1) = (panel0 + cut(panels, panel_tiles, j), panel0 + cut(panels, panel_tiles, j + 1));
            for i in 0..row_tiles {
                let (i0, i1) = (row0 + row_at(i), row0 + row_at(i + 1));
                // SAFETY: all offsets lie inside the operands' extents, which the caller promises.
                unsafe {
                    let (a, a_row) = match p.a {
                        Left::Rows { ptr, stride } => (ptr.add(i0 * stride + step0 * 4), stride),
                        Left::Panels { ptr } => {
                            let panel = (i0 / LANES * total + step0) * STEP_BYTES;
                            (ptr.add(panel + i0 % LANES * 4), 4)
                        }
                    };
                    let tile = Tile {
                        a,
                        a_row,
                        half: step1 > whole,
                        b: p.b.add((j0 * total + step0) * STEP_BYTES),
                        b_panel: total * STEP_BYTES,
                        steps: step1.min(whole) - step0,
                        c: p.c.add(i0 * p.c_row + j0 * LANES * c_size),
                        c_row: p.c_row,
                        cols: (j1 * LANES).min(p.n) - j0 * LANES,
                        out: Out::new(p.c_dtype, acc),
                    };
                    (kernel.run)(&tile, i1 - i0, j1 - j0);
                }
            }
        }
        step0 = step1;
        if step0 >= total {
            return;
        }
    }
}
