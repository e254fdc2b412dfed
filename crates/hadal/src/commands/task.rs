//! `hadal task`: lists, shows and checks tasks.

use crate::cli::{TaskArgs, TaskCommand};
use anyhow::{Result, bail};
use hadal_base::atomic;
use hadal_tasks::{Options, Suite, Task, suite};
use std::io::Write;

pub(crate) fn run(args: &TaskArgs) -> Result<()> {
    match &args.command {
        TaskCommand::List => say!("{}", hadal_tasks::list()),
        TaskCommand::Show { name } => match suite::built_in_text(name) {
            Some(text) => say!("{}", text.trim_end()),
            None => bail!("there is no built-in task `{name}`; `hadal task list` lists them"),
        },
        TaskCommand::Chats { task, split, count, seed, data, out } => {
            let (split, count, seed, data) = (Some(split.clone()), *count, *seed, data.clone());
            let options = Options { split, count, seed, data, num_fewshot: Some(0), ..Options::default() };
            let suite = Suite::open(task, &options)?;
            let all = suite.tasks.iter().map(Task::conversations).collect::<Result<Vec<_>, _>>()?.concat();
            atomic::write_file_with(out, |file| all.iter().try_for_each(|line| writeln!(file, "{line}")))?;
            say!("{}: {} conversations", out.display(), all.len());
        }
        TaskCommand::Check { file, options } => {
            let suite = Suite::open(file, &options.options())?;
            say!("{}", suite.describe()?);
        }
    }
    Ok(())
}
