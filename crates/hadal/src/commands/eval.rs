//! `hadal eval`: tasks or text.

use super::{eval_tasks, eval_text};
use crate::cli::EvalArgs;
use anyhow::{Result, bail, ensure};
use hadal_tasks::suite;
use std::path::PathBuf;

pub(crate) fn run(args: &EvalArgs) -> Result<()> {
    let (tasks, texts): (Vec<PathBuf>, Vec<PathBuf>) = args.what.iter().cloned().partition(|path| suite::is_task(path));
    if let Some(missing) = texts.iter().find(|path| !path.exists()) {
        bail!(
            "{} is neither a task nor text: there is no such file or folder, it does not end in .yaml, and `hadal task \
             list` does not have it",
            missing.display()
        );
    }
    ensure!(
        tasks.is_empty() || texts.is_empty(),
        "{} is a task and {} is text: evaluate them one after the other",
        tasks.first().unwrap_or(&PathBuf::new()).display(),
        texts.first().unwrap_or(&PathBuf::new()).display()
    );
    match (tasks.is_empty(), args.tasks.given(), args.text.given()) {
        (true, Some(option), _) => bail!("--{option} is for tasks, and {} is text", texts[0].display()),
        (false, _, Some(option)) => bail!("--{option} is for text, and {} is a task", tasks[0].display()),
        (true, None, _) => eval_text::run(args, &texts),
        (false, _, None) => eval_tasks::run(args, &tasks),
    }
}
