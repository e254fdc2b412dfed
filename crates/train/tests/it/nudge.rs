//! The control of a comparison: a run that differs from another in one weight.

use hadal_recipe::plan::Plan;
use hadal_recipe::recipe::Recipe;
use hadal_train::run::trainer;

/// Initial weights of a small model, parameter by parameter.
fn weights(sets: &[&str]) -> Vec<Vec<f32>> {
    let small = ["model.vocab_size=256", "model.hidden_size=32", "model.num_hidden_layers=2", "run.threads=1"];
    let sets: Vec<String> = small.iter().chain(sets).map(|s| (*s).to_owned()).collect();
    let recipe = Recipe::load("quickstart", &sets).unwrap();
    let trainer = trainer(&Plan::new(&recipe, Some(1000.0)).unwrap(), None).unwrap();
    trainer.model.params().iter().map(|p| trainer.masters.of(p).f32().to_vec()).collect()
}

#[test]
fn a_nudge_moves_one_weight_by_one_rounding_and_a_seed_moves_all() {
    let plain = weights(&[]);
    assert!(plain == weights(&[]));
    let changed = |other: &[Vec<f32>]| -> Vec<(f32, f32)> {
        let pairs = plain.iter().flatten().zip(other.iter().flatten());
        pairs.filter(|(a, b)| a != b).map(|(a, b)| (*a, *b)).collect()
    };
    let mut moved = Vec::new();
    for number in [1, 2, 32] {
        let nudged = weights(&[&format!("run.nudge={number}")]);
        // A norm begins at 1; the next number of eight bits is 1 + 2^-7.
        assert_eq!(changed(&nudged), [(1.0, 1.0 + 1.0 / 128.0)], "{number}");
        moved.push(nudged);
    }
    assert!(moved[0] != moved[1] && moved[1] != moved[2], "each number is another weight");
    assert!(changed(&weights(&["run.seed=2"])).len() > 10_000);
}
