//! Divides a product into tasks: which tiles, in which order, on which thread. This does not change a bit of the
//! result.
//!
//! A task is a block of rows and the panels of a tile. Few rows form one tile. It goes through its panels from
//! beginning to end, directly from memory, several panels at once. With more rows, all tiles process some blocks of the
//! panels before the next blocks. So these stay in the first-level cache. Int4 is widened there once for all rows.

use super::QuantWeight;
use super::format::{BLOCK, GROUP, QuantFormat, WIDE};
use super::inputs::Inputs;
use super::tile::{Kernel, Tile};
use crate::gemm::LANES;
use crate::kernel::{Elem, Pointwise, dispatch, with_elem};
use crate::linear::Groups;
use crate::slots::Slots;
use crate::{Acc, Cx, DType, DisjointMut, MatMut, MatRef};

/// Number of blocks of the contraction that all rows process before the next ones.
const CHUNK: usize = 8;
/// Largest number of rows per task.
const ROWS: usize = 128;
/// Bytes of inputs that should stay in the second-level cache.
const INPUTS: usize = 512 << 10;
/// How many bytes ahead of its use a panel is prefetched for few rows.
const AHEAD: usize = 1024;
/// Weights of at least this many bytes are assumed to be in memory, not in a cache.
pub(super) const CACHED: usize = 1 << 20;

/// How the product of a group is divided.
#[derive(Clone, Copy)]
struct Cut {
    rows: usize,
    panels: usize,
    of_rows: usize,
    of_panels: usize,
}

impl Cut {
    fn new(kernel: &Kernel, format: QuantFormat, m: usize, n: usize, k: usize) -> Self {
        let most = (INPUTS / k.max(1)).clamp(kernel.rows.next_multiple_of(64), ROWS);
        let of_rows = m.div_ceil(most);
        if of_rows == 0 {
            return Self { rows: 0, panels: 0, of_rows: 0, of_panels: 0 };
        }
        let rows = m.div_ceil(of_rows).next_multiple_of(kernel.rows);
        let all = n.div_ceil(LANES);
        // Blocks for several tiles are widened.
        let widest = (kernel.panels)(m.min(kernel.rows), if m > kernel.rows { QuantFormat::Int8 } else { format });
        // Tiles of even size are faster than full tiles with a small last one.
        let panels = all.div_ceil(all.div_ceil(widest).max(1)).max(1);
        Self { rows, panels, of_rows: m.div_ceil(rows), of_panels: all.div_ceil(panels) }
    }
    fn count(&self) -> usize {
        self.of_rows * self.of_panels
    }
}

/// See [`super::forward`], which checked the shapes.
pub(super) fn multiply(cx: &Cx, x: &MatRef<'_>, w: &QuantWeight, groups: &Groups<'_>, y: &mut MatMut<'_>, acc: Acc) {
    let (n, k, count) = (w.n(), w.k(), w.groups());
    let (first, end) = (groups.range(0).0, groups.range(count - 1));
    let end = end.0 + end.1;
    if first == end || n == 0 {
        return;
    }
    let kernel = Kernel::of(cx.isa());
    let inputs = Inputs::new(cx, x, first, end - first);
    // Where each group's tasks begin.
    let mut starts = cx.empty(&[count + 1], DType::I32);
    let cut = |g: usize| Cut::new(&kernel, w.format(), groups.range(g).1, n, k);
    let (mut total, mut rows, mut panels) = (0, 0, 0);
    for (g, start) in starts.i32_mut().iter_mut().enumerate() {
        *start = total as i32;
        if g < count {
            let cut = cut(g);
            total += cut.count();
            (rows, panels) = (rows.max(cut.rows), panels.max(cut.panels));
        }
    }
    let starts = starts.i32();
    let wide = if w.format() == QuantFormat::Int4 { panels * CHUNK * WIDE } else { 0 };
    let slots = Slots::new(cx, cx.threads().count().min(total), rows * panels * LANES * 4 + wide);
    let far = w.bytes() > CACHED;
    with_elem!(y.dtype(), E => {
        let (y_row, data) = (y.stride(), DisjointMut::new(E::of_mut(y)));
        cx.threads().each(total, |task| {
            let g = starts.partition_point(|s| *s as usize <= task) - 1;
            let (cut, (row, m)) = (cut(g), groups.range(g));
            let task = task - starts[g] as usize;
            let (rb, pb) = (task / cut.of_panels, task % cut.of_panels);
            let rows = (rb * cut.rows, ((rb + 1) * cut.rows).min(m));
            let panels = (pb * cut.panels, ((pb + 1) * cut.panels).min(n.div_ceil(LANES)));
            let part = Part {
                row: row - first + rows.0,
                rows: rows.1 - rows.0,
                group: g,
                panel: panels.0,
                panels: panels.1 - panels.0,
            };
            slots.with(|scratch| {
                let sums: *mut f32 = scratch.cast();
                let sums_row = part.panels * LANES;
                // SAFETY: the scratch has room for the largest part, and widened blocks behind its sums.
                unsafe { sum(&kernel, &inputs, w, part, far, sums, scratch.add(part.rows * sums_row * 4)) };
                for r in 0..part.rows {
                    let at = (row + rows.0 + r) * y_row + panels.0 * LANES;
                    let cols = (panels.1 * LANES).min(n) - panels.0 * LANES;
                    // SAFETY: parts are disjoint in y, and the sums of each are its own.
                    let (y, sums) = unsafe {
                        (data.slice(at, cols), std::slice::from_raw_parts(sums.add(r * sums_row), cols))
                    };
                    dispatch(cx.isa(), Finish::<E> { y, sums, acc });
                }
            });
        });
    });
}

/// What a task computes. Rows are counted from the first of the inputs.
#[derive(Clone, Copy)]
struct Part {
    row: usize,
    rows: usize,
    group: usize,
    panel: usize,
    panels: usize,
}

/// The sums of a part, side by side.
///
/// # Safety
/// `sums` must have room for them, `wide` for the part's panels of [`CHUNK`] widened blocks if the weight is Int4.
unsafe fn sum(kernel: &Kernel, inputs: &Inputs, w: &QuantWeight, part: Part, far: bool, sums: *mut f32, wide: *mut u8) {
    let (format, w_panel) = (w.format(), w.panel_bytes());
    let (codes, x_row) = inputs.codes();
    let (meta, meta_row) = inputs.meta();
    let blocks = w.k().div_ceil(BLOCK);
    let first_panel = w.panels(part.group)[part.panel * w_panel..].as_ptr();
    // SAFETY: all offsets lie inside inputs, weight and scratch.
    unsafe {
        let whole = Tile {
            x: codes.add(part.row * x_row),
            x_row,
            meta: meta.add(part.row * meta_row),
            meta_row,
            w: first_panel,
            w_panel,
            blocks,
            sums,
            sums_row: part.panels * LANES,
            first: true,
            ahead: if far { AHEAD } else { 0 },
        };
        if part.rows <= kernel.rows {
            (kernel.run)(&whole, format, part.rows, part.panels);
            return;
        }
        // While the first tile of rows reads these blocks, or while Int4 is widened, the next blocks are prefetched.
        let next = if far { CHUNK * format.block_bytes() } else { 0 };
        for b0 in (0..blocks.max(1)).step_by(CHUNK) {
            let count = CHUNK.min(blocks - b0);
            let from = first_panel.add(b0 * format.block_bytes());
            let mut tile = Tile { w: from, blocks: count, first: b0 == 0, ahead: next, ..whole };
            if format == QuantFormat::Int4 {
                for p in 0..part.panels {
                    (kernel.widen)(from.add(p * w_panel), count, next, wide.add(p * CHUNK * WIDE));
                }
                (tile.w, tile.w_panel, tile.ahead) = (wide, CHUNK * WIDE, 0);
            }
            for row in (0..part.rows).step_by(kernel.rows) {
                tile.x = whole.x.add(row * x_row + b0 * BLOCK);
                tile.meta = whole.meta.add(row * meta_row + b0 * BLOCK / GROUP);
                tile.sums = sums.add(row * whole.sums_row);
                (kernel.run)(&tile, QuantFormat::Int8, (part.rows - row).min(kernel.rows), part.panels);
                tile.ahead = 0;
            }
        }
    }
}

/// Sums into a row of y.
struct Finish<'a, E> {
    y: &'a mut [E],
    sums: &'a [f32],
    acc: Acc,
}

impl<E: Elem> Pointwise for Finish<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { y, sums, acc } = self;
        match acc {
            Acc::Write => y.iter_mut().zip(sums).for_each(|(y, s)| *y = E::round(*s)),
            Acc::Add => y.iter_mut().zip(sums).for_each(|(y, s)| *y = E::round(y.get() + s)),
        }
    }
}
