//! Operands of weight gradients. The contraction runs over tokens, so 128 rows of a column share a scale (report
//! 3.3.3).
//!
//! Floats get the scale `amax / 448`. Tiles of 1x128 with such scales get it as well, and their numbers are rounded a
//! second time. Tiles with powers of two as scales get powers of two again. A number in E4M3 then keeps all its bits,
//! unless it is less than 2^-6 of the column's scale. There it is rounded to multiples of 2^-9 of the scale. In E5M6,
//! seven significant bits become four.

use super::codec::{Codec, scale_of, to_grid, with_codec};
use super::{E4M3, Quantized, Reader, TILE};
use crate::kernel::{Elem, Pointwise, Rows, dispatch, with_elem};
use crate::{Cx, DType, DisjointMut, MatRef, Tensor};
use std::ops::Range;

/// First row and number of rows of a group.
type RangeOf<'a> = dyn Fn(usize) -> (usize, usize) + Sync + 'a;

/// Number of columns per task.
const WIDE: usize = 512;

/// A matrix on the grid of E4M3 in tiles of 128x1. The code of x is `E4M3.encode(x * (1 / scale))`. It is stored as the
/// bf16 of the same value, because it is used immediately. Every group of rows starts a new tile.
pub(crate) struct Columns {
    /// `[rows, cols]` bf16.
    pub(crate) grid: Tensor,
    /// `[tiles, cols]` f32, followed by one more vector's width.
    scales: Tensor,
    /// First tile of each group i32.
    first: Tensor,
}

impl Columns {
    /// Quantises floats.
    pub(crate) fn of_floats(cx: &Cx, x: &MatRef<'_>, groups: usize, range: &RangeOf<'_>) -> Self {
        let mut to = Self::empty(cx, x.rows(), x.cols(), groups, range);
        with_elem!(x.dtype(), X => to.fill(cx, groups, range, Rows::<X>::new(x), false));
        to
    }

    /// Converts tiles of 1x128 through f32. Scales are powers of two if those of `x` are.
    pub(crate) fn of_tiles(cx: &Cx, x: &Quantized, groups: usize, range: &RangeOf<'_>) -> Self {
        let mut to = Self::empty(cx, x.rows(), x.cols(), groups, range);
        let (reader, power_of_two) = (x.reader(), x.style().power_of_two);
        with_codec!(x.format(), F => to.fill(cx, groups, range, Tiles { reader, _format: F::default() }, power_of_two));
        to
    }

    fn empty(cx: &Cx, rows: usize, cols: usize, groups: usize, range: &RangeOf<'_>) -> Self {
        let mut first = cx.empty(&[groups + 1], DType::I32);
        let mut tiles = 0;
        for (g, first) in first.i32_mut().iter_mut().enumerate() {
            *first = tiles;
            tiles += if g < groups { range(g).1.div_ceil(TILE) as i32 } else { 0 };
        }
        // The largest possible number of tiles, so that the buffer's size does not depend on the routing.
        let most = rows / TILE + groups;
        Self { grid: cx.empty(&[rows, cols], DType::Bf16), scales: cx.empty(&[most * cols + 16], DType::F32), first }
    }

    fn fill<S: RowSource>(&mut self, cx: &Cx, groups: usize, range: &RangeOf<'_>, source: S, power_of_two: bool) {
        let cols = self.grid.cols();
        let _scope = cx.scope("quantize", 0, 4 * self.grid.len() as u64);
        let (tiles, across) = (self.first.i32()[groups] as usize, cols.div_ceil(WIDE));
        let first = self.first.i32();
        let (grid, scales) = (DisjointMut::new(self.grid.bf16_mut()), DisjointMut::new(self.scales.f32_mut()));
        cx.threads().each(tiles * across, |task| {
            let (tile, col) = (task / across, task % across * WIDE);
            let group = first.partition_point(|f| *f as usize <= tile) - 1;
            let (start, len) = range(group);
            let row = start + (tile - first[group] as usize) * TILE;
            let rows = row..(row + TILE).min(start + len);
            let n = WIDE.min(cols - col);
            // SAFETY: tasks have tiles of their own.
            let scales = unsafe { scales.slice(tile * cols + col, n) };
            dispatch(cx.isa(), Fill { source, rows, col, cols, grid: &grid, scales, power_of_two });
        });
    }

    /// The first scale of a group, for its first tile and column 0.
    pub(crate) fn scales_of(&self, group: usize) -> *const f32 {
        self.scales.f32()[self.first.i32()[group] as usize * self.grid.cols()..].as_ptr()
    }
}

/// Rows that can be read as f32.
trait RowSource: Copy + Send + Sync {
    /// Passes columns `col..col + n` of row `r` to `put`, with their index in that range.
    fn each(&self, r: usize, col: usize, n: usize, put: impl FnMut(usize, f32));
}

impl<X: Elem> RowSource for Rows<'_, X> {
    #[inline(always)]
    fn each(&self, r: usize, col: usize, n: usize, mut put: impl FnMut(usize, f32)) {
        for (i, x) in self.row(r)[col..col + n].iter().enumerate() {
            put(i, x.get());
        }
    }
}

#[derive(Clone, Copy)]
struct Tiles<'a, F> {
    reader: Reader<'a>,
    _format: F,
}

impl<F: Codec> RowSource for Tiles<'_, F> {
    #[inline(always)]
    fn each(&self, r: usize, col: usize, n: usize, put: impl FnMut(usize, f32)) {
        let Self { reader, _format: _ } = self;
        reader.each::<F>(r, col, n, put);
    }
}

/// The rows of one tile, with up to [`WIDE`] of its columns.
struct Fill<'a, S> {
    source: S,
    rows: Range<usize>,
    col: usize,
    cols: usize,
    grid: &'a DisjointMut<'a, half::bf16>,
    scales: &'a mut [f32],
    power_of_two: bool,
}

impl<S: RowSource> Pointwise for Fill<'_, S> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { source, rows, col, cols, grid, scales, power_of_two } = self;
        let n = scales.len();
        let mut most = [0u32; WIDE];
        let most = &mut most[..n];
        for r in rows.clone() {
            source.each(r, col, n, |i, v| {
                // SAFETY: i < n, as `each` promises.
                let m = unsafe { most.get_unchecked_mut(i) };
                *m = (*m).max(v.to_bits() & 0x7fff_ffff);
            });
        }
        for (most, scale) in most.iter_mut().zip(scales) {
            *scale = scale_of(*most, E4M3.max(), power_of_two);
            *most = (1.0 / *scale).to_bits();
        }
        for r in rows {
            // SAFETY: a row's part belongs to this task.
            let to = unsafe { grid.slice(r * cols + col, n) };
            source.each(r, col, n, |i, v| {
                // SAFETY: i < n, as `each` promises.
                let (to, inverse) = unsafe { (to.get_unchecked_mut(i), f32::from_bits(*most.get_unchecked(i))) };
                *to = half::bf16::from_bits((to_grid(v * inverse).to_bits() >> 16) as u16);
            });
        }
    }
}
