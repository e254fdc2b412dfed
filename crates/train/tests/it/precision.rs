//! A recipe's precision table reaches the products.

use crate::{SETTINGS, fixture, tokens};
use hadal_ops::{Accumulator, DType};
use hadal_recipe::plan::Plan;
use hadal_recipe::recipe::Recipe;
use hadal_train::run;
use hadal_train::step::StepBatch;
use hadal_weights::ModelConfig;

#[test]
fn a_run_multiplies_as_its_recipe_says() {
    let accumulators =
        [("f32", Accumulator::F32), ("14-bit-promoted", Accumulator::Promoted14), ("14-bit", Accumulator::Only14)];
    let losses = accumulators.map(|(name, accumulator)| {
        let sets = ["run.precision=fp8".to_owned(), format!("precision.accumulator={name}")];
        let mut plan = Plan::new(&Recipe::load("quickstart", &sets).unwrap(), Some(1e4)).unwrap();
        // Contractions longer than 128: there is something to promote.
        plan.model = ModelConfig::from_file(fixture("wide.json")).unwrap();
        let mut t = run::trainer(&plan, None).unwrap();
        assert_eq!(t.cx.accumulator(), accumulator);
        assert_eq!(t.model.blocks[0].attn.out.weight().dtype(), DType::U8);
        let tokens = tokens(&t.model.config, 0, 2 * 33);
        t.gradients(&StepBatch::uniform(tokens.clone(), 32), &SETTINGS);
        t.losses().main
    });
    assert!(losses[0] != losses[1] && losses[1] != losses[2] && losses[0] != losses[2], "{losses:?}");
}
