//! `hadal experiment`: the runs of a comparison, its plots, and what became of the report's claim.

mod measure;
mod report;

use super::session::{Session, use_text};
use super::stages::{is_finished, run_stages, stage_folder};
use crate::cli::ExperimentArgs;
use anyhow::{Context, Result, anyhow, bail};
use hadal_train::experiment::{EXPERIMENTS, Experiment};
use hadal_train::metrics::{self, StepMetrics};
use hadal_train::plan::{PLAN_FILE, Plan};
use hadal_train::recipe::Recipe;
use hadal_train::run;
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
    // Before hours of training rather than after.
    if let Some((name, path)) = args.domains.iter().find(|(_, path)| !path.exists()) {
        bail!("--domain {name}={}: there is no such file or folder", path.display());
    }
    say!("{} (report {})", experiment.title, experiment.section);
    let mut length = args.tokens.clone().map(|t| format!("schedule.total_tokens={t}"));
    for member in &experiment.run {
        let folder = out.join(member.folder());
        if !is_finished(&folder) {
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
        if experiment.context.is_some() && !run_stages(&Session::resume(&folder)?, args.plain)? {
            say!("stopped; the same command goes on");
            return Ok(());
        }
    }
    let runs = read(&experiment, &out)?;
    let found = found(&experiment, args, &out)?;
    report::draw(&experiment, &runs, &found, &out)?;
    let report = report::text(&experiment, &runs, &found, &args.name)?;
    let path = out.join("report.md");
    std::fs::write(&path, &report).with_context(|| format!("cannot write {}", path.display()))?;
    say!("\n{report}\nplots and raw numbers: {}", out.display());
    Ok(())
}

/// What the finished models do beside their losses.
struct Found {
    /// One entry a run.
    measured: Vec<measure::Measured>,
    /// The first run's model and those after its stages.
    context: Vec<measure::Stage>,
}

fn found(experiment: &Experiment, args: &ExperimentArgs, out: &Path) -> Result<Found> {
    say!("\n== measuring the models on held-out text");
    let measured = experiment.run.iter().map(|r| measure::measure(&out.join(r.folder()), &args.domains));
    let measured = measured.collect::<Result<_>>()?;
    let Some(context) = &experiment.context else { return Ok(Found { measured, context: Vec::new() }) };
    let run = out.join(experiment.run[0].folder());
    let plan = Plan::load(&run)?;
    let name = |plan: &Plan| format!("{} tokens", plan.data.seq_len);
    let mut folders = vec![(name(&plan), run.clone())];
    folders.extend(plan.stages.iter().enumerate().map(|(i, s)| (name(s), stage_folder(&run, i + 1))));
    Ok(Found { measured, context: measure::in_context(&run, &folders, context)? })
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
        // A recipe with stages has a length that they follow from.
        let measured =
            (experiment.context.is_none() || args.budget.is_some()).then_some("schedule.total_tokens=measured");
        let sets: Vec<String> = sets.iter().cloned().chain(length.or(measured).map(str::to_owned)).collect();
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
