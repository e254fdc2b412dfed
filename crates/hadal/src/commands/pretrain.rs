//! `hadal pretrain`: a recipe from its text to a trained model, and on through its stages.

use super::session::Session;
use super::stages::{is_finished, run_stages};
use crate::cli::PretrainArgs;
use anyhow::Result;
use hadal_train::recipe::Recipe;
use hadal_train::run;
use std::path::Path;

pub(crate) fn run(args: &PretrainArgs) -> Result<()> {
    let recipe = Recipe::load(&args.recipe, &args.set)?;
    let session =
        if args.resume { Session::resume(Path::new(&recipe.run.out))? } else { Session::begin(recipe, || None)? };
    if session.resumed && !session.plan.stages.is_empty() && is_finished(&session.folder) {
        return stages(&session, args.plain);
    }
    let trainer = run::trainer(&session.plan, args.init.as_deref())?;
    let (_, outcome) = session.train(trainer, args.plain)?;
    let folder = session.folder.display();
    say!("step {}, {} tokens; last checkpoint {}", outcome.progress.step, outcome.progress.tokens, {
        outcome.checkpoint.display()
    });
    if outcome.finished {
        say!("model: {folder}/model   plots: {folder}/*.svg   try: hadal generate {folder} 'fn main() {{'");
    } else {
        say!("stopped; go on with the same command and --resume");
        return Ok(());
    }
    stages(&session, args.plain)
}

fn stages(main: &Session, plain: bool) -> Result<()> {
    if !run_stages(main, plain)? {
        say!("stopped; go on with the same command and --resume");
    }
    Ok(())
}
