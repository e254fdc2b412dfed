//! A recipe's precision table reaches the products.

use crate::{SETTINGS, fixture, tokens};
use hadal_ops::DType;
use hadal_recipe::plan::Plan;
use hadal_recipe::recipe::Recipe;
use hadal_train::run;
use hadal_train::step::StepBatch;
use hadal_weights::ModelConfig;

#[test]
fn a_run_multiplies_as_its_recipe_says() {
    let kinds = [
        (&["run.precision=bf16"][..], DType::Bf16),
        (&["run.precision=fp8"], DType::U8),
        (&["run.precision=fp8", "precision.attn_out=compute"], DType::Bf16),
    ];
    let losses = kinds.map(|(sets, attn_out)| {
        let sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
        let mut plan = Plan::new(&Recipe::load("quickstart", &sets).unwrap(), Some(1e4)).unwrap();
        plan.model = ModelConfig::from_file(fixture("wide.json")).unwrap();
        let mut t = run::trainer(&plan, None).unwrap();
        assert_eq!(t.model.blocks[0].attn.out.weight().dtype(), attn_out);
        let tokens = tokens(&t.model.config, 0, 2 * 33);
        t.gradients(&StepBatch::uniform(tokens.clone(), 32), &SETTINGS);
        t.losses().main
    });
    assert!(losses[0] != losses[1] && losses[1] != losses[2] && losses[0] != losses[2], "{losses:?}");
}
