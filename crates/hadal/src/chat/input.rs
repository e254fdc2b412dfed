//! Lines from the terminal, with editing and history, or from a pipe.
//!
//! A line that ends with a backslash goes on in the next one. In the terminal, Alt-Enter begins a new line as well, and
//! text that is pasted stays together.

use super::command::COMMANDS;
use anyhow::{Context as _, Result};
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::MemHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Cmd, Config, Context, Editor, EventHandler, Helper, KeyCode, KeyEvent, Modifiers};
use std::io::{BufRead, IsTerminal};

/// What was typed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    Text(String),
    /// Ctrl-C.
    Interrupted,
    End,
}

/// Where lines come from.
pub(crate) enum Input {
    Terminal(Box<Editor<Words, MemHistory>>),
    Pipe,
}

impl Input {
    /// The terminal, if there is one for both directions.
    pub(crate) fn new() -> Result<Self> {
        if !(std::io::stdin().is_terminal() && std::io::stdout().is_terminal()) {
            return Ok(Self::Pipe);
        }
        let config = Config::builder().auto_add_history(true).build();
        let history = MemHistory::with_config(&config);
        let mut editor = Editor::with_history(config, history).context("cannot use the terminal")?;
        editor.set_helper(Some(Words));
        let alt_enter = KeyEvent(KeyCode::Enter, Modifiers::ALT);
        editor.bind_sequence(alt_enter, EventHandler::Simple(Cmd::Newline));
        Ok(Self::Terminal(Box::new(editor)))
    }

    /// Whether a person is typing.
    pub(crate) fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal(_))
    }

    /// The next line.
    pub(crate) fn read(&mut self, prompt: &str) -> Result<Line> {
        let Self::Terminal(editor) = self else { return piped(&mut std::io::stdin().lock()) };
        match editor.readline(prompt) {
            Ok(line) => Ok(Line::Text(line.replace("\\\n", "\n"))),
            Err(ReadlineError::Interrupted | ReadlineError::Signal(_)) => Ok(Line::Interrupted),
            Err(ReadlineError::Eof) => Ok(Line::End),
            Err(error) => Err(error).context("cannot read from the terminal"),
        }
    }
}

/// The next line of a pipe, with those that it goes on in.
fn piped(input: &mut impl BufRead) -> Result<Line> {
    let mut text = String::new();
    loop {
        let mut line = String::new();
        let read = input.read_line(&mut line).context("cannot read standard input")?;
        let line = line.trim_end_matches(['\n', '\r']);
        let goes_on = line.strip_suffix('\\');
        text += goes_on.unwrap_or(line);
        match goes_on {
            Some(_) if read > 0 => text.push('\n'),
            _ if read == 0 && text.is_empty() => return Ok(Line::End),
            _ => return Ok(Line::Text(text)),
        }
    }
}

/// What the editor knows of lines: where they go on, and the names of commands.
pub(crate) struct Words;

impl Validator for Words {
    fn validate(&self, line: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        let goes_on = line.input().ends_with('\\');
        Ok(if goes_on { ValidationResult::Incomplete } else { ValidationResult::Valid(None) })
    }
}

impl Completer for Words {
    type Candidate = String;

    fn complete(&self, line: &str, at: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        let names = COMMANDS.iter().filter_map(|(usage, _)| usage.split(' ').next());
        let begun = &line[..at];
        let fitting = names.filter(|name| begun.starts_with('/') && name.starts_with(begun));
        Ok((0, fitting.map(str::to_owned).collect()))
    }
}

impl Hinter for Words {
    type Hint = String;
}

impl Highlighter for Words {}

impl Helper for Words {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backslash_joins_lines() {
        let mut input = &b"one\r\n\ntwo\\\nlines\nlast\\"[..];
        let mut next = || piped(&mut input).unwrap();
        for text in ["one", "", "two\nlines", "last\n"] {
            assert_eq!(next(), Line::Text(text.into()));
        }
        assert_eq!(next(), Line::End);
    }
}
