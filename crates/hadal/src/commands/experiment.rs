//! `hadal experiment`: one of the report's comparisons; see `hadal_lab`.

use crate::cli::ExperimentArgs;
use anyhow::{Result, anyhow};
use hadal_lab::{EXPERIMENTS, Experiment, Options};

pub(crate) fn run(args: &ExperimentArgs) -> Result<()> {
    if args.name == "list" {
        for (name, _) in EXPERIMENTS {
            let e = Experiment::load(name).map_err(|e| anyhow!(e))?;
            let seeds = if e.seeds > 1 { format!(", {} seeds", e.seeds) } else { String::new() };
            say!("{name:<14} {} (report {}; {:.0} minutes{seeds})", e.title, e.section, e.minutes);
        }
        return Ok(());
    }
    let ExperimentArgs { name, budget, tokens, seeds, text, domains, out, set, plain } = args.clone();
    let options = Options { name, budget, tokens, seeds, text, domains, out, set, plain };
    match hadal_lab::run(&options, &crate::line)? {
        Some((report, folder)) => say!("\n{report}\nplots and raw numbers: {}", folder.display()),
        None => say!("stopped; the same command continues"),
    }
    Ok(())
}
