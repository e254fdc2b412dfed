//! The stages after a run's main part: longer contexts, each a run of its own in the run's folder.

use super::session::Session;
use crate::cli::ExtendArgs;
use anyhow::{Context, Result, bail};
use hadal_train::checkpoint;
use hadal_train::plan::{PLAN_FILE, Plan};
use hadal_train::recipe::{Amount, Lr, Stage};
use hadal_train::run;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where the `number`th stage (from 1) of a run lies.
pub(crate) fn stage_folder(run: &Path, number: usize) -> PathBuf {
    run.join(format!("stage-{number}"))
}

/// A run is finished once its model is there.
pub(crate) fn is_finished(run: &Path) -> bool {
    run.join("model").join("config.json").is_file()
}

/// Trains the stages of a finished run that are not finished themselves; says whether all are now.
pub(crate) fn run_stages(main: &Session, plain: bool) -> Result<bool> {
    let mut before = main.folder.clone();
    for (i, plan) in main.plan.stages.iter().enumerate() {
        let folder = stage_folder(&main.folder, i + 1);
        if is_finished(&folder) {
            before = folder;
            continue;
        }
        let resumed = folder.join(PLAN_FILE).exists();
        // A stage that has begun keeps the plan it began with.
        let plan = if resumed { Plan::load(&folder)? } else { plan.clone() };
        let start = checkpoint::list(&before.join("checkpoints"))?
            .pop()
            .with_context(|| format!("{} has no checkpoint for stage {} to begin with", before.display(), i + 1))?;
        let factor = plan.model.rope_scaling.as_ref().map_or(1.0, |y| y.factor);
        say!(
            "stage {}: sequences of {} tokens, YaRN by {factor}, {:.2} M tokens in {} steps, from {}",
            i + 1,
            plan.data.seq_len,
            plan.schedule.total_tokens as f64 / 1e6,
            plan.schedule.total_steps(),
            start.display()
        );
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        plan.save(&folder)?;
        let stage = Session { folder, plan, corpus: Arc::clone(&main.corpus), resumed, after: Some(start) };
        let (_, outcome) = stage.train(run::trainer(&stage.plan, None)?, plain)?;
        if !outcome.finished {
            return Ok(false);
        }
        say!("model: {}", stage.folder.join("model").display());
        before = stage.folder;
    }
    Ok(true)
}

/// `hadal extend`: the stages of a run's plan, and one more if asked for.
pub(crate) fn extend(args: &ExtendArgs) -> Result<()> {
    let mut main = Session::resume(&args.run)?;
    let shown = args.run.display();
    if !is_finished(&main.folder) {
        bail!("the run in {shown} is not finished: go on with it first (`hadal pretrain RECIPE --resume`)");
    }
    if let Some(seq_len) = args.to {
        // The same command again goes on with the stage that it began.
        let begun = main.plan.stages.len();
        let unfinished = begun > 0 && !is_finished(&stage_folder(&main.folder, begun));
        let number = if unfinished { begun } else { begun + 1 };
        let total_tokens = args.tokens.as_deref().context("--to: say how long with --tokens, as in --tokens 2M")?;
        let total_tokens = Amount::parse(total_tokens).map_err(|e| anyhow::anyhow!("--tokens: {e}"))?;
        let lr = args.lr.as_deref().map(|text| match (text.parse::<f64>(), Amount::parse(text)) {
            (Ok(lr), _) => Ok(Lr::Absolute(lr)),
            (_, Ok(share)) => Ok(Lr::OfPeak(share)),
            (_, Err(_)) => bail!("--lr: write a learning rate (1e-4) or a share of the run's peak (\"10%\")"),
        });
        // Rotary frequencies stay as the stage before has them, unless more is needed or something else is said.
        let before = main.plan.stages[..number - 1].last().and_then(|s| s.model.rope_scaling.as_ref());
        let original_len = args.original_len.or(before.map(|y| y.original_max_position_embeddings));
        let least = original_len.map_or(1.0, |original| seq_len as f64 / original as f64);
        let stage = Stage {
            seq_len,
            factor: args.factor.or(before.map(|y| y.factor.max(least))),
            original_len,
            total_tokens,
            lr: lr.transpose()?,
            lr_end: None,
            sequences: args.sequences,
            micro_batch: args.micro_batch,
        };
        let plan = main.plan.stage(number, &stage).map_err(|e| {
            let option = match e.key {
                "seq_len" => "to".to_owned(),
                "total_tokens" => "tokens".to_owned(),
                key => key.replace('_', "-"),
            };
            anyhow::anyhow!("--{option}: {}", e.message)
        })?;
        if unfinished && plan != main.plan.stages[begun - 1] {
            bail!("stage {begun} of the run in {shown} is not finished: go on with it first (`hadal extend {shown}`)");
        }
        main.plan.stages.truncate(number - 1);
        main.plan.stages.push(plan);
        main.plan.save(&main.folder)?;
    }
    if main.plan.stages.is_empty() {
        bail!("the run in {shown} has no stages: say how long its context is to be, as in --to 4096 --tokens 2M");
    }
    if run_stages(&main, args.plain)? {
        say!("try: hadal niah {shown}/stage-{}", main.plan.stages.len());
    } else {
        say!("stopped; go on with `hadal extend {shown}`");
    }
    Ok(())
}
