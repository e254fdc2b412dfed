//! `hadal sft`: supervised fine-tuning of a model on conversations.

use crate::cli::SftArgs;
use anyhow::Result;
use hadal_post::SftSession;
use hadal_recipe::sft::SftRecipe;

pub(crate) fn run(args: &SftArgs) -> Result<()> {
    let recipe = SftRecipe::load(&args.recipe, &args.set)?;
    let session = if args.resume {
        SftSession::resume(&recipe, &crate::line)?
    } else {
        SftSession::begin(&recipe, &crate::line)?
    };
    let schedule = &session.plan.schedule;
    say!("plan: {} epochs, {:.2} M tokens", session.epochs(), schedule.total_tokens as f64 / 1e6);
    let (trainer, outcome) = session.train(args.plain, &crate::line)?;
    let folder = session.folder.display();
    say!("step {}, {} tokens; last checkpoint {}", outcome.progress.step, outcome.progress.tokens, {
        outcome.checkpoint.display()
    });
    if !outcome.finished {
        say!("stopped; continue with the same command and --resume");
        return Ok(());
    }
    say!("model: {folder}/model   plots: {folder}/*.svg");
    if trainer.lora.is_some() {
        say!("the model has the adapters merged; on their own they are in {folder}/adapter");
    }
    say!("try: hadal chat {folder}   hadal serve {folder}");
    Ok(())
}
