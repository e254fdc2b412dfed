//! `hadal chat`: talks to a model in the terminal.

use super::common::{engine, load, model_name};
use crate::chat::{Conversation, Input, Line, Next, Screen, Session, Settings};
use crate::cli::{ChatArgs, Switch};
use anyhow::Result;
use hadal_infer::Adjust;
use hadal_serve::Template;
use hadal_weights::folder::model_folder;
use std::sync::Arc;

pub(crate) fn run(args: &ChatArgs) -> Result<()> {
    let mut session = begin(args)?;
    for prompt in &args.prompt {
        session.take(prompt)?;
    }
    if !args.prompt.is_empty() {
        return Ok(());
    }
    let mut input = Input::new()?;
    if input.is_terminal() {
        let (name, template) = (model_name(&args.model.model), session.template.origin());
        session.screen.note(&format!("{name}; chat template: {template}"));
        session.screen.note("/help shows the commands. Ctrl-C stops an answer. Ctrl-D ends.");
    }
    loop {
        let prompt = session.conversation.awaited().map_or("> ".into(), |(_, tool)| format!("result of {tool}> "));
        let next = match input.read(&prompt)? {
            Line::Text(line) => session.take(&line),
            Line::Interrupted => Ok(Next::GoOn),
            Line::End => return Ok(()),
        };
        match next {
            Ok(Next::GoOn) => {}
            Ok(Next::Leave) => return Ok(()),
            // A person can say it in another way.
            Err(error) if input.is_terminal() => session.screen.note(&format!("error: {error:#}")),
            Err(error) => return Err(error),
        }
    }
}

/// Loads the model, and what the conversation begins with.
fn begin(args: &ChatArgs) -> Result<Session> {
    let loaded = load(&args.model, None)?;
    let template = Template::load(
        &model_folder(&args.model.model)?,
        args.chat_template.as_deref(),
        Arc::clone(&loaded.tokenizer),
    )?;
    let room = args.cache_tokens.min(loaded.model.config.max_position_embeddings);
    let engine = engine(&loaded, args.cache_tokens, &args.sample);
    let settings = Settings { params: args.sample.params(), adjust: Adjust::default(), max_new: args.sample.max_new };
    let (conversation, screen) = (Conversation::default(), Screen::new());
    let mut session =
        Session { loaded, engine, template, conversation, settings, screen, room, answers: 0, last: None };
    args.load.as_deref().map(|path| session.load(path)).transpose()?;
    args.tools.as_deref().map(|path| session.tools(Some(path))).transpose()?;
    args.think.map(|think| session.think(think == Switch::On)).transpose()?;
    if let Some(text) = &args.system {
        session.conversation.set_system(Some(text.clone()));
    }
    Ok(session)
}
