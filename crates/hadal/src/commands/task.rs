//! `hadal task`: lists, shows and checks tasks.

use crate::cli::{TaskArgs, TaskCommand};
use anyhow::{Result, bail};
use hadal_tasks::{Suite, suite};

pub(crate) fn run(args: &TaskArgs) -> Result<()> {
    match &args.command {
        TaskCommand::List => say!("{}", hadal_tasks::list()),
        TaskCommand::Show { name } => match suite::built_in_text(name) {
            Some(text) => say!("{}", text.trim_end()),
            None => bail!("there is no built-in task `{name}`; `hadal task list` lists them"),
        },
        TaskCommand::Check { file, options } => {
            let suite = Suite::open(file, &options.options())?;
            say!("{}", suite.describe()?);
        }
    }
    Ok(())
}
