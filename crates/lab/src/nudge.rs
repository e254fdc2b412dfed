//! The control of a comparison: a run that differs from its base in one weight, by one rounding to bf16.
//!
//! The lab moves the weight in a fresh trainer; neither recipe nor plan knows of it. A checkpoint that the run goes on from
//! replaces all weights, and a run that was killed before its first begins again with the weight moved. A small file beside
//! the plan tells what the run was begun with.

use crate::checks::REMEDY;
use crate::error::{LabError, Result, refuse};
use crate::experiment::Member;
use hadal_base::{IoError, atomic};
use hadal_recipe::plan::Plan;
use hadal_train::step::Trainer;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// In a run's folder.
const FILE: &str = "member.json";
/// One rounding to bf16, relative.
const ROUNDING: f32 = 1.0 / 128.0;

/// What a run was begun with beside its plan.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Begun {
    nudge: usize,
}

/// Refuses a number beyond the weights of the last norm.
pub(crate) fn check(member: &Member, plan: &Plan) -> Result<()> {
    let weights = plan.model.hidden_size;
    if member.nudge > weights {
        refuse!("run `{}`: `nudge = {}`, but the last norm has {weights} weights", member.name, member.nudge);
    }
    Ok(())
}

/// Writes down what the run is begun with. Before its plan: a folder with a plan has begun.
pub(crate) fn record(folder: &Path, member: &Member) -> Result<()> {
    let text = serde_json::to_string(&Begun { nudge: member.nudge })? + "\n";
    Ok(atomic::write_file(&folder.join(FILE), text.as_bytes())?)
}

/// Refuses to go on with a run that was begun with another number.
pub(crate) fn same(folder: &Path, member: &Member) -> Result<()> {
    let path = folder.join(FILE);
    let begun = match std::fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text).map_err(|error| LabError::Damaged { path, error })?,
        // Runs from before this file was kept, none of them nudged: their plans would be refused.
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

/// Moves the member's weight in a fresh trainer, if it has one.
pub(crate) fn apply(trainer: &mut Trainer, member: &Member) {
    let Some(number) = member.nudge.checked_sub(1) else { return };
    // All tokens pass here, and a bit of a matrix's master weight alone would be lost in packing and in updates.
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

    /// Initial weights of a small model, parameter by parameter.
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
            // A norm begins at 1; the next number of eight bits is 1 + 2^-7.
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
