//! Checks what a command may not change: settings in which the runs differ, and settings of runs that already exist.

use crate::error::{Result, refuse};
use crate::experiment::Experiment;
use crate::work::Work;
use hadal_recipe::plan::{PLAN_FILE, Plan};
use std::path::Path;

/// Keys that an option of the command decides.
const BY_OPTION: [(&str, &str); 3] =
    [("schedule.total_tokens", "--tokens or --budget"), ("schedule.minutes", "--budget"), ("run.out", "--out")];

/// Rejects a `--set` of a key in which the runs differ, or that another option decides.
pub(crate) fn overrides(experiment: &Experiment, sets: &[String]) -> Result<()> {
    for set in sets {
        let key = key(set);
        if let Some((_, option)) = BY_OPTION.iter().find(|(k, _)| overlap(key, k)) {
            refuse!("--set {set}: in an experiment, {option} decides this key");
        }
        if let Some(run) = experiment.run.iter().find(|r| r.set.iter().any(|s| overlap(key, self::key(s)))) {
            refuse!(
                "--set {set}: the runs of this experiment differ in this key (see run `{}`), so it cannot be set for all",
                run.name
            );
        }
    }
    Ok(())
}

fn key(set: &str) -> &str {
    set.split_once('=').map_or(set, |(key, _)| key).trim()
}

/// Whether the keys are equal, or one is a table that contains the other.
fn overlap(a: &str, b: &str) -> bool {
    let holds = |table: &str, key: &str| key.strip_prefix(table).is_some_and(|rest| rest.starts_with('.'));
    a == b || holds(a, b) || holds(b, a)
}

impl Work<'_> {
    /// Rejects existing runs that were made for a different number of seeds.
    pub(crate) fn check_layout(&self) -> Result<()> {
        for member in &self.experiment.run {
            let folder = self.out.join(member.folder());
            let several = std::fs::read_dir(&folder).is_ok_and(|entries| {
                entries.flatten().any(|e| e.file_name().to_string_lossy().starts_with("seed-") && e.path().is_dir())
            });
            let one = folder.join(PLAN_FILE).exists();
            if one && self.experiment.seeds > 1 || several && self.experiment.seeds == 1 {
                let (held, asked) = if one { ("one seed", "several") } else { ("several seeds", "one") };
                refuse!("--seeds: {} holds runs with {held}, not with {asked}: {REMEDY}", self.out.display());
            }
        }
        Ok(())
    }
}

/// What to do about existing runs with other settings.
pub(crate) const REMEDY: &str = "give the same arguments or another --out, or remove the folder";

/// Rejects an existing run whose plan differs from the command's plan. Its folder and its threads may differ.
pub(crate) fn same_plan(folder: &Path, plan: &Plan) -> Result<()> {
    let stored = Plan::load(folder)?;
    let mut plan = plan.clone();
    let extensions = stored.extensions.iter().map(|s| &s.run);
    for (ours, theirs) in
        plan.extensions.iter_mut().map(|s| &mut s.run).zip(extensions).chain([(&mut plan.run, &stored.run)])
    {
        ours.out.clone_from(&theirs.out);
        ours.threads = theirs.threads;
    }
    let differences = stored.differences(&plan);
    if !differences.is_empty() {
        refuse!(
            "the run in {} was started with settings other than this command's (there / here): {}: {REMEDY}",
            folder.display(),
            differences.join("; ")
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_runs_differ_in_cannot_be_set() {
        let refused = |name: &str, set: &str| {
            overrides(&Experiment::load(name).unwrap(), &[set.to_owned()]).err().map(|e| e.to_string())
        };
        for (name, set) in [
            ("fp8", "run.precision=bf16"),
            ("fp8", "run={precision=\"f32\"}"),
            ("fp8-blocks", "precision.gradients=tile"),
            ("balance", "balance.method=none"),
            ("balance", "schedule.total_tokens=3M"),
            ("yarn", "run.out=elsewhere"),
        ] {
            assert!(refused(name, set).unwrap().contains(set), "{name}: {set}");
        }
        for (name, set) in [("fp8", "run.threads=1"), ("fp8", "run.seed=4"), ("yarn", "balance.method=none")] {
            assert_eq!(refused(name, set), None, "{name}: {set}");
        }
    }
}
