//! Shows what a model says.
//!
//! In a terminal, thoughts and calls of tools are dim, and nothing that a model writes can move the cursor or change
//! colours. Elsewhere, answers and calls alone go to standard output, without colours.

use crate::commands::common::show;
use hadal_serve::Delta;
use std::io::{self, IsTerminal, Write};

const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

/// What was shown last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    Nothing,
    Thoughts,
    Text,
    Call,
}

/// Where answers are shown.
pub(crate) struct Screen {
    is_terminal: bool,
    has_colours: bool,
    shown: Shown,
}

impl Screen {
    pub(crate) fn new() -> Self {
        let is_terminal = io::stdout().is_terminal();
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { is_terminal, has_colours: is_terminal && !set("NO_COLOR") && !dumb, shown: Shown::Nothing }
    }

    /// Shows a part of an answer.
    pub(super) fn say(&mut self, delta: &Delta) -> io::Result<()> {
        let (answer, thoughts) = self.written(delta);
        if !thoughts.is_empty() {
            io::stderr().write_all(thoughts.as_bytes())?;
        }
        show(&answer)
    }

    /// What a part of an answer adds to standard output, and to standard error.
    fn written(&mut self, delta: &Delta) -> (String, String) {
        let (kind, text) = match delta {
            Delta::Reasoning(text) => (Shown::Thoughts, text.as_str()),
            Delta::Content(text) => (Shown::Text, text.as_str()),
            Delta::Arguments { text, .. } => (Shown::Call, text.as_str()),
            Delta::Call { name, .. } => {
                let between = self.change(Shown::Call, true);
                return (format!("{between}{} ", self.clean(&format!("call {name}"))), String::new());
            }
        };
        let between = self.change(kind, false);
        let text = self.clean(text);
        if kind == Shown::Thoughts && !self.is_terminal {
            (String::new(), text)
        } else {
            (between + &text, String::new())
        }
    }

    /// What comes between two kinds of parts.
    fn change(&mut self, to: Shown, begins: bool) -> String {
        let from = std::mem::replace(&mut self.shown, to);
        if from == to && !begins {
            return String::new();
        }
        let is_dim = |shown| matches!(shown, Shown::Thoughts | Shown::Call);
        let mut text = String::new();
        if self.has_colours && is_dim(from) {
            text += PLAIN;
        }
        // Thoughts that are not on standard output need no space there.
        match from {
            Shown::Nothing => {}
            Shown::Thoughts if !self.is_terminal => {}
            Shown::Thoughts => text += "\n\n",
            Shown::Text | Shown::Call => text += "\n",
        }
        if to == Shown::Thoughts && self.is_terminal && !self.has_colours {
            text += "(thoughts) ";
        }
        if self.has_colours && is_dim(to) {
            text += DIM;
        }
        text
    }

    /// Text without what would steer a terminal.
    fn clean(&self, text: &str) -> String {
        if !self.is_terminal {
            return text.to_owned();
        }
        text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
    }

    /// Ends an answer.
    pub(super) fn end(&mut self) -> io::Result<()> {
        let was_dim = self.has_colours && matches!(self.shown, Shown::Thoughts | Shown::Call);
        self.shown = Shown::Nothing;
        show(&format!("{}\n", if was_dim { PLAIN } else { "" }))
    }

    /// Tells something that is not an answer.
    pub(crate) fn note(&self, text: &str) {
        let (dim, plain) = if self.has_colours && io::stderr().is_terminal() { (DIM, PLAIN) } else { ("", "") };
        eprintln!("{dim}{text}{plain}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All that an answer writes.
    fn all(is_terminal: bool, has_colours: bool) -> (String, String) {
        let mut screen = Screen { is_terminal, has_colours, shown: Shown::Nothing };
        let call = |index: usize| Delta::Call { index, id: None, name: "f".into() };
        let arguments = |index: usize| Delta::Arguments { index, text: "{}".into() };
        let (mut out, mut err) = (String::new(), String::new());
        for delta in [
            Delta::Reasoning("so".into()),
            Delta::Reasoning(" on".into()),
            Delta::Content("a\x1b[31m".into()),
            Delta::Content("b\n".into()),
            call(0),
            arguments(0),
            call(1),
            arguments(1),
        ] {
            let (more, aside) = screen.written(&delta);
            out += &more;
            err += &aside;
        }
        (out, err)
    }

    #[test]
    fn kinds_are_kept_apart() {
        let dim = "\x1b[2mso on\x1b[0m\n\na[31mb\n\n\x1b[2mcall f {}\x1b[0m\n\x1b[2mcall f {}";
        assert_eq!(all(true, true), (dim.into(), String::new()));
        assert_eq!(all(true, false), ("(thoughts) so on\n\na[31mb\n\ncall f {}\ncall f {}".into(), String::new()));
        assert_eq!(all(false, false), ("a\x1b[31mb\n\ncall f {}\ncall f {}".into(), "so on".into()));
    }
}
