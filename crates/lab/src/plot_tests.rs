//! Checks the text of the drawings. `HADAL_PLOTS=folder` keeps them for inspection.

use crate::domains::{Domains, expert_load_by_domain};
use crate::plots::{compare_loss, relative_loss};
use crate::routing::LayerRouting;
use hadal_base::mix;
use hadal_watch::metrics::StepMetrics;
use hadal_watch::plot::{PlotError, PlottedRun};
use std::path::{Path, PathBuf};

/// A falling loss with noise, and loads that even out.
fn run(steps: u64) -> Vec<StepMetrics> {
    let noise = |step: u64| (mix(step) >> 40) as f64 / f64::from(1 << 24);
    let one = |step: u64| {
        let loss = 1.6 + 7.4 * (-6.0 * step as f64 / steps as f64).exp() + 0.15 * noise(step);
        StepMetrics { step, tokens: step * 4096, loss, ..StepMetrics::default() }
    };
    (1..=steps).map(one).collect()
}

fn drawn(name: &str, draw: impl FnOnce(&Path) -> Result<(), PlotError>) -> String {
    let dir = tempfile::tempdir().unwrap();
    let folder = std::env::var_os("HADAL_PLOTS").map_or_else(|| dir.path().to_owned(), PathBuf::from);
    let path = folder.join(name);
    draw(&path).unwrap();
    let svg = std::fs::read_to_string(path).unwrap();
    assert!(svg.starts_with("<svg") && !svg.contains("NaN") && !svg.contains("inf"));
    svg
}

#[test]
fn seeds_are_faint_behind_their_mean_and_the_bound_is_dashed() {
    let seeds = |shift: f64| -> Vec<Vec<StepMetrics>> {
        let moved = |by: f64| run(600).into_iter().map(move |m| StepMetrics { loss: m.loss + by, ..m }).collect();
        [0.0, 0.02, -0.02].map(|by| moved(by + shift)).into()
    };
    let (a, b) = (seeds(0.0), seeds(0.1));
    let runs = [PlottedRun { name: "base", seeds: &a }, PlottedRun { name: "other", seeds: &b }];
    let svg = drawn("seeds.svg", |p| compare_loss(p, "Two runs of three seeds", &runs));
    assert_eq!(svg.matches(r#"stroke-width="2""#).count(), 2 + 2, "two means and their keys");
    assert_eq!(svg.matches(r#"opacity="0.3""#).count(), 6, "a faint line a seed");
    let svg = drawn("difference.svg", |p| relative_loss(p, "against base", runs[0], &runs[1..], 50, Some(0.01)));
    assert_eq!(svg.matches(r#"opacity="0.3""#).count(), 3);
    // Two dashed lines consist of many short ones.
    assert!(svg.contains("bound") && svg.matches("<polyline").count() > 50);
}

#[test]
fn experts_by_kind_of_text() {
    let layer = |layer, skew: u64| LayerRouting {
        layer,
        load: (0..16).map(|e| 100 + (e * skew) % 400).collect(),
        tokens: 4000,
        nodes: 8000,
    };
    let texts: Vec<(String, Vec<LayerRouting>)> = [("english", 37), ("maths", 91), ("code", 150)]
        .map(|(name, skew)| (name.to_owned(), (1..5).map(|l| layer(l, skew + l as u64)).collect()))
        .into();
    let runs = [Domains { name: "aux-free", texts: &texts }, Domains { name: "none", texts: &texts }];
    let svg = drawn("domains.svg", |p| expert_load_by_domain(p, "small model", &runs));
    for text in ["aux-free, layer 1", "none, layer 4", "english", "maths", "expert"] {
        assert!(svg.contains(text), "{text}");
    }
    // Two runs, three layers, three kinds of text and sixteen experts, plus the background and the legend.
    assert_eq!(svg.matches("<rect").count(), 1 + 2 * 3 * 3 * 16 + 17);
    let none = expert_load_by_domain(Path::new("x.svg"), "none", &[Domains { name: "dense", texts: &[] }]);
    assert!(none.unwrap_err().to_string().contains("no text"));
}
