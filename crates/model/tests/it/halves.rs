//! The backward in two halves: first all input halves of several micro-batches, then all weight halves. The result has
//! the same bits as a backward that does both for each layer. Pipeline schedules depend on this.

use crate::fixtures::Fixture;
use hadal_model::{
    BalanceGroups, BalancePass, BlockDeferred, Grads, Input, LossWeights, Model, MtpDeferred, MtpSaved, Pass, Workspace,
};
use hadal_ops::head::{self, HeadGrad};
use hadal_ops::{Acc, Cx, DType, Tensor, embedding, rmsnorm};
use hadal_weights::precision::Precision;

const COEF: f32 = 0.125;

/// The remaining work of a micro-batch, in the order in which the layers' input halves ran.
struct Deferred {
    mtp: Vec<MtpDeferred>,
    blocks: Vec<BlockDeferred>,
}

fn head_grad(
    cx: &Cx,
    model: &Model,
    h: &Tensor,
    targets: &hadal_model::Targets,
    weight: f32,
    grads: &mut Grads,
) -> Tensor {
    let mut losses = cx.empty(&[h.rows()], DType::F32);
    let mut dh = cx.empty(h.shape(), DType::F32);
    let grad = HeadGrad { dh: &mut dh, dh_acc: Acc::Write, dw: grads.target(model.head()) };
    head::loss(
        cx,
        h,
        model.head().weight(),
        &targets.ids,
        weight,
        Some(&targets.weights),
        &mut losses,
        Some(grad),
        None,
    );
    dh
}

/// Forward, and the input half of every layer.
fn input_halves(cx: &Cx, model: &Model, input: &Input, weights: &LossWeights<'_>, grads: &mut Grads) -> Deferred {
    let balance = |seg| Some(BalancePass { seg, coef: COEF });
    let pass = Pass {
        rope: &model.rope,
        positions: &input.positions,
        seg: &input.seg,
        balance: balance(&input.seg),
        replay: None,
    };
    let mtp_pass = |k: usize| {
        let m = &input.mtp[k];
        Pass { positions: &m.positions, seg: &m.seg, balance: balance(&m.seg), ..pass }
    };
    let mut x = cx.empty(&[input.ids.len(), model.config.hidden_size], DType::F32);
    embedding::forward(cx, model.embed.table(), &input.ids, &mut x);
    let mut saved = Vec::new();
    for block in &model.blocks {
        let (y, s) = block.forward(cx, x, &pass, None, false);
        x = y;
        saved.push(s);
    }
    let mut h = cx.empty(x.shape(), cx.compute());
    let mut rstd = cx.empty(&[x.rows()], DType::F32);
    rmsnorm::forward(cx, &x, model.norm.table(), model.config.rms_norm_eps as f32, &mut h, &mut rstd);
    let mut d_h = head_grad(cx, model, &h, &input.targets, weights.main, grads);
    let mut states: Vec<(MtpSaved, Tensor)> = Vec::new();
    for (k, (module, rows)) in model.mtp.iter().zip(&input.mtp).enumerate() {
        let previous = states.last().map_or(&h, |(s, _)| s.hidden());
        let (z, s) = module.forward(cx, &model.embed, previous, &rows.rows, &rows.ids, &mtp_pass(k), None, false);
        let d_z = head_grad(cx, model, &z, &rows.targets, weights.mtp[k], grads);
        states.push((s, d_z));
    }
    let mut deferred = Deferred { mtp: Vec::new(), blocks: Vec::new() };
    let mut d_next = None;
    while let Some((s, d_z)) = states.pop() {
        let k = states.len();
        let mut d_hidden = states.last().map(|(s, _)| cx.zeros(s.hidden().shape(), DType::F32));
        let d_previous = d_hidden.as_mut().unwrap_or(&mut d_h);
        let (module, rows) = (&model.mtp[k], &input.mtp[k]);
        let pass = mtp_pass(k);
        let left = module.backward_input(cx, &model.embed, &d_z, d_next, s, rows, &pass, d_previous, grads);
        deferred.mtp.push(left);
        d_next = d_hidden;
    }
    let mut d = cx.empty(x.shape(), DType::F32);
    let (dw, acc) = grads.target(&model.norm).unwrap();
    rmsnorm::backward(cx, &d_h, &x, model.norm.table(), &rstd, &mut d, Acc::Write, dw, acc);
    for (block, s) in model.blocks.iter().zip(saved).rev() {
        deferred.blocks.push(block.backward_input(cx, &mut d, s, &pass, grads));
    }
    let (d_table, acc) = grads.target(&model.embed).unwrap();
    embedding::backward(cx, &d, &input.ids, d_table, acc);
    deferred
}

#[test]
fn input_halves_then_weight_halves_give_the_bits_of_the_full_backward() {
    let runs = [
        (DType::F32, Precision::COMPUTE),
        (DType::Bf16, Precision::COMPUTE),
        (DType::Bf16, Precision { recompute: true, ..Precision::COMPUTE }),
        (DType::Bf16, Precision::FP8),
    ];
    for (name, (dtype, precision)) in
        ["yarn", "mtp2", "tied", "dense", "v2_group"].iter().flat_map(|n| runs.map(|run| (n, run)))
    {
        let f = Fixture::named(name);
        let cx = Cx::cpu(2, dtype);
        let (model, ids) = (f.model_in(&cx, precision), f.ids());
        // One sequence per micro-batch: the second micro-batch adds to what the first wrote.
        let inputs: Vec<Input> = ids.iter().map(|s| Input::of(&cx, &[s], model.mtp.len())).collect();
        let mtp: Vec<f32> = (0..model.mtp.len()).map(|k| 0.01 / (k + 1) as f32).collect();
        let weights = LossWeights { main: 0.03, mtp: &mtp, balance: Some((BalanceGroups::Sequences, COEF)) };

        let mut full = Grads::new(&cx, model.params().into_iter());
        let (mut ws, mut stats) = (Workspace::default(), model.stats(&cx));
        for input in &inputs {
            model.forward_backward(&cx, input, &weights, None, &mut ws, &mut stats, &mut full, None);
        }

        let mut halves = Grads::new(&cx, model.params().into_iter());
        let left: Vec<Deferred> =
            inputs.iter().map(|input| input_halves(&cx, &model, input, &weights, &mut halves)).collect();
        for Deferred { mtp, blocks } in left {
            for (module, d) in model.mtp.iter().rev().zip(mtp) {
                module.backward_weight(&cx, d, &mut halves);
            }
            for (block, d) in model.blocks.iter().rev().zip(blocks) {
                block.backward_weight(&cx, d, &mut halves);
            }
        }
        for p in model.params().into_iter().filter(|p| p.spec.trainable()) {
            let (a, b) = (full.get(p.index).unwrap().f32(), halves.get(p.index).unwrap().f32());
            assert!(a.iter().any(|v| *v != 0.0), "{name} {dtype:?}: {} has no gradient", p.spec.name());
            let same = a.iter().zip(b).all(|(x, y)| x.to_bits() == y.to_bits());
            assert!(same, "{name} {dtype:?}: {} differs", p.spec.name());
        }
    }
}
