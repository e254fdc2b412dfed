use super::*;
use crate::fidelity::Fidelity;
use crate::findings::{Findings, InContext, Series};
use crate::verdict::{Judgement, Outcome};
use hadal_watch::metrics::StepMetrics;
use hadal_watch::plot::NeedleCell;

fn run(losses: impl Iterator<Item = f64>) -> Vec<StepMetrics> {
    losses
        .enumerate()
        .map(|(i, loss)| StepMetrics {
            step: i as u64 + 1,
            tokens: 100 * (i as u64 + 1),
            loss,
            ..StepMetrics::default()
        })
        .collect()
}

fn judge(kind: &VerdictKind, runs: &[(&str, Vec<StepMetrics>)], context: &[InContext]) -> (bool, String) {
    let runs: Vec<_> = runs.iter().map(|(name, steps)| series(name, vec![steps.clone()])).collect();
    let judged = judge_seeds(kind, &runs, context);
    (judged.outcome == Outcome::Holds, judged.figures)
}

fn series(name: &str, seeds: Vec<Vec<StepMetrics>>) -> Series {
    Series { name: name.into(), seeds }
}

fn judge_seeds(kind: &VerdictKind, runs: &[Series], context: &[InContext]) -> Judgement {
    let of = |name: &str, values: &[f64]| (name.to_owned(), values.to_vec());
    let two =
        |loss, gradients| vec![Fidelity { loss, gradients }, Fidelity { loss: 1.1 * loss, gradients: 1.1 * gradients }];
    let fidelity = [("coarse".to_owned(), two(-0.002, 0.04)), ("fine".to_owned(), two(0.0, 0.01))];
    let specialisation = [of("sharp", &[0.5, 0.6]), of("even", &[0.1, 0.3]), of("near", &[0.2, 0.7])];
    kind.judge(10, &Findings { runs, specialisation: &specialisation, context, fidelity: &fidelity })
}

#[test]
fn all_descriptions_are_sound_and_change_what_is_there() {
    for (name, _) in EXPERIMENTS {
        let e = Experiment::load(name).unwrap();
        for member in &e.run {
            let sets: Vec<String> = e.set.iter().chain(&member.set).cloned().collect();
            let recipe = hadal_recipe::recipe::Recipe::load(&e.recipe, &sets).unwrap();
            hadal_recipe::plan::Plan::new(&recipe, Some(1e4)).unwrap();
        }
    }
}

#[test]
fn mistakes_are_named() {
    assert!(Experiment::load("pf8").unwrap_err().contains("fp8, fp8-blocks"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("e.toml");
    let text = EXPERIMENTS[0].1;
    for (from, to, says) in [
        ("run = \"fp8\"", "run = \"pf8\"", "`pf8`"),
        ("name = \"bf16-nudged-2\"", "name = \"BF16\"", "`BF16`"),
        ("smooth = 50", "smooth = 0", "smooth"),
        ("smooth = 50", "smoth = 50", "smoth"),
        ("smooth = 50", "smooth = 50\nseeds = 0", "seeds"),
        ("kind = \"loss-within\"", "kind = \"loss\"", "loss"),
    ] {
        std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
        let error = Experiment::load(path.to_str().unwrap()).unwrap_err();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn losses_are_compared_after_smoothing() {
    let base = || (0..200).map(|i| 4.0 - f64::from(i) / 100.0);
    // Noise of 1%, which a mean over ten steps removes, and an offset of 0.2%, which it does not.
    let noisy = base().enumerate().map(|(i, l)| l * (1.002 + if i % 2 == 0 { 0.01 } else { -0.01 }));
    let far = base().map(|l| l * 1.003);
    let near = base().map(|l| l * 1.002);
    let low = base().map(|l| l * 0.998);
    let late = base().enumerate().map(|(i, l)| if i < 120 { l } else { l * 1.1 });
    let runs = [
        ("base", run(base())),
        ("noisy", run(noisy)),
        ("far", run(far)),
        ("near", run(near)),
        ("low", run(low)),
        ("late", run(late)),
    ];
    let within = |run: &str, controls: &[&str]| {
        let kind = VerdictKind::LossWithin {
            run: run.into(),
            base: "base".into(),
            controls: controls.iter().map(|&c| c.into()).collect(),
            below: 0.0025,
        };
        judge(&kind, &runs, &[])
    };
    assert!(within("noisy", &[]).0 && !within("far", &[]).0);
    assert!(within("far", &[]).1.contains("0.30%, 0.30%, 0.30%"), "{}", within("far", &[]).1);
    assert!(!within("far", &["noisy"]).0 && within("far", &["far"]).0);
    // Controls are also compared with each other, and every third separately.
    assert!(!within("far", &["near"]).0 && within("far", &["near", "low"]).0);
    assert!(!within("far", &["late"]).0 && within("far", &["late", "far"]).0);
    let lower = |better: &str, worse: &str| {
        judge(&VerdictKind::LowerLoss { better: better.into(), worse: worse.into() }, &runs, &[]).0
    };
    assert!(lower("base", "far") && !lower("far", "base"));
}

#[test]
fn several_seeds_are_compared_in_pairs() {
    let seed = |level: f64| run((0..200).map(move |i| level * (4.0 - f64::from(i) / 100.0)));
    let seeds = |levels: [f64; 3]| levels.map(seed).to_vec();
    // The seeds have very different levels. The differences in pairs are small, and they agree or not.
    let runs = [
        series("base", seeds([1.0, 1.2, 0.9])),
        series("lower", seeds([0.99, 1.186, 0.892])),
        series("either", seeds([0.99, 1.214, 0.9])),
    ];
    let lower = |better: &str, worse: &str| {
        judge_seeds(&VerdictKind::LowerLoss { better: better.into(), worse: worse.into() }, &runs, &[])
    };
    assert_eq!(lower("lower", "base").word(), "holds here");
    assert_eq!(lower("base", "lower").word(), "does not hold here");
    assert_eq!(lower("either", "base").word(), "undecided");
    assert_eq!(lower("base", "base").word(), "undecided");
    let figures = lower("lower", "base").figures;
    assert!(figures.contains("by seed -1.00%, -1.17%, -0.89%: mean -1.02%, standard error 0.08%"), "{figures}");
    let one = [series("base", vec![seed(1.0)]), series("lower", vec![seed(0.99)])];
    let kind = VerdictKind::LowerLoss { better: "lower".into(), worse: "base".into() };
    assert_eq!(judge_seeds(&kind, &one, &[]).word(), "holds here (one seed)");
    // The difference is below the bound, above it, or too close to tell. Two standard errors of `lower` are 0.16%.
    let within = |below| {
        let kind = VerdictKind::LossWithin { run: "lower".into(), base: "base".into(), controls: Vec::new(), below };
        judge_seeds(&kind, &runs, &[])
    };
    assert_eq!(
        [0.008, 0.0095, 0.011, 0.013].map(|b| within(b).outcome),
        [Outcome::DoesNotHold, Outcome::Undecided, Outcome::Undecided, Outcome::Holds]
    );
    assert!(within(0.01).figures.contains("two standard errors over 3 seeds are 0.16%"), "{}", within(0.01).figures);
}

#[test]
fn the_end_is_the_last_tenth_of_the_steps_themselves() {
    // A mean over 10 steps that ends in the last tenth of 40 would reach back to step 27.
    let steps = |late: f64| run((0..40).map(move |i| if i < 36 { 9.0 } else { late }));
    let mut validated = steps(3.0);
    validated[20].validation = Some(hadal_watch::metrics::Validation { loss: 2.0, ..Default::default() });
    let runs = [("late", validated.clone()), ("base", validated)];
    let kind = VerdictKind::LowerLoss { better: "late".into(), worse: "base".into() };
    let (_, figures) = judge(&kind, &runs, &[]);
    assert!(figures.contains("late 3.0000, base 3.0000 nats per token at the end"), "{figures}");
    assert!(figures.contains("validation late 2.0000, base 2.0000 (+0.00%)"), "{figures}");
}

#[test]
fn what_is_not_whole_or_not_comparable_is_neither_right_nor_wrong() {
    let whole = || run((0..40).map(|_| 4.0));
    let kind = VerdictKind::LossWithin { run: "a".into(), base: "base".into(), controls: Vec::new(), below: 1.0 };
    let of = |a: Vec<StepMetrics>| judge_seeds(&kind, &[series("base", vec![whole()]), series("a", vec![a])], &[]);
    let outcome = |a| of(a).outcome;
    assert_eq!(outcome(whole()), Outcome::Holds);
    let mut broken = whole();
    broken[7].loss = f64::NAN;
    assert!(of(broken.clone()).figures.contains("a is NaN or infinite at step 8"));
    assert_eq!(outcome(broken), Outcome::NotJudged);
    let mut gap = whole();
    gap.remove(7);
    assert!(of(gap.clone()).figures.contains("a lack step 8"));
    assert_eq!(outcome(gap), Outcome::NotJudged);
    assert_eq!(outcome(whole()[..39].to_vec()), Outcome::NotJudged);
    // Points are matched by their tokens. With twice the tokens per step, every second step has a counterpart.
    let batches = |size: u64, steps: usize| -> Vec<StepMetrics> {
        let step = |(i, m): (usize, StepMetrics)| StepMetrics { tokens: size * (i as u64 + 1), ..m };
        run((0..steps).map(|_| 4.0)).into_iter().enumerate().map(step).collect()
    };
    assert_eq!(outcome(batches(200, 20)), Outcome::Holds);
    assert_eq!(outcome(batches(133, 30)), Outcome::NotMeasured);
    let none = VerdictKind::LowerMaxVio { better: "a".into(), worse: "base".into() };
    let runs = [series("base", vec![whole()]), series("a", vec![whole()])];
    assert_eq!(judge_seeds(&none, &runs, &[]).word(), "not measured");
}

#[test]
fn needles_and_perplexity_are_judged_by_model() {
    let cell = |length, depth, found| NeedleCell { length, depth, found, asked: 20 };
    let context = [
        InContext {
            model: "512 tokens".into(),
            needles: vec![cell(512, 0.0, 20), cell(4096, 0.0, 0)],
            perplexity: 4.0,
        },
        InContext {
            model: "4096 tokens".into(),
            needles: vec![cell(4096, 0.0, 20), cell(4096, 1.0, 18)],
            perplexity: 4.03,
        },
    ];
    let judge = |kind: VerdictKind| judge(&kind, &[], &context);
    let found = |model: &str, length, share| judge(VerdictKind::NeedlesFound { model: model.into(), length, share });
    assert!(found("512 tokens", Some(512), 0.99).0 && !found("512 tokens", None, 0.1).0);
    let (holds, figures) = found("4096 tokens", Some(4096), 0.95);
    assert!(!holds && figures.contains("90%") && figures.contains("depth 100%: 18 of 20"), "{figures}");
    assert!(figures.contains("interval of 70% to 97%"), "{figures}");
    assert!(
        found("4096 tokens", Some(4096), 0.89).0
            && !found("4096 tokens", Some(4096), 0.9).0
            && !found("4096 tokens", Some(512), 0.1).0
            && !found("16384 tokens", None, 0.0).0
    );
    let kept = |base: &str, within| {
        judge(VerdictKind::PerplexityKept { model: "4096 tokens".into(), base: base.into(), within })
    };
    assert!(kept("512 tokens", 0.01).0 && !kept("512 tokens", 0.005).0 && !kept("7 tokens", 1.0).0);
    assert!(kept("512 tokens", 0.01).1.contains("(+0.75%)"));
    let better = VerdictKind::PerplexityKept { model: "512 tokens".into(), base: "4096 tokens".into(), within: 0.0 };
    assert!(judge(better).1.contains("(-0.74%, better)"));
}

#[test]
fn specialisation_is_judged_where_it_was_measured() {
    let more = |more: &str, less: &str| {
        judge_seeds(&VerdictKind::MoreSpecialised { more: more.into(), less: less.into() }, &[], &[])
    };
    assert_eq!(more("sharp", "even").outcome, Outcome::Holds);
    assert_eq!(more("even", "sharp").outcome, Outcome::DoesNotHold);
    assert_eq!(more("sharp", "near").outcome, Outcome::Undecided);
    assert_eq!(more("sharp", "none").word(), "not measured");
    assert!(more("sharp", "none").figures.contains("--domain"));
}

#[test]
fn every_seed_has_a_folder_and_a_verdict_has_a_base() {
    let e = Experiment::load("groups").unwrap();
    let one = Experiment { seeds: 1, ..e.clone() };
    let three = Experiment { seeds: 3, ..e };
    assert_eq!(one.folder(&one.run[0], 1), Path::new(&one.run[0].folder()));
    assert_eq!(three.folder(&three.run[0], 2), Path::new(&three.run[0].folder()).join("seed-2"));
    assert_eq!(three.base(), ("M = 4", Some(0.005)));
    assert_eq!(Experiment::load("mtp").unwrap().base(), ("mtp", None));
}

#[test]
fn precisions_are_judged_on_the_same_weights() {
    let same = |run: &str, below| {
        judge_seeds(&VerdictKind::SameWeights { run: run.into(), base: "fine".into(), below }, &[], &[])
    };
    assert_eq!(same("coarse", 0.0025).outcome, Outcome::Holds);
    assert_eq!(same("coarse", 0.0021).outcome, Outcome::DoesNotHold);
    assert_eq!(same("other", 1.0).outcome, Outcome::NotMeasured);
    let nearer = |nearer: &str, farther: &str| {
        judge_seeds(&VerdictKind::NearerGradients { nearer: nearer.into(), farther: farther.into() }, &[], &[])
    };
    assert_eq!(nearer("fine", "coarse").outcome, Outcome::Holds);
    assert_eq!(nearer("coarse", "fine").outcome, Outcome::DoesNotHold);
    assert!(nearer("fine", "coarse").figures.contains("+300.00%"), "{}", nearer("fine", "coarse").figures);
}
