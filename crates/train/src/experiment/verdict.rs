//! Verdicts: what the metrics of the runs say about a claim.

use super::{Findings, InContext};
use crate::metrics::StepMetrics;
use serde::Deserialize;

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
    /// The relative difference of two losses stays below a bound throughout, or is no larger than a control's.
    LossWithin { run: String, base: String, control: Option<String>, below: f64 },
    /// One loss is lower than another at the end.
    LowerLoss { better: String, worse: String },
    /// MaxVio (mean over the layers) is lower at the end.
    LowerMaxVio { better: String, worse: String },
    /// Kinds of text are routed more differently (report 4.5.3), where kinds of text were given.
    MoreSpecialised { more: String, less: String },
    /// A model finds at least this share of the needles at every depth of texts of this length, or of all that were asked.
    NeedlesFound { model: String, length: Option<usize>, share: f64 },
    /// The perplexity at the old length is at most this much (relatively) above another model's.
    PerplexityKept { model: String, base: String, within: f64 },
}

impl VerdictKind {
    /// Names of the runs it looks at.
    pub fn runs(&self) -> Vec<&str> {
        match self {
            Self::LossWithin { run, base, control, .. } => {
                [Some(run), Some(base), control.as_ref()].into_iter().flatten().map(String::as_str).collect()
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
            Self::LossWithin { run, base, control, below } => {
                let base = loss(base);
                let most = largest(&relative(&loss(run), &base));
                let against = |most: f64| format!("at most {:.3}% apart", most * 100.0);
                let Some(control) = control else {
                    return (most < *below, format!("{}; the bound is {}%", against(most), below * 100.0));
                };
                let noise = largest(&relative(&loss(control), &base));
                let figures = format!(
                    "{}; the bound is {}%; the control, one rounding away, is {}",
                    against(most),
                    below * 100.0,
                    against(noise)
                );
                (most < *below || most <= noise, figures)
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
                (least >= *share, figures)
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

/// The largest magnitude; infinite where nothing can be compared.
fn largest(points: &[(u64, f64)]) -> f64 {
    points.iter().map(|p| p.1.abs()).max_by(f64::total_cmp).unwrap_or(f64::INFINITY)
}

/// Mean over the last tenth.
pub fn end(values: impl Iterator<Item = f64>) -> f64 {
    let all: Vec<f64> = values.collect();
    let last = &all[all.len() - all.len().div_ceil(10)..];
    last.iter().sum::<f64>() / last.len() as f64
}
