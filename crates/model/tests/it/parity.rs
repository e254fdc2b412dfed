//! Parity with transformers' DeepseekV3 / V2 on every fixture (bounds: see `Fixture::bound`).

use crate::fixtures::{Fixture, distance, folders, routing};
use hadal_model::dump::{Array, Dump, dump};
use hadal_ops::{Cx, DType, Isa};

fn ours(f: &Fixture, cx: &Cx, replay: bool) -> Dump {
    let model = f.model(cx);
    let ids = f.ids();
    let ids: Vec<&[i32]> = ids.iter().map(Vec::as_slice).collect();
    let routing = replay.then(|| routing(cx, &f.oracle));
    dump(cx, &model, &ids, true, routing.as_deref())
}

#[test]
fn f32_agrees_on_logits_hidden_states_routing_losses_and_every_gradient() {
    let mut failures = Vec::new();
    for folder in folders() {
        let f = Fixture::open(&folder);
        for isa in Isa::available() {
            let cx = Cx::cpu(2, DType::F32).with_isa(isa);
            let ours = ours(&f, &cx, false);
            let (mut compared, mut grads) = (0, 0);
            for (name, want) in &f.oracle {
                if name == "greedy.ids" || name.starts_with("balance") || name.starts_with("mtp_balance") {
                    continue; // compared in separate tests
                }
                let Some(have) = ours.get(name) else {
                    failures.push(format!("{} {name}: missing", f.name));
                    continue;
                };
                match (have, want) {
                    (Array::F32(_, a), Array::F32(_, b)) => {
                        let (d, bound) = (distance(a, b), f.bound(name));
                        if d.is_nan() || d > bound {
                            failures.push(format!("{} {} {name}: {d:.2e} > {bound:.1e}", f.name, isa.name()));
                        }
                    }
                    (Array::I64(_, a), Array::I64(_, b)) if a == b => {}
                    _ => failures.push(format!("{} {} {name}: differs", f.name, isa.name())),
                }
                compared += 1;
                grads += usize::from(name.contains("grad."));
            }
            assert!(compared > 10 && grads > 10, "{}: only {compared} tensors, {grads} gradients", f.name);
        }
    }
    assert!(failures.is_empty(), "{} differ:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn losses_agree() {
    for folder in folders() {
        let f = Fixture::open(&folder);
        let cx = Cx::cpu(1, DType::F32);
        let ours = ours(&f, &cx, false);
        let want = f.info["losses"]["main"].as_f64().unwrap();
        let Array::F32(_, loss) = &ours["loss"] else { panic!("loss is f32") };
        assert!((f64::from(loss[0]) - want).abs() <= 1e-5 * want, "{}: {} instead of {want}", f.name, loss[0]);
    }
}
