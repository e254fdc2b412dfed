//! `hadal extend`: trains the extensions in a run's plan, and one more if asked for.

use crate::cli::ExtendArgs;
use anyhow::{Context, Result, bail};
use hadal_lab::objective;
use hadal_recipe::recipe::{Amount, Extension, Lr};
use hadal_train::extend::{extension_folder, is_finished, run_extensions};
use hadal_train::session::Session;

/// Trains the extensions in a run's plan, and one more if asked for.
pub(crate) fn run(args: &ExtendArgs) -> Result<()> {
    let mut main = Session::resume(&args.run)?;
    let shown = args.run.display();
    if !is_finished(&main.folder) {
        bail!("the run in {shown} is not finished: finish it first with `hadal pretrain RECIPE --resume`");
    }
    if let Some(seq_len) = args.to {
        // The same command again continues the extension that it started.
        let begun = main.plan.extensions.len();
        let unfinished = begun > 0 && !is_finished(&extension_folder(&main.folder, begun));
        let number = if unfinished { begun } else { begun + 1 };
        let total_tokens =
            args.tokens.as_deref().context("--to: also give the length of the extension, as in --tokens 2M")?;
        let total_tokens = Amount::parse(total_tokens).map_err(|e| anyhow::anyhow!("--tokens: {e}"))?;
        let lr = args.lr.as_deref().map(|text| match (text.parse::<f64>(), Amount::parse(text)) {
            (Ok(lr), _) => Ok(Lr::Absolute(lr)),
            (_, Ok(share)) => Ok(Lr::OfPeak(share)),
            (_, Err(_)) => bail!("--lr: write a learning rate (1e-4) or a share of the run's peak (\"10%\")"),
        });
        // The settings of YaRN stay as in the previous extension, unless more is needed or an option changes them.
        let before = main.plan.extensions[..number - 1].last().and_then(|s| s.model.rope_scaling.as_ref());
        let original_len = args.original_len.or(before.map(|y| y.original_max_position_embeddings));
        let least = original_len.map_or(1.0, |original| seq_len as f64 / original as f64);
        let wanted = Extension {
            seq_len,
            factor: args.factor.or(before.map(|y| y.factor.max(least))),
            original_len,
            total_tokens,
            lr: lr.transpose()?,
            lr_end: None,
            sequences: args.sequences,
            micro_batch: args.micro_batch,
        };
        let plan = main.plan.extension(number, &wanted).map_err(|e| {
            let option = match e.key {
                "seq_len" => "to".to_owned(),
                "total_tokens" => "tokens".to_owned(),
                key => key.replace('_', "-"),
            };
            anyhow::anyhow!("--{option}: {}", e.message)
        })?;
        if unfinished && plan != main.plan.extensions[begun - 1] {
            bail!(
                "extension {begun} of the run in {shown} is not finished: finish it first with `hadal extend {shown}`"
            );
        }
        main.plan.extensions.truncate(number - 1);
        main.plan.extensions.push(plan);
        main.plan.save(&main.folder)?;
    }
    if main.plan.extensions.is_empty() {
        bail!("the run in {shown} has no extensions: give the new context length, as in --to 4096 --tokens 2M");
    }
    if run_extensions(&main, objective, args.plain, &crate::line)? {
        let last = extension_folder(&main.folder, main.plan.extensions.len());
        say!("try: hadal niah {}", last.display());
    } else {
        say!("stopped; continue with `hadal extend {shown}`");
    }
    Ok(())
}
