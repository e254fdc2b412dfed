//! The report of an experiment: table, verdicts, plots, raw numbers.

use super::Found;
use super::measure::{Measured, Stage};
use anyhow::{Context as _, Result};
use hadal_model::precision::Keep;
use hadal_train::experiment::{Experiment, Findings, InContext, Member, VerdictKind, end, smoothed};
use hadal_train::metrics::StepMetrics;
use hadal_train::plot::{self, NeedleCell};
use hadal_train::routing::{LayerRouting, specialisation};
use serde_json::json;
use std::fmt::Write as _;
use std::path::Path;

pub(super) fn draw(
    experiment: &Experiment,
    runs: &[(String, Vec<StepMetrics>)],
    found: &Found,
    out: &Path,
) -> Result<()> {
    let all: Vec<plot::Run<'_>> = runs.iter().map(|(name, steps)| plot::Run { name, steps }).collect();
    let title = &experiment.title;
    plot::compare_loss(&out.join("loss.svg"), title, &all)?;
    let bound = experiment.verdict.iter().find_map(|v| match v.kind {
        VerdictKind::LossWithin { below, .. } => Some(below),
        _ => None,
    });
    if all.len() > 1 {
        let title = format!("{title}: loss relative to {}", all[0].name);
        plot::relative_loss(&out.join("difference.svg"), &title, all[0], &all[1..], experiment.smooth, bound)?;
    }
    if found.measured.iter().any(|m| !m.routing.is_empty()) {
        plot::max_vio(&out.join("max_vio.svg"), title, &all)?;
    }
    let domains = found.measured.iter().zip(&experiment.run).filter(|m| m.0.domains.iter().any(|d| !d.1.is_empty()));
    let domains: Vec<_> = domains.map(|(m, run)| plot::Domains { name: &run.name, texts: &m.domains }).collect();
    if !domains.is_empty() {
        plot::expert_load_by_domain(&out.join("domains.svg"), title, &domains)?;
    }
    for stage in &found.context {
        let name = &stage.found.model;
        let file = format!("needles-{}.svg", name.replace(' ', "-"));
        plot::needles(&out.join(file), &format!("{title}: {name}"), &stage.found.needles)?;
    }
    if !found.context.is_empty() {
        let models: Vec<_> = found.context.iter().map(|s| (s.found.model.as_str(), s.by_place.clone())).collect();
        plot::by_position(&out.join("by_position.svg"), title, &models)?;
    }
    raw_numbers(experiment, found, out)
}

/// Everything that was measured on the finished models, as JSON.
fn raw_numbers(experiment: &Experiment, found: &Found, out: &Path) -> Result<()> {
    let run = |(m, run): (&Measured, &Member)| {
        let domains: Vec<_> = m.domains.iter().map(|(name, r)| json!({"domain": name, "routing": r})).collect();
        json!({
            "run": run.name, "routing": m.routing, "domains": domains, "specialisation": specialised(m),
            "nodes_a_token": nodes(m),
            "mtp_drafts": m.drafts.drafts, "mtp_accepted": m.drafts.accepted,
        })
    };
    let runs: Vec<_> = found.measured.iter().zip(&experiment.run).map(run).collect();
    let model = |s: &Stage| {
        let InContext { model, needles, perplexity } = &s.found;
        json!({"model": model, "needles": needles, "perplexity": perplexity, "loss_by_place": s.by_place})
    };
    let context: Vec<_> = found.context.iter().map(model).collect();
    let path = out.join("measured.json");
    let text = serde_json::to_string_pretty(&json!({"runs": runs, "context": context}))?;
    std::fs::write(&path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
}

/// How differently the kinds of text are routed, where there are two or more.
fn specialised(m: &Measured) -> Option<f64> {
    let texts: Vec<&[LayerRouting]> = m.domains.iter().map(|d| &d.1[..]).collect();
    (texts.len() > 1 && !m.routing.is_empty()).then(|| specialisation(&texts))
}

/// Nodes a token's experts lie in, mean over the layers.
fn nodes(m: &Measured) -> Option<f64> {
    let layers = m.routing.len();
    (layers > 0).then(|| m.routing.iter().map(LayerRouting::nodes_a_token).sum::<f64>() / layers as f64)
}

/// Bytes that a token sends to a node and gets back: dispatch in FP8, combine in BF16 (report 3.2.2, 3.3.3).
fn node_bytes(width: usize) -> f64 {
    (Keep::Fp8.bytes(width as u64) + Keep::Compute.bytes(width as u64)) as f64
}

pub(super) fn text(
    experiment: &Experiment,
    runs: &[(String, Vec<StepMetrics>)],
    found: &Found,
    name: &str,
) -> Result<String> {
    let mut text = String::new();
    let tokens = runs[0].1.last().map_or(0, |m| m.tokens);
    writeln!(text, "# {}\n", experiment.title)?;
    writeln!(text, "Report: {}. `hadal experiment {name}`; recipe `{}`", experiment.section, experiment.recipe)?;
    let changed = if experiment.set.is_empty() { "unchanged".into() } else { experiment.set.join(", ") };
    writeln!(text, "({changed}), {:.2} M tokens a run, losses after", tokens as f64 / 1e6)?;
    writeln!(text, "a mean over {} steps.\n", experiment.smooth)?;
    // Columns that some run has something for.
    let rows: Vec<_> = runs.iter().zip(&found.measured).map(|(run, measured)| row(experiment, run, measured)).collect();
    let kept: Vec<usize> = (0..rows[0].len()).filter(|c| rows.iter().any(|r| r[*c].1.is_some())).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| format!("| {} |", cells.collect::<Vec<_>>().join(" | "));
    writeln!(text, "{}", line(&mut kept.iter().map(|c| rows[0][*c].0)))?;
    writeln!(text, "{}", line(&mut kept.iter().map(|_| "---")))?;
    for row in &rows {
        writeln!(text, "{}", line(&mut kept.iter().map(|c| row[*c].1.as_deref().unwrap_or("-"))))?;
    }
    if !found.context.is_empty() {
        writeln!(text, "\n## Needles found, all depths, and perplexity at the old length\n")?;
        let mut lengths: Vec<usize> = found.context[0].found.needles.iter().map(|c| c.length).collect();
        lengths.dedup();
        let head: Vec<String> = lengths.iter().map(usize::to_string).collect();
        writeln!(text, "| model | {} | perplexity |", head.join(" | "))?;
        writeln!(text, "|{}", " --- |".repeat(lengths.len() + 2))?;
        for InContext { model, needles, perplexity } in found.context.iter().map(|s| &s.found) {
            let share = |length: &usize| {
                format!("{:.0}%", 100.0 * NeedleCell::share_of(needles.iter().filter(|c| c.length == *length)))
            };
            let cells: Vec<String> = lengths.iter().map(share).collect();
            writeln!(text, "| {model} | {} | {perplexity:.3} |", cells.join(" | "))?;
        }
    }
    writeln!(text, "\n## Verdicts\n")?;
    let context: Vec<InContext> = found.context.iter().map(|s| s.found.clone()).collect();
    let specialisation: Vec<(String, f64)> =
        runs.iter().zip(&found.measured).filter_map(|(run, m)| Some((run.0.clone(), specialised(m)?))).collect();
    let findings = Findings { runs, specialisation: &specialisation, context: &context };
    for verdict in &experiment.verdict {
        let (holds, figures) = verdict.kind.judge(experiment.smooth, &findings);
        let word = if holds { "holds here" } else { "does not hold here" };
        writeln!(text, "- {} **{word}**: {figures}.", verdict.claim)?;
    }
    writeln!(
        text,
        "\nBeside this file: plots, and measured.json; each run's folder has its metrics.jsonl and checkpoints."
    )?;
    Ok(text)
}

/// A run's cells, each under its column's name.
fn row(
    experiment: &Experiment,
    run: &(String, Vec<StepMetrics>),
    measured: &Measured,
) -> [(&'static str, Option<String>); 10] {
    let (name, steps) = run;
    let loss = end(smoothed(steps, experiment.smooth).iter().map(|p| p.1));
    let validation = steps.iter().rev().find_map(|m| m.validation.as_ref()).map(|v| v.bits_per_byte);
    let mtp: Vec<f64> = steps.iter().filter_map(|m| m.mtp_loss.first().copied()).collect();
    let vio: Vec<f64> = steps.iter().filter_map(StepMetrics::mean_max_vio).collect();
    let mean = |v: &[f64]| (!v.is_empty()).then(|| end(v.iter().copied()));
    let digits = |v: Option<f64>, digits: usize| v.map(|v| format!("{v:.digits$}"));
    let last = &steps[steps.len() - 1];
    [
        ("run", Some(name.clone())),
        ("loss at the end", digits(Some(loss), 4)),
        ("validation, bits/byte", digits(validation, 4)),
        ("MTP loss", digits(mean(&mtp), 4)),
        ("MTP drafts accepted", measured.drafts.rate().map(|r| format!("{:.1}%", 100.0 * r))),
        ("MaxVio at the end", digits(mean(&vio), 2)),
        ("nodes a token", digits(nodes(measured), 2)),
        ("bytes between nodes, a token and layer", digits(nodes(measured).map(|n| n * node_bytes(measured.width)), 0)),
        ("specialisation", digits(specialised(measured), 3)),
        ("tokens/s", digits(Some(last.tokens as f64 / last.elapsed.max(1e-9)), 0)),
    ]
}
