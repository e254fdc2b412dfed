//! `hadal quickstart`: trains a model on the Rust sources on this machine, lets it complete code, and shows that it
//! learned.

use crate::cli::QuickstartArgs;
use anyhow::{Context, Result, ensure};
use hadal_lab::learned::{Prompts, SAMPLING, ending, page};
use hadal_lab::objective;
use hadal_model::count;
use hadal_recipe::recipe::Recipe;
use hadal_train::run;
use hadal_train::session::{Session, use_text};
use std::time::Instant;

/// Seconds reserved for the work after training: validation on all held-out text, the compressors, completions.
const AFTER_SECONDS: f64 = 40.0;
/// Share of the training time for validations and checkpoints.
const OVERHEAD: f64 = 0.05;

pub(crate) fn run(args: &QuickstartArgs) -> Result<()> {
    let start = Instant::now();
    let mut recipe = Recipe::load("quickstart", &args.set)?;
    if let Some(out) = &args.out {
        recipe.run.out = out.display().to_string();
    }
    recipe.run.threads = args.threads.unwrap_or(recipe.run.threads);
    use_text(&mut recipe, &args.text);
    if !args.resume {
        say!("hadal quickstart: a DeepSeek-V3 from scratch, in about {:.0} minutes", args.minutes);
    }
    let session = if args.resume {
        Session::resume_with(&recipe, &crate::line)?
    } else {
        let left = || {
            let seconds = args.minutes * 60.0 - start.elapsed().as_secs_f64() - AFTER_SECONDS;
            Some((seconds * (1.0 - OVERHEAD) / 60.0).max(0.2))
        };
        Session::begin(recipe, objective, left, &crate::line)?
    };
    let (plan, tokenizer) = (&session.plan, &session.corpus.tokenizer);
    ensure!(
        plan.extensions.is_empty(),
        "`extension`: quickstart has no time for extensions; train the recipe with `pretrain`"
    );
    let counts = count::count(&plan.model);
    say!(
        "model: {:.1} M parameters, {:.1} M active per token; plan: {:.2} M tokens in {} steps{}",
        (counts.main + counts.mtp) as f64 / 1e6,
        counts.active as f64 / 1e6,
        plan.schedule.total_tokens as f64 / 1e6,
        plan.schedule.total_steps(),
        if args.resume {
            String::new()
        } else {
            format!(", done in about {:.0} min", args.minutes - start.elapsed().as_secs_f64() / 60.0)
        }
    );
    let prompts = Prompts::choose(&session.corpus.validation_texts()?);
    let trainer = run::trainer(plan, None)?;
    let before = prompts.answer(&trainer.cx, &trainer.model, tokenizer, None)?;
    let (trainer, outcome) = session.train(trainer, objective, args.plain, &crate::line)?;
    if !outcome.finished {
        say!("stopped; continue with the same command and --resume");
        return Ok(());
    }
    let [greedy, sampled] =
        [None, Some(SAMPLING)].map(|sampling| prompts.answer(&trainer.cx, &trainer.model, tokenizer, sampling));
    // The name under which the program was called. When Cargo runs it, it is not on the path.
    let program = std::env::args().next().unwrap_or_else(|| "hadal".into());
    let mut report = page(&session, &trainer, &prompts, [&before, &greedy?, &sampled?])?;
    report += &ending(&session, &program, start.elapsed(), (!args.resume).then_some(args.minutes));
    say!("\n{}", report.trim_end());
    let path = session.folder.join("report.md");
    std::fs::write(&path, &report).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(())
}
