//! The sequence-wise balance loss (report eq. 17-20): values and gradients compared with the independent
//! implementation.

use crate::fixtures::{Fixture, distance, folders};
use hadal_model::dump::Array;
use hadal_model::{BalanceGroups, Grads, Input, LossWeights, Probe, Workspace};
use hadal_ops::{Cx, DType};

#[test]
fn balance_loss_and_its_gradients_agree() {
    let mut compared = 0;
    for folder in folders() {
        let f = Fixture::open(&folder);
        let cx = Cx::cpu(2, DType::F32);
        let (model, ids) = (f.model(&cx), f.ids());
        let ids: Vec<&[i32]> = ids.iter().map(Vec::as_slice).collect();
        // The oracle's total is the sum over layers of the mean over sequences. The cross-entropies are switched off.
        let coef = 1.0 / ids.len() as f32;
        let none = vec![0.0; model.mtp.len()];
        let weights = LossWeights { main: 0.0, mtp: &none, balance: Some((BalanceGroups::Sequences, coef)) };
        // Without MTP rows, only the losses of the main layers remain.
        for (prefix, depth) in [("balance_grad.", 0), ("mtp_balance_grad.", model.mtp.len())] {
            let wanted = |n: &str| n.strip_prefix(prefix).map(str::to_owned);
            if !f.oracle.keys().any(|n| wanted(n).is_some()) {
                continue;
            }
            let mut grads = Grads::new(&cx, model.params().into_iter());
            let (mut ws, mut stats) = (Workspace::default(), model.stats(&cx));
            let mut losses = Vec::new();
            let mut observer = |probe: Probe<'_>| {
                if let Probe::Routing(layer, r) = probe {
                    losses.push((layer, r.balance.as_ref().unwrap().1.f32().to_vec()));
                }
            };
            let input = Input::of(&cx, &ids, depth);
            let observer = Some(&mut observer as _);
            model.forward_backward(&cx, &input, &weights, None, &mut ws, &mut stats, &mut grads, observer);
            grads.finish();
            let mut total = 0.0;
            for (layer, have) in &losses {
                let name = format!("balance.{layer}");
                let Array::F32(_, want) = &f.oracle[&name] else { panic!("{name} is f32") };
                let d = distance(have, want);
                assert!(d <= f.bound(&name), "{} {name}: {d:.1e}", f.name);
                total += want.iter().map(|v| f64::from(*v)).sum::<f64>() * f64::from(coef);
            }
            assert!((stats.balance - total).abs() <= 1e-5 * total, "{}: {} of {total}", f.name, stats.balance);
            for p in model.params() {
                for part in &p.spec.parts {
                    let name = format!("{prefix}{}", part.name);
                    let Some(Array::F32(_, want)) = f.oracle.get(&name) else { continue };
                    let d = distance(&grads.get(p.index).unwrap().f32()[part.range()], want);
                    assert!(d <= f.bound(&name), "{} {name}: {d:.1e}", f.name);
                    compared += 1;
                }
            }
        }
    }
    assert!(compared >= 15, "only {compared} gradients");
}
