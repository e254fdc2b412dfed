//! Plots that compare the runs of an experiment.

use hadal_watch::curve::{over_seeds, relative, smoothed};
use hadal_watch::plot::panel::{self, Curve, Panel, Scale, axis_unit};
use hadal_watch::plot::{BLACK, COLOURS, PlotError, PlottedRun, compare, write};
use std::path::Path;

/// Smoothed training loss and validation of several runs.
pub fn compare_loss(path: &Path, title: &str, runs: &[PlottedRun<'_>]) -> Result<(), PlotError> {
    compare(
        path,
        title,
        "loss (nats per token)",
        Scale::Linear,
        runs,
        |m| Some(m.loss),
        |m| Some(m.validation.as_ref()?.loss),
    )
}

/// Relative difference between the losses of `runs` and of `base`. Both are averaged over `smooth` steps and compared
/// seed by seed. A relative bound is drawn as dashed lines. With several seeds, each is a faint line and their mean a
/// strong one.
pub fn relative_loss(
    path: &Path,
    title: &str,
    base: PlottedRun<'_>,
    runs: &[PlottedRun<'_>],
    smooth: usize,
    bound: Option<f64>,
) -> Result<(), PlotError> {
    let unit = axis_unit(base.steps().map(|m| m.tokens).max().unwrap_or(0));
    let references: Vec<_> = base.seeds.iter().map(|s| smoothed(s, smooth)).collect();
    let mut curves = Vec::new();
    for (i, run) in runs.iter().enumerate() {
        let colour = COLOURS[(i + 1) % COLOURS.len()];
        let seeds = run.seeds.iter().zip(&references).map(|(s, reference)| relative(&smoothed(s, smooth), reference));
        let seeds: Vec<_> = seeds.collect();
        let points = |t: u64, d: f64| (t as f64 / unit.size, d * 100.0);
        if seeds.len() > 1 {
            let faint = |s: &Vec<(u64, f64)>| Curve::faint(s.iter().map(|p| points(p.0, p.1)).collect(), colour);
            curves.splice(0..0, seeds.iter().map(faint));
        }
        let mean = over_seeds(&seeds).iter().map(|(t, spread)| points(*t, spread.mean)).collect();
        curves.push(Curve::line(run.name, mean, colour));
    }
    let ends = references.first().and_then(|r| Some([r.first()?.0, r.last()?.0]));
    if let (Some(bound), Some(ends)) = (bound, ends) {
        for (name, b) in [("bound", bound), ("", -bound)] {
            curves.push(Curve::dashed(name, ends.map(|t| (t as f64 / unit.size, b * 100.0)).to_vec(), BLACK));
        }
    }
    let y = "difference of the loss (%)";
    write(path, (960, 540), PlotError::draw("the difference of losses"), |root| {
        panel::stack(root, title, &unit.label, &[Panel { y, scale: Scale::Linear, curves }], &[1])
    })
}
