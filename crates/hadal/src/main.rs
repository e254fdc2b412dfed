//! The command line of hadal: DeepSeek-V3, end to end, in Rust.

/// Prints a line to standard output. Unlike `println!`, it does not panic if the reader has closed the pipe.
macro_rules! say {
    ($($arg:tt)*) => { $crate::say(format_args!($($arg)*)) };
}

mod chat;
mod cli;
mod commands;

use clap::Parser;
use cli::{Cli, Command};
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Quickstart(args) => commands::quickstart::run(&args),
        Command::Tokenizer(args) => commands::tokenizer::run(&args),
        Command::Data(args) => commands::data::run(&args),
        Command::Pretrain(args) => commands::pretrain::run(&args),
        Command::Sft(args) => commands::sft::run(&args),
        Command::Extend(args) => commands::extend::run(&args),
        Command::Generate(args) => commands::generate::run(&args),
        Command::Complete(args) => commands::complete::run(&args),
        Command::Chat(args) => commands::chat::run(&args),
        Command::Serve(args) => commands::serve::run(&args),
        Command::Eval(args) => commands::eval::run(&args),
        Command::Task(args) => commands::task::run(&args),
        Command::Niah(args) => commands::niah::run(&args),
        Command::Inspect(args) => commands::inspect::run(&args),
        Command::Export(args) => commands::export::export(&args),
        Command::Import(args) => commands::import::run(&args),
        Command::Quantize(args) => commands::quantize::run(&args),
        Command::Dump(args) => commands::dump::run(&args),
        Command::Bench(args) => commands::bench::run(&args),
        Command::Experiment(args) => commands::experiment::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of our output has closed the pipe. That is not an error.
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn say(line: std::fmt::Arguments<'_>) {
    if let Err(error) = writeln!(std::io::stdout(), "{line}") {
        // A closed pipe is not an error. Anything else, such as a full disk, is reported.
        if error.kind() != std::io::ErrorKind::BrokenPipe {
            eprintln!("error: cannot write to standard output: {error}");
        }
        std::process::exit(i32::from(error.kind() != std::io::ErrorKind::BrokenPipe));
    }
}

/// Like [`say!`], for libraries that report their progress.
fn line(text: &str) {
    say!("{text}");
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let closed = |e: &std::io::Error| e.kind() == std::io::ErrorKind::BrokenPipe;
    error.chain().any(|e| e.downcast_ref::<std::io::Error>().is_some_and(closed))
}
