//! How families write thoughts and calls of tools.

use crate::error::{DataError, Result};

/// How a family's models write thoughts and calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Syntax {
    /// Thoughts before the answer.
    pub thoughts: Option<Thoughts>,
    /// Calls of tools.
    pub calls: Option<CallSyntax>,
}

/// The marks around thoughts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thoughts {
    /// Before them.
    pub open: &'static str,
    /// After them.
    pub close: &'static str,
}

/// How a call is written. NAME and ARGUMENTS stand for its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallSyntax {
    /// DeepSeek-V3 and R1: `<｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME`, and the arguments as a block of code.
    DeepSeekV3,
    /// DeepSeek-V3.1: `<｜tool▁call▁begin｜>NAME<｜tool▁sep｜>ARGUMENTS<｜tool▁call▁end｜>`.
    DeepSeekV31,
    /// Kimi-K2: `<|tool_call_begin|>functions.NAME:0<|tool_call_argument_begin|>ARGUMENTS<|tool_call_end|>`.
    Kimi,
    /// GLM-4.5 and later: `<tool_call>NAME<arg_key>key</arg_key><arg_value>value</arg_value></tool_call>`.
    Glm,
    /// Hermes and Qwen: `<tool_call>{"name": NAME, "arguments": ARGUMENTS}</tool_call>`.
    Hermes,
    /// Llama 3: `{"name": NAME, "parameters": ARGUMENTS}` in place of the answer.
    Llama3,
    /// GigaChat 3: `<|function_call|>{"name": NAME, "arguments": ARGUMENTS}`.
    GigaChat,
}

const THINK: Thoughts = Thoughts { open: "<think>", close: "</think>" };
const TRIANGLES: Thoughts = Thoughts { open: "\u{25c1}think\u{25b7}", close: "\u{25c1}/think\u{25b7}" };

/// Names of the syntaxes, and what a template must contain, everything of it, to have them. The first that fits counts.
const CALLS: [(&str, &[&str], CallSyntax); 8] = [
    ("kimi-k2", &["<|tool_call_begin|>"], CallSyntax::Kimi),
    ("deepseek-v3", &["<\u{ff5c}tool\u{2581}call\u{2581}begin\u{ff5c}>", "```"], CallSyntax::DeepSeekV3),
    ("deepseek-v3.1", &["<\u{ff5c}tool\u{2581}call\u{2581}begin\u{ff5c}>"], CallSyntax::DeepSeekV31),
    ("glm-4", &["<tool_call>", "<arg_key>"], CallSyntax::Glm),
    ("gigachat-3", &["<|role_sep|>", "function"], CallSyntax::GigaChat),
    ("hermes", &["<tool_call>", "\"arguments\""], CallSyntax::Hermes),
    ("hermes", &["<tool_call>", "\\\"arguments\\\""], CallSyntax::Hermes),
    ("llama-3", &["<|start_header_id|>", "\"parameters\""], CallSyntax::Llama3),
];

impl Syntax {
    /// The syntax of a template's models. `has_token` says whether the model has a token of a name: some templates do
    /// not mention thoughts.
    pub fn recognise(template: &str, has_token: impl Fn(&str) -> bool) -> Self {
        let fits = |(_, parts, _): &&(&str, &[&str], CallSyntax)| parts.iter().all(|part| template.contains(part));
        let calls = CALLS.iter().find(fits).map(|(.., syntax)| *syntax);
        let has =
            |marks: &Thoughts| template.contains(marks.close) || (has_token(marks.open) && has_token(marks.close));
        Self { thoughts: [THINK, TRIANGLES].into_iter().find(has), calls }
    }

    /// The syntax of calls by its name, with thoughts between `<think>` and `</think>`. `none` has no calls.
    pub fn named(name: &str) -> Result<Self> {
        let thoughts = Some(THINK);
        if name == "none" {
            return Ok(Self { thoughts, calls: None });
        }
        let found = CALLS.iter().find(|(known, ..)| *known == name);
        found.map(|(.., calls)| Self { thoughts, calls: Some(*calls) }).ok_or_else(|| DataError::Option {
            key: "syntax",
            problem: format!("`{name}` is not known; use one of {}", Self::names().join(", ")),
        })
    }

    /// The names that [`named`](Self::named) knows.
    pub fn names() -> Vec<&'static str> {
        let mut names: Vec<&str> = CALLS.iter().map(|(name, ..)| *name).collect();
        names.dedup();
        names.push("none");
        names
    }

    /// The marks around the thoughts that a model may begin after a prompt: one that has neither begun nor ended them.
    pub fn may_think(&self, prompt: &str) -> Option<Thoughts> {
        let prompt = prompt.trim_end();
        self.thoughts.filter(|marks| !prompt.ends_with(marks.open) && !prompt.ends_with(marks.close))
    }

    /// The mark that ends the thoughts, if a prompt has begun them.
    pub fn thinks_until(&self, prompt: &str) -> Option<&'static str> {
        let marks = self.thoughts?;
        prompt.trim_end().ends_with(marks.open).then_some(marks.close)
    }
}

/// The marks of calls that have their name and arguments between special tokens.
#[derive(Clone, Copy)]
pub(super) struct Section {
    pub(super) open: &'static str,
    pub(super) begin: &'static str,
    pub(super) separator: &'static str,
    pub(super) end: &'static str,
    pub(super) close: &'static str,
}

/// The marks of calls that are one JSON object.
#[derive(Clone, Copy)]
pub(super) struct Object {
    /// Any of these begins an object.
    pub(super) open: &'static [&'static str],
    /// What follows an object, if anything does.
    pub(super) close: &'static str,
}

impl CallSyntax {
    pub(super) fn section(self) -> Option<Section> {
        match self {
            Self::DeepSeekV3 | Self::DeepSeekV31 => Some(Section {
                open: "<\u{ff5c}tool\u{2581}calls\u{2581}begin\u{ff5c}>",
                begin: "<\u{ff5c}tool\u{2581}call\u{2581}begin\u{ff5c}>",
                separator: "<\u{ff5c}tool\u{2581}sep\u{ff5c}>",
                end: "<\u{ff5c}tool\u{2581}call\u{2581}end\u{ff5c}>",
                close: "<\u{ff5c}tool\u{2581}calls\u{2581}end\u{ff5c}>",
            }),
            Self::Kimi => Some(Section {
                open: "<|tool_calls_section_begin|>",
                begin: "<|tool_call_begin|>",
                separator: "<|tool_call_argument_begin|>",
                end: "<|tool_call_end|>",
                close: "<|tool_calls_section_end|>",
            }),
            _ => None,
        }
    }

    pub(super) fn object(self) -> Option<Object> {
        match self {
            Self::Hermes => Some(Object { open: &["<tool_call>"], close: "</tool_call>" }),
            Self::Llama3 => Some(Object { open: &["<|python_tag|>"], close: ";" }),
            Self::GigaChat => Some(Object {
                open: &[
                    "<|function_call|>",
                    "<|message_sep|>\n\nfunction call<|role_sep|>\n",
                    "function call<|role_sep|>\n",
                ],
                close: "<|message_sep|>",
            }),
            _ => None,
        }
    }

    /// The marks after which a call may follow.
    pub(super) fn marks(self) -> Vec<&'static str> {
        match (self.section(), self.object()) {
            (Some(section), _) => vec![section.open, section.begin],
            (_, Some(object)) => object.open.to_vec(),
            _ => vec!["<tool_call>"],
        }
    }

    /// Whether the marks are special tokens. Then they end thoughts as well, since no text contains them.
    pub(super) fn ends_thoughts(self) -> bool {
        matches!(self, Self::DeepSeekV3 | Self::DeepSeekV31 | Self::Kimi | Self::GigaChat)
    }
}
