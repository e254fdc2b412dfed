//! The format of a checkpoint: its own template, and the syntax that is recognised from it.

use super::{Chat, ChatFormat, Parser, ToolChoice, Turn};
use hadal_data::chat::{ChatRequest, ChatTemplate, Delta, OutputParser, Syntax};
use hadal_data::{DataError, Tokenizer};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;

/// A checkpoint's template, with its tokenizer.
pub struct Template {
    template: ChatTemplate,
    tokenizer: Arc<Tokenizer>,
}

impl Template {
    /// Reads the template in `file`, or the one in a model's folder. A model without one has a plain one.
    pub fn load(folder: &Path, file: Option<&Path>, tokenizer: Arc<Tokenizer>) -> Result<Self, DataError> {
        Ok(Self { template: ChatTemplate::load_with(folder, file, &tokenizer)?, tokenizer })
    }

    /// Where it comes from, for people.
    pub fn origin(&self) -> &str {
        self.template.origin()
    }

    /// The grammar of calls of these tools.
    fn calls(&self, syntax: Syntax, tools: &[Value], several: bool) -> Result<String, String> {
        let calls = syntax.calls.ok_or("the model's template has no calls of tools: leave out `tool_choice`")?;
        calls.grammar(tools, several, &self.tokenizer).map_err(|error| error.to_string())
    }
}

impl ChatFormat for Template {
    fn write(&self, chat: &Chat) -> Result<Turn, String> {
        let body = json!({"messages": chat.messages, "tools": chat.tools, "chat_template_kwargs": chat.values});
        let request: ChatRequest = serde_json::from_value(body).map_err(|error| error.to_string())?;
        let request = ChatRequest { add_generation_prompt: true, ..request };
        let problem = |error: DataError| match error {
            // Clients need not know where the template is.
            DataError::Template(error) if error.refused => {
                format!("the model's chat template does not accept the conversation: {}", error.problem)
            }
            other => other.to_string(),
        };
        let source = self.template.source(&request).map_err(problem)?;
        let syntax = Syntax::recognise(source, |name| self.tokenizer.id_of(name).is_some());
        let prompt = self.template.render_all(&request).map_err(problem)?.text;
        let calls = match &chat.tool_choice {
            ToolChoice::Auto => None,
            ToolChoice::Required => Some(self.calls(syntax, &chat.tools, !chat.single_call)?),
            ToolChoice::Named(name) => {
                let named: Vec<Value> =
                    chat.tools.iter().filter(|t| t["function"]["name"] == **name).cloned().collect();
                Some(self.calls(syntax, &named, false)?)
            }
        };
        let thinks_until = syntax.thinks_until(&prompt).map(str::to_owned);
        let may_think = syntax.may_think(&prompt).map(|marks| (marks.open.to_owned(), marks.close.to_owned()));
        let (begun, tools) = (prompt.clone(), request.tools);
        let parser = Box::new(move || Box::new(OutputParser::new(syntax, &begun, &tools)) as Box<dyn Parser>);
        Ok(Turn { prompt, thinks_until, may_think, calls, single_call: chat.single_call, parser })
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

    fn of(source: &str) -> Template {
        let document = Document { id: "a".into(), group: "a".into(), text: "hello".into() };
        let tokenizer = Tokenizer::train(&[document], &TrainOptions { vocab_size: 270, ..TrainOptions::default() });
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("chat_template.jinja"), source).unwrap();
        Template::load(folder.path(), None, Arc::new(tokenizer.unwrap().0)).unwrap()
    }

    #[test]
    fn a_checkpoints_template_writes_and_its_syntax_reads() {
        let source = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}\
                      {{ tools[0].function.name if tools }}\
                      {% if add_generation_prompt %}{{ '<think>' if thinking else '<think></think>' }}{% endif %}";
        let template = of(source);
        let messages = vec![json!({"role": "user", "content": "hi"})];
        let mut chat = Chat { messages, ..Chat::default() };
        let turn = template.write(&chat).unwrap();
        assert_eq!((turn.prompt.as_str(), turn.thinks_until), ("[user]hi<think></think>", None));
        chat.values.insert("thinking".into(), true.into());
        let turn = template.write(&chat).unwrap();
        assert_eq!((turn.prompt.as_str(), turn.thinks_until.as_deref()), ("[user]hi<think>", Some("</think>")));
        // What the template has no place for is an error, and not left out.
        let messages = vec![json!({"role": "user", "content": "hi"})];
        let tools = vec![json!({"type": "function", "function": {"name": "f"}})];
        let error = of("{{ messages[0].content }}").write(&Chat { messages, tools, ..Chat::default() }).err().unwrap();
        assert!(error.contains("`tools`"), "{error}");
        // Without calls in the template, none can be forced.
        chat.tools = vec![json!({"type": "function", "function": {"name": "f"}})];
        chat.tool_choice = ToolChoice::Required;
        assert!(template.write(&chat).err().unwrap().contains("tool_choice"));
        chat.tool_choice = ToolChoice::Auto;
        let turn = template.write(&chat).unwrap();
        let mut parser = (turn.parser)();
        let mut said = parser.push("so</think>yes");
        said.extend(parser.finish());
        assert_eq!(said, [Delta::Reasoning("so".into()), Delta::Content("yes".into())]);
    }

    #[test]
    fn calls_are_forced_in_the_templates_own_syntax() {
        let source = r#"{{ messages[0].content }}{{ tools }}<tool_call>{"name": "f", "arguments": {}}</tool_call>"#;
        let template = of(source);
        let tool = |name: &str| json!({"type": "function", "function": {"name": name}});
        let mut chat = Chat {
            messages: vec![json!({"role": "user", "content": "hi"})],
            tools: vec![tool("find"), tool("stop")],
            tool_choice: ToolChoice::Required,
            ..Chat::default()
        };
        let calls = |chat: &Chat| template.write(chat).unwrap().calls.unwrap();
        let both = calls(&chat);
        assert!(both.contains("find") && both.contains("stop") && both.contains("call)*"), "{both}");
        chat.single_call = true;
        assert!(!calls(&chat).contains("call)*"));
        chat.tool_choice = ToolChoice::Named("stop".into());
        let one = calls(&chat);
        assert!(!one.contains("find") && one.contains("stop"), "{one}");
    }
}
