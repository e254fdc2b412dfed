//! Messages to a prompt, with the checkpoint's own template.
//!
//! Chat templates are programs in the Jinja language, written for `transformers`. `files.rs` finds them. `rewrite.rs`
//! and `python.rs` make up for what minijinja lacks. `probe.rs` finds out which form of messages a template can write.
//! `written.rs` finds out whether it left something out.
//!
//! A template is foreign code. It can only read the values it is given. Its steps, depth and output are bounded, so a
//! bad one ends with an error.

mod clock;
mod files;
mod plain;
mod probe;
mod python;
mod rewrite;
mod text;
mod tokens;
mod written;

use std::collections::BTreeMap;
use std::io::{Error as IoError, Write};
use std::ops::Range;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::value::ValueKind;
use minijinja::{Environment, ErrorKind, Value};
use serde::Deserialize;

use crate::error::{DataError, Result};
use crate::tokenizer::Tokenizer;
use files::Sources;
pub use plain::TextTemplate;
use probe::Forms;
use python::{CLOCK, Marks, RAISED};

/// Steps that every template may take, and those for each value and byte of its request. A loop over messages inside
/// a loop over messages fits easily.
const STEPS: u64 = 2_000_000;
const STEPS_PER_VALUE: u64 = 2_000;
const STEPS_PER_BYTE: u64 = 8;

/// The longest output, beside what the request's own text allows.
const OUTPUT: u64 = 16 << 20;
const OUTPUT_PER_BYTE: u64 = 16;

/// What to write as a prompt. It can be read with `serde` from the body of a request in OpenAI's form.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ChatRequest {
    /// The messages in OpenAI's form.
    pub messages: Vec<Value>,
    /// The tools that the model may call, in OpenAI's form.
    pub tools: Vec<Value>,
    /// Whether the prompt ends where the assistant's next message begins.
    pub add_generation_prompt: bool,
    /// Further values for the template, such as `thinking` or `enable_thinking`.
    #[serde(rename = "chat_template_kwargs")]
    pub values: BTreeMap<String, Value>,
    /// The name of the template, where a checkpoint has several. Without it, `tool_use` is taken if there are tools,
    /// and otherwise `default`.
    #[serde(rename = "chat_template_name")]
    pub template: Option<String>,
    /// The time for templates that ask for the date, in seconds since 1970. Without it, it is now.
    #[serde(skip)]
    pub now: Option<u64>,
}

impl ChatRequest {
    /// The time that templates are told, in seconds since 1970.
    fn time(&self) -> u64 {
        self.now.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs()))
    }
}

/// A prompt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rendered {
    /// The text. Encode it with [`Tokenizer::encode_with_special`].
    pub text: String,
    /// The bytes of the text that the template marks as written by the assistant (`{% generation %}`).
    pub generated: Vec<Range<usize>>,
}

/// The chat templates of a checkpoint.
pub struct ChatTemplate {
    templates: Vec<Compiled>,
    special: BTreeMap<String, Value>,
    origin: String,
    of_checkpoint: bool,
}

/// A template that is ready to run.
struct Compiled {
    name: String,
    source: String,
    environment: Environment<'static>,
    forms: Forms,
    /// Whether it marks the assistant's text.
    marks_answers: bool,
}

impl ChatTemplate {
    /// Reads the templates of a checkpoint's folder: `chat_template.jinja`, `additional_chat_templates/`,
    /// `chat_template.json`, or `chat_template` in `tokenizer_config.json`. If there is none, a plain template in the
    /// model's own special tokens is used; [`origin`](Self::origin) tells which.
    pub fn load(folder: &Path, tokenizer: &Tokenizer) -> Result<Self> {
        Self::load_with(folder, None, tokenizer)
    }

    /// The same with the template in `file`, if there is one, in place of the checkpoint's.
    pub fn load_with(folder: &Path, file: Option<&Path>, tokenizer: &Tokenizer) -> Result<Self> {
        Self::of(Sources::read(folder, file, tokenizer)?)
    }

    /// A template given as text, with the special tokens by role (`bos_token`, ...).
    pub fn from_source(source: &str, special: &[(&str, &str)]) -> Result<Self> {
        let special = special.iter().map(|(role, token)| ((*role).to_owned(), Value::from(*token))).collect();
        let templates = vec![("default".to_owned(), source.to_owned())];
        Self::of(Sources { templates, special, origin: "given as text".to_owned(), of_checkpoint: true })
    }

    fn of(sources: Sources) -> Result<Self> {
        let Sources { templates, special, origin, of_checkpoint } = sources;
        let mut compiled = Vec::new();
        for (name, source) in templates {
            let at = |e: &minijinja::Error| failure(&origin, e);
            let mut environment = python::environment();
            // Jinja reads every kind of line break in a source as the same.
            let source = source.replace("\r\n", "\n").replace('\r', "\n");
            let rewritten = rewrite::rewrite(&source);
            let marks_answers = rewrite::marks_answers(&rewritten);
            environment.add_template_owned("chat", rewritten).map_err(|e| at(&e))?;
            let mut template = Compiled { name, source, environment, forms: Forms::default(), marks_answers };
            template.forms = probe::forms(&template, &special);
            compiled.push(template);
        }
        Ok(Self { templates: compiled, special, origin, of_checkpoint })
    }

    /// Where the templates come from, for people.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Whether the checkpoint has it. Otherwise it is a plain one.
    pub fn is_of_checkpoint(&self) -> bool {
        self.of_checkpoint
    }

    /// The names of the templates.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.templates.iter().map(|template| template.name.as_str())
    }

    /// The source of the template that a request uses.
    pub fn source(&self, request: &ChatRequest) -> Result<&str> {
        Ok(&self.choose(request)?.source)
    }

    fn choose(&self, request: &ChatRequest) -> Result<&Compiled> {
        let find = |name: &str| self.templates.iter().find(|template| template.name == name);
        let chosen = match &request.template {
            Some(name) => find(name),
            None if request.tools.is_empty() => find("default"),
            None => find("tool_use").or_else(|| find("default")),
        };
        chosen.ok_or_else(|| {
            let names: Vec<&str> = self.names().collect();
            let wanted = request.template.as_deref().unwrap_or("default");
            self.problem(None, format!("there is no template `{wanted}`; name one of: {}", names.join(", ")))
        })
    }

    /// Whether the template of a request marks the assistant's text (`{% generation %}`).
    pub fn marks_answers(&self, request: &ChatRequest) -> Result<bool> {
        Ok(self.choose(request)?.marks_answers)
    }

    /// Writes a prompt, as `apply_chat_template` of `transformers` does.
    ///
    /// Where a template cannot write the form of a message, the message is changed first: arguments of calls from a
    /// string to an object or back, a list of text parts to one string, absent content to an empty one.
    pub fn render(&self, request: &ChatRequest) -> Result<Rendered> {
        let template = self.choose(request)?;
        let messages: Vec<Value> = request.messages.iter().map(|m| template.forms.message(m)).collect();
        let bounds = Bounds::of(request);
        template.run(&self.special, request, messages, &bounds).map_err(|e| failure(&self.origin, &e))
    }

    fn problem(&self, line: Option<usize>, problem: String) -> DataError {
        DataError::template(self.origin.as_str(), line, problem, false)
    }

    fn refused(&self, problem: String) -> DataError {
        DataError::template(self.origin.as_str(), None, problem, true)
    }
}

impl Compiled {
    /// Runs the template on messages in the form that it can write.
    fn run(
        &self,
        special: &BTreeMap<String, Value>,
        request: &ChatRequest,
        messages: Vec<Value>,
        bounds: &Bounds,
    ) -> std::result::Result<Rendered, minijinja::Error> {
        let marks = Marks::absent_from(&self.source, &messages, request);
        let mut values = special.clone();
        values.extend(request.values.iter().map(|(name, value)| (name.clone(), value.clone())));
        values.insert("messages".to_owned(), Value::from(messages));
        // `transformers` gives None where there are no tools.
        let tools = if request.tools.is_empty() { Value::from(()) } else { Value::from(request.tools.clone()) };
        values.insert("tools".to_owned(), tools);
        values.entry("documents".to_owned()).or_insert_with(|| Value::from(()));
        values.insert("add_generation_prompt".to_owned(), Value::from(request.add_generation_prompt));
        values.insert(CLOCK.to_owned(), Value::from(request.time()));
        values.extend(marks.values());
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(bounds.steps));
        let mut out = Limited { bytes: Vec::new(), limit: bounds.output };
        environment.get_template("chat")?.render_captured_to(Value::from(values), &mut out)?;
        let text = String::from_utf8(out.bytes)
            .map_err(|_| minijinja::Error::new(ErrorKind::WriteFailure, "the output is not UTF-8"))?;
        Ok(marks.remove(&text))
    }
}

/// How much a template may do for a request.
struct Bounds {
    steps: u64,
    output: u64,
}

impl Bounds {
    fn of(request: &ChatRequest) -> Self {
        let (mut values, mut bytes) = (0u64, 0u64);
        let mut open: Vec<Value> = request.messages.iter().chain(&request.tools).cloned().collect();
        open.extend(request.values.values().cloned());
        while let Some(value) = open.pop() {
            values += 1;
            bytes += value.as_str().map_or(0, str::len) as u64;
            if matches!(value.kind(), ValueKind::Seq | ValueKind::Map)
                && let Ok(items) = value.try_iter()
            {
                let map = value.kind() == ValueKind::Map;
                open.extend(items.map(|item| if map { value.get_item(&item).unwrap_or_default() } else { item }));
            }
        }
        Self {
            steps: STEPS + values.saturating_mul(STEPS_PER_VALUE) + bytes.saturating_mul(STEPS_PER_BYTE),
            output: OUTPUT + bytes.saturating_mul(OUTPUT_PER_BYTE),
        }
    }
}

/// Takes output up to a limit.
struct Limited {
    bytes: Vec<u8>,
    limit: u64,
}

impl Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if (self.bytes.len() + bytes.len()) as u64 > self.limit {
            return Err(IoError::other("the output is too long"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What went wrong in a template, with its line and what to do.
fn failure(origin: &str, error: &minijinja::Error) -> DataError {
    let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    if let Some(message) = detail.strip_prefix(RAISED) {
        let problem = format!("the template does not accept these messages: {message}; change them accordingly");
        return DataError::template(origin, error.line(), problem, true);
    }
    let problem = match error.kind() {
        ErrorKind::OutOfFuel => {
            let detail = error.detail().unwrap_or("it takes too many steps");
            format!("{detail}; use a template of the model's publisher")
        }
        ErrorKind::WriteFailure => "its output is too long; use a template of the model's publisher".to_owned(),
        ErrorKind::SyntaxError => format!("it is not valid ({detail}); copy the file again, or correct that line"),
        ErrorKind::UndefinedError | ErrorKind::InvalidOperation => {
            format!("{detail}; give the messages the fields that the template reads, or correct that line")
        }
        kind => format!("{kind}: {detail}; correct that line, or use another template"),
    };
    DataError::template(origin, error.line(), problem, false)
}

#[cfg(test)]
mod tests;
