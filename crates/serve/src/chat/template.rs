//! The format of a checkpoint: its own template, and the syntax that is recognised from it.

use super::{Chat, ChatFormat, Parser, Turn};
use hadal_data::chat::{ChatRequest, ChatTemplate, Delta, OutputParser, Syntax};
use hadal_data::{DataError, Tokenizer};
use serde_json::json;
use std::path::Path;
use std::sync::Arc;

/// A checkpoint's template, with its tokenizer.
pub struct Template {
    template: ChatTemplate,
    tokenizer: Arc<Tokenizer>,
}

impl Template {
    /// Reads the template in a model's folder. A model without one has a plain one.
    pub fn load(folder: &Path, tokenizer: Arc<Tokenizer>) -> Result<Self, DataError> {
        Ok(Self { template: ChatTemplate::load(folder, &tokenizer)?, tokenizer })
    }

    /// Where it comes from, for people.
    pub fn origin(&self) -> &str {
        self.template.origin()
    }
}

impl ChatFormat for Template {
    fn write(&self, chat: &Chat) -> Result<Turn, String> {
        let body = json!({"messages": chat.messages, "tools": chat.tools, "chat_template_kwargs": chat.values});
        let request: ChatRequest = serde_json::from_value(body).map_err(|error| error.to_string())?;
        let request = ChatRequest { add_generation_prompt: true, ..request };
        let problem = |error: DataError| error.to_string();
        let source = self.template.source(&request).map_err(problem)?;
        let syntax = Syntax::recognise(source, |name| self.tokenizer.id_of(name).is_some());
        let prompt = self.template.render(&request).map_err(problem)?.text;
        let thinks_until = syntax.thinks_until(&prompt).map(str::to_owned);
        let (begun, tools) = (prompt.clone(), request.tools);
        let parser = Box::new(move || Box::new(OutputParser::new(syntax, &begun, &tools)) as Box<dyn Parser>);
        Ok(Turn { prompt, thinks_until, parser })
    }
}

impl Parser for OutputParser {
    fn push(&mut self, text: &str) -> Vec<Delta> {
        self.push(text)
    }

    fn finish(&mut self) -> Vec<Delta> {
        self.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hadal_data::tokenizer::TrainOptions;
    use hadal_data::{Document, Tokenizer};

    #[test]
    fn a_checkpoints_template_writes_and_its_syntax_reads() {
        let document = Document { id: "a".into(), group: "a".into(), text: "hello".into() };
        let tokenizer = Tokenizer::train(&[document], &TrainOptions { vocab_size: 270, ..TrainOptions::default() });
        let folder = tempfile::tempdir().unwrap();
        let source = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}\
                      {% if add_generation_prompt %}{{ '<think>' if thinking else '<think></think>' }}{% endif %}";
        std::fs::write(folder.path().join("chat_template.jinja"), source).unwrap();
        let template = Template::load(folder.path(), Arc::new(tokenizer.unwrap().0)).unwrap();
        let messages = vec![json!({"role": "user", "content": "hi"})];
        let mut chat = Chat { messages, ..Chat::default() };
        let turn = template.write(&chat).unwrap();
        assert_eq!((turn.prompt.as_str(), turn.thinks_until), ("[user]hi<think></think>", None));
        chat.values.insert("thinking".into(), true.into());
        let turn = template.write(&chat).unwrap();
        assert_eq!((turn.prompt.as_str(), turn.thinks_until.as_deref()), ("[user]hi<think>", Some("</think>")));
        let mut parser = (turn.parser)();
        let mut said = parser.push("so</think>yes");
        said.extend(parser.finish());
        assert_eq!(said, [Delta::Reasoning("so".into()), Delta::Content("yes".into())]);
    }
}
