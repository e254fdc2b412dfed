//! Divides products into tasks, and contains the loops inside a task.
//!
//! A task has up to [`ROWS`] rows and so many panels that its part of B has about [`B_BYTES`]. This part is in the
//! second-level cache together with A's part. The results never depend on the division.

use super::{BLOCK, LANES, Microkernel, Out, SCALED, STEP_BYTES, Tile, fetch, panel_bytes, steps};
use crate::fp8::widen::Widener;
use crate::slots::Slots;
use crate::{Acc, Cx, DType};

/// Possible numbers of rows per task, largest first.
const ROWS: [usize; 3] = [256, 128, 64];
/// Number of tasks that every thread should have, so that the last tasks end at about the same time.
const SHARE: usize = 6;
/// Bytes of B per task.
const B_BYTES: usize = 256 << 10;
/// The same if there are few rows and memory is the limit.
const B_BYTES_FEW: usize = 128 << 10;

/// How many bytes ahead of its use a single tile of rows prefetches B.
const AHEAD: usize = 1024;
/// If B has at least this many bytes, it is assumed to be in memory and is prefetched.
pub(crate) const CACHED: usize = 4 << 20;

/// `C[m, n] (acc)= A[m, k] B[k, n]`. B is in panels whose lanes are n.
#[derive(Clone, Copy)]
pub(crate) struct Product {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    /// Format of A and B.
    pub(crate) dtype: DType,
    /// A's plain rows.
    pub(crate) a: *const u8,
    /// Bytes from one row of A to the next.
    pub(crate) a_row: usize,
    pub(crate) b: *const u8,
    /// If B is E4M3 codes, which stand for bf16: their scales.
    pub(crate) codes: Option<Codes>,
    pub(crate) c: *mut u8,
    /// Bytes from one row of C to the next.
    pub(crate) c_row: usize,
    pub(crate) c_dtype: DType,
    pub(crate) acc: Acc,
}

/// Scales of a B in codes, `[ceil(k/128)][lanes]`. The panels are `[ceil(n/16)][ceil(k/2)][16][2]` codes.
#[derive(Clone, Copy)]
pub(crate) struct Codes {
    pub(crate) scales: *const f32,
    /// Number of lanes with scales, in whole panels.
    pub(crate) lanes: usize,
}

impl Product {
    /// Bytes of a step of a panel of B.
    fn step(&self) -> usize {
        if self.codes.is_some() { STEP_BYTES / 2 } else { STEP_BYTES }
    }
    /// Bytes of a panel that was widened from codes. It is one cache line more than a block, so that panels do not use
    /// the same cache sets.
    fn wide(&self) -> usize {
        if self.codes.is_some() { steps(self.dtype, self.k).min(BLOCK) * STEP_BYTES + 64 } else { 0 }
    }
}

// SAFETY: a product only names memory; what tasks do with it is `multiply`'s contract.
unsafe impl Send for Product {}
// SAFETY: as above.
unsafe impl Sync for Product {}

/// How a product is divided.
pub(super) struct Blocks {
    /// Rows per block.
    pub(super) rows: usize,
    /// Panels per block.
    pub(super) panels: usize,
    of_rows: usize,
    of_panels: usize,
}

/// The position of a block.
#[derive(Clone, Copy)]
pub(super) struct Part {
    /// First row, and the one after the last.
    pub(super) rows: (usize, usize),
    /// First panel, and the one after the last.
    pub(super) panels: (usize, usize),
}

impl Blocks {
    fn of(kernel: &Microkernel, p: &Product, rows: usize) -> Self {
        let bytes = if p.m < LANES { B_BYTES_FEW } else { B_BYTES };
        let most = (bytes / (steps(p.dtype, p.k).clamp(1, BLOCK) * STEP_BYTES)).max(1);
        if p.codes.is_some() {
            // Widened panels should stay in the cache, also for few rows.
            return Self::cut(p.m, p.n, rows, most.max(4), 1);
        }
        if p.m <= kernel.rows {
            // One tile of rows: it reads as many panels at a time as it can.
            return Self::cut(p.m, p.n, rows, most, (kernel.panels)(p.m));
        }
        Self::cut(p.m, p.n, rows, most, (kernel.panels)(kernel.rows))
    }

    /// Blocks of about `rows` rows and at most about `most` panels of an m by n product, for tiles that are `wide` panels
    /// wide.
    pub(super) fn cut(m: usize, n: usize, rows: usize, most: usize, wide: usize) -> Self {
        let all = n.div_ceil(LANES);
        let of_panels = all.div_ceil(most);
        let panels = if all == 0 { 0 } else { all.div_ceil(of_panels).next_multiple_of(wide).min(all) };
        let of_panels = if all == 0 { 0 } else { all.div_ceil(panels) };
        let of_rows = m.div_ceil(rows);
        let rows = if of_rows == 0 { 0 } else { m.div_ceil(of_rows).next_multiple_of(LANES) };
        let of_rows = if rows == 0 { 0 } else { m.div_ceil(rows) };
        Self { rows, panels, of_rows, of_panels }
    }
    fn count(&self) -> usize {
        self.of_rows * self.of_panels
    }

    /// Block `task` of an m by n product. The larger operand is read once: consecutive tasks share its block.
    fn part(&self, m: usize, n: usize, task: usize) -> Part {
        let (rb, pb) = if m > n {
            (task / self.of_panels, task % self.of_panels)
        } else {
            (task % self.of_rows, task / self.of_rows)
        };
        let all = n.div_ceil(LANES);
        Part {
            rows: (rb * self.rows, ((rb + 1) * self.rows).min(m)),
            panels: (pb * self.panels, ((pb + 1) * self.panels).min(all)),
        }
    }
}

/// The number of rows per block that gives every thread some blocks. It does not affect the order of any sum, so it may
/// depend on the threads.
pub(super) fn rows_of_blocks(cx: &Cx, groups: usize, blocks: &impl Fn(usize, usize) -> Blocks) -> usize {
    let total = |rows: usize| -> usize { (0..groups).map(|g| blocks(g, rows).count()).sum() };
    let want = SHARE * cx.threads().count();
    ROWS.into_iter().find(|rows| total(*rows) >= want).unwrap_or(ROWS[ROWS.len() - 1])
}

/// Calls `f` for every block of every group, with all threads. `size` gives m and n of a group.
pub(super) fn each_block(
    cx: &Cx,
    groups: usize,
    rows: usize,
    blocks: &(impl Fn(usize, usize) -> Blocks + Sync),
    size: impl Fn(usize) -> (usize, usize) + Sync,
    f: impl Fn(usize, &Blocks, Part) + Sync,
) {
    let total = (0..groups).map(|g| blocks(g, rows).count()).sum();
    cx.threads().each(total, |task| {
        let (mut rest, mut group) = (task, 0);
        loop {
            let blocks = blocks(group, rows);
            if rest < blocks.count() {
                let (m, n) = size(group);
                return f(group, &blocks, blocks.part(m, n, rest));
            }
            rest -= blocks.count();
            group += 1;
        }
    });
}

/// Computes the products `product(0)` … `product(groups - 1)`.
///
/// # Safety
/// The operands must be valid for their extents. The memory of B and C must not overlap, nor the C of different groups.
pub(crate) unsafe fn multiply(cx: &Cx, groups: usize, product: impl Fn(usize) -> Product + Sync) {
    let kernel = Microkernel::of(cx.isa(), product(0).dtype, false);
    let blocks = |g: usize, rows: usize| Blocks::of(&kernel, &product(g), rows);
    let rows = rows_of_blocks(cx, groups, &blocks);
    let first = product(0);
    let far = groups * panel_bytes(first.dtype, first.n, first.k) / STEP_BYTES * first.step() > CACHED;
    // Sums of several blocks are added in f32 before they are rounded.
    let long = first.c_dtype == DType::Bf16 && steps(first.dtype, first.k) > BLOCK;
    // Room for the sums of any block, whatever the groups' sizes.
    let panels = |m: usize| Blocks::of(&kernel, &Product { m, ..first }, rows).panels;
    let widest = (1..=kernel.rows).map(panels).fold(panels(rows), usize::max);
    let sums = if long { rows * widest * LANES * 4 } else { 0 };
    let scratch = sums + widest * first.wide();
    let slots = (scratch > 0).then(|| Slots::new(cx, cx.threads().count(), scratch));
    let size = |g: usize| (product(g).m, product(g).n);
    each_block(cx, groups, rows, &blocks, size, |g, _, part| {
        let p = product(g);
        let run = |scratch: *mut u8| {
            // The sums come first, then the widened panels.
            let own = if long { scratch } else { std::ptr::null_mut() };
            // SAFETY: the caller's promise; blocks of one product are disjoint in C. The scratch has room for both.
            unsafe { block(cx, &p, part, far, own.cast(), scratch.wrapping_add(sums)) };
        };
        slots.as_ref().map_or_else(|| run(std::ptr::null_mut()), |slots| slots.with(run));
    });
}

/// The beginning of part `i` when `0..n` is divided evenly.
pub(super) fn cut(n: usize, parts: usize, i: usize) -> usize {
    n * i / parts
}

/// Widens steps `from..to` of a part's panels, one panel every `p.wide()` bytes.
unsafe fn widen(cx: &Cx, p: &Product, codes: Codes, part: Part, (from, to): (usize, usize), wide: *mut u8) {
    let (panel0, panel1) = part.panels;
    let total = steps(p.dtype, p.k);
    let mut widener = Widener::new(cx.isa());
    for step in (from..to).step_by(SCALED) {
        let count = SCALED.min(to - step);
        for panel in panel0..panel1 {
            // SAFETY: the panels' codes and scales exist, as the caller promises, and so does the room for them.
            unsafe {
                let from_codes = p.b.add((panel * total + step) * p.step());
                let scales = codes.scales.add(step / SCALED * codes.lanes + panel * LANES);
                let to = wide.add((panel - panel0) * p.wide() + (step - from) * STEP_BYTES);
                widener.panel(from_codes, count, scales, to.cast());
            }
        }
    }
}

unsafe fn block(cx: &Cx, p: &Product, part: Part, far: bool, sums: *mut f32, wide: *mut u8) {
    let Part { rows: (row0, row1), panels: (panel0, panel1) } = part;
    let total = steps(p.dtype, p.k);
    // With odd k, only half of a row's last step exists.
    let whole = if p.dtype == DType::Bf16 { p.k / 2 } else { p.k };
    let kernel = Microkernel::of(cx.isa(), p.dtype, false);
    let rows = row1 - row0;
    // Tiles of even size are faster than full tiles with a small last one.
    let row_tiles = rows.div_ceil(kernel.rows);
    let row_at = |i: usize| cut(rows, row_tiles, i);
    let np = (kernel.panels)(rows.div_ceil(row_tiles));
    let panels = panel1 - panel0;
    let panel_tiles = panels.div_ceil(np);
    let c_size = p.c_dtype.size();

    let mut step0 = 0;
    loop {
        let step1 = (step0 + BLOCK).min(total);
        let last = step1 == total;
        let acc = if step0 == 0 { p.acc } else { Acc::Add };
        let sums_row = panels * LANES;
        // The first step of this block in the part's first panel, and the bytes from one panel to the next.
        let (b_at, b_panel) = if let Some(codes) = p.codes {
            // SAFETY: the caller's promise; BLOCK is a multiple of the steps that share scales.
            unsafe { widen(cx, p, codes, part, (step0, step1), wide) };
            (wide.cast_const(), p.wide())
        } else {
            (p.b.wrapping_add((panel0 * total + step0) * STEP_BYTES), total * STEP_BYTES)
        };
        for j in 0..panel_tiles {
            let (j0, j1) = (panel0 + cut(panels, panel_tiles, j), panel0 + cut(panels, panel_tiles, j + 1));
            for i in 0..row_tiles {
                let (i0, i1) = (row0 + row_at(i), row0 + row_at(i + 1));
                if far && p.codes.is_none() && j + 1 < panel_tiles && row_tiles > 1 {
                    // Meanwhile the next panels are prefetched, a part of them with every tile of rows.
                    let (from, to) =
                        (step0 + cut(step1 - step0, row_tiles, i), step0 + cut(step1 - step0, row_tiles, i + 1));
                    for panel in j1..panel0 + cut(panels, panel_tiles, j + 2) {
                        fetch(p.b.wrapping_add((panel * total + from) * STEP_BYTES), (to - from) * STEP_BYTES);
                    }
                }
                if far && j == 0 {
                    // The next rows are prefetched as well, the first time that they are read.
                    for row in i1..row0 + row_at((i + 2).min(row_tiles)) {
                        fetch(p.a.wrapping_add(row * p.a_row + step0 * 4), (step1 - step0) * 4);
                    }
                }
                // SAFETY: all offsets lie inside the operands' extents, which the caller promises.
                unsafe {
                    let at = sums.wrapping_add((i0 - row0) * sums_row + (j0 - panel0) * LANES);
                    let cols = (j1 * LANES).min(p.n) - j0 * LANES;
                    let mut tile = Tile {
                        a: p.a.add(i0 * p.a_row + step0 * 4),
                        a_row: p.a_row,
                        a_panel: 0,
                        half: step1 > whole,
                        b: b_at.add((j0 - panel0) * b_panel),
                        b_panel,
                        steps: step1.min(whole) - step0,
                        sums: std::ptr::null(),
                        sums_row,
                        c: p.c.add(i0 * p.c_row + j0 * LANES * c_size),
                        c_row: p.c_row,
                        cols,
                        out: Out::new(p.c_dtype, acc),
                        scales: None,
                        ahead: if far && p.codes.is_none() && row_tiles == 1 { AHEAD } else { 0 },
                    };
                    if !sums.is_null() && last {
                        (tile.sums, tile.out) = (at, Out::new(p.c_dtype, p.acc));
                    } else if !sums.is_null() {
                        (tile.c, tile.c_row, tile.cols) = (at.cast(), sums_row * 4, (j1 - j0) * LANES);
                        tile.out = if step0 == 0 { Out::WriteF32 } else { Out::AddF32 };
                    }
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
