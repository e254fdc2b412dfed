//! The control of a comparison: a run that differs from its base in one weight, by one rounding to bf16.
//!
//! The lab changes the weight in a new trainer; recipe and plan do not mention it. A run that continues from a
//! checkpoint loads all weights. A run that was killed before its first checkpoint starts again with the changed
//! weight. A small file beside the plan records how the run started.

use crate::checks::REMEDY;
use crate::error::{LabError, Result, refuse};
use crate::experiment::Member;
use hadal_base::{IoError, atomic};
use hadal_recipe::plan::Plan;
use hadal_train::step::Trainer;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Name of the file in a run's folder.
const FILE: &str = "member.json";
/// Relative size of one rounding to bf16.
const ROUNDING: f32 = 1.0 / 128.0;

/// How a run started, apart from its plan.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Begun {
    nudge: usize,
}

/// Rejects a number larger than the number of weights in the last norm.
pub(crate) fn check(member: &Member, plan: &Plan) -> Result<()> {
    let weights = plan.model.hidden_size;
    if member.nudge > weights {
        refuse!("run `{}`: `nudge = {}`, but the last norm has {weights} weights", member.name, member.nudge);
    }
    Ok(())
}

/// Records how the run starts. It is written before the plan, because a folder with a plan has started.
pub(crate) fn record(folder: &Path, member: &Member) -> Result<()> {
    let text = serde_json::to_string(&Begun { nudge: member.nudge })? + "\n";
    Ok(atomic::write_file(&folder.join(FILE), text.as_bytes())?)
}

/// Rejects an existing run that started with another number.
pub(crate) fn same(folder: &Path, member: &Member) -> Result<()> {
    let path = folder.join(FILE);
    let begun = match std::fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text).map_err(|error| LabError::Damaged { path, error })?,
        // Runs of older versions do not have this file. None of them had a changed weight; their plans would be
        // rejected.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Begun { nudge: 0 },
        Err(e) => return Err(IoError { action: "read", path, error: e }.into()),
    };
    if begun.nudge != member.nudge {
        refuse!(
            "the run in {} was started with `nudge = {}`, but the description has `nudge = {}`: {REMEDY}",
            folder.display(),
            begun.nudge,
            member.nudge
        );
    }
    Ok(())
}

/// Changes the member's weight in a new trainer, if it has one.
pub(crate) fn apply(trainer: &mut Trainer, member: &Member) {
    let Some(number) = member.nudge.checked_sub(1) else { return };
    // Every token passes this weight. In the master of a matrix, a single changed bit would be lost in packing and in
    // updates.
    let Trainer { cx, model, .. } = trainer;
    let nudged = model.norm.edit(cx, |norm| {
        let weight = &mut norm.f32_mut()[number];
        *weight += *weight * ROUNDING;
    });
    nudged.unwrap_or_else(|shared| panic!("nudge: {shared}"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use hadal_recipe::recipe::Recipe;
    use hadal_train::run;

    fn member(nudge: usize) -> Member {
        Member { name: "nudged".into(), set: Vec::new(), nudge }
    }

    fn plan(sets: &[&str]) -> Plan {
        let small = ["model.vocab_size=256", "model.hidden_size=32", "model.num_hidden_layers=2", "run.threads=1"];
        let sets: Vec<String> = small.iter().chain(sets).map(|s| (*s).to_owned()).collect();
        Plan::new(&Recipe::load("quickstart", &sets).unwrap(), Some(1000.0)).unwrap()
    }

    /// Initial weights of a small model, by parameter.
    fn weights(sets: &[&str], nudge: usize) -> Vec<Vec<f32>> {
        let mut trainer = run::trainer(&plan(sets), None).unwrap();
        apply(&mut trainer, &member(nudge));
        trainer.model.params().iter().map(|p| trainer.masters.of(p).f32().to_vec()).collect()
    }

    #[test]
    fn a_nudge_moves_one_weight_by_one_rounding_and_a_seed_moves_all() {
        let plain = weights(&[], 0);
        assert!(plain == weights(&[], 0));
        let changed = |other: &[Vec<f32>]| -> Vec<(f32, f32)> {
            let pairs = plain.iter().flatten().zip(other.iter().flatten());
            pairs.filter(|(a, b)| a != b).map(|(a, b)| (*a, *b)).collect()
        };
        let mut moved = Vec::new();
        for number in [1, 2, 32] {
            let nudged = weights(&[], number);
            // A norm starts at 1. The next number with eight bits is 1 + 2^-7.
            assert_eq!(changed(&nudged), [(1.0, 1.0 + 1.0 / 128.0)], "{number}");
            moved.push(nudged);
        }
        assert!(moved[0] != moved[1] && moved[1] != moved[2], "each number is another weight");
        assert!(changed(&weights(&["run.seed=2"], 0)).len() > 10_000);
    }

    #[test]
    fn the_last_norm_has_the_weight() {
        check(&member(32), &plan(&[])).unwrap();
        let error = check(&member(33), &plan(&[])).unwrap_err().to_string();
        assert_eq!(error, "run `nudged`: `nudge = 33`, but the last norm has 32 weights");
    }

    #[test]
    fn a_begun_run_keeps_its_number() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |nudge| same(folder.path(), &member(nudge)).err().map(|e| e.to_string());
        assert_eq!(refused(0), None);
        assert!(refused(1).unwrap().contains("started with `nudge = 0`, but the description has `nudge = 1`"));
        record(folder.path(), &member(2)).unwrap();
        assert_eq!(refused(2), None);
        assert!(refused(0).unwrap().contains("started with `nudge = 2`"));
        std::fs::write(folder.path().join(FILE), "{").unwrap();
        assert!(refused(2).unwrap().contains("member.json is damaged"));
    }
}
