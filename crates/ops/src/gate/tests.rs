//! The gate compared with the f64 reference. u = 2^-24 is half an ulp of 1. Every f32 operation multiplies by 1 + d
//! with |d| <= u, and `exp` by a few such factors.

use super::*;
use crate::attention::Segments;
use crate::{Acc, Isa, Purpose, Rng};
use hadal_testkit::gate as reference;
use proptest::prelude::*;

const U: f64 = 1.0 / (1u64 << 24) as f64;

fn contexts() -> Vec<Cx> {
    Isa::available().into_iter().map(|isa| Cx::cpu(2, DType::F32).with_isa(isa)).collect()
}

struct Out {
    scores: Tensor,
    idx: Tensor,
    weight: Tensor,
}

fn outputs(cx: &Cx, t: usize, cfg: &GateCfg) -> Out {
    Out {
        scores: cx.empty(&[t, cfg.experts], DType::F32),
        idx: cx.empty(&[t, cfg.top_k], DType::I32),
        weight: cx.empty(&[t, cfg.top_k], DType::F32),
    }
}

fn run(cx: &Cx, logits: &[f32], bias: &[f32], cfg: &GateCfg) -> Out {
    let t = logits.len() / cfg.experts;
    let (l, b) = (cx.tensor(&[t, cfg.experts], logits, DType::F32), cx.tensor(&[bias.len()], bias, DType::F32));
    let mut out = outputs(cx, t, cfg);
    forward(cx, &l, &b, cfg, &mut out.scores, &mut out.idx, &mut out.weight);
    out
}

fn wide(v: &[f32]) -> Vec<f64> {
    v.iter().map(|x| f64::from(*x)).collect()
}

fn normals(seed: u64, step: u64, n: usize, std: f64) -> Vec<f32> {
    let r = Rng::new(seed, Purpose::Test, step);
    (0..n as u64).map(|i| (r.normal(i) * std) as f32).collect()
}

/// Any gate, with groups of 1 to 5 experts.
fn any_cfg() -> impl Strategy<Value = GateCfg> {
    (1usize..7, 1usize..6, any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<[bool; 3]>(), 0usize..3)
        .prop_map(|(n_group, size, m, k, [softmax, norm_topk_prob, scale_after_norm], method)| {
            let topk_group = 1 + m.index(n_group);
            let method = [TopK::Greedy, TopK::GroupLimitedGreedy, TopK::NoauxTc][method];
            let most = if method == TopK::Greedy { n_group * size } else { topk_group * size };
            let scoring = if softmax { Scoring::Softmax } else { Scoring::Sigmoid };
            let (experts, top_k) = (n_group * size, 1 + k.index(most));
            GateCfg {
                experts,
                top_k,
                n_group,
                topk_group,
                scoring,
                method,
                norm_topk_prob,
                scale: 2.5,
                scale_after_norm,
            }
        })
}

fn v3() -> GateCfg {
    GateCfg {
        experts: 256,
        top_k: 8,
        n_group: 8,
        topk_group: 4,
        scoring: Scoring::Sigmoid,
        method: TopK::NoauxTc,
        norm_topk_prob: true,
        scale: 2.5,
        scale_after_norm: true,
    }
}

fn check_forward(cfg: &GateCfg, logits: &[f32], bias: &[f32], out: &Out) {
    let (e, k) = (cfg.experts, cfg.top_k);
    let exact = reference::scores(&wide(logits), e, cfg.scoring == Scoring::Softmax);
    let factor = if cfg.norm_topk_prob && !cfg.scale_after_norm { 1.0 } else { f64::from(cfg.scale) };
    for t in 0..logits.len() / e {
        let (x, s) = (&logits[t * e..][..e], &out.scores.f32()[t * e..][..e]);
        let max = f64::from(x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        for i in 0..e {
            let want = exact[t * e + i];
            // exp of a number rounded by u has the relative error |number| u. The sum of the softmax adds E u. Below
            // 2^-126 errors are not relative.
            let terms = if cfg.scoring == Scoring::Softmax { e as f64 + max - f64::from(x[i]) } else { 0.0 };
            let error = (f64::from(s[i]) - want).abs();
            assert!(error <= (terms + 8.0) * U * want + 1e-37, "score {i} of {t}: {} against {want}", s[i]);
        }
        // Selection is exact for the scores that the gate computed. There the sum with the bias is one f32 addition.
        let biased = cfg.method == TopK::NoauxTc;
        let choice: Vec<f64> = (0..e).map(|i| f64::from(if biased { s[i] + bias[i] } else { s[i] })).collect();
        let want = match cfg.method {
            TopK::Greedy => reference::top_k(&choice, k),
            TopK::GroupLimitedGreedy => reference::select(&choice, cfg.n_group, cfg.topk_group, 1, k),
            TopK::NoauxTc => reference::select(&choice, cfg.n_group, cfg.topk_group, 2, k),
        };
        let got: Vec<usize> = out.idx.i32()[t * k..][..k].iter().map(|i| *i as usize).collect();
        assert_eq!(got, want, "choice {choice:?}");
        let want = reference::weights(&wide(s), &got, cfg.norm_topk_prob, factor);
        for (w, want) in out.weight.f32()[t * k..][..k].iter().zip(want) {
            assert!((f64::from(*w) - want).abs() <= (k as f64 + 4.0) * U * want, "{w} against {want}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn forward_matches_the_reference(cfg in any_cfg(), t in 0usize..140, seed: u64, ties: bool) {
        // With ties, logits and biases have only a few values, and all their sums are exact.
        let e = cfg.experts;
        let few = |v: Vec<f32>| if ties { v.iter().map(|x| x.round()).collect() } else { v };
        let (logits, bias) = (few(normals(seed, 0, t * e, 2.0)), few(normals(seed, 1, e, 0.7)));
        // Group sums in f32 can tie or change order where those in f64 do not. So the biases are on a coarse grid, and
        // scores are 0.5.
        let logits: Vec<f32> = if cfg.method == TopK::NoauxTc && ties { vec![0.0; t * e] } else { logits };
        for cx in contexts() {
            let out = run(&cx, &logits, &bias, &cfg);
            if cfg.method != TopK::NoauxTc || ties || separated(&out, &bias, &cfg) {
                check_forward(&cfg, &logits, &bias, &out);
            }
            let mut again = outputs(&cx, t, &cfg);
            let l = cx.tensor(&[t, e], &logits, DType::F32);
            forward_replay(&cx, &l, &cfg, &out.idx, &mut again.scores, &mut again.weight);
            prop_assert_eq!(again.scores.f32(), out.scores.f32());
            prop_assert_eq!(again.weight.f32(), out.weight.f32());
        }
    }

    #[test]
    fn backward_matches_the_reference(cfg in any_cfg(), t in 0usize..140, seed: u64, with_extra: bool) {
        let (e, k) = (cfg.experts, cfg.top_k);
        let (logits, dw) = (normals(seed, 0, t * e, 2.0), normals(seed, 1, t * k, 1.0));
        let extra = normals(seed, 2, t * e, if with_extra { 0.1 } else { 0.0 });
        let factor = if cfg.norm_topk_prob && !cfg.scale_after_norm { 1.0 } else { f64::from(cfg.scale) };
        let softmax = cfg.scoring == Scoring::Softmax;
        for cx in contexts() {
            let out = run(&cx, &logits, &vec![0.0; e], &cfg);
            let dw_t = cx.tensor(&[t, k], &dw, DType::F32);
            let extra_t = cx.tensor(&[t, e], &extra, DType::F32);
            let mut d = cx.empty(&[t, e], DType::F32);
            backward(&cx, &dw_t, &out.scores, &out.idx, &cfg, with_extra.then_some(&extra_t), &mut d);
            for r in 0..t {
                let (s, dw) = (wide(&out.scores.f32()[r * e..][..e]), wide(&dw[r * k..][..k]));
                let idx: Vec<usize> = out.idx.i32()[r * k..][..k].iter().map(|i| *i as usize).collect();
                let mut ds = reference::weights_backward(&dw, &s, &idx, cfg.norm_topk_prob, factor);
                let extra = wide(&extra[r * e..][..e]);
                ds.iter_mut().zip(&extra).for_each(|(d, x)| *d += x);
                let want = reference::scores_backward(&ds, &s, softmax);
                // The sums of absolute values behind each number, times the number of roundings: K for the sum of the
                // weights and for dw . w, E for the softmax's dot product, and a few for the rest.
                let sum = if cfg.norm_topk_prob { idx.iter().map(|i| s[*i]).sum::<f64>() } else { 1.0 };
                let dot: f64 = idx.iter().zip(&dw).map(|(i, d)| d.abs() * s[*i] / sum).sum();
                let mut size: Vec<f64> = extra.iter().map(|x| x.abs()).collect();
                idx.iter().zip(&dw).for_each(|(i, d)| size[*i] += factor / sum * (d.abs() + dot));
                let through: f64 = size.iter().zip(&s).map(|(a, s)| a * s).sum();
                for i in 0..e {
                    let size = if softmax { s[i] * (size[i] + through) } else { size[i] * s[i] * (1.0 - s[i]) };
                    let terms = 2.0 * k as f64 + if softmax { e as f64 } else { 0.0 } + 12.0;
                    let got = f64::from(d.f32()[r * e + i]);
                    prop_assert!((got - want[i]).abs() <= terms * U * size + 1e-37, "{} {}", got, want[i]);
                }
            }
        }
    }

    #[test]
    fn balance_matches_the_reference(cfg in any_cfg(), lens in prop::collection::vec(0usize..150, 0..5), seed: u64, ties: bool) {
        let (e, k, t) = (cfg.experts, cfg.top_k, lens.iter().sum::<usize>());
        let mut starts = vec![0];
        for len in &lens {
            starts.push(starts[starts.len() - 1] + len);
        }
        let uniform = normals(seed, 0, t * e, 1.0).iter().map(|x| if ties { 0.5 } else { 1.0 / (1.0 + x.exp()) }).collect::<Vec<f32>>();
        for cx in contexts() {
            let seg = Segments::new(&cx, &starts);
            let scores = cx.tensor(&[t, e], &uniform, DType::F32);
            let (mut f, mut loss) = (cx.empty(&[lens.len(), e], DType::F32), cx.empty(&[lens.len()], DType::F32));
            balance_forward(&cx, &scores, &seg, &cfg, &mut f, &mut loss);
            let (mut d, coef) = (cx.empty(&[t, e], DType::F32), 0.3);
            balance_backward(&cx, &scores, &seg, &f, coef, &mut d, Acc::Write);
            let mut twice = cx.copy(&d);
            balance_backward(&cx, &scores, &seg, &f, coef, &mut twice, Acc::Add);
            for (s, len) in lens.iter().enumerate() {
                let own = starts[s] * e..starts[s + 1] * e;
                let s_own = wide(&scores.f32()[own.clone()]);
                let (f, loss) = (wide(&f.f32()[s * e..][..e]), f64::from(loss.f32()[s]));
                if *len == 0 {
                    prop_assert!(loss == 0.0 && f.iter().all(|f| *f == 0.0));
                    continue;
                }
                let (f_want, want) = reference::balance(&s_own, e, k);
                for (f, want) in f.iter().zip(f_want) {
                    prop_assert!((f - want).abs() <= 4.0 * U * want, "{} {}", f, want);
                }
                // All terms are positive: a sum over E in the normalisation, one over the tokens, and one over E again.
                prop_assert!((loss - want).abs() <= (2 * e + len + 10) as f64 * U * want, "{} {}", loss, want);
                let want = reference::balance_backward(&s_own, e, &f);
                for (i, want) in want.iter().enumerate() {
                    let (row, j) = (&s_own[i / e * e..][..e], i % e);
                    let sum: f64 = row.iter().sum();
                    let mean: f64 = row.iter().zip(&f).map(|(s, f)| s * f / sum).sum();
                    let bound = (2 * e + 10) as f64 * U * f64::from(coef) / (*len as f64 * sum) * (f[j] + mean);
                    let got = |d: &Tensor| f64::from(d.f32()[own.start + i]);
                    prop_assert!((got(&d) - f64::from(coef) * want).abs() <= bound, "{} {}", got(&d), want);
                    prop_assert_eq!(got(&twice), 2.0 * got(&d));
                }
            }
        }
    }

    #[test]
    fn any_bits_select_distinct_experts(cfg in any_cfg(), bits in prop::collection::vec(any::<u32>(), 0..200), pick: u8) {
        // Floats with any bit pattern: NaN, infinities, denormals. Then all of them equal.
        let e = cfg.experts;
        let special = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, f32::MAX][pick as usize % 5];
        let random: Vec<f32> = bits[..bits.len() / e * e].iter().map(|b| f32::from_bits(*b)).collect();
        for logits in [random, vec![special; 3 * e]] {
            for bias in [0.0, f32::NAN, f32::NEG_INFINITY] {
                let out = run(&contexts()[0], &logits, &vec![bias; e], &cfg);
                for row in out.idx.i32().chunks_exact(cfg.top_k) {
                    let mut seen = vec![false; e];
                    for i in row {
                        prop_assert!((0..e as i32).contains(i) && !seen[*i as usize], "{:?}", row);
                        seen[*i as usize] = true;
                    }
                }
            }
        }
    }
}

/// Whether the group scores of a row differ enough that f32 and f64 give the same order.
fn separated(out: &Out, bias: &[f32], cfg: &GateCfg) -> bool {
    let (e, size) = (cfg.experts, cfg.experts / cfg.n_group);
    out.scores.f32().chunks_exact(e).all(|s| {
        let choice: Vec<f64> = s.iter().zip(bias).map(|(s, b)| f64::from(s + b)).collect();
        let mut sums: Vec<f64> =
            choice.chunks_exact(size).map(|g| reference::top_k(g, 2).iter().map(|i| g[*i]).sum()).collect();
        sums.sort_by(f64::total_cmp);
        sums.windows(2).all(|w| w[1] - w[0] > 4.0 * U * (1.0 + w[1].abs()))
    })
}

#[test]
fn the_full_size_gate_and_every_thread_count() {
    let (cfg, t) = (v3(), 333);
    let (logits, bias) = (normals(7, 0, t * 256, 1.0), normals(7, 1, 256, 0.1));
    let one = run(&Cx::cpu(1, DType::F32), &logits, &bias, &cfg);
    assert!(separated(&one, &bias, &cfg));
    check_forward(&cfg, &logits, &bias, &one);
    for threads in [2, 3] {
        for isa in Isa::available() {
            let many = run(&Cx::cpu(threads, DType::F32).with_isa(isa), &logits, &bias, &cfg);
            assert_eq!(many.scores.f32(), one.scores.f32());
            assert_eq!(many.idx.i32(), one.idx.i32());
            assert_eq!(many.weight.f32(), one.weight.f32());
        }
    }
    // A single row gives the same as in the batch.
    let row = run(&Cx::cpu(1, DType::F32), &logits[200 * 256..201 * 256], &bias, &cfg);
    assert_eq!(row.weight.f32(), &one.weight.f32()[200 * 8..201 * 8]);
}

#[test]
fn the_balance_loss_is_the_same_for_any_threads_and_one_when_balanced() {
    let (cfg, t) = (v3(), 1000);
    let scores = |cx: &Cx| {
        let s: Vec<f32> = normals(3, 0, t * 256, 1.0).iter().map(|x| x.abs()).collect();
        cx.tensor(&[t, 256], &s, DType::F32)
    };
    crate::testing::same_bits_for_any_threads(|cx| {
        let (scores, seg) = (scores(cx), Segments::new(cx, &[0, 1, 300, 1000]));
        let (mut f, mut loss) = (cx.empty(&[3, 256], DType::F32), cx.empty(&[3], DType::F32));
        balance_forward(cx, &scores, &seg, &cfg, &mut f, &mut loss);
        let mut d = cx.empty(&[t, 256], DType::F32);
        balance_backward(cx, &scores, &seg, &f, 1.0, &mut d, Acc::Write);
        vec![f, loss, d]
    });
    // Every expert equally often and equally likely: sum_i 1 * 1/E.
    let cx = &contexts()[0];
    let (seg, cfg) = (Segments::uniform(cx, 1, 8), GateCfg { experts: 8, top_k: 1, n_group: 1, topk_group: 1, ..cfg });
    let rows: Vec<f32> = (0..64).map(|i| if i / 8 == i % 8 { 0.9 } else { 0.1 }).collect();
    let (mut f, mut loss) = (cx.empty(&[1, 8], DType::F32), cx.empty(&[1], DType::F32));
    balance_forward(cx, &cx.tensor(&[8, 8], &rows, DType::F32), &seg, &cfg, &mut f, &mut loss);
    assert!(f.f32() == [1.0; 8] && (loss.f32()[0] - 1.0).abs() < 1e-6);
}

#[test]
fn equal_scores_give_the_lowest_experts_of_the_lowest_groups() {
    let out = run(&Cx::cpu(1, DType::F32), &[0.0; 256], &[0.0; 256], &v3());
    assert_eq!(out.idx.i32(), [0, 1, 2, 3, 4, 5, 6, 7]);
    assert!(out.weight.f32().iter().all(|w| (w - 2.5 / 8.0).abs() < 1e-6));
}

#[test]
#[should_panic(expected = "gate::forward_replay: expert 4 of 4")]
fn a_replayed_expert_out_of_range_is_named() {
    let cx = Cx::cpu(1, DType::F32);
    let cfg = GateCfg { experts: 4, top_k: 1, n_group: 1, topk_group: 1, ..v3() };
    let mut out = outputs(&cx, 1, &cfg);
    let (logits, idx) = (cx.zeros(&[1, 4], DType::F32), cx.indices(&[1, 1], &[4]));
    forward_replay(&cx, &logits, &cfg, &idx, &mut out.scores, &mut out.weight);
}
