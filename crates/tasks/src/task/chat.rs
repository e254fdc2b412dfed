//! Prompts as chats: the turns of a prompt, written as plain text or by the model's chat template.

use std::sync::Arc;

use hadal_data::chat::{ChatRequest, ChatTemplate};
use serde_json::{Value, json};

use crate::error::{Result, TaskError};

/// Marks the end of a message that the model continues. No template writes it.
const END: &str = "\u{e000}end of the beginning\u{e000}";

/// How prompts become chats.
#[derive(Clone)]
pub struct Chat {
    /// The model's template.
    pub template: Arc<ChatTemplate>,
    /// Whether examples are messages of their own. Otherwise they stand before the question, in one message.
    pub multiturn: bool,
}

/// A part of a prompt.
#[derive(Clone, Debug)]
pub(super) struct Turn {
    role: &'static str,
    content: String,
    /// What stands behind it in plain text.
    delimiter: String,
}

impl Turn {
    pub(super) fn new(role: &'static str, content: String, delimiter: &str) -> Self {
        Self { role, content, delimiter: delimiter.to_owned() }
    }

    /// Whether it is the assistant's.
    pub(super) fn is_answer(&self) -> bool {
        self.role == "assistant"
    }
}

/// Turns as messages in OpenAI's form.
pub(super) fn messages(turns: impl IntoIterator<Item = Turn>) -> Value {
    let messages: Vec<Value> =
        turns.into_iter().map(|turn| json!({"role": turn.role, "content": turn.content})).collect();
    json!({"messages": messages})
}

/// Writes turns as a prompt.
pub(super) fn prompt(turns: Vec<Turn>, chat: Option<&Chat>) -> Result<String> {
    let Some(chat) = chat else { return Ok(plain(&turns)) };
    let mut turns = if chat.multiturn { turns } else { single(turns) };
    // The model goes on with what its answer begins with.
    let begun = match turns.last_mut() {
        Some(last) if last.is_answer() => {
            last.content.push_str(END);
            true
        }
        _ => false,
    };
    let request: ChatRequest = serde_json::from_value(messages(turns))
        .map_err(|error| TaskError::Chat(format!("the prompt cannot be written as messages: {error}")))?;
    let mut text = chat.template.render_all(&ChatRequest { add_generation_prompt: !begun, ..request })?.text;
    if begun {
        let end = text.find(END).ok_or_else(|| {
            let problem = "the chat template leaves out what the answer begins with; remove `gen_prefix`, or leave out \
                           --apply-chat-template";
            TaskError::Chat(problem.to_owned())
        })?;
        text.truncate(end);
    }
    Ok(text)
}

fn plain(turns: &[Turn]) -> String {
    turns.iter().flat_map(|turn| [turn.content.as_str(), turn.delimiter.as_str()]).collect()
}

/// All turns but those of the system, and the beginning of the answer, as one message.
fn single(mut turns: Vec<Turn>) -> Vec<Turn> {
    let answer = turns.pop_if(|turn| turn.is_answer());
    let system = turns.first().is_some_and(|turn| turn.role == "system");
    let mut asked = turns.split_off(usize::from(system));
    if let Some(last) = asked.last_mut() {
        last.delimiter.clear();
    }
    turns.push(Turn::new("user", plain(&asked), ""));
    turns.extend(answer);
    turns
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEMPLATE: &str = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}\
                            {% if add_generation_prompt %}<assistant>{% endif %}";

    fn turns(begun: bool) -> Vec<Turn> {
        let mut turns = vec![
            Turn::new("system", "S".into(), ""),
            Turn::new("user", "Q1".into(), " "),
            Turn::new("assistant", "A1".into(), "\n\n"),
            Turn::new("user", "Q2".into(), if begun { " " } else { "" }),
        ];
        if begun {
            turns.push(Turn::new("assistant", "It".into(), ""));
        }
        turns
    }

    #[test]
    fn examples_are_messages_or_one_message() {
        let template = Arc::new(ChatTemplate::from_source(TEMPLATE, &[]).unwrap());
        let write = |begun, multiturn| {
            prompt(turns(begun), Some(&Chat { template: Arc::clone(&template), multiturn })).unwrap()
        };
        assert_eq!(write(false, true), "<system>S</><user>Q1</><assistant>A1</><user>Q2</><assistant>");
        assert_eq!(write(false, false), "<system>S</><user>Q1 A1\n\nQ2</><assistant>");
        assert_eq!(write(true, true), "<system>S</><user>Q1</><assistant>A1</><user>Q2</><assistant>It");
        assert_eq!(write(true, false), "<system>S</><user>Q1 A1\n\nQ2</><assistant>It");
        assert_eq!(prompt(turns(true), None).unwrap(), "SQ1 A1\n\nQ2 It");
    }

    #[test]
    fn a_template_that_leaves_something_out_is_refused() {
        for (role, word) in [("assistant", "gen_prefix"), ("system", "of the role `system`")] {
            let source = "{% for m in messages if m.role != 'ROLE' %}{{ m.content }}{% endfor %}".replace("ROLE", role);
            let template = ChatTemplate::from_source(&source, &[]).unwrap();
            let chat = Chat { template: Arc::new(template), multiturn: true };
            let error = prompt(turns(true), Some(&chat)).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
