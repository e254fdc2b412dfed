//! The report of an experiment: table, verdicts, plots, raw numbers.

use crate::domains::{Domains, expert_load_by_domain};
use crate::error::Result;
use crate::experiment::{Experiment, file_name};
use crate::figures::{COLUMNS, specialised};
use crate::findings::{Findings, InContext, Series};
use crate::measure::Measured;
use crate::verdict::Judgement;
use crate::work::{Found, GIVEN, Work};
use crate::{plots, precisions};
use hadal_base::atomic;
use hadal_watch::metrics::StepMetrics;
use hadal_watch::plot;
use hadal_watch::plot::NeedleCell;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::Path;

/// Draws the plots, writes `report.md` and `measured.json`, and returns the report.
pub(crate) fn write(work: &Work<'_>, found: &Found) -> Result<String> {
    let (experiment, out) = (&work.experiment, &work.out);
    draw(experiment, found, out)?;
    let judged = judge(experiment, found);
    let numbers = raw_numbers(work, found, &judged)?;
    save(&out.join("measured.json"), &(serde_json::to_string_pretty(&numbers)? + "\n"))?;
    let report = text(work, found, &judged)?;
    save(&out.join("report.md"), &report)?;
    Ok(report)
}

fn save(path: &Path, text: &str) -> Result<()> {
    Ok(atomic::write_file(path, text.as_bytes())?)
}

fn draw(experiment: &Experiment, found: &Found, out: &Path) -> Result<()> {
    let all: Vec<plot::PlottedRun<'_>> =
        found.runs.iter().map(|Series { name, seeds }| plot::PlottedRun { name, seeds }).collect();
    let title = &experiment.title;
    plots::compare_loss(&out.join("loss.svg"), title, &all)?;
    let (base, bound) = experiment.base();
    let (base, others): (Vec<plot::PlottedRun<'_>>, Vec<plot::PlottedRun<'_>>) =
        all.iter().partition(|r| r.name == base);
    // Runs that differ only in their extensions have the same loss before them.
    if let (Some(base), false) = (base.first(), others.is_empty() || experiment.context.is_some()) {
        let title = format!("{title}: loss relative to {}", base.name);
        plots::relative_loss(&out.join("difference.svg"), &title, *base, &others, experiment.smooth, bound)?;
    }
    if found.measured.iter().flatten().any(|m| !m.routing.is_empty()) {
        plot::max_vio(&out.join("max_vio.svg"), title, &all)?;
    }
    // Experts differ from seed to seed, so the pictures show the first seed.
    let first = found.measured.iter().map(|seeds| &seeds[0]).zip(&experiment.run);
    let domains = first.filter(|m| m.0.domains.iter().any(|d| !d.1.is_empty()));
    let of_seed = if experiment.seeds > 1 { ", first seed" } else { "" };
    let domains: Vec<_> = domains.map(|(m, run)| (format!("{}{of_seed}", run.name), m)).collect();
    let domains: Vec<_> = domains.iter().map(|(name, m)| Domains { name, texts: &m.domains }).collect();
    if !domains.is_empty() {
        expert_load_by_domain(&out.join("domains.svg"), title, &domains)?;
    }
    for extension in &found.context {
        let name = &extension.found.model;
        let file = format!("needles-{}.svg", file_name(name));
        plot::needles(&out.join(file), &format!("{title}: {name}"), &extension.found.needles)?;
    }
    if !found.context.is_empty() {
        let points = found.context.iter().map(|s| {
            let places = s.by_place.iter().map(|p| (p.at, p.loss)).collect();
            (s.found.model.as_str(), places)
        });
        plot::by_position(&out.join("by_position.svg"), title, &points.collect::<Vec<_>>())?;
    }
    Ok(())
}

/// The judgement of each claim.
fn judge(experiment: &Experiment, found: &Found) -> Vec<Judgement> {
    let context: Vec<InContext> = found.context.iter().map(|s| s.found.clone()).collect();
    let of_run = |(run, seeds): (&Series, &Vec<Measured>)| {
        Some((run.name.clone(), seeds.iter().map(specialised).collect::<Option<_>>()?))
    };
    let specialisation: Vec<(String, Vec<f64>)> = found.runs.iter().zip(&found.measured).filter_map(of_run).collect();
    let findings =
        Findings { runs: &found.runs, specialisation: &specialisation, context: &context, fidelity: &found.fidelity };
    experiment.verdict.iter().map(|v| v.kind.judge(experiment.smooth, &findings)).collect()
}

/// All numbers of the tables and pictures except the metrics, as JSON.
fn raw_numbers(work: &Work<'_>, found: &Found, judged: &[Judgement]) -> Result<Value> {
    let experiment = &work.experiment;
    let numbers = work.seeds()?;
    let seed = |(number, (steps, m)): (&u64, (&Vec<StepMetrics>, &Measured))| {
        let figures = COLUMNS.iter().map(|c| (c.key.to_owned(), json!(c.of(steps, m)))).collect();
        let domains: Vec<_> = m.domains.iter().map(|(name, r)| json!({"domain": name, "routing": r})).collect();
        json!({
            "seed": number, "steps": steps.len(), "tokens": steps.last().map_or(0, |m| m.tokens),
            "figures": Value::Object(figures), "routing": m.routing, "domains": domains,
            "mtp_own": m.own, "mtp_along": m.along,
        })
    };
    let runs = found.runs.iter().zip(&found.measured).map(|(run, measured)| {
        let seeds: Vec<_> = numbers.iter().zip(run.seeds.iter().zip(measured)).map(seed).collect();
        json!({"run": run.name, "seeds": seeds})
    });
    let context = found.context.iter().map(|s| {
        let InContext { model, needles, perplexity } = &s.found;
        json!({"model": model, "needles": needles, "perplexity": perplexity, "loss_by_place": s.by_place})
    });
    let verdicts = experiment.verdict.iter().zip(judged);
    let verdicts = verdicts.map(|(v, j)| json!({"claim": v.claim, "outcome": j.word(), "figures": j.figures}));
    Ok(json!({
        "runs": runs.collect::<Vec<_>>(), "context": context.collect::<Vec<_>>(),
        "fidelity": found.fidelity, "verdicts": verdicts.collect::<Vec<_>>(),
    }))
}

fn text(work: &Work<'_>, found: &Found, judged: &[Judgement]) -> Result<String> {
    let experiment = &work.experiment;
    let mut text = String::new();
    let tokens = found.runs.iter().flat_map(|r| &r.seeds).filter_map(|s| Some(s.last()?.tokens)).max().unwrap_or(0);
    writeln!(text, "# {}\n", experiment.title)?;
    writeln!(text, "Report: {}. `{}`; recipe `{}`", experiment.section, command(work), experiment.recipe)?;
    let changed = if experiment.set.is_empty() { "unchanged".into() } else { experiment.set.join(", ") };
    writeln!(
        text,
        "({changed}), {:.2} M tokens per run. At the end: the mean over the last tenth of the",
        tokens as f64 / 1e6
    )?;
    writeln!(text, "steps; smoothed: a mean over {} steps.", experiment.smooth)?;
    if work.trains_on_kinds() {
        writeln!(
            text,
            "Trained on the kinds of text in equal parts; the experts' loads are measured on the held-out part of each."
        )?;
    } else if !work.args.domains.is_empty() {
        writeln!(text, "Note: {GIVEN}.")?;
    }
    match experiment.seeds {
        1 => writeln!(text, "One seed: the effect of chance was not measured.\n")?,
        n => writeln!(
            text,
            "Means over {n} seeds, ± their standard deviation. Runs are compared seed by seed; a mean difference of less\n\
             than two standard errors is undecided.\n"
        )?,
    }
    table(&mut text, found)?;
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
    if let Some(weights) = &experiment.fidelity {
        precisions::table(&mut text, found, weights)?;
    }
    writeln!(text, "\n## Verdicts\n")?;
    for (verdict, judged) in experiment.verdict.iter().zip(judged) {
        writeln!(text, "- {} **{}**: {}.", verdict.claim, judged.word(), judged.figures)?;
    }
    writeln!(
        text,
        "\nBeside this file are plots and measured.json. Each run's folder has its metrics.jsonl and checkpoints."
    )?;
    Ok(text)
}

/// A table with one row per run, and one column for each figure that some run has.
fn table(text: &mut String, found: &Found) -> Result<()> {
    let cells: Vec<Vec<Option<String>>> = found
        .runs
        .iter()
        .zip(&found.measured)
        .map(|(run, measured)| {
            let figures = |c: &super::figures::Column| -> Vec<Option<f64>> {
                run.seeds.iter().zip(measured).map(|(steps, m)| c.of(steps, m)).collect()
            };
            COLUMNS.iter().map(|c| c.cell(&figures(c))).collect()
        })
        .collect();
    let kept: Vec<usize> = (0..COLUMNS.len()).filter(|c| cells.iter().any(|row| row[*c].is_some())).collect();
    let titles: Vec<&str> = kept.iter().map(|c| COLUMNS[*c].title).collect();
    writeln!(text, "| run | {} |", titles.join(" | "))?;
    writeln!(text, "|{}", " --- |".repeat(kept.len() + 1))?;
    for (run, row) in found.runs.iter().zip(&cells) {
        let row: Vec<&str> = kept.iter().map(|c| row[*c].as_deref().unwrap_or("-")).collect();
        writeln!(text, "| {} | {} |", run.name, row.join(" | "))?;
    }
    Ok(())
}

/// The command that makes this report, without the option for its folder.
fn command(work: &Work<'_>) -> String {
    let args = work.args;
    let mut command = format!("hadal experiment {}", args.name);
    let mut add = |option: &str, values: &[String]| {
        if !values.is_empty() {
            let quoted = values.iter().map(|v| if v.contains(' ') { format!("'{v}'") } else { v.clone() });
            write!(command, " {option} {}", quoted.collect::<Vec<_>>().join(" ")).expect("a string grows");
        }
    };
    add("--tokens", &Vec::from_iter(args.tokens.clone()));
    add("--budget", &Vec::from_iter(args.budget.map(|b| b.to_string())));
    add("--seeds", &Vec::from_iter(args.seeds.map(|n| n.to_string())));
    add("--text", &args.text.iter().map(|p| p.display().to_string()).collect::<Vec<_>>());
    args.domains.iter().for_each(|(name, path)| add("--domain", &[format!("{name}={}", path.display())]));
    args.set.iter().for_each(|set| add("--set", std::slice::from_ref(set)));
    command
}
