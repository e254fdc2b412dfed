//! Gradients of the whole loss (main, MTP, balance) against finite differences, for every parameter.
//!
//! Along a direction v of unit length, `D(h) = (L(w + h v) - L(w - h v)) / 2h`, and `(4 D(h/2) - D(h)) / 3` is exact up
//! to h^4. The choices of experts, and the shares f_i in the balance loss, are constants for the gradient. So they keep
//! their values at w. The step h is short compared with |w| and changes the loss by at most 0.01. The loss is accurate
//! to some 1e-6, so the rounding error is near 1e-4 of the gradient's length. The bound is 1e-3 of it.

use crate::fixtures::{Fixture, routing};
use hadal_base::{Purpose, Rng};
use hadal_model::dump::dump;
use hadal_model::{BalanceGroups, Grads, Input, LossWeights, Model, Probe, Workspace};
use hadal_ops::{Cx, DType, Tensor};

const LAMBDA: f64 = 0.3;
const ALPHA: f64 = 0.05;
const BOUND: f64 = 1e-3;

struct Problem<'a> {
    cx: &'a Cx,
    input: Input,
    replay: Vec<Tensor>,
    /// The groups of tokens over which the balance loss is computed.
    groups: BalanceGroups,
    /// Shares f `[groups, E]` of each MoE layer, in the order of the pass.
    shares: Vec<Vec<f64>>,
}

/// Shares of each group of tokens by definition: `f_i = E / (K T_s)` times the number of tokens for which expert i is
/// among the K best by score.
fn shares(scores: &Tensor, k: usize, groups: usize) -> Vec<f64> {
    let (tokens, e) = (scores.rows() / groups, scores.cols());
    let mut f = vec![0.0; groups * e];
    for (t, row) in scores.f32().chunks(e).enumerate() {
        let mut best: Vec<usize> = (0..e).collect();
        best.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
        best[..k].iter().for_each(|i| f[t / tokens * e + i] += e as f64 / (k * tokens) as f64);
    }
    f
}

impl Problem<'_> {
    fn mtp_weights(&self) -> Vec<f64> {
        let depth = self.input.mtp.len() as f64;
        self.input.mtp.iter().map(|m| LAMBDA / depth / m.targets.weight).collect()
    }

    /// Number of token groups in the balance loss.
    fn groups(&self) -> usize {
        if self.groups == BalanceGroups::Batch { 1 } else { self.input.seg.count() }
    }

    /// The loss as a function of the weights, in f64, computed from the tokens' f32 losses.
    fn loss(&self, model: &Model) -> f64 {
        let mut scores: Vec<(Vec<f32>, usize)> = Vec::new();
        let mut observer = |probe: Probe<'_>| {
            if let Probe::Routing(_, r) = probe {
                scores.push((r.scores.f32().to_vec(), r.scores.cols()));
            }
        };
        let observer = Some(&mut observer as _);
        let (main, mtp) = model.losses(self.cx, &self.input, Some(&self.replay), true, observer);
        let sum = |t: &Tensor| t.f32().iter().map(|v| f64::from(*v)).sum::<f64>();
        let mut total = sum(&main) / self.input.targets.weight;
        total += mtp.iter().zip(self.mtp_weights()).map(|(t, w)| w * sum(t)).sum::<f64>();
        let groups = self.groups();
        for ((s, experts), f) in scores.iter().zip(&self.shares) {
            let tokens = s.len() / experts / groups;
            for (t, row) in s.chunks(*experts).enumerate() {
                let all: f64 = row.iter().map(|v| f64::from(*v)).sum();
                let f = &f[t / tokens * experts..][..*experts];
                let dot: f64 = row.iter().zip(f).map(|(s, f)| f64::from(*s) * f).sum();
                total += ALPHA / groups as f64 * dot / all / tokens as f64;
            }
        }
        total
    }
}

/// The parameter with index `slot`.
fn with_param(model: &mut Model, slot: usize, cx: &Cx, f: impl FnOnce(&mut [f32])) {
    let mut f = Some(f);
    model.visit_mut(&mut |p| {
        if p.index == slot {
            let mut values = p.to_f32();
            f.take().expect("one parameter of an index")(&mut values);
            p.set(cx, &values).unwrap();
        }
    });
}

#[test]
fn every_gradient_is_the_slope_of_the_loss() {
    let sequences = BalanceGroups::Sequences;
    let cases = ["yarn", "mtp2", "tied", "v2_group", "dense"].map(|name| (name, sequences));
    for (name, groups) in cases.into_iter().chain([("mtp2", BalanceGroups::Batch)]) {
        let f = Fixture::named(name);
        let cx = Cx::cpu(2, DType::F32);
        let (mut model, ids) = (f.model(&cx), f.ids());
        let ids: Vec<&[i32]> = ids.iter().map(Vec::as_slice).collect();
        let replay = routing(&cx, &dump(&cx, &model, &ids, false, None));
        let input = Input::of(&cx, &ids, model.mtp.len());
        let mut problem = Problem { cx: &cx, input, replay, groups, shares: Vec::new() };

        let mtp: Vec<f32> = problem.mtp_weights().iter().map(|w| *w as f32).collect();
        let balance = Some((groups, (ALPHA / problem.groups() as f64) as f32));
        let weights = LossWeights { main: (1.0 / problem.input.targets.weight) as f32, mtp: &mtp, balance };
        let mut grads = Grads::new(&cx, model.params().into_iter());
        let (mut ws, mut stats) = (Workspace::default(), model.stats(&cx));
        let (mut found, k, count) = (Vec::new(), model.config.num_experts_per_tok, problem.groups());
        let mut observer = |probe: Probe<'_>| {
            if let Probe::Routing(_, r) = probe {
                found.push(shares(&r.scores, k, count));
            }
        };
        let (replay, input) = (Some(problem.replay.as_slice()), &problem.input);
        let observer = Some(&mut observer as _);
        model.forward_backward(&cx, input, &weights, replay, &mut ws, &mut stats, &mut grads, observer);
        problem.shares = found;

        let slots: Vec<(usize, String)> = model
            .params()
            .iter()
            .filter(|p| p.spec.trainable())
            .map(|p| (p.index, p.spec.parts.iter().map(|q| q.name.as_str()).next().unwrap().to_owned()))
            .collect();
        for (slot, param) in slots {
            let grad: Vec<f64> = grads.get(slot).unwrap().f32().iter().map(|v| f64::from(*v)).collect();
            let start: Vec<f32> = model.params()[slot].to_f32();
            let norm = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
            let length = norm(&start.iter().map(|v| f64::from(*v)).collect::<Vec<_>>());
            let slope = norm(&grad);
            assert!(slope > 0.0, "{name} {param}: no gradient");
            // Along the gradient, and along random directions, which detect elements that lack a gradient.
            for direction in 0..3 {
                let rng = Rng::new(7, Purpose::Test, (slot * 3 + direction) as u64);
                let mut v: Vec<f64> = match direction {
                    0 => grad.clone(),
                    _ => (0..grad.len()).map(|i| rng.normal(i as u64)).collect(),
                };
                let unit = norm(&v);
                v.iter_mut().for_each(|x| *x /= unit);
                let mut at = |h: f64| {
                    let moved = |w: &mut [f32]| {
                        for ((w, s), v) in w.iter_mut().zip(&start).zip(&v) {
                            *w = (f64::from(*s) + h * v) as f32;
                        }
                    };
                    with_param(&mut model, slot, &cx, moved);
                    problem.loss(&model)
                };
                let mut difference = |h: f64| (at(h) - at(-h)) / (2.0 * h);
                let h = (length / 512.0).min(0.01 / slope);
                let measured = (4.0 * difference(h / 2.0) - difference(h)) / 3.0;
                let wanted: f64 = grad.iter().zip(&v).map(|(g, v)| g * v).sum();
                let error = (measured - wanted).abs() / slope;
                assert!(
                    error <= BOUND,
                    "{name} {groups:?} {param}, direction {direction}: {measured} instead of {wanted}, {error:.1e} of |g|"
                );
            }
            with_param(&mut model, slot, &cx, |w| w.copy_from_slice(&start));
        }
    }
}
