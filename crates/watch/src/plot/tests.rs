use super::*;
use crate::metrics::{LayerLoad, Validation};
use std::path::PathBuf;

/// A run with realistic metrics: a falling loss with noise, and loads that even out.
pub(crate) fn run(steps: u64, balanced: bool) -> Vec<StepMetrics> {
    let mut totals = vec![vec![0u64; 16]; 5];
    let mut state = 12345u64;
    let mut random = move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f64 / f64::from(1 << 24)
    };
    (1..=steps)
        .map(|step| {
            let t = step as f64 / steps as f64;
            let loss = 1.6 + 7.4 * (-6.0 * t).exp() + 0.15 * random();
            let skew = if balanced { 2.0 * (-12.0 * t).exp() } else { 2.0 + t };
            let layers = (0..5)
                .map(|l| {
                    let load: Vec<u32> = (0..16)
                        .map(|e| {
                            let bias = ((e * 7 + l * 3) % 16) as f64 / 8.0 - 1.0;
                            (250.0 * (1.0 + skew * bias + 0.15 * (random() - 0.5)).max(0.0)) as u32
                        })
                        .collect();
                    totals[l].iter_mut().zip(&load).for_each(|(t, &n)| *t += u64::from(n));
                    LayerLoad::new(l + 1, &load, &totals[l])
                })
                .collect();
            StepMetrics {
                step,
                tokens: step * 4096,
                elapsed: step as f64 * 0.6,
                loss,
                mtp_loss: vec![loss + 0.5 + 0.1 * random()],
                balance_loss: 0.0005,
                lr: if t < 0.02 {
                    3e-3 * t / 0.02
                } else {
                    3e-4 + 2.7e-3 * 0.5 * (1.0 + (t * std::f64::consts::PI).cos())
                },
                grad_norm: 0.3 + 3.0 * (-20.0 * t).exp() + 0.2 * random(),
                batch: 8,
                gamma: 0.001,
                mtp_weight: 0.3,
                tokens_per_second: 7000.0 + 200.0 * random(),
                mfu: 0.61,
                loader_wait: 0.0001,
                memory: 812_000_000,
                figures: [("reward".to_owned(), t)].into(),
                spike: None,
                validation: (step % (steps / 8).max(1) == 0).then(|| Validation {
                    loss: loss + 0.05,
                    bits_per_byte: (loss + 0.05) / 2.9,
                    ..Validation::default()
                }),
                layers,
            }
        })
        .collect()
}

/// A person must look at the drawings. The tests check that they are complete, contain the expected words, and stay
/// small. `HADAL_PLOTS=folder` keeps them for inspection.
fn drawn(name: &str, draw: impl FnOnce(&Path) -> Result<(), PlotError>) -> String {
    let dir = tempfile::tempdir().unwrap();
    let folder = std::env::var_os("HADAL_PLOTS").map_or_else(|| dir.path().to_owned(), PathBuf::from);
    let path = folder.join(name);
    draw(&path).unwrap();
    let svg = std::fs::read_to_string(path).unwrap();
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
    assert!(!svg.contains("NaN") && !svg.contains("inf"));
    svg
}

#[test]
fn training_curves() {
    let mut steps = run(3000, true);
    steps[1000].loss = f64::NAN;
    steps[2000].grad_norm = f64::INFINITY;
    let svg = drawn("training.svg", |p| training(p, "quickstart: training", &steps));
    for text in ["million tokens seen", "loss (nats per token)", "validation", "learning rate", "gradient norm", "MTP"]
    {
        assert!(svg.contains(text), "{text}");
    }
    assert!(svg.len() < 300_000, "{} bytes", svg.len());
}

#[test]
fn expert_loads() {
    let svg = drawn("expert_load.svg", |p| expert_load(p, "quickstart: expert load", &run(1000, true)));
    for text in ["layer 1", "layer 5", "1x (balanced)", "million tokens seen"] {
        assert!(svg.contains(text), "{text}");
    }
    assert!(svg.len() < 1_500_000, "{} bytes", svg.len());
    let error = expert_load(Path::new("x.svg"), "none", &[StepMetrics::default()]).unwrap_err();
    assert!(error.to_string().contains("no step recorded any"));
}

#[test]
fn comparisons() {
    let (a, b) = ([run(600, true)], [run(600, false)]);
    let runs = [PlottedRun { name: "bias update", seeds: &a }, PlottedRun { name: "none", seeds: &b }];
    let svg = drawn("max_vio.svg", |p| max_vio(p, "Balance with and without the bias update", &runs));
    assert!(svg.contains("MaxVio") && svg.contains("bias update"));
}

#[test]
fn very_short_runs_can_be_drawn() {
    for n in [0, 1, 2] {
        let steps = run(n, true);
        drawn("short.svg", |p| training(p, "short", &steps));
        drawn("short_vio.svg", |p| {
            max_vio(p, "short", &[PlottedRun { name: "a", seeds: std::slice::from_ref(&steps) }])
        });
        if n > 0 {
            drawn("short_load.svg", |p| expert_load(p, "short", &steps));
        }
    }
}

#[test]
fn a_folder_that_is_not_there_is_an_error() {
    let e = training(Path::new("/nowhere/plot.svg"), "x", &run(3, true)).unwrap_err();
    assert!(e.to_string().contains("/nowhere/plot.svg"));
}

#[test]
fn needles_by_length_and_depth() {
    let lengths = [512, 1024, 2048, 4096, 16384];
    let cell = |(c, length): (usize, usize), d: usize| {
        let found = if c < 3 { 10 } else { (17 * (d + c)) % 11 };
        NeedleCell { length, depth: d as f64 / 10.0, found, asked: 10 }
    };
    let cells: Vec<_> = lengths.into_iter().enumerate().flat_map(|c| (0..11).map(move |d| cell(c, d))).collect();
    let svg = drawn("niah.svg", |p| needles(p, "small model", &cells));
    for text in ["small model", "16384", "depth", "100%", "tokens"] {
        assert!(svg.contains(text), "{text}");
    }
    assert_eq!(svg.matches("<rect").count(), 1 + 2 * 55 + 12);
    drawn("niah_one.svg", |p| needles(p, "one", &cells[..1]));
    let error = needles(Path::new("x.svg"), "none", &[]).unwrap_err();
    assert!(error.to_string().contains("no question"));
}

#[test]
fn loss_by_place_in_the_window() {
    let points: Vec<(f64, f64)> = (0..32).map(|i| (f64::from(i) * 128.0, 2.0 + 1.0 / f64::from(i + 1))).collect();
    let svg =
        drawn("by_position.svg", |p| by_position(p, "small model", &[("before", points.clone()), ("after", points)]));
    assert!(svg.contains("place in the window"));
}
