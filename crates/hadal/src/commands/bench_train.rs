//! `hadal bench train`: whole training steps on random tokens.

use crate::cli::BenchTrainArgs;
use anyhow::{Context, Result, ensure};
use hadal_recipe::plan::Plan;
use hadal_recipe::recipe::Recipe;
use hadal_train::bench::{BenchSettings, bench, profile_table};
use hadal_train::run;
use hadal_train::step::StepSettings;

pub(crate) fn run(args: &BenchTrainArgs) -> Result<()> {
    let recipe = Recipe::load(&args.recipe, &args.set)?;
    let mut plan = Plan::draft(&recipe)?;
    let longest = plan.model.max_position_embeddings;
    ensure!(args.seq_len <= longest, "--seq-len {}: the model's context is {longest}", args.seq_len);
    if args.threads > 0 {
        plan.run.threads = args.threads;
    }
    // Other programs' measurements of a step do not include averaging.
    plan.ema_decay = 0.0;
    let (step, _) = run::settings(&plan, 0).context("the recipe has no steps")?;
    let step = StepSettings { micro_batch: step.micro_batch.min(args.batch), ..step };
    let settings = BenchSettings { steps: args.steps, batch: args.batch, seq_len: args.seq_len, step };
    let mut trainer = run::trainer(&plan, None)?;
    if args.profile {
        trainer.cx = trainer.cx.clone().with_profile();
    }
    let tokens = (args.batch * args.seq_len) as f64;
    let quiet = args.json;
    let report = bench(&mut trainer, &settings, |i, seconds| {
        if !quiet {
            say!("step {i}: {seconds:.3} s, {:.0} tokens/s", tokens / seconds);
        }
    });
    if args.profile {
        let total = report.seconds.iter().flatten().sum();
        say!("{}", profile_table(&trainer.cx.profile(), args.steps, total));
    }
    if args.json {
        say!("{}", serde_json::to_string(&report)?);
    } else {
        say!(
            "{:.0} tokens/s (median; {:.0} to {:.0}), {:.0} GFLOP/s of the model, {:.1}% of the instruction peak of {:.0}; \
             peak memory {:.2} GB; {} threads, {}",
            report.tok_s_median,
            report.tok_s_min,
            report.tok_s_max,
            report.model_gflops,
            100.0 * report.share_of_peak,
            report.peak_gflops,
            report.peak_rss_bytes as f64 / 1e9,
            report.threads,
            report.isa,
        );
    }
    Ok(())
}
