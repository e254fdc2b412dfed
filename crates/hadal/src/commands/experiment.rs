//! `hadal experiment`: the runs of a comparison, its plots, and what became of the report's claim.

use super::session::{Session, use_text};
use crate::cli::ExperimentArgs;
use anyhow::{Context, Result, anyhow, bail};
use hadal_train::experiment::{EXPERIMENTS, Experiment, VerdictKind, end, smoothed};
use hadal_train::metrics::{self, StepMetrics};
use hadal_train::plan::{PLAN_FILE, Plan};
use hadal_train::recipe::Recipe;
use hadal_train::{plot, run};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

pub(crate) fn run(args: &ExperimentArgs) -> Result<()> {
    if args.name == "list" {
        for (name, _) in EXPERIMENTS {
            let e = Experiment::load(name).map_err(|e| anyhow!(e))?;
            say!("{name:<14} {} (report {}; {:.0} minutes)", e.title, e.section, e.minutes);
        }
        return Ok(());
    }
    let experiment = Experiment::load(&args.name).map_err(|e| anyhow!(e))?;
    let stem = Path::new(&args.name).file_stem().unwrap_or_default().to_string_lossy();
    let out = args.out.clone().unwrap_or_else(|| PathBuf::from(format!("runs/experiment-{stem}")));
    say!("{} (report {})", experiment.title, experiment.section);
    let mut length = args.tokens.clone().map(|t| format!("schedule.total_tokens={t}"));
    for member in &experiment.run {
        let folder = out.join(member.folder());
        if !folder.join("model").is_dir() {
            say!("\n== {}", member.name);
            let sets: Vec<String> = experiment.set.iter().chain(&member.set).chain(&args.set).cloned().collect();
            if !train(&experiment, args, &sets, length.as_deref(), &folder)? {
                say!("stopped; the same command goes on");
                return Ok(());
            }
        }
        // Whatever the first run was given, the others get.
        let plan = Plan::load(&folder)?;
        length = Some(format!("schedule.total_tokens={}", plan.schedule.total_tokens));
    }
    let runs = read(&experiment, &out)?;
    draw(&experiment, &runs, &out)?;
    let report = report(&experiment, &runs, &args.name)?;
    let path = out.join("report.md");
    std::fs::write(&path, &report).with_context(|| format!("cannot write {}", path.display()))?;
    say!("\n{report}\nplots and raw numbers: {}", out.display());
    Ok(())
}

/// Trains one run to its end, or goes on with it. False when the user stopped it.
fn train(
    experiment: &Experiment,
    args: &ExperimentArgs,
    sets: &[String],
    length: Option<&str>,
    folder: &Path,
) -> Result<bool> {
    let session = if folder.join(PLAN_FILE).exists() {
        Session::resume(folder)?
    } else {
        let first = "schedule.total_tokens=measured".to_owned();
        let sets: Vec<String> = sets.iter().cloned().chain([length.map_or(first, str::to_owned)]).collect();
        let mut recipe = Recipe::load(&experiment.recipe, &sets)?;
        recipe.run.out = folder.display().to_string();
        use_text(&mut recipe, &args.text);
        let minutes = args.budget.unwrap_or(experiment.minutes);
        if !(minutes > 0.0 && minutes.is_finite()) {
            bail!("--budget {minutes}: give minutes above 0");
        }
        // A tenth for validation, checkpoints and reading.
        let each = 0.9 * minutes / experiment.run.len() as f64;
        Session::begin(recipe, || Some(each))?
    };
    let steps = session.plan.schedule.total_steps();
    if steps < 2 * experiment.smooth as u64 {
        let folder = folder.display();
        bail!("{steps} steps are too few for a mean over {}: remove {folder}, give more minutes", experiment.smooth);
    }
    let trainer = run::trainer(&session.plan, None)?;
    Ok(session.train(trainer, args.plain)?.1.finished)
}

/// Names and metrics of all runs.
fn read(experiment: &Experiment, out: &Path) -> Result<Vec<(String, Vec<StepMetrics>)>> {
    let one = |name: &String, folder: &str| -> Result<_> {
        let steps = metrics::read(&out.join(folder).join(metrics::METRICS_FILE))?;
        Ok((name.clone(), steps))
    };
    experiment.run.iter().map(|r| one(&r.name, &r.folder())).collect()
}

fn draw(experiment: &Experiment, runs: &[(String, Vec<StepMetrics>)], out: &Path) -> Result<()> {
    let all: Vec<plot::Run<'_>> = runs.iter().map(|(name, steps)| plot::Run { name, steps }).collect();
    let title = &experiment.title;
    plot::compare_loss(&out.join("loss.svg"), title, &all)?;
    let bound = experiment.verdict.iter().find_map(|v| match v.kind {
        VerdictKind::LossWithin { below, .. } => Some(below),
        _ => None,
    });
    let title = format!("{title}: loss relative to {}", all[0].name);
    plot::relative_loss(&out.join("difference.svg"), &title, all[0], &all[1..], experiment.smooth, bound)?;
    plot::max_vio(&out.join("max_vio.svg"), &experiment.title, &all)?;
    Ok(())
}

fn report(experiment: &Experiment, runs: &[(String, Vec<StepMetrics>)], name: &str) -> Result<String> {
    let mut text = String::new();
    let tokens = runs[0].1.last().map_or(0, |m| m.tokens);
    writeln!(text, "# {}\n", experiment.title)?;
    writeln!(text, "Report: {}. `hadal experiment {name}`; recipe `{}`", experiment.section, experiment.recipe)?;
    writeln!(text, "({}), {:.2} M tokens a run, losses after", experiment.set.join(", "), tokens as f64 / 1e6)?;
    writeln!(text, "a mean over {} steps.\n", experiment.smooth)?;
    writeln!(text, "| run | loss at the end | validation, bits/byte | MTP loss | MaxVio at the end | tokens/s |")?;
    writeln!(text, "| --- | --- | --- | --- | --- | --- |")?;
    for (name, steps) in runs {
        let loss = end(smoothed(steps, experiment.smooth).iter().map(|p| p.1));
        let validation = steps.iter().rev().find_map(|m| m.validation.as_ref()).map(|v| v.bits_per_byte);
        let mtp: Vec<f64> = steps.iter().filter_map(|m| m.mtp_loss.first().copied()).collect();
        let vio: Vec<f64> = steps.iter().filter_map(StepMetrics::mean_max_vio).collect();
        let cell = |v: Option<f64>, digits: usize| v.map_or_else(|| "-".into(), |v| format!("{v:.digits$}"));
        let mean = |v: &[f64]| (!v.is_empty()).then(|| end(v.iter().copied()));
        let last = &steps[steps.len() - 1];
        writeln!(
            text,
            "| {name} | {loss:.4} | {} | {} | {} | {:.0} |",
            cell(validation, 4),
            cell(mean(&mtp), 4),
            cell(mean(&vio), 2),
            last.tokens as f64 / last.elapsed.max(1e-9)
        )?;
    }
    writeln!(text, "\n## Verdicts\n")?;
    let steps = |name: &str| runs.iter().find(|r| r.0 == name).map_or(&[][..], |r| &r.1[..]);
    for verdict in &experiment.verdict {
        let (holds, figures) = verdict.kind.judge(experiment.smooth, steps);
        let word = if holds { "holds here" } else { "does not hold here" };
        writeln!(text, "- {} **{word}**: {figures}.", verdict.claim)?;
    }
    writeln!(
        text,
        "\nloss.svg, difference.svg, max_vio.svg; each run's folder has its metrics.jsonl and checkpoints."
    )?;
    Ok(text)
}
