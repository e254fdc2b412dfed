//! `hadal pretrain`: trains a model from a recipe, including its extensions.

use crate::cli::PretrainArgs;
use anyhow::Result;
use hadal_lab::objective;
use hadal_recipe::plan::Plan;
use hadal_recipe::recipe::Recipe;
use hadal_train::extend::{is_finished, run_extensions};
use hadal_train::run;
use hadal_train::session::Session;
use hadal_weights::Checkpoint;

pub(crate) fn run(args: &PretrainArgs) -> Result<()> {
    let recipe = Recipe::load(&args.recipe, &args.set)?;
    if let Some(init) = &args.init {
        // The checkpoint is opened first, so that a wrong folder is reported before the text is read.
        Checkpoint::open_with(init, Plan::draft(&recipe)?.model)?;
    }
    let session = if args.resume {
        Session::resume_with(&recipe, &crate::line)?
    } else {
        Session::begin(recipe, objective, || None, &crate::line)?
    };
    if session.resumed && !session.plan.extensions.is_empty() && is_finished(&session.folder) {
        return extensions(&session, args.plain);
    }
    let trainer = run::trainer(&session.plan, args.init.as_deref())?;
    let (_, outcome) = session.train(trainer, objective, args.plain, &crate::line)?;
    let folder = session.folder.display();
    say!("step {}, {} tokens; last checkpoint {}", outcome.progress.step, outcome.progress.tokens, {
        outcome.checkpoint.display()
    });
    if outcome.finished {
        say!("model: {folder}/model   plots: {folder}/*.svg   try: hadal generate {folder} 'fn main() {{'");
    } else {
        say!("stopped; continue with the same command and --resume");
        return Ok(());
    }
    extensions(&session, args.plain)
}

fn extensions(main: &Session, plain: bool) -> Result<()> {
    if !run_extensions(main, objective, plain, &crate::line)? {
        say!("stopped; continue with the same command and --resume");
    }
    Ok(())
}
