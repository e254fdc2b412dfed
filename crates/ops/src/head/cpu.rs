//! Softmax, loss and gradient of rows of logits on a processor. Three loops go over a row while it is in cache. The
//! first finds its maximum. The second replaces it by its exponentials and sums them. The third divides them to give
//! dz.

use crate::kernel::{Blocks, Elem, Pointwise, dispatch, sum_lanes, with_elem};
use crate::math::exp;
use crate::{Acc, Cx, DType, DisjointMut, Tensor};

/// Accumulators of a row's maximum and sum: four registers of 16.
const LANES: usize = 64;

/// The results for some rows of logits.
pub(super) struct Outputs<'a> {
    pub(super) losses: &'a mut [f32],
    pub(super) pred: Option<&'a mut [i32]>,
    /// The gradient's tensor, and the row in it that corresponds to the first row.
    pub(super) dz: Option<(&'a mut Tensor, usize)>,
}

/// Factor of the gradients of all rows, and of each row.
#[derive(Clone, Copy)]
pub(super) struct Factors<'a> {
    pub(super) scale: f32,
    pub(super) weights: Option<&'a [f32]>,
}

/// Consumes the logits `z` f32 [n, V].
pub(super) fn cross_entropy<C: Elem>(cx: &Cx, z: &mut Tensor, targets: &[i32], by: Factors<'_>, out: Outputs<'_>) {
    let (n, v) = (z.rows(), z.cols());
    let blocks = Blocks::rows(n, v);
    let z = DisjointMut::new(z.f32_mut());
    let losses = DisjointMut::new(out.losses);
    let pred = out.pred.map(DisjointMut::new);
    let mut dz = out.dz.map(|(dz, first)| (dz.mat_mut(), first));
    let dz = dz.as_mut().map(|(dz, first)| DisjointMut::new(&mut C::of_mut(dz)[*first * v..]));
    cx.threads().each(blocks.count(), |task| {
        for r in blocks.range(task) {
            // SAFETY: a row belongs to one task.
            let (z, loss, pred, dz) = unsafe {
                let pred = pred.as_ref().map(|p| &mut p.slice(r, 1)[0]);
                (z.slice(r * v, v), losses.slice(r, 1), pred, dz.as_ref().map(|d| d.slice(r * v, v)))
            };
            let scale = by.weights.map_or(by.scale, |w| by.scale * w[r]);
            loss[0] = dispatch(cx.isa(), Row { z, target: targets[r], scale, pred, dz });
        }
    });
}

struct Row<'a, C> {
    z: &'a mut [f32],
    target: i32,
    scale: f32,
    pred: Option<&'a mut i32>,
    dz: Option<&'a mut [C]>,
}

impl<C: Elem> Pointwise for Row<'_, C> {
    /// The loss.
    type Out = f32;
    #[inline(always)]
    fn run<const FMA: bool>(self) -> f32 {
        let Self { z, target, scale, pred, dz } = self;
        let max = maximum(z);
        if let Some(pred) = pred {
            *pred = first_equal(z, max) as i32;
        }
        let Ok(target) = usize::try_from(target) else {
            if let Some(dz) = dz {
                dz.fill(C::round(0.0));
            }
            return 0.0;
        };
        let below = z[target] - max;
        let sum = exponentials::<FMA>(z, max);
        if let Some(dz) = dz {
            let factor = scale / sum;
            for (d, e) in dz.iter_mut().zip(&*z) {
                *d = C::round(e * factor);
            }
            dz[target] = C::round((z[target] / sum - 1.0) * scale);
        }
        sum.ln() - below
    }
}

/// The largest element. NaN is ignored.
#[inline(always)]
fn maximum(z: &[f32]) -> f32 {
    // A comparison instead of `f32::max`, because this compiles to the machine's instruction.
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = z.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = larger(lanes[i], chunk[i]);
        }
    }
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, larger)
}

/// `z = exp(z - max)` and its sum. Element i goes to lane `i % LANES`, and lanes are added by halving.
#[inline(always)]
fn exponentials<const FMA: bool>(z: &mut [f32], max: f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let mut chunks = z.chunks_exact_mut(LANES);
    for chunk in &mut chunks {
        for i in 0..LANES {
            chunk[i] = exp::<FMA>(chunk[i] - max);
            lanes[i] += chunk[i];
        }
    }
    for (lane, z) in lanes.iter_mut().zip(chunks.into_remainder()) {
        *z = exp::<FMA>(*z - max);
        *lane += *z;
    }
    sum_lanes(lanes)
}

/// First index of an element equal to `value`; 0 if there is none.
#[inline(always)]
fn first_equal(z: &[f32], value: f32) -> usize {
    // A whole chunk is compared (in vectors) before it is searched.
    let hit = z.chunks(LANES).position(|chunk| chunk.iter().map(|x| u32::from(*x == value)).sum::<u32>() > 0);
    hit.map_or(0, |c| c * LANES + z[c * LANES..].iter().position(|x| *x == value).unwrap_or(0))
}

/// A copy of rows `start..start + n`.
pub(super) fn rows(cx: &Cx, x: &Tensor, start: usize, n: usize) -> Tensor {
    let mut out = cx.empty(&[n, x.cols()], x.dtype());
    let range = start * x.cols()..(start + n) * x.cols();
    match x.dtype() {
        DType::Bf16 => out.bf16_mut().copy_from_slice(&x.bf16()[range]),
        _ => out.f32_mut().copy_from_slice(&x.f32()[range]),
    }
    out
}

/// Rows `start..` of `to` (acc) `from`. Both have the same type.
pub(super) fn put_rows(cx: &Cx, from: &Tensor, to: &mut Tensor, start: usize, acc: Acc) {
    with_elem!(to.dtype(), T => put::<T>(cx, from, to, start * to.cols(), acc));
}

fn put<T: Elem>(cx: &Cx, from: &Tensor, to: &mut Tensor, start: usize, acc: Acc) {
    let blocks = Blocks::elements(from.len());
    let (len, from, mut to) = (from.len(), from.mat(), to.mat_mut());
    let (from, to) = (T::of(&from), DisjointMut::new(&mut T::of_mut(&mut to)[start..start + len]));
    cx.threads().each(blocks.count(), |task| {
        let range = blocks.range(task);
        // SAFETY: blocks do not overlap.
        let to = unsafe { to.slice(range.start, range.len()) };
        match acc {
            Acc::Write => to.copy_from_slice(&from[range]),
            Acc::Add => to.iter_mut().zip(&from[range]).for_each(|(to, from)| *to = T::round(to.get() + from.get())),
        }
    });
}

/// Zeroes rows `start..start + n`.
pub(super) fn zero_rows(x: &mut Tensor, start: usize, n: usize) {
    let range = start * x.cols()..(start + n) * x.cols();
    match x.dtype() {
        DType::Bf16 => x.bf16_mut()[range].fill(half::bf16::ZERO),
        _ => x.f32_mut()[range].fill(0.0),
    }
}
