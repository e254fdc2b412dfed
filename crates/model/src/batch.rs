//! Tokens as the model reads them: ids, targets, positions and segments, for the main model and each MTP module.

use hadal_ops::{Cx, DType, Tensor, attention::Segments};

/// Marks a position without a target.
pub const IGNORE: i32 = -1;

/// The rows one MTP module works on: positions `i` of each segment for which token `i + k` is among the inputs.
pub struct MtpInput {
    /// Row of the previous depth's output for each row of this one, i32 `[R]`.
    pub rows: Tensor,
    /// Token `i + k`, i32 `[R]`.
    pub ids: Tensor,
    /// Token `i + k + 1`, i32 `[R]`.
    pub targets: Tensor,
    /// Positions, i32 `[R]`.
    pub positions: Tensor,
    /// Segments of the rows.
    pub seg: Segments,
    /// All rows as one segment.
    pub whole: Segments,
    /// Number of targets that count.
    pub valid: usize,
    lens: Vec<usize>,
}

/// A micro-batch. Shapes are fixed at creation, tokens are filled in again and again without allocating.
pub struct Input {
    /// Input tokens, i32 `[T]`.
    pub ids: Tensor,
    /// Next tokens, i32 `[T]`, [`IGNORE`] where there is none.
    pub targets: Tensor,
    /// Position in the segment, i32 `[T]`.
    pub positions: Tensor,
    /// Sequences or documents that do not see each other.
    pub seg: Segments,
    /// All tokens as one segment (batch-wise statistics).
    pub whole: Segments,
    /// One for each MTP module.
    pub mtp: Vec<MtpInput>,
    /// Number of targets that count.
    pub valid: usize,
    lens: Vec<usize>,
}

fn starts(lens: impl Iterator<Item = usize>) -> Vec<usize> {
    let mut all = vec![0];
    for len in lens {
        all.push(all[all.len() - 1] + len);
    }
    all
}

impl Input {
    /// Room for segments of the given lengths and `depth` MTP modules.
    pub fn new(cx: &Cx, lens: &[usize], depth: usize) -> Self {
        assert!(!lens.is_empty() && lens.iter().all(|l| *l > 0), "input: segments must have tokens");
        let total: usize = lens.iter().sum();
        let ints = |n: usize| cx.empty(&[n], DType::I32);
        let mut previous = lens.to_vec();
        let mtp = (1..=depth)
            .map(|_| {
                let ends = starts(previous.iter().copied());
                let now: Vec<usize> = previous.iter().map(|l| l.saturating_sub(1)).collect();
                let rows: Vec<i32> = now.iter().zip(&ends).flat_map(|(n, s)| (*s..s + n).map(|r| r as i32)).collect();
                let positions: Vec<i32> = now.iter().flat_map(|n| 0..*n as i32).collect();
                let count = rows.len();
                previous.clone_from(&now);
                MtpInput {
                    rows: cx.indices(&[count], &rows),
                    ids: ints(count),
                    targets: ints(count),
                    positions: cx.indices(&[count], &positions),
                    seg: Segments::new(cx, &starts(now.iter().copied().filter(|n| *n > 0))),
                    whole: Segments::new(cx, &starts((count > 0).then_some(count).into_iter())),
                    valid: 0,
                    lens: now,
                }
            })
            .collect();
        let positions: Vec<i32> = lens.iter().flat_map(|n| 0..*n as i32).collect();
        Self {
            ids: ints(total),
            targets: ints(total),
            positions: cx.indices(&[total], &positions),
            seg: Segments::new(cx, &starts(lens.iter().copied())),
            whole: Segments::new(cx, &[0, total]),
            mtp,
            valid: 0,
            lens: lens.to_vec(),
        }
    }

    /// Fills in the tokens of each segment: as many as its length, or one more (then the last input has a target).
    pub fn fill<'a>(&mut self, segments: impl Iterator<Item = &'a [i32]> + Clone) {
        let (ids, targets) = (self.ids.i32_mut(), self.targets.i32_mut());
        self.valid = fill(ids, targets, &self.lens, segments.clone(), 0);
        for (k, m) in self.mtp.iter_mut().enumerate() {
            m.valid = fill(m.ids.i32_mut(), m.targets.i32_mut(), &m.lens, segments.clone(), k + 1);
        }
    }

    /// An input holding `segments` (see [`Input::fill`]); every segment's inputs are all its tokens.
    pub fn of(cx: &Cx, segments: &[&[i32]], depth: usize) -> Self {
        let lens: Vec<usize> = segments.iter().map(|s| s.len()).collect();
        let mut input = Self::new(cx, &lens, depth);
        input.fill(segments.iter().copied());
        input
    }
}

/// Inputs `i + shift` and targets `i + shift + 1` of each segment; returns the number of targets.
fn fill<'a>(
    ids: &mut [i32],
    targets: &mut [i32],
    lens: &[usize],
    segments: impl Iterator<Item = &'a [i32]>,
    shift: usize,
) -> usize {
    let (mut at, mut valid) = (0, 0);
    for (len, tokens) in lens.iter().zip(segments) {
        for i in shift..shift + len {
            ids[at] = tokens[i];
            targets[at] = tokens.get(i + 1).copied().unwrap_or(IGNORE);
            valid += usize::from(targets[at] != IGNORE);
            at += 1;
        }
    }
    assert_eq!(at, ids.len(), "input: filled {at} tokens of {}", ids.len());
    valid
}
