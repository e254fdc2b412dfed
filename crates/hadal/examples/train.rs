//! Trains a small model on a folder of text: `cargo run --release --example train -- FOLDER OUT`.

use hadal_recipe::Recipe;
use hadal_train::objective;
use hadal_train::run::trainer;
use hadal_train::session::Session;

fn main() -> anyhow::Result<()> {
    let [text, out] = std::env::args().skip(1).collect::<Vec<_>>().try_into().expect("FOLDER OUT");
    let sets = [
        format!("data.text=[\"{text}\"]"),
        format!("run.out={out}"),
        "schedule.total_tokens=100k".into(),
        "model.hidden_size=64".into(),
    ];
    let recipe = Recipe::load("quickstart", &sets)?;
    let say = |line: &str| println!("{line}");
    let session = Session::begin(recipe, objective::make, || None, &say)?;
    let trainer = trainer(&session.plan, None)?;
    let (_, outcome) = session.train(trainer, objective::make, true, &say)?;
    println!("{} tokens; the model is in {out}/model", outcome.progress.tokens);
    Ok(())
}
