//! Plots of a run, as SVG. Text stays text, so the machine that draws needs no fonts.
//!
//! The colours are those of Okabe and Ito, which remain distinct with any common form of colour blindness. The heat map
//! goes from blue over white to red. The horizontal axis shows tokens seen, because runs with different batch sizes can
//! be compared only by tokens.

mod context;
mod heatmap;
pub mod panel;

use hadal_base::{IoError, atomic};
use std::collections::BTreeSet;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::curve::over_seeds;
use crate::metrics::StepMetrics;
use panel::{Curve, Panel, Scale, axis_unit};

pub use context::{NeedleCell, by_position, needles};
pub use heatmap::{colour_of, expert_load, key, level};

/// Text and axes.
pub const BLACK: RGBColor = RGBColor(40, 40, 40);
const BLUE: RGBColor = RGBColor(0, 114, 178);
const VERMILLION: RGBColor = RGBColor(213, 94, 0);
const GREEN: RGBColor = RGBColor(0, 158, 115);
const PINK: RGBColor = RGBColor(204, 121, 167);
const ORANGE: RGBColor = RGBColor(230, 159, 0);
const SKY: RGBColor = RGBColor(86, 180, 233);
/// The colours of curves, in order.
pub const COLOURS: [RGBColor; 6] = [BLUE, VERMILLION, GREEN, PINK, ORANGE, SKY];

/// Why a plot was not made.
#[derive(Debug, thiserror::Error)]
pub enum PlotError {
    #[error(transparent)]
    Io(#[from] IoError),
    #[error("cannot draw {what}: {why}")]
    Draw { what: &'static str, why: String },
}

impl PlotError {
    /// Makes an error from what was being drawn and the reason.
    pub fn draw(what: &'static str) -> impl Fn(String) -> Self {
        move |why| Self::Draw { what, why }
    }
}

/// A named run, for plots that compare runs.
#[derive(Clone, Copy, Debug)]
pub struct PlottedRun<'a> {
    pub name: &'a str,
    /// Its metrics, one entry per seed.
    pub seeds: &'a [Vec<StepMetrics>],
}

impl<'a> PlottedRun<'a> {
    /// The steps of all seeds.
    pub fn steps(&self) -> impl Iterator<Item = &'a StepMetrics> {
        self.seeds.iter().flatten()
    }
}

/// Loss (per step, smoothed, MTP, validation), learning rate and gradient norm over a run.
pub fn training(path: &Path, title: &str, steps: &[StepMetrics]) -> Result<(), PlotError> {
    let unit = axis_unit(steps.iter().map(|m| m.tokens).max().unwrap_or(0));
    let points = |f: &dyn Fn(&StepMetrics) -> Option<f64>| -> Vec<(f64, f64)> {
        steps.iter().filter_map(|m| Some((m.tokens as f64 / unit.size, f(m)?))).collect()
    };
    let loss = points(&|m| Some(m.loss));
    let mut curves = vec![
        Curve::faint(loss.clone(), BLUE),
        Curve::line("training, smoothed", smooth(&loss), BLUE),
        Curve::dots("validation", points(&|m| m.validation.as_ref().map(|v| v.loss)), BLACK),
    ];
    let depth = steps.iter().map(|m| m.mtp_loss.len()).max().unwrap_or(0);
    for k in 0..depth {
        let mtp = points(&|m| m.mtp_loss.get(k).copied());
        let name = if depth == 1 { "MTP (the token after next), smoothed".into() } else { format!("MTP {}", k + 1) };
        curves.push(Curve::line(&name, smooth(&mtp), [VERMILLION, ORANGE, PINK][k % 3]));
    }
    let norm = points(&|m| Some(m.grad_norm).filter(|&g| g > 0.0));
    let panels = [
        Panel { y: "loss (nats per token)", scale: Scale::Linear, curves },
        Panel {
            y: "learning rate",
            scale: Scale::FromZero,
            curves: vec![Curve::line("", points(&|m| Some(m.lr)), GREEN)],
        },
        Panel {
            y: "gradient norm",
            scale: Scale::Log,
            curves: vec![Curve::faint(norm.clone(), PINK), Curve::line("", smooth(&norm), PINK)],
        },
    ];
    // One panel for each figure that the objective reports.
    let mut panels = panels.into_iter().collect::<Vec<_>>();
    let names: BTreeSet<&str> = steps.iter().flat_map(|m| m.figures.keys().map(String::as_str)).collect();
    for name in &names {
        let own = points(&|m| m.figures.get(*name).copied());
        let curves = vec![Curve::faint(own.clone(), SKY), Curve::line("", smooth(&own), SKY)];
        panels.push(Panel { y: name, scale: Scale::Linear, curves });
    }
    let heights: Vec<u32> = [5, 2, 2].into_iter().chain(names.iter().map(|_| 2)).collect();
    let size = (960, 860 + 190 * names.len() as u32);
    write(path, size, PlotError::draw("the training curves"), |root| {
        panel::stack(root, title, &unit.label, &panels, &heights)
    })
}

/// MaxVio of the batch as the mean over the layers, for several runs. 0 is perfect balance.
pub fn max_vio(path: &Path, title: &str, runs: &[PlottedRun<'_>]) -> Result<(), PlotError> {
    let y = "MaxVio of the batch (mean over layers)";
    compare(path, title, y, Scale::FromZero, runs, StepMetrics::mean_max_vio, |_| None)
}

/// One figure of several runs over the tokens seen. A figure of every step is a line, a rarer one is dots. With several
/// seeds, each seed is a faint line and their mean a strong one.
pub fn compare(
    path: &Path,
    title: &str,
    y: &'static str,
    scale: Scale,
    runs: &[PlottedRun<'_>],
    line: impl Fn(&StepMetrics) -> Option<f64>,
    dots: impl Fn(&StepMetrics) -> Option<f64>,
) -> Result<(), PlotError> {
    let unit = axis_unit(runs.iter().flat_map(PlottedRun::steps).map(|m| m.tokens).max().unwrap_or(0));
    let mut curves = Vec::new();
    for (i, run) in runs.iter().enumerate() {
        // A single seed is shown step by step behind its smoothed line. Several seeds are smoothed and shown behind
        // their mean.
        let seeds = |f: &dyn Fn(&StepMetrics) -> Option<f64>| -> Vec<Vec<(u64, f64)>> {
            run.seeds.iter().map(|s| s.iter().filter_map(|m| Some((m.tokens, f(m)?))).collect()).collect()
        };
        let scaled = |p: &[(u64, f64)]| -> Vec<_> { p.iter().map(|(t, v)| (*t as f64 / unit.size, *v)).collect() };
        let mean = |seeds: &[Vec<(u64, f64)>]| -> Vec<_> {
            over_seeds(seeds).iter().map(|(t, spread)| (*t as f64 / unit.size, spread.mean)).collect()
        };
        let colour = COLOURS[i % COLOURS.len()];
        let lines = seeds(&line);
        curves.push(Curve::line(run.name, smooth(&mean(&lines)), colour));
        for seed in &lines {
            let raw = scaled(seed);
            curves.insert(0, Curve::faint(if lines.len() > 1 { smooth(&raw) } else { raw }, colour));
        }
        curves.push(Curve::dots("", mean(&seeds(&dots)), colour));
    }
    write(path, (960, 540), PlotError::draw(y), |root| {
        panel::stack(root, title, &unit.label, &[Panel { y, scale, curves }], &[1])
    })
}

/// Mean over about a fiftieth of the run around each point. Near the ends the range is shorter, so that the curve is
/// not shifted.
fn smooth(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let points: Vec<(f64, f64)> = points.iter().copied().filter(|p| p.1.is_finite()).collect();
    let mut sums = vec![0.0];
    sums.extend(points.iter().scan(0.0, |sum, p| {
        *sum += p.1;
        Some(*sum)
    }));
    let n = points.len();
    let most = (n / 100).min(100);
    let around = |i: usize| {
        let half = most.min(i).min(n - 1 - i);
        (sums[i + half + 1] - sums[i - half]) / (2 * half + 1) as f64
    };
    points.iter().enumerate().map(|(i, p)| (p.0, around(i))).collect()
}

/// The surface that a plot is drawn on.
pub type Canvas<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Writes `text` beside, above, below or centred on the pixel `at`.
pub fn label<B: DrawingBackend>(
    root: &DrawingArea<B, Shift>,
    text: &str,
    at: (i32, i32),
    size: i32,
    colour: RGBColor,
    (h, v): (HPos, VPos),
) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
    let style = TextStyle::from(("sans-serif", size).into_font()).color(&colour).pos(Pos::new(h, v));
    root.draw(&Text::new(text, at, style))
}

/// Draws in memory, then writes the file in one step.
pub fn write(
    path: &Path,
    size: (u32, u32),
    error: impl Fn(String) -> PlotError,
    draw: impl FnOnce(&Canvas<'_>) -> Result<(), String>,
) -> Result<(), PlotError> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        root.fill(&WHITE).map_err(|e| error(e.to_string()))?;
        draw(&root).map_err(&error)?;
        root.present().map_err(|e| error(e.to_string()))?;
    }
    Ok(atomic::write_file(path, svg.as_bytes())?)
}

#[cfg(test)]
mod tests;
