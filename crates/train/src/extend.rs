//! The extensions after a run's main part: longer contexts. Each is a run of its own inside the run's folder.

use crate::objective::Make;
use crate::run;
use crate::session::{Say, Session, SessionError};
use hadal_base::IoContext;
use hadal_recipe::plan::{PLAN_FILE, Plan};
use hadal_weights::folder;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The folder of the `number`th extension of a run, counted from 1: `extension-N`, or `stage-N` in a run of an older
/// version.
pub fn extension_folder(run: &Path, number: usize) -> PathBuf {
    let old = run.join(format!("stage-{number}"));
    if old.is_dir() { old } else { run.join(format!("extension-{number}")) }
}

/// Whether a run is finished, which means that its model exists.
pub fn is_finished(run: &Path) -> bool {
    run.join("model").join("config.json").is_file()
}

/// Trains the unfinished extensions of a finished run. Returns whether all of them are finished now.
pub fn run_extensions(main: &Session, make: Make, plain: bool, say: Say<'_>) -> Result<bool, SessionError> {
    let mut before = main.folder.clone();
    for (i, plan) in main.plan.extensions.iter().enumerate() {
        let folder = extension_folder(&main.folder, i + 1);
        if is_finished(&folder) {
            before = folder;
            continue;
        }
        let resumed = folder.join(PLAN_FILE).exists();
        // An extension that has started keeps its stored plan.
        let plan = if resumed { Plan::load(&folder)? } else { plan.clone() };
        let start = folder::checkpoints(&before.join("checkpoints"))?
            .pop()
            .ok_or_else(|| SessionError::NoCheckpoint { folder: before.clone(), number: i + 1 })?;
        let factor = plan.model.rope_scaling.as_ref().map_or(1.0, |y| y.factor);
        say(&format!(
            "extension {}: sequences of {} tokens, YaRN by {factor}, {:.2} M tokens in {} steps, from {}",
            i + 1,
            plan.data.seq_len,
            plan.schedule.total_tokens as f64 / 1e6,
            plan.schedule.total_steps(),
            start.display()
        ));
        std::fs::create_dir_all(&folder).at("create", &folder)?;
        plan.save(&folder)?;
        let extension =
            Session { folder, plan, corpus: Arc::clone(&main.corpus), resumed, after: Some(start), rate: None };
        let (_, outcome) = extension.train(run::trainer(&extension.plan, None)?, make, plain, say)?;
        if !outcome.finished {
            return Ok(false);
        }
        say(&format!("model: {}", extension.folder.join("model").display()));
        before = extension.folder;
    }
    Ok(true)
}
