//! Quantisation as defined, value by value. Tests compare with it.

use super::{E4M3, MiniFloat, Shape, Style, TILE};

/// How a matrix is put on a grid.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid {
    pub(crate) format: MiniFloat,
    pub(crate) power_of_two: bool,
    /// Rows and columns that share a scale.
    pub(crate) size: (usize, usize),
    /// Whether values are multiplied by the reciprocal of the scale instead of divided by the scale.
    pub(crate) by_inverse: bool,
}

impl Grid {
    pub(crate) const WEIGHT: Self = Self { size: (TILE, TILE), ..Self::of(Style::TILES) };

    /// The grid of `Quantized`, as documented there.
    pub(crate) const fn of(style: Style) -> Self {
        let size = match style.shape {
            Shape::Tile => (1, TILE),
            Shape::Block => (TILE, TILE),
        };
        Self { format: style.format, power_of_two: style.power_of_two, size, by_inverse: false }
    }

    /// The grid of `Columns`, as documented there, for an operand in this style, or of floats.
    pub(crate) fn columns(style: Option<Style>) -> Self {
        let power_of_two = style.is_some_and(|s| s.power_of_two);
        Self { format: E4M3, power_of_two, size: (TILE, 1), by_inverse: true }
    }

    /// The scale of a tile with the largest magnitude `amax`, which is NaN if one of the values is.
    fn scale(self, amax: f32) -> f32 {
        if amax == 0.0 || amax.is_nan() {
            return 1.0;
        }
        let scale = (amax / self.format.max()).max(f32::MIN_POSITIVE);
        if self.power_of_two { f64::from(scale).log2().ceil().exp2() as f32 } else { scale }
    }

    /// Code and scale of every value. The first row of every group starts a new tile.
    pub(crate) fn quantise(self, values: &[f32], cols: usize, first: &[usize]) -> Vec<(u16, f32)> {
        let ((high, wide), mut out) = (self.size, vec![(0, 1.0); values.len()]);
        for group in first.windows(2) {
            for r0 in (group[0]..group[1]).step_by(high) {
                for c0 in (0..cols).step_by(wide) {
                    let (r1, c1) = ((r0 + high).min(group[1]), (c0 + wide).min(cols));
                    let at = || (r0..r1).flat_map(move |r| r * cols + c0..r * cols + c1);
                    let amax = at().map(|i| values[i].abs()).fold(0f32, |m, v| if v > m || v.is_nan() { v } else { m });
                    let scale = self.scale(amax);
                    for i in at() {
                        let v = if self.by_inverse { values[i] * (1.0 / scale) } else { values[i] / scale };
                        out[i] = (self.format.encode(v), scale);
                    }
                }
            }
        }
        out
    }

    /// `code * scale` in f64, the values in sums of products.
    pub(crate) fn exact(self, values: &[f32], cols: usize, first: &[usize]) -> Vec<f64> {
        let value = |(code, scale): (u16, f32)| f64::from(self.format.decode(code)) * f64::from(scale);
        self.quantise(values, cols, first).into_iter().map(value).collect()
    }

    /// The same rounded to f32, the dequantised values.
    pub(crate) fn rounded(self, values: &[f32], cols: usize, first: &[usize]) -> Vec<f32> {
        let value = |(code, scale): (u16, f32)| self.format.decode(code) * scale;
        self.quantise(values, cols, first).into_iter().map(value).collect()
    }
}
