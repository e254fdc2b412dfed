//! Verdicts: what the metrics of the runs say about a claim.

use super::{Findings, InContext};
use crate::metrics::StepMetrics;
use serde::Deserialize;
use std::fmt::Write as _;

/// A claim and how it is judged.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Verdict {
    /// The claim in words.
    pub claim: String,
    /// How it is judged.
    #[serde(flatten)]
    pub kind: VerdictKind,
}

/// Ways to judge. Losses are the main model's training losses, after smoothing; what is said of the end holds for the mean
/// over the last tenth of the run.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum VerdictKind {
    /// The relative difference of two losses stays below a bound throughout, or in every third of the run is no larger than
    /// between some two of the base and its controls, which differ by chance.
    LossWithin {
        run: String,
        base: String,
        #[serde(default)]
        controls: Vec<String>,
        below: f64,
    },
    /// One loss is lower than another at the end.
    LowerLoss { better: String, worse: String },
    /// MaxVio (mean over the layers) is lower at the end.
    LowerMaxVio { better: String, worse: String },
    /// Kinds of text are routed more differently (report 4.5.3), where kinds of text were given.
    MoreSpecialised { more: String, less: String },
    /// A model finds more than this share of the needles at every depth of texts of this length, or of all that were asked.
    NeedlesFound { model: String, length: Option<usize>, share: f64 },
    /// The perplexity at the old length is at most this much (relatively) above another model's.
    PerplexityKept { model: String, base: String, within: f64 },
}

impl VerdictKind {
    /// Names of the runs it looks at.
    pub fn runs(&self) -> Vec<&str> {
        match self {
            Self::LossWithin { run, base, controls, .. } => {
                [run, base].into_iter().chain(controls).map(String::as_str).collect()
            }
            Self::LowerLoss { better, worse } | Self::LowerMaxVio { better, worse } => vec![better, worse],
            Self::MoreSpecialised { more, less } => vec![more, less],
            Self::NeedlesFound { .. } | Self::PerplexityKept { .. } => Vec::new(),
        }
    }

    /// Whether the claim holds, and the figures.
    pub fn judge(&self, smooth: usize, findings: &Findings<'_>) -> (bool, String) {
        let steps = |name: &str| findings.steps(name);
        let loss = |name: &str| smoothed(steps(name), smooth);
        let context = |name: &str| findings.context.iter().find(|m| m.model == *name);
        match self {
            Self::LossWithin { run, base, controls, below } => {
                let base = loss(base);
                let apart = thirds(&relative(&loss(run), &base));
                let mut figures =
                    format!("at most {} apart by thirds of the run; the bound is {}%", percent(apart), below * 100.0);
                let mut noise = [0.0_f64; 3];
                let mut equals = vec![base];
                for control in controls {
                    let control = loss(control);
                    for other in &equals {
                        let apart = thirds(&relative(&control, other));
                        noise = std::array::from_fn(|i| noise[i].max(apart[i]));
                    }
                    equals.push(control);
                }
                if !controls.is_empty() {
                    write!(
                        figures,
                        "; {} runs that differ by a rounding are up to {} apart",
                        equals.len(),
                        percent(noise)
                    )
                    .expect("a string grows");
                }
                let bounded = apart.iter().all(|a| a < below);
                (bounded || (0..3).all(|i| apart[i] <= noise[i]), figures)
            }
            Self::LowerLoss { better, worse } => {
                let end = |name: &str| end(loss(name).iter().map(|p| p.1));
                let (a, b) = (end(better), end(worse));
                (
                    a < b,
                    format!("{better} {a:.4}, {worse} {b:.4} nats a token at the end ({:+.2}%)", 100.0 * (a / b - 1.0)),
                )
            }
            Self::LowerMaxVio { better, worse } => {
                let end = |name: &str| end(steps(name).iter().filter_map(StepMetrics::mean_max_vio));
                let (a, b) = (end(better), end(worse));
                (a < b, format!("MaxVio {better} {a:.2}, {worse} {b:.2} at the end"))
            }
            Self::MoreSpecialised { more, less } => {
                let of = |name: &str| findings.specialisation.iter().find(|s| s.0 == name).map(|s| s.1);
                let (Some(a), Some(b)) = (of(more), of(less)) else {
                    return (false, "not measured; give kinds of text with --domain NAME=PATH".into());
                };
                (a > b, format!("specialisation {more} {a:.3}, {less} {b:.3}"))
            }
            Self::NeedlesFound { model, length, share } => {
                let Some(found) = context(model) else { return (false, format!("there is no model `{model}`")) };
                let cells = found.needles.iter().filter(|c| length.is_none_or(|l| c.length == l));
                let least = cells.map(|c| (c.share(), c)).min_by(|a, b| a.0.total_cmp(&b.0));
                let Some((least, cell)) = least else { return (false, "no question was asked".into()) };
                let figures = format!(
                    "{model}: at least {:.0}% at every depth (least at {} tokens, depth {:.0}%: {} of {})",
                    100.0 * least,
                    cell.length,
                    100.0 * cell.depth,
                    cell.found,
                    cell.asked
                );
                (least > *share, figures)
            }
            Self::PerplexityKept { model, base, within } => {
                let (Some(InContext { perplexity: a, .. }), Some(InContext { perplexity: b, .. })) =
                    (context(model), context(base))
                else {
                    return (false, format!("there is no model `{model}` or `{base}`"));
                };
                let figures = format!("{model} {a:.3}, {base} {b:.3} ({:+.2}%)", 100.0 * (a / b - 1.0));
                (a / b - 1.0 <= *within, figures)
            }
        }
    }
}

/// Mean over `smooth` steps that end at each point, from the first point that has them: (tokens, loss).
pub fn smoothed(steps: &[StepMetrics], smooth: usize) -> Vec<(u64, f64)> {
    let mean = |w: &[StepMetrics]| (w[w.len() - 1].tokens, w.iter().map(|m| m.loss).sum::<f64>() / w.len() as f64);
    steps.windows(smooth.max(1)).map(mean).collect()
}

/// `run / base - 1` at the points that both have.
pub(crate) fn relative(run: &[(u64, f64)], base: &[(u64, f64)]) -> Vec<(u64, f64)> {
    run.iter().zip(base).filter(|(a, b)| a.0 == b.0).map(|(a, b)| (a.0, a.1 / b.1 - 1.0)).collect()
}

/// The largest magnitude in each third of the points; infinite where nothing can be compared.
fn thirds(points: &[(u64, f64)]) -> [f64; 3] {
    let n = points.len();
    let largest = |part: &[(u64, f64)]| part.iter().map(|p| p.1.abs()).max_by(f64::total_cmp).unwrap_or(f64::INFINITY);
    std::array::from_fn(|i| largest(&points[n * i / 3..n * (i + 1) / 3]))
}

fn percent(thirds: [f64; 3]) -> String {
    thirds.map(|t| format!("{:.2}%", 100.0 * t)).join(", ")
}

/// Mean over the last tenth.
pub fn end(values: impl Iterator<Item = f64>) -> f64 {
    let all: Vec<f64> = values.collect();
    let last = &all[all.len() - all.len().div_ceil(10)..];
    last.iter().sum::<f64>() / last.len() as f64
}
