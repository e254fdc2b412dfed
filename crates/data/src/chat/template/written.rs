//! Prompts in which nothing is missing. Templates leave out what they do not know, such as the messages of a developer
//! or tools, and say nothing. The model then answers another question than the one that was asked.

use super::probe::{map, with};
use super::{ChatRequest, ChatTemplate, Rendered};
use crate::error::Result;
use minijinja::Value;
use minijinja::value::ValueKind;

impl ChatTemplate {
    /// Writes a prompt as [`render`](Self::render) does. A template that knows no developer gets the developer's
    /// messages as the system's.
    ///
    /// # Errors
    /// Also if the template leaves out the content of a message, or the tools. Messages of the assistant are not
    /// checked: templates leave out old thoughts on purpose.
    pub fn render_all(&self, request: &ChatRequest) -> Result<Rendered> {
        let request = self.known_roles(request.clone())?;
        let rendered = self.render(&request)?;
        self.check_written(&request, &rendered.text)?;
        Ok(rendered)
    }

    /// Checks that nothing of a request with [known roles](Self::known_roles) is missing in its prompt.
    pub(in crate::chat) fn check_written(&self, request: &ChatRequest, prompt: &str) -> Result<()> {
        if let Some(i) = self.missing_message(request, prompt) {
            let role = field(&request.messages[i], "role");
            let role = role.as_str().unwrap_or_default();
            return Err(self.refused(format!(
                "it has no place for `messages[{i}]`, of the role `{role}`: leave it out, or give it to another role"
            )));
        }
        if !request.tools.is_empty() {
            let bare = ChatRequest { tools: Vec::new(), ..request.clone() };
            if self.render(&bare).is_ok_and(|bare| bare.text == prompt) {
                let problem = "it has no place for `tools`: leave them out, or give the model a template that has one \
                               (`--chat-template FILE`, or `data.template` in a recipe)";
                return Err(self.refused(problem.into()));
            }
        }
        Ok(())
    }

    /// The first message with a content that does not arrive in the prompt. A mark is added to each content, and all
    /// marks must arrive. They have letters and digits alone, which no template quotes.
    fn missing_message(&self, request: &ChatRequest, prompt: &str) -> Option<usize> {
        let mut salts = (0..=prompt.len()).map(|salt| format!("mark{salt}n"));
        let salt = salts.find(|salt| !prompt.contains(salt))?;
        let mark = |i: usize| format!("{salt}{i}m");
        let is_checked = |message: &Value| {
            field(message, "role").as_str() != Some("assistant") && !is_empty(&field(message, "content"))
        };
        let mut with_marks = request.clone();
        for (i, message) in with_marks.messages.iter_mut().enumerate().filter(|(_, message)| is_checked(message)) {
            let content = marked(&field(message, "content"), &mark(i));
            *message = with(message, "content", content);
        }
        // A template that reads a content as JSON or a number fails on the mark. It does not leave the content out.
        let with_marks = self.render(&with_marks).ok()?.text;
        request.messages.iter().enumerate().position(|(i, m)| is_checked(m) && !with_marks.contains(&mark(i)))
    }

    /// The request at one time, with roles that the template may know.
    pub(in crate::chat) fn known_roles(&self, mut request: ChatRequest) -> Result<ChatRequest> {
        request.now = Some(request.time());
        if !self.source(&request)?.contains("developer") {
            for message in &mut request.messages {
                if field(message, "role").as_str() == Some("developer") {
                    *message = with(message, "role", "system".into());
                }
            }
        }
        Ok(request)
    }
}

/// A field of a message. It is undefined if there is none.
fn field(message: &Value, name: &str) -> Value {
    message.get_attr(name).unwrap_or_default()
}

/// Whether a content is missing or has only white space. A list of parts has something.
fn is_empty(content: &Value) -> bool {
    match content.kind() {
        ValueKind::String => content.as_str().unwrap_or_default().trim().is_empty(),
        ValueKind::Seq => content.len() == Some(0),
        _ => true,
    }
}

/// A content with a mark at its end.
fn marked(content: &Value, mark: &str) -> Value {
    if let Some(text) = content.as_str() {
        return Value::from(format!("{text}{mark}"));
    }
    let part = map([("type", Value::from("text")), ("text", Value::from(mark))]);
    content.try_iter().into_iter().flatten().chain([part]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn request(messages: serde_json::Value, tools: serde_json::Value) -> ChatRequest {
        serde_json::from_value(json!({"messages": messages, "tools": tools})).unwrap()
    }

    fn written(source: &str, request: &ChatRequest) -> std::result::Result<String, String> {
        let template = ChatTemplate::from_source(source, &[]).unwrap();
        template.render_all(request).map(|rendered| rendered.text).map_err(|error| error.to_string())
    }

    #[test]
    fn what_a_template_leaves_out_is_an_error() {
        let source = "{% for m in messages %}{% if m.role == 'user' or m.role == 'system' %}[{{ m.role }}]{{ m.content | trim }}\
                      {% elif m.role == 'assistant' %}{{ m.content.split('</think>') | last }}{% endif %}{% endfor %}";
        let said = json!([
            {"role": "developer", "content": "be brief"}, {"role": "user", "content": " hi "},
            {"role": "assistant", "content": "hm</think>yes"}, {"role": "user", "content": ""},
        ]);
        assert_eq!(written(source, &request(said, json!([]))).unwrap(), "[system]be brief[user]hiyes[user]");
        let result = json!([{"role": "user", "content": "3"}, {"role": "tool", "content": "3"}]);
        let error = written(source, &request(result, json!([]))).unwrap_err();
        assert!(error.contains("`messages[1]`") && error.contains("`tool`"), "{error}");
        let tools = json!([{"type": "function", "function": {"name": "find"}}]);
        let error = written(source, &request(json!([{"role": "user", "content": "find"}]), tools.clone())).unwrap_err();
        assert!(error.contains("`tools`"), "{error}");

        // Contents may be quoted or read as JSON, and a developer may be known.
        let source = "{% for m in messages %}{{ m.role }}{{ m.content | tojson }}{% endfor %}{{ tools | tojson }}{# developer #}";
        let quoted = request(json!([{"role": "developer", "content": "a \"b\""}]), tools);
        assert!(written(source, &quoted).unwrap().starts_with(r#"developer"a \"b\"""#));
        let source = "{% for m in messages %}{{ m.content | int + 1 }}{% endfor %}";
        assert_eq!(written(source, &request(json!([{"role": "tool", "content": "1"}]), json!([]))).unwrap(), "2");
    }
}
