//! Matrices in tiles: codes and scales.

use super::codec::{Codec, encode_with, scale_of, with_codec};
use super::{E4M3, MiniFloat, TILE};
use crate::kernel::{Blocks, Elem, Pointwise, Rows, RowsMut, dispatch, with_elem};
use crate::moe::{Plan, copy_rows};
use crate::{Cx, DType, DisjointMut, Isa, MatRef, Tensor};
use std::ops::Range;

/// Bytes for the low bits of a tile, in a format with more than eight bits.
const LOW_BYTES: usize = TILE / 2;

/// Which values share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// 128 columns of a row (the report's choice for activations and their gradients).
    Tile,
    /// 128 columns of 128 rows (its counter-example for gradients, appendix B.2).
    Block,
}

/// How a matrix is quantised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// Format of the codes: E4M3, E5M2 or E5M6.
    pub format: MiniFloat,
    /// Whether scales are rounded up to powers of two.
    pub power_of_two: bool,
    /// Which values share a scale.
    pub shape: Shape,
}

impl Style {
    /// E4M3 in tiles of 1x128 with the scale `amax / 448`.
    pub const TILES: Self = Self { format: E4M3, power_of_two: false, shape: Shape::Tile };
}

/// A matrix `[rows, cols]` as codes with a scale for every 128 columns of a row: `value = code * scale`.
///
/// A row of codes has one byte per element (the high eight bits). In formats with more bits, the low four bits follow:
/// 64 bytes per tile, with element j in the low half of byte j and element j + 64 in the high half.
///
/// An infinity makes its tile's scale infinite. Finite numbers in the tile become zeros, infinities NaN, and every
/// value of the tile is NaN. A NaN leaves the scale at one. Its own code is NaN, and the others are those at that
/// scale. In products, a NaN in a row of an operand gives NaN in the corresponding row or column of the result, and
/// nowhere else.
pub struct Quantized {
    codes: Tensor,
    scales: Tensor,
    cols: usize,
    style: Style,
}

impl Quantized {
    fn empty(cx: &Cx, rows: usize, cols: usize, style: Style) -> Self {
        let tiles = cols.div_ceil(TILE);
        let bytes = cols + if style.format.bits() > 8 { tiles * LOW_BYTES } else { 0 };
        let (codes, scales) = (cx.empty(&[rows, bytes], DType::U8), cx.empty(&[rows, tiles], DType::F32));
        Self { codes, scales, cols, style }
    }

    /// Quantises a matrix. The code is defined as `format.encode(x / scale)`. Blocks begin at row 0.
    pub fn new<'a>(cx: &Cx, x: impl Into<MatRef<'a>>, style: Style) -> Self {
        let x = x.into();
        let mut q = Self::empty(cx, x.rows(), x.cols(), style);
        q.fill(cx, &x, 0..x.rows());
        q
    }

    /// Quantises groups of rows. Every group starts new blocks. Rows outside of all groups are undefined.
    pub(crate) fn in_groups(
        cx: &Cx,
        x: &MatRef<'_>,
        style: Style,
        groups: impl Iterator<Item = (usize, usize)>,
    ) -> Self {
        if style.shape == Shape::Tile {
            return Self::new(cx, *x, style);
        }
        let mut q = Self::empty(cx, x.rows(), x.cols(), style);
        groups.for_each(|(first, rows)| q.fill(cx, x, first..first + rows));
        q
    }

    /// Quantises the rows `filled` of `x` into the rows with the same numbers.
    fn fill(&mut self, cx: &Cx, x: &MatRef<'_>, filled: Range<usize>) {
        let (style, cols) = (self.style, self.cols);
        let _scope = cx.scope("quantize", 0, (filled.len() * cols * (x.dtype().size() + 1)) as u64);
        let (bytes, tiles) = (self.codes.cols(), self.scales.cols());
        let high = if style.shape == Shape::Block { TILE } else { 1 };
        let blocks = Blocks::rows(filled.len().div_ceil(high), cols * high);
        let (codes, scales) = (DisjointMut::new(self.codes.u8_mut()), DisjointMut::new(self.scales.f32_mut()));
        with_elem!(x.dtype(), X => with_codec!(style.format, F => {
            let x = Rows::<X>::new(x);
            cx.threads().each(blocks.count(), |task| {
                let range = blocks.range(task);
                let rows = filled.start + range.start * high..(filled.start + range.end * high).min(filled.end);
                // SAFETY: rows belong to one task.
                let (codes, scales) = unsafe {
                    (codes.slice(rows.start * bytes, rows.len() * bytes), scales.slice(rows.start * tiles, rows.len() * tiles))
                };
                let (isa, power_of_two) = (cx.isa(), style.power_of_two);
                dispatch(isa, Encode { isa, x, rows, cols, high, codes, scales, power_of_two, _format: F::default() });
            });
        }));
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.scales.rows()
    }
    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }
    /// Format of the codes.
    pub fn format(&self) -> MiniFloat {
        self.style.format
    }
    /// How it was quantised. Permuted rows keep the scales of their original tiles or blocks.
    pub fn style(&self) -> Style {
        self.style
    }
    /// Codes, laid out as described above.
    pub fn codes(&self) -> &Tensor {
        &self.codes
    }
    /// Scales f32 `[rows, ceil(cols / 128)]`.
    pub fn scales(&self) -> &Tensor {
        &self.scales
    }
    /// Bytes of codes and scales.
    pub fn bytes(&self) -> usize {
        self.codes.bytes() + self.scales.bytes()
    }

    /// `code * scale` in f32, rounded to `dtype`.
    pub fn dequantize(&self, cx: &Cx, dtype: DType) -> Tensor {
        let mut out = cx.empty(&[self.rows(), self.cols], dtype);
        let _scope = cx.scope("dequantize", 0, (self.bytes() + out.bytes()) as u64);
        let blocks = Blocks::rows(self.rows(), self.cols);
        let reader = self.reader();
        let mut view = out.mat_mut();
        with_elem!(dtype, Y => with_codec!(self.style.format, F => {
            let out = RowsMut::<Y>::new(&mut view);
            cx.threads().each(blocks.count(), |task| {
                dispatch(cx.isa(), Decode { from: reader, rows: blocks.range(task), out: &out, _format: F::default() });
            });
        }));
        out
    }

    /// The rows in a plan's permutation, like `moe::permute` for floats.
    pub fn permute(&self, cx: &Cx, plan: &Plan) -> Self {
        let _scope = cx.scope("moe permute", 0, 2 * self.bytes() as u64);
        assert!(plan.tokens() == self.rows(), "permute: {} rows for {} tokens", self.rows(), plan.tokens());
        let mut to = Self::empty(cx, plan.rows(), self.cols, self.style);
        let token_of = plan.token_of.i32();
        copy_rows(cx, self.codes.u8(), self.codes.cols(), token_of, to.codes.u8_mut());
        copy_rows(cx, self.scales.f32(), self.scales.cols(), token_of, to.scales.f32_mut());
        to
    }

    pub(crate) fn reader(&self) -> Reader<'_> {
        let tiles = self.scales.cols();
        Reader { codes: self.codes.u8(), bytes: self.codes.cols(), scales: self.scales.f32(), tiles, cols: self.cols }
    }
}

/// Reads rows of a quantised matrix as f32.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    codes: &'a [u8],
    bytes: usize,
    scales: &'a [f32],
    tiles: usize,
    cols: usize,
}

impl Reader<'_> {
    /// Passes columns `col..col + n` of row `r` to `put`, with their index in that range.
    #[inline(always)]
    pub(crate) fn each<F: Codec>(&self, r: usize, col: usize, n: usize, mut put: impl FnMut(usize, f32)) {
        let (row, scales) = (&self.codes[r * self.bytes..][..self.bytes], &self.scales[r * self.tiles..][..self.tiles]);
        let mut done = 0;
        while done < n {
            // Half a tile at a time: inside it, the positions of high and low bits both ascend.
            let (c, half) = (col + done, TILE / 2);
            let count = (half - c % half).min(n - done);
            let scale = scales[c / TILE];
            let high = &row[c..][..count];
            if F::LOW {
                let low = &row[self.cols + c / TILE * LOW_BYTES + c % half..][..count];
                let shift = if c % TILE < half { 0 } else { 4 };
                for i in 0..count {
                    let code = u32::from(high[i]) << 4 | (u32::from(low[i]) >> shift & 15);
                    put(done + i, F::value(code) * scale);
                }
            } else {
                for i in 0..count {
                    put(done + i, F::value(u32::from(high[i])) * scale);
                }
            }
            done += count;
        }
    }
}

/// Largest magnitude, as bits. NaN counts as larger than any number.
#[inline(always)]
pub(crate) fn amax<X: Elem>(x: &[X]) -> u32 {
    let mut lanes = [0u32; 32];
    let chunks = x.chunks_exact(32);
    let rest = chunks.remainder();
    for chunk in chunks {
        for i in 0..32 {
            lanes[i] = lanes[i].max(chunk[i].get().to_bits() & 0x7fff_ffff);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane = (*lane).max(x.get().to_bits() & 0x7fff_ffff);
    }
    // By halving: a fold would process the elements one by one.
    let mut half = 16;
    while half > 0 {
        for i in 0..half {
            lanes[i] = lanes[i].max(lanes[i + half]);
        }
        half /= 2;
    }
    lanes[0]
}

struct Encode<'a, X, F> {
    isa: Isa,
    x: Rows<'a, X>,
    rows: Range<usize>,
    cols: usize,
    /// Rows that share a scale.
    high: usize,
    codes: &'a mut [u8],
    scales: &'a mut [f32],
    power_of_two: bool,
    _format: F,
}

impl<X: Elem, F: Codec> Pointwise for Encode<'_, X, F> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { isa, x, rows, cols, high, codes, scales, power_of_two, _format: _ } = self;
        let tiles = cols.div_ceil(TILE);
        let bytes = cols + if F::LOW { tiles * LOW_BYTES } else { 0 };
        let max = F::value(u32::from(F::FORMAT.max_code));
        for first in (0..rows.len()).step_by(high) {
            let last = (first + high).min(rows.len());
            // First the largest magnitudes. Their bits have the order of the numbers.
            let shared = first * tiles..(first + 1) * tiles;
            for r in first..last {
                for (x, most) in x.row(rows.start + r).chunks(TILE).zip(&mut scales[shared.clone()]) {
                    let before = if r == first { 0 } else { most.to_bits() };
                    *most = f32::from_bits(before.max(amax(x)));
                }
            }
            for scale in &mut scales[shared.clone()] {
                *scale = scale_of(scale.to_bits(), max, power_of_two);
            }
            for r in first + 1..last {
                scales.copy_within(shared.clone(), r * tiles);
            }
            for r in first..last {
                let (from, row) = (x.row(rows.start + r), &mut codes[r * bytes..][..bytes]);
                let scales = &scales[r * tiles..][..tiles];
                if !F::LOW {
                    encode_with::<X, F>(isa, from, scales, row);
                    continue;
                }
                let (high, low) = row.split_at_mut(cols);
                let halves = high.chunks_mut(TILE).zip(low.chunks_exact_mut(LOW_BYTES));
                for ((from, scale), (high, low)) in from.chunks(TILE).zip(scales).zip(halves) {
                    low.fill(0);
                    for (part, shift) in [(0, 0), (TILE / 2, 4)] {
                        let from = from.get(part..).unwrap_or(&[]);
                        let to = high.get_mut(part..).unwrap_or(&mut []);
                        for ((to, low), x) in to.iter_mut().zip(&mut *low).zip(from) {
                            let code = F::code(x.get() / scale);
                            *to = (code >> 4) as u8;
                            *low |= ((code & 15) << shift) as u8;
                        }
                    }
                }
            }
        }
    }
}

struct Decode<'a, Y, F> {
    from: Reader<'a>,
    rows: Range<usize>,
    out: &'a RowsMut<'a, Y>,
    _format: F,
}

impl<Y: Elem, F: Codec> Pointwise for Decode<'_, Y, F> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for r in self.rows {
            // SAFETY: a row belongs to one task.
            let out = unsafe { self.out.row(r) };
            let n = out.len();
            self.from.each::<F>(r, 0, n, |i, v| {
                // SAFETY: i < n, as `each` promises. (A check here keeps the loop from being vectorised.)
                unsafe { *out.get_unchecked_mut(i) = Y::round(v) };
            });
        }
    }
}
