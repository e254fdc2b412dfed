//! Tokens in the form that the model reads: ids, targets with their weights, positions and segments, for the main model
//! and each MTP module.

use hadal_ops::{Cx, DType, Tensor, attention::Segments};

/// Marks a position without a target.
pub const IGNORE: i32 = -1;

/// A sequence or document. It does not attend to any other.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// Its tokens: the inputs, and one more if the last input has a target.
    pub tokens: &'a [i32],
    /// Weight of each token's loss when the token is a target; `None` means 1 for all. A token of weight 0 is not a target.
    pub weights: Option<&'a [f32]>,
    /// Number of inputs: the number of tokens, or one less.
    pub inputs: usize,
}

impl<'a> Segment<'a> {
    /// All tokens except the last are inputs, all except the first are targets.
    pub fn to_predict(tokens: &'a [i32]) -> Self {
        Self { tokens, weights: None, inputs: tokens.len() - 1 }
    }
    /// All tokens are inputs; the last one has no target.
    pub fn to_read(tokens: &'a [i32]) -> Self {
        Self { tokens, weights: None, inputs: tokens.len() }
    }
}

/// The targets of some rows.
pub struct Targets {
    /// Target ids, i32 `[R]`. [`IGNORE`] means no target.
    pub ids: Tensor,
    /// Weights of the targets, f32 `[R]`. 0 means no target.
    pub weights: Tensor,
    /// Number of targets.
    pub count: usize,
    /// Sum of their weights.
    pub weight: f64,
}

/// The rows of one MTP module: positions `i` of each segment for which token `i + k` is among the inputs.
pub struct MtpInput {
    /// For each row, the row of the previous depth's output, i32 `[R]`.
    pub rows: Tensor,
    /// Token `i + k`, i32 `[R]`.
    pub ids: Tensor,
    /// Token `i + k + 1`.
    pub targets: Targets,
    /// Positions, i32 `[R]`.
    pub positions: Tensor,
    /// Segments of the rows.
    pub seg: Segments,
    /// All rows as one segment.
    pub whole: Segments,
}

/// A micro-batch. It can be filled repeatedly with segments of any lengths. It allocates only when a batch is larger
/// than all previous ones.
pub struct Input {
    /// Input tokens, i32 `[T]`.
    pub ids: Tensor,
    /// Next tokens.
    pub targets: Targets,
    /// Position in the segment, i32 `[T]`.
    pub positions: Tensor,
    /// Sequences or documents, which do not attend to each other.
    pub seg: Segments,
    /// All tokens as one segment (batch-wise statistics).
    pub whole: Segments,
    /// One entry per MTP module.
    pub mtp: Vec<MtpInput>,
}

impl Targets {
    fn new(cx: &Cx) -> Self {
        Self { ids: cx.empty(&[0], DType::I32), weights: cx.empty(&[0], DType::F32), count: 0, weight: 0.0 }
    }

    /// For each segment, stores token `i + shift + 1` of the first `inputs - shift` positions `i`.
    fn set<'a>(&mut self, segments: impl Iterator<Item = Segment<'a>>, rows: usize, shift: usize) {
        self.ids.resize(&[rows]);
        self.weights.resize(&[rows]);
        let (ids, weights) = (self.ids.i32_mut(), self.weights.f32_mut());
        (self.count, self.weight) = (0, 0.0);
        let mut at = 0;
        for segment in segments {
            for next in (shift + 1)..=segment.inputs {
                let weight = segment.weights.map_or(1.0, |w| w.get(next).copied().unwrap_or(0.0));
                let target = segment.tokens.get(next).filter(|_| weight != 0.0);
                ids[at] = target.copied().unwrap_or(IGNORE);
                weights[at] = if target.is_some() { weight } else { 0.0 };
                self.count += usize::from(target.is_some());
                self.weight += f64::from(weights[at]);
                at += 1;
            }
        }
        assert_eq!(at, rows, "input: {at} targets for {rows} rows");
    }
}

/// Writes `values` into an i32 `[n]`.
pub(crate) fn put(into: &mut Tensor, n: usize, values: impl Iterator<Item = i32>) {
    into.resize(&[n]);
    into.i32_mut().iter_mut().zip(values).for_each(|(to, v)| *to = v);
}

impl Input {
    /// An empty input for batches with `depth` MTP modules.
    pub fn new(cx: &Cx, depth: usize) -> Self {
        let ints = || cx.empty(&[0], DType::I32);
        let none = || Segments::of(cx, std::iter::empty());
        let module = |_| MtpInput {
            rows: ints(),
            ids: ints(),
            targets: Targets::new(cx),
            positions: ints(),
            seg: none(),
            whole: none(),
        };
        Self {
            ids: ints(),
            targets: Targets::new(cx),
            positions: ints(),
            seg: none(),
            whole: none(),
            mtp: (0..depth).map(module).collect(),
        }
    }

    /// Fills it with other segments of any lengths.
    pub fn set<'a>(&mut self, segments: impl Iterator<Item = Segment<'a>> + Clone) {
        let lens = segments.clone().map(|s| {
            assert!(s.inputs > 0 && s.inputs <= s.tokens.len(), "input: a segment must have tokens: {s:?}");
            s.inputs
        });
        let total = lens.clone().sum();
        put(&mut self.ids, total, segments.clone().flat_map(|s| s.tokens[..s.inputs].iter().copied()));
        put(&mut self.positions, total, lens.clone().flat_map(|n| 0..n as i32));
        self.targets.set(segments.clone(), total, 0);
        self.seg.set(lens.clone());
        self.whole.set(std::iter::once(total));
        for (k, m) in self.mtp.iter_mut().enumerate() {
            let (before, shift) = (lens.clone().map(move |n| n.saturating_sub(k)), k + 1);
            let now = lens.clone().map(move |n| n.saturating_sub(shift));
            let count = now.clone().sum();
            // Of each segment, all rows of the previous depth except the last.
            let mut start = 0;
            let rows = before.flat_map(|n| {
                let first = start;
                start += n as i32;
                first..first + (n as i32 - 1).max(0)
            });
            put(&mut m.rows, count, rows);
            put(&mut m.positions, count, now.clone().flat_map(|n| 0..n as i32));
            put(&mut m.ids, count, segments.clone().flat_map(|s| s.tokens[..s.inputs].iter().skip(shift).copied()));
            m.targets.set(segments.clone(), count, shift);
            m.seg.set(now.filter(|n| *n > 0));
            m.whole.set((count > 0).then_some(count).into_iter());
        }
    }

    /// An input with `segments`. All of their tokens are inputs.
    pub fn of(cx: &Cx, segments: &[&[i32]], depth: usize) -> Self {
        let mut input = Self::new(cx, depth);
        input.set(segments.iter().map(|tokens| Segment::to_read(tokens)));
        input
    }

    /// Number of input tokens.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows, ids, targets and weights of two segments at depth 0, 1 and 2, written out.
    #[test]
    fn segments_of_any_lengths_are_laid_out() {
        let cx = Cx::cpu(1, DType::F32);
        let mut input = Input::new(&cx, 2);
        // The previous contents do not matter, whether larger or smaller.
        for before in [&[1, 2, 3, 4, 5, 6, 7, 8][..], &[1, 2]] {
            input.set([Segment::to_predict(before)].into_iter());
            let weights = [1.0, 1.0, 0.0, 0.5];
            let first = Segment { tokens: &[10, 11, 12, 13], weights: Some(&weights), inputs: 3 };
            input.set([first, Segment::to_read(&[20, 21])].into_iter());
            assert_eq!(input.ids.i32(), [10, 11, 12, 20, 21]);
            assert_eq!(input.positions.i32(), [0, 1, 2, 0, 1]);
            assert_eq!(input.seg.starts(), [0, 3, 5]);
            assert_eq!(input.targets.ids.i32(), [11, -1, 13, 21, -1]);
            assert_eq!(input.targets.weights.f32(), [1.0, 0.0, 0.5, 1.0, 0.0]);
            assert_eq!((input.targets.count, input.targets.weight), (3, 2.5));
            let m = &input.mtp[0];
            assert_eq!(m.rows.i32(), [0, 1, 3]);
            assert_eq!(m.ids.i32(), [11, 12, 21]);
            assert_eq!(m.targets.ids.i32(), [-1, 13, -1]);
            assert_eq!((m.seg.starts(), m.targets.weight), (&[0, 2, 3][..], 0.5));
            let m = &input.mtp[1];
            // The second segment has no rows left. Row numbers refer to the previous depth.
            assert_eq!(m.rows.i32(), [0]);
            assert_eq!((m.ids.i32(), m.targets.ids.i32()), (&[12][..], &[13][..]));
            assert_eq!(m.seg.starts(), [0, 1]);
        }
    }
}
