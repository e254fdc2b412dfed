//! The messages of a conversation: what may follow, and what can be taken back.

use hadal_serve::{Chat, Message};
use serde_json::{Value, json};

/// A conversation.
#[derive(Clone, Debug, Default)]
pub(crate) struct Conversation {
    pub(crate) chat: Chat,
}

impl Conversation {
    /// Sets the system text, or removes it.
    pub(crate) fn set_system(&mut self, text: Option<String>) {
        let messages = &mut self.chat.messages;
        if messages.first().is_some_and(|first| is(first, "system")) {
            messages.remove(0);
        }
        if let Some(text) = text {
            messages.insert(0, json!({"role": "system", "content": text}));
        }
    }

    /// The system text.
    pub(crate) fn system(&self) -> Option<&str> {
        self.chat.messages.first().filter(|first| is(first, "system"))?["content"].as_str()
    }

    /// Forgets all messages but the system text.
    pub(crate) fn restart(&mut self) {
        let kept = usize::from(self.system().is_some());
        self.chat.messages.truncate(kept);
    }

    /// Id and tool of the first call of the last answer that has no result yet.
    pub(crate) fn awaited(&self) -> Option<(&str, &str)> {
        awaited(&self.chat.messages)
    }

    /// Adds what the user says: the result of a call if one is awaited, or else a message.
    pub(crate) fn say(&mut self, text: String) {
        let message = match self.awaited() {
            Some((id, _)) => json!({"role": "tool", "tool_call_id": id, "content": text}),
            None => json!({"role": "user", "content": text}),
        };
        self.chat.messages.push(message);
    }

    /// Whether it is the model's turn.
    pub(crate) fn wants_answer(&self) -> bool {
        wants_answer(&self.chat.messages)
    }

    /// Adds an answer. One without anything is left out.
    pub(crate) fn hear(&mut self, answer: &Message) {
        if *answer != Message::default() {
            self.chat.messages.push(answer.to_json());
        }
    }

    /// Takes back the last message of the user and what follows it. False if there is none.
    pub(crate) fn undo(&mut self) -> bool {
        let at = self.chat.messages.iter().rposition(|message| is(message, "user"));
        self.chat.messages.truncate(at.unwrap_or(self.chat.messages.len()));
        at.is_some()
    }

    /// Takes back the last answer. False if there is nothing to answer.
    pub(crate) fn retry(&mut self) -> bool {
        let messages = &mut self.chat.messages;
        // Results of some of the calls belong to the answer that called.
        let end = (1..=messages.len()).rev().find(|end| wants_answer(&messages[..*end]));
        messages.truncate(end.unwrap_or(messages.len()));
        end.is_some()
    }
}

fn awaited(messages: &[Value]) -> Option<(&str, &str)> {
    let at = messages.iter().rposition(|message| is(message, "assistant"))?;
    let results = &messages[at + 1..];
    if !results.iter().all(|message| is(message, "tool")) {
        return None;
    }
    let call = messages[at]["tool_calls"].as_array()?.get(results.len())?;
    Some((call["id"].as_str().unwrap_or_default(), call["function"]["name"].as_str().unwrap_or_default()))
}

fn wants_answer(messages: &[Value]) -> bool {
    messages.last().is_some_and(|last| is(last, "user") || is(last, "tool")) && awaited(messages).is_none()
}

fn is(message: &Value, role: &str) -> bool {
    message["role"] == role
}

#[cfg(test)]
mod tests {
    use super::*;
    use hadal_serve::Call;

    fn text(content: &str) -> Message {
        Message { content: content.into(), ..Message::default() }
    }

    fn roles(conversation: &Conversation) -> Vec<&str> {
        conversation.chat.messages.iter().map(|message| message["role"].as_str().unwrap()).collect()
    }

    #[test]
    fn turns_are_taken_back_and_answered_again() {
        let mut talk = Conversation::default();
        assert!(!talk.undo() && !talk.retry() && !talk.wants_answer());
        talk.set_system(Some("a".into()));
        talk.set_system(Some("b".into()));
        assert_eq!(talk.system(), Some("b"));
        for turn in ["one", "two"] {
            talk.say(turn.into());
            assert!(talk.wants_answer());
            talk.hear(&text("yes"));
            assert!(!talk.wants_answer());
        }
        assert!(talk.retry());
        assert_eq!(roles(&talk), ["system", "user", "assistant", "user"]);
        assert!(talk.retry());
        assert!(talk.undo());
        assert_eq!(roles(&talk), ["system", "user", "assistant"]);
        talk.restart();
        assert_eq!(roles(&talk), ["system"]);
        talk.set_system(None);
        assert!(talk.chat.messages.is_empty());
    }

    #[test]
    fn results_follow_their_calls() {
        let call = |id: &str| Call { id: id.into(), name: "f".into(), arguments: "{}".into() };
        let mut talk = Conversation::default();
        talk.say("go".into());
        talk.hear(&Message { calls: vec![call("1"), call("2")], ..Message::default() });
        for id in ["1", "2"] {
            assert_eq!(talk.awaited(), Some((id, "f")));
            assert!(!talk.wants_answer());
            talk.say("x".into());
            assert_eq!(talk.chat.messages.last().unwrap()["tool_call_id"], id);
        }
        assert!(talk.awaited().is_none() && talk.wants_answer());
        talk.hear(&text("done"));
        assert!(talk.awaited().is_none());
        assert!(talk.retry());
        assert_eq!(roles(&talk), ["user", "assistant", "tool", "tool"]);
        // Without one of the results, the answer that called is made again.
        talk.chat.messages.pop();
        assert!(talk.retry());
        assert_eq!(roles(&talk), ["user"]);
    }
}
