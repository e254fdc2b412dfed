//! Verdicts: whether the runs confirm a claim.
//!
//! Runs with the same seed see the same data in the same order and start with the same weights. So they are compared in
//! pairs. The differences by seed have a mean and a standard error. A mean within two standard errors of 0 is
//! undecided.

use crate::findings::{Findings, InContext};
use hadal_watch::curve::{Spread, end, over_seeds, relative, smoothed};
use hadal_watch::metrics::StepMetrics;
use serde::Deserialize;
use std::fmt::Write as _;

/// A mean must be this many standard errors away from 0 (or from a bound) to count as more than chance.
const SURE: f64 = 2.0;

/// A claim and how it is judged.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Verdict {
    /// The claim in words.
    pub claim: String,
    /// How it is judged.
    #[serde(flatten)]
    pub kind: VerdictKind,
}

/// Ways to judge. Losses are training losses of the main model. "At the end" means the mean over the last tenth of the
/// steps.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum VerdictKind {
    /// The relative difference of two smoothed losses stays below a bound in the whole run. Alternatively, in every
    /// third of the run it is no larger than the largest difference between two of the base and its controls, which
    /// differ by chance. With several seeds, the mean curve is compared. Without controls, it must stay below the bound
    /// by two standard errors.
    LossWithin {
        run: String,
        base: String,
        #[serde(default)]
        controls: Vec<String>,
        below: f64,
    },
    /// One loss is lower than the other at the end.
    LowerLoss { better: String, worse: String },
    /// MaxVio (mean over the layers) is lower at the end.
    LowerMaxVio { better: String, worse: String },
    /// Kinds of text are routed more differently (report 4.5.3). This needs kinds of text.
    MoreSpecialised { more: String, less: String },
    /// The same weights have nearly the same loss in the precisions of two runs.
    SameWeights { run: String, base: String, below: f64 },
    /// The same weights have gradients closer to f32's in one precision than in the other.
    NearerGradients { nearer: String, farther: String },
    /// A model finds more than this share of the needles at every depth, for texts of this length or for all lengths.
    NeedlesFound { model: String, length: Option<usize>, share: f64 },
    /// The perplexity at the old length is at most this much higher than another model's (relative).
    PerplexityKept { model: String, base: String, within: f64 },
}

/// The outcome for a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Holds,
    DoesNotHold,
    /// The seeds differ by more than the difference to be judged.
    Undecided,
    /// The quantity was not measured, or there is nothing to compare.
    NotMeasured,
    /// The metrics of a run are incomplete, or contain NaN or infinity.
    NotJudged,
}

/// An outcome with its figures.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    pub outcome: Outcome,
    /// Whether it is based on one seed, so that the effect of chance is unknown.
    pub one_seed: bool,
    pub figures: String,
}

impl Judgement {
    fn new(outcome: Outcome, figures: impl Into<String>) -> Self {
        Self { outcome, one_seed: false, figures: figures.into() }
    }

    /// Judges differences by seed. They are above 0 if the claim is right.
    fn paired(differences: &[f64], figures: String) -> Self {
        let spread = Spread::of(differences);
        let outcome = match () {
            () if !spread.mean.is_finite() => Outcome::NotMeasured,
            () if spread.seeds > 1 && spread.mean.abs() <= SURE * spread.error() => Outcome::Undecided,
            () if spread.mean > 0.0 => Outcome::Holds,
            () => Outcome::DoesNotHold,
        };
        Self { outcome, one_seed: spread.seeds == 1, figures }
    }

    /// The outcome in words.
    pub fn word(&self) -> String {
        let word = match self.outcome {
            Outcome::Holds => "holds here",
            Outcome::DoesNotHold => "does not hold here",
            Outcome::Undecided => "undecided",
            Outcome::NotMeasured => return "not measured".into(),
            Outcome::NotJudged => return "not judged".into(),
        };
        if self.one_seed { format!("{word} (one seed)") } else { word.into() }
    }
}

impl VerdictKind {
    /// Names of the runs that it uses.
    pub fn runs(&self) -> Vec<&str> {
        match self {
            Self::LossWithin { run, base, controls, .. } => {
                [run, base].into_iter().chain(controls).map(String::as_str).collect()
            }
            Self::LowerLoss { better, worse } | Self::LowerMaxVio { better, worse } => vec![better, worse],
            Self::MoreSpecialised { more, less } => vec![more, less],
            Self::SameWeights { run, base, .. } => vec![run, base],
            Self::NearerGradients { nearer, farther } => vec![nearer, farther],
            Self::NeedlesFound { .. } | Self::PerplexityKept { .. } => Vec::new(),
        }
    }

    /// Judges the claim. Returns the outcome with its figures.
    pub fn judge(&self, smooth: usize, findings: &Findings<'_>) -> Judgement {
        if let Some(problem) = findings.problem(&self.runs()) {
            return Judgement::new(Outcome::NotJudged, problem);
        }
        match self {
            Self::LossWithin { run, base, controls, below } => {
                let curves = |name: &str| -> Vec<_> { findings.seeds(name).map(|s| smoothed(s, smooth)).collect() };
                let mut judged = loss_within((run, base, controls), *below, &curves);
                judged.figures += &validation(findings, run, base);
                judged
            }
            Self::LowerLoss { better, worse } => {
                let ends = |name: &str| by_seed(findings, name, |s| end(s.iter().map(|m| m.loss)));
                let (a, b) = (ends(better), ends(worse));
                let differences: Vec<f64> = a.iter().zip(&b).map(|(a, b)| a / b - 1.0).collect();
                let (of_a, of_b) = (Spread::of(&a).mean, Spread::of(&b).mean);
                let figures = format!(
                    "{better} {of_a:.4}, {worse} {of_b:.4} nats per token at the end ({}){}",
                    told(&differences, |d| format!("{:+.2}%", 100.0 * d)),
                    validation(findings, better, worse)
                );
                let gains: Vec<f64> = differences.iter().map(|d| -d).collect();
                Judgement::paired(&gains, figures)
            }
            Self::LowerMaxVio { better, worse } => {
                let ends =
                    |name: &str| by_seed(findings, name, |s| end(s.iter().filter_map(StepMetrics::mean_max_vio)));
                let (a, b) = (ends(better), ends(worse));
                if a.iter().chain(&b).any(|v| v.is_nan()) {
                    return Judgement::new(Outcome::NotMeasured, "there are no experts");
                }
                let gains: Vec<f64> = a.iter().zip(&b).map(|(a, b)| b - a).collect();
                let (of_a, of_b) = (Spread::of(&a).mean, Spread::of(&b).mean);
                let told = told(&gains, |d| format!("{:+.2}", -d));
                Judgement::paired(&gains, format!("MaxVio {better} {of_a:.2}, {worse} {of_b:.2} at the end ({told})"))
            }
            Self::MoreSpecialised { more, less } => {
                let of = |name: &str| findings.specialisation.iter().find(|s| s.0 == name).map(|s| &s.1);
                let (Some(a), Some(b)) = (of(more), of(less)) else {
                    return Judgement::new(Outcome::NotMeasured, "give kinds of text with --domain NAME=PATH");
                };
                let gains: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
                let (of_a, of_b) = (Spread::of(a).mean, Spread::of(b).mean);
                let told = told(&gains, |d| format!("{d:+.3}"));
                Judgement::paired(&gains, format!("specialisation {more} {of_a:.3}, {less} {of_b:.3} ({told})"))
            }
            Self::SameWeights { run, base, below } => {
                let (Some(a), Some(b)) = (findings.fidelity(run), findings.fidelity(base)) else {
                    return Judgement::new(Outcome::NotMeasured, NO_FIDELITY);
                };
                let apart: Vec<f64> = a.iter().zip(b).map(|(a, b)| a.loss - b.loss).collect();
                let told = told(&apart, |d| format!("{:+.4}%", 100.0 * d));
                let holds = apart.iter().all(|d| d.abs() < *below);
                let figures = format!("{told}; the bound is {}%", 100.0 * below);
                Judgement::new(if holds { Outcome::Holds } else { Outcome::DoesNotHold }, figures)
            }
            Self::NearerGradients { nearer, farther } => {
                let (Some(a), Some(b)) = (findings.fidelity(nearer), findings.fidelity(farther)) else {
                    return Judgement::new(Outcome::NotMeasured, NO_FIDELITY);
                };
                let gains: Vec<f64> = a.iter().zip(b).map(|(a, b)| b.gradients / a.gradients - 1.0).collect();
                let told = told(&gains, |d| format!("{:+.2}%", 100.0 * d));
                Judgement::paired(&gains, format!("{farther} is farther from f32 than {nearer} ({told})"))
            }
            Self::NeedlesFound { model, length, share } => needles_found(findings, model, *length, *share),
            Self::PerplexityKept { model, base, within } => perplexity_kept(findings, model, base, *within),
        }
    }
}

const NO_FIDELITY: &str = "the description has no `fidelity`, or these runs have the same precision";

/// Points of a smoothed loss: (tokens, loss).
type Curve = Vec<(u64, f64)>;

fn loss_within(
    (run, base, controls): (&str, &str, &[String]),
    below: f64,
    curves: &dyn Fn(&str) -> Vec<Curve>,
) -> Judgement {
    let base = curves(base);
    let apart = |a: &[Curve], b: &[Curve]| {
        let pairs: Vec<_> = a.iter().zip(b).map(|(a, b)| relative(a, b)).collect();
        thirds(&over_seeds(&pairs))
    };
    let of_run = curves(run);
    let Some(found) = apart(&of_run, &base) else {
        return Judgement::new(Outcome::NotMeasured, "the losses have no points at the same number of tokens");
    };
    let largest = found.map(|t| t.0);
    let mut figures =
        format!("at most {} apart by thirds of the run; the bound is {}%", percent(largest), below * 100.0);
    if controls.is_empty() && of_run.len() > 1 {
        let sure = found.map(|t| SURE * t.1);
        write!(figures, "; two standard errors over {} seeds are {}", of_run.len(), percent(sure)).expect("it grows");
        let outcome = match () {
            () if (0..3).any(|i| largest[i] - sure[i] > below) => Outcome::DoesNotHold,
            () if (0..3).all(|i| largest[i] + sure[i] < below) => Outcome::Holds,
            () => Outcome::Undecided,
        };
        return Judgement::new(outcome, figures);
    }
    let mut noise = [0.0_f64; 3];
    let mut equals = vec![base];
    for control in controls {
        let control = curves(control);
        for other in &equals {
            let Some(apart) = apart(&control, other) else {
                return Judgement::new(Outcome::NotMeasured, "a control has no points at the same number of tokens");
            };
            noise = std::array::from_fn(|i| noise[i].max(apart[i].0));
        }
        equals.push(control);
    }
    if !controls.is_empty() {
        let (n, noise) = (equals.len(), percent(noise));
        write!(figures, "; {n} runs that differ by a rounding are up to {noise} apart").expect("it grows");
    }
    let holds = largest.iter().all(|a| *a < below) || (0..3).all(|i| largest[i] <= noise[i]);
    let outcome = if holds { Outcome::Holds } else { Outcome::DoesNotHold };
    Judgement { outcome, one_seed: controls.is_empty(), figures }
}

fn needles_found(findings: &Findings<'_>, model: &str, length: Option<usize>, share: f64) -> Judgement {
    let cells = findings.model(model).into_iter().flat_map(|m| &m.needles);
    let cells = cells.filter(|c| length.is_none_or(|l| c.length == l));
    let Some(worst) = cells.min_by(|a, b| a.share().total_cmp(&b.share())) else {
        return Judgement::new(Outcome::NotMeasured, format!("`{model}` was asked no such question"));
    };
    let (low, high) = worst.interval();
    let figures = format!(
        "{model}: at least {:.0}% at every depth (least at {} tokens, depth {:.0}%: {} of {}, a 95% interval of {:.0}% to {:.0}%)",
        100.0 * worst.share(),
        worst.length,
        100.0 * worst.depth,
        worst.found,
        worst.asked,
        100.0 * low,
        100.0 * high
    );
    Judgement::new(if worst.share() > share { Outcome::Holds } else { Outcome::DoesNotHold }, figures)
}

fn perplexity_kept(findings: &Findings<'_>, model: &str, base: &str, within: f64) -> Judgement {
    let (Some(InContext { perplexity: a, .. }), Some(InContext { perplexity: b, .. })) =
        (findings.model(model), findings.model(base))
    else {
        return Judgement::new(Outcome::NotMeasured, format!("there is no model `{model}` or `{base}`"));
    };
    let above = a / b - 1.0;
    let better = if above < 0.0 { ", better" } else { "" };
    let figures = format!("{model} {a:.3}, {base} {b:.3} ({:+.2}%{better})", 100.0 * above);
    Judgement::new(if above <= within { Outcome::Holds } else { Outcome::DoesNotHold }, figures)
}

/// A figure of a run for each seed.
fn by_seed(findings: &Findings<'_>, name: &str, figure: impl Fn(&[StepMetrics]) -> f64) -> Vec<f64> {
    findings.seeds(name).map(figure).collect()
}

/// The last validation losses of two runs and their difference. Empty unless both have them.
fn validation(findings: &Findings<'_>, a: &str, b: &str) -> String {
    let last = |name: &str| -> Option<Vec<f64>> {
        findings.seeds(name).map(|s| s.iter().rev().find_map(|m| Some(m.validation.as_ref()?.loss))).collect()
    };
    let (Some(x), Some(y)) = (last(a), last(b)) else { return String::new() };
    let differences: Vec<f64> = x.iter().zip(&y).map(|(x, y)| x / y - 1.0).collect();
    let told = told(&differences, |d| format!("{:+.2}%", 100.0 * d));
    format!("; validation {a} {:.4}, {b} {:.4} ({told})", Spread::of(&x).mean, Spread::of(&y).mean)
}

/// Formats differences by seed: a single one, or all of them with mean and standard error.
fn told(differences: &[f64], one: impl Fn(f64) -> String) -> String {
    let all: Vec<String> = differences.iter().map(|d| one(*d)).collect();
    let spread = Spread::of(differences);
    match all.as_slice() {
        [only] => only.clone(),
        _ => format!(
            "by seed {}: mean {}, standard error {}",
            all.join(", "),
            one(spread.mean),
            one(spread.error()).trim_start_matches(['+', '-'])
        ),
    }
}

/// The largest magnitude in each third of the points, and the standard error there (its root mean square). `None` if a
/// third has no points.
fn thirds(points: &[(u64, Spread)]) -> Option<[(f64, f64); 3]> {
    let n = points.len();
    let of = |part: &[(u64, Spread)]| {
        let largest = part.iter().map(|p| p.1.mean.abs()).fold(0.0, f64::max);
        let squares = part.iter().map(|p| p.1.error().powi(2)).sum::<f64>();
        (largest, (squares / part.len() as f64).sqrt())
    };
    (n >= 3).then(|| std::array::from_fn(|i| of(&points[n * i / 3..n * (i + 1) / 3])))
}

fn percent(thirds: [f64; 3]) -> String {
    thirds.map(|t| format!("{:.2}%", 100.0 * t)).join(", ")
}
