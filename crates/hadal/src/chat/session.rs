//! One conversation with one model: obeys commands, asks the model, and shows its answers.

use super::command::{COMMANDS, Command, parse};
use super::{Conversation, Screen, Settings};
use crate::commands::common::{accepted, grouped, rate, read_file};
use anyhow::{Context, Result, anyhow, ensure};
use hadal_base::atomic::write_file;
use hadal_infer::{Engine, Event, Generation, Loaded, Request, Stop, TextOptions, Usage, run_while};
use hadal_serve::{Chat, ChatFormat, Delta, Message, Template, think};
use hadal_watch::signals::Watch;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// What follows a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    GoOn,
    Leave,
}

/// A conversation with a model.
pub(crate) struct Session {
    pub(crate) loaded: Loaded,
    pub(crate) engine: Engine,
    pub(crate) template: Template,
    pub(crate) conversation: Conversation,
    pub(crate) settings: Settings,
    pub(crate) screen: Screen,
    /// Tokens of the conversation at most.
    pub(crate) room: usize,
    /// Answers so far. Each is drawn from a stream of its own.
    pub(crate) answers: u64,
    /// What the last answer took.
    pub(crate) last: Option<Took>,
}

/// What an answer took.
pub(crate) struct Took {
    prompt: usize,
    done: Generation,
    /// Not known if the answer was stopped.
    usage: Option<Usage>,
}

impl Session {
    /// Does what a line says.
    pub(crate) fn take(&mut self, line: &str) -> Result<Next> {
        match parse(line) {
            Some(Ok(Command::Quit)) => return Ok(Next::Leave),
            Some(command) => self.obey(command.map_err(|problem| anyhow!(problem))?)?,
            None if line.trim().is_empty() && self.conversation.awaited().is_none() => {}
            None => {
                self.conversation.say(line.to_owned());
                // What the model cannot read must not stay in the way.
                self.answer().inspect_err(|_| drop(self.conversation.chat.messages.pop()))?;
            }
        }
        Ok(Next::GoOn)
    }

    fn obey(&mut self, command: Command) -> Result<()> {
        match command {
            Command::Help => COMMANDS.iter().for_each(|(name, what)| self.screen.note(&format!("{name:24} {what}"))),
            Command::ShowSystem => self.screen.note(self.conversation.system().unwrap_or("(no system text)")),
            Command::System(text) => self.conversation.set_system(text),
            Command::New => self.conversation.restart(),
            Command::Undo => ensure!(self.conversation.undo(), "there is nothing to take back"),
            Command::Retry => {
                ensure!(self.conversation.retry(), "there is nothing to answer");
                self.answer()?;
            }
            Command::Think(on) => self.think(on)?,
            Command::Set(all) if all.is_empty() => self.screen.note(&self.settings.show()),
            Command::Set(all) => {
                let mut changed = self.settings.clone();
                all.iter()
                    .try_for_each(|(name, value)| changed.set(name, *value))
                    .map_err(|problem| anyhow!(problem))?;
                self.settings = changed;
            }
            Command::Save(path) => write_file(&path, &serde_json::to_vec_pretty(&self.conversation.chat.to_json())?)?,
            Command::Load(path) => self.load(&path)?,
            Command::Tools(path) => self.tools(path.as_deref())?,
            Command::Stats => self.stats(),
            Command::Quit => {}
        }
        Ok(())
    }

    /// Goes on with the conversation in a file.
    pub(crate) fn load(&mut self, path: &Path) -> Result<()> {
        self.conversation.chat = Chat::from_json(&read_file(path)?).map_err(|problem| wrong(path, &problem))?;
        self.screen.note(&format!("{} messages", self.conversation.chat.messages.len()));
        Ok(())
    }

    /// Lets the model call the tools in a file, or none.
    pub(crate) fn tools(&mut self, path: Option<&Path>) -> Result<()> {
        let read = |path| Chat::tools_from_json(&read_file(path)?).map_err(|problem| wrong(path, &problem));
        self.conversation.chat.tools = path.map(read).transpose()?.unwrap_or_default();
        Ok(())
    }

    /// Asks for thoughts, or for none.
    pub(crate) fn think(&mut self, on: bool) -> Result<()> {
        let [with, without] = [true, false].map(|on| {
            let mut chat =
                Chat { messages: vec![serde_json::json!({"role": "user", "content": "a"})], ..Chat::default() };
            think(&mut chat.values, on);
            self.template.write(&chat).map(|turn| turn.prompt).map_err(|problem| anyhow!(problem))
        });
        ensure!(with? != without?, "the model's template has no switch for thoughts");
        think(&mut self.conversation.chat.values, on);
        Ok(())
    }

    /// Lets the model answer, if it is its turn.
    pub(crate) fn answer(&mut self) -> Result<()> {
        if !self.conversation.wants_answer() {
            return Ok(());
        }
        let (answer, took) = self.ask()?;
        self.conversation.hear(&answer);
        match took.done.stop {
            Stop::Caller => self.screen.note("(stopped)"),
            Stop::Length => self.screen.note("(the answer is cut off: /set max_new, or begin a /new conversation)"),
            _ => {}
        }
        self.last = Some(took);
        Ok(())
    }

    /// Writes the conversation as the model reads it, and takes what it says.
    fn ask(&mut self) -> Result<(Message, Took)> {
        let turn = self.template.write(&self.conversation.chat).map_err(|problem| anyhow!(problem))?;
        let prompt = self.loaded.tokenizer.encode_with_special(&turn.prompt);
        ensure!(
            prompt.len() < self.room,
            "the conversation has {} tokens, and {} fit: begin a /new one, or take something back with /undo",
            grouped(prompt.len() as u64),
            grouped(self.room as u64)
        );
        let left = self.room - prompt.len();
        let mut params = self.settings.params;
        params.request = self.answers;
        self.answers += 1;
        let request = Request {
            params,
            adjust: self.settings.adjust.clone(),
            max_new: self.settings.max_new.map_or(left, |most| most.min(left)),
            stop: self.loaded.stop_tokens(),
            // Thoughts and calls of tools are between special tokens, and the parser must see them.
            text: Some(TextOptions { show_special: true, ..self.loaded.text() }),
            prompt,
            ..Request::default()
        };
        let (mut parser, mut answer, mut usage) = ((turn.parser)(), Message::default(), None);
        let number = self.answers;
        let screen = &mut self.screen;
        let mut show = |deltas: Vec<Delta>| {
            deltas.into_iter().try_for_each(|delta| {
                let shown = screen.say(&delta);
                answer.add(named(delta, number));
                shown
            })
        };
        let mut shown = Ok(());
        let stop = Arc::new(AtomicBool::new(false));
        let watch = Watch::interrupts(&stop);
        let (loaded, goes_on) = (&self.loaded, || !stop.load(Relaxed));
        let done = run_while(&loaded.cx, &loaded.model, &mut self.engine, &request, &goes_on, &mut |event| {
            match event {
                Event::Text { piece, .. } => shown = show(parser.push(&piece.text)),
                Event::Finished { usage: all, .. } => usage = Some(*all),
                _ => {}
            }
            shown.is_ok()
        })?;
        drop(watch);
        shown.and_then(|()| show(parser.finish())).context("cannot write to standard output")?;
        self.screen.end().context("cannot write to standard output")?;
        Ok((answer, Took { prompt: request.prompt.len(), done, usage }))
    }

    /// Shows what the last answer took.
    fn stats(&self) {
        let Some(Took { prompt, done, usage }) = &self.last else { return self.screen.note("there is no answer yet") };
        let (new, (reading, writing)) = (done.tokens.len(), done.seconds);
        let prompt_line = match usage {
            Some(usage) => format!(
                "{} tokens, {} of them from the cache; the others at {:.0} tokens/s",
                grouped(*prompt as u64),
                grouped(usage.cached as u64),
                rate(prompt - usage.cached, reading)
            ),
            None => format!("{} tokens", grouped(*prompt as u64)),
        };
        self.screen.note(&format!("prompt: {prompt_line}"));
        let drafts = accepted(done.drafts);
        self.screen.note(&format!(
            "answer: {} tokens at {:.1} tokens/s{drafts}",
            grouped(new as u64),
            rate(new, writing)
        ));
        let (all, room) = (grouped((prompt + new) as u64), grouped(self.room as u64));
        self.screen.note(&format!("conversation: {all} of {room} tokens"));
    }
}

/// A call with a name of its own, which its result refers to.
fn named(delta: Delta, answer: u64) -> Delta {
    match delta {
        Delta::Call { index, id: None, name } => {
            Delta::Call { index, id: Some(format!("call-{answer}-{index}")), name }
        }
        delta => delta,
    }
}

fn wrong(path: &Path, problem: &str) -> anyhow::Error {
    anyhow!("{}: {problem}", path.display())
}
