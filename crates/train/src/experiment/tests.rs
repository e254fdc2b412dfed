use super::*;
use crate::metrics::StepMetrics;
use crate::plot::NeedleCell;

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
    let runs: Vec<_> = runs.iter().map(|(name, steps)| ((*name).to_owned(), steps.clone())).collect();
    let specialisation = [("sharp".to_owned(), 0.5), ("even".to_owned(), 0.1)];
    kind.judge(10, &Findings { runs: &runs, specialisation: &specialisation, context })
}

#[test]
fn all_descriptions_are_sound_and_change_what_is_there() {
    for (name, _) in EXPERIMENTS {
        let e = Experiment::load(name).unwrap();
        for member in &e.run {
            let sets: Vec<String> = e.set.iter().chain(&member.set).cloned().collect();
            let recipe = crate::recipe::Recipe::load(&e.recipe, &sets).unwrap();
            crate::plan::Plan::new(&recipe, Some(1e4)).unwrap();
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
    // Noise of 1% that a mean over ten steps takes away, and an offset of 0.2% that it does not.
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
    // Controls count against each other, too, and every third by itself.
    assert!(!within("far", &["near"]).0 && within("far", &["near", "low"]).0);
    assert!(!within("far", &["late"]).0 && within("far", &["late", "far"]).0);
    let lower = |better: &str, worse: &str| {
        judge(&VerdictKind::LowerLoss { better: better.into(), worse: worse.into() }, &runs, &[]).0
    };
    assert!(lower("base", "far") && !lower("far", "base"));
    // A run that is not a number is within nothing.
    let runs = [("base", run(base())), ("far", run(base().map(|_| f64::NAN)))];
    let kind = VerdictKind::LossWithin { run: "far".into(), base: "base".into(), controls: Vec::new(), below: 1.0 };
    assert!(!judge(&kind, &runs, &[]).0);
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
    assert!(kept("512 tokens", 0.01).1.contains("+0.75%"));
}

#[test]
fn specialisation_is_judged_where_it_was_measured() {
    let more = |more: &str, less: &str| {
        judge(&VerdictKind::MoreSpecialised { more: more.into(), less: less.into() }, &[], &[])
    };
    assert!(more("sharp", "even").0 && !more("even", "sharp").0);
    let (holds, figures) = more("sharp", "none");
    assert!(!holds && figures.contains("--domain"), "{figures}");
}
