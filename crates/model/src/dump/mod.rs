//! Everything that a forward and backward pass computes, by name, for comparison with another implementation.
//!
//! Names: `input_ids [B,T]`, `logits [B,T,V]`, `hidden.{0..L} [B,T,D]` (0: embedding), `hidden.final`,
//! `router.{layer}.logits [N,E]`, `.topk_idx`, `.topk_w [N,K]` (sorted by expert), `loss`, `grad.<parameter>` (of the
//! main loss).
//!
//! With MTP modules also `mtp.logits`, `mtp.hidden`, `mtp.block [B,T-1,..]` (`mtp.block` is before `shared_head.norm`;
//! for module k > 1: `mtp.{k}.…`), `mtp_loss`, and `mtp_grad.<parameter>` (of the main loss + 0.3 / D * the sum of the
//! modules' losses).

mod files;

use crate::batch::Input;
use crate::model::{LossWeights, Model, Probe, Workspace};
use crate::param::Grads;
use hadal_ops::{Cx, Tensor};
use std::collections::BTreeMap;

pub use files::{DumpError, read_ids, read_routing, write};

/// Weight of the MTP losses in a dump's `mtp_grad.*`.
pub const MTP_LAMBDA: f64 = 0.3;

/// One array of a dump.
#[derive(Clone, Debug, PartialEq)]
pub enum Array {
    /// Shape and values.
    F32(Vec<usize>, Vec<f32>),
    /// Shape and values.
    I64(Vec<usize>, Vec<i64>),
}

/// Arrays by name.
pub type Dump = BTreeMap<String, Array>;

/// Runs `sequences` through the model and keeps everything. They must have the same length of at least two tokens.
/// `replay` replaces the routers' choices. It has one i32 `[tokens, K]` for each MoE layer in order.
pub fn dump(cx: &Cx, model: &Model, sequences: &[&[i32]], grads: bool, replay: Option<&[Tensor]>) -> Dump {
    let (b, t) = (sequences.len(), sequences[0].len());
    assert!(t >= 2 && sequences.iter().all(|s| s.len() == t), "dump: sequences must have the same length, at least 2");
    let input = Input::of(cx, sequences, model.mtp.len());
    let mut out = Dump::new();
    let ids = sequences.iter().flat_map(|s| s.iter().map(|v| i64::from(*v))).collect();
    out.insert("input_ids".into(), Array::I64(vec![b, t], ids));
    let mut f32s = |name: String, shape: Vec<usize>, t: &Tensor| {
        out.insert(name, Array::F32(shape, t.to_vec_f32()));
    };
    let (d, v) = (model.config.hidden_size, model.config.vocab_size);
    let mut routing = Vec::new();
    let mut observer = |probe: Probe<'_>| match probe {
        Probe::Hidden(i, x) => f32s(format!("hidden.{i}"), vec![b, t, d], x),
        Probe::Final(x) => f32s("hidden.final".into(), vec![b, t, d], x),
        Probe::Mtp(k, block, x) => {
            f32s(format!("{}.block", mtp_name(k)), vec![b, t - k, d], block);
            f32s(format!("{}.hidden", mtp_name(k)), vec![b, t - k, d], x);
        }
        Probe::Routing(layer, r) => {
            let (idx, w) = by_expert(r.idx.i32(), r.weight.f32(), r.idx.cols());
            let logits = r.logits.as_ref().map(|l| (l.shape().to_vec(), l.f32().to_vec()));
            routing.push((layer, r.idx.shape().to_vec(), idx, w, logits));
        }
    };
    let (logits, mtp) = model.logits(cx, &input, replay, Some(&mut observer));
    f32s("logits".into(), vec![b, t, v], &logits);
    for (k, l) in mtp.iter().enumerate() {
        f32s(format!("{}.logits", mtp_name(k + 1)), vec![b, t - k - 1, v], l);
    }
    for (layer, shape, idx, w, logits) in routing {
        out.insert(format!("router.{layer}.topk_idx"), Array::I64(shape.clone(), idx));
        out.insert(format!("router.{layer}.topk_w"), Array::F32(shape, w));
        if let Some((shape, values)) = logits {
            out.insert(format!("router.{layer}.logits"), Array::F32(shape, values));
        }
    }
    losses(cx, model, &input, grads, replay, &mut out);
    out
}

fn mtp_name(k: usize) -> String {
    if k == 1 { "mtp".into() } else { format!("mtp.{k}") }
}

/// Choices and weights of each token in ascending order of experts.
fn by_expert(idx: &[i32], weight: &[f32], k: usize) -> (Vec<i64>, Vec<f32>) {
    let mut rows: Vec<Vec<(i32, f32)>> =
        idx.chunks(k).zip(weight.chunks(k)).map(|(i, w)| i.iter().copied().zip(w.iter().copied()).collect()).collect();
    rows.iter_mut().for_each(|r| r.sort_by_key(|(i, _)| *i));
    rows.iter().flatten().map(|(i, w)| (i64::from(*i), *w)).unzip()
}

/// Mean losses, and gradients if wanted.
fn losses(cx: &Cx, model: &Model, input: &Input, grads: bool, replay: Option<&[Tensor]>, out: &mut Dump) {
    let (main, mtp) = model.losses(cx, input, replay, true, None);
    let mean = |losses: &Tensor, n: usize| {
        let sum: f64 = losses.f32().iter().map(|l| f64::from(*l)).sum();
        (sum / n.max(1) as f64) as f32
    };
    out.insert("loss".into(), Array::F32(vec![1], vec![mean(&main, input.targets.count)]));
    if !mtp.is_empty() {
        let values = mtp.iter().zip(&input.mtp).map(|(l, m)| mean(l, m.targets.count)).collect();
        out.insert("mtp_loss".into(), Array::F32(vec![mtp.len()], values));
    }
    if !grads {
        return;
    }
    let depth = model.mtp.len();
    let main = (1.0 / input.targets.weight) as f32;
    let scaled = |m: &crate::MtpInput| (MTP_LAMBDA / depth as f64 / m.targets.weight.max(1.0)) as f32;
    let with_mtp: Vec<f32> = input.mtp.iter().map(scaled).collect();
    let runs = [("grad.", vec![0.0; depth]), ("mtp_grad.", with_mtp)];
    for (prefix, weights) in runs.iter().take(1 + usize::from(depth > 0)) {
        let mut grads = Grads::new(cx, model.params().into_iter());
        let weights = LossWeights { main, mtp: weights, balance: None };
        let (mut ws, mut stats) = (Workspace::default(), model.stats(cx));
        model.forward_backward(cx, input, &weights, replay, &mut ws, &mut stats, &mut grads, None);
        grads.finish();
        // Modules that the main loss does not reach have no gradient from it.
        let first_mtp = model.mtp.first().map_or(usize::MAX, |m| m.enorm.index);
        model.visit(&mut |p| {
            let Some(g) = grads.get(p.index) else { return };
            if *prefix == "grad." && p.index >= first_mtp {
                return;
            }
            for part in &p.spec.parts {
                let values = g.f32()[part.range()].to_vec();
                out.insert(format!("{prefix}{}", part.name), Array::F32(part.shape.clone(), values));
            }
        });
    }
}
