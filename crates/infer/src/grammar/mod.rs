//! Grammars: which text a continuation may be. A JSON schema, a regular expression or a context-free grammar becomes a
//! [`Constraint`]. Before each draw, the logits of tokens that the grammar does not allow become minus infinity. The
//! `llguidance` crate computes which tokens these are.
//!
//! The vocabulary is a tree of the tokens' bytes. It is built once per tokenizer ([`Grammars`]) and shared by all
//! constraints. Special tokens are not text, so a grammar never allows them unless it names them. At its end it allows
//! the tokens that end a text.
//!
//! A grammar may come from an attacker. Its size and nesting are limited, and so is the work for building it and for
//! each token. It is built on a thread with a large stack, because the builder calls itself for nested parts.

#[cfg(test)]
mod calls_tests;
mod constraint;
#[cfg(test)]
mod tests;

pub use constraint::Constraint;
pub(crate) use constraint::Follower;
use hadal_data::Tokenizer;
use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};
use std::sync::Arc;

/// Longest regular expression, also inside of a JSON schema, in bytes. The time to build one grows with its square.
const LONGEST_REGEX: usize = 1 << 14;
/// Longest message of the builder that an error repeats, in bytes. It may quote the grammar.
const LONGEST_MESSAGE: usize = 600;
/// Most brackets inside one another.
const MOST_NESTED: usize = 200;
/// Most white space at one place of JSON: some levels of a layout.
const MOST_SPACE: usize = 64;
/// Stack of the thread that builds a grammar. Only what is used of it takes memory.
const STACK: usize = 1 << 28;
/// Longest token that the tree of the vocabulary can hold, in bytes. Longer ones are never allowed.
const LONGEST_TOKEN: usize = 1000;
/// Most nodes of that tree.
const MOST_NODES: usize = (1 << 22) - 1;

/// A description of the text that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grammar {
    /// JSON that a JSON schema allows. The schema's text.
    JsonSchema(String),
    /// Text that matches a regular expression as a whole, in the syntax of the `regex` crate.
    Regex(String),
    /// Text of a context-free grammar in `llguidance`'s variant of Lark's syntax.
    Lark(String),
}

impl Grammar {
    /// Its kind, as messages name it.
    fn kind(&self) -> &'static str {
        match self {
            Self::JsonSchema(_) => "JSON schema",
            Self::Regex(_) => "regular expression",
            Self::Lark(_) => "grammar",
        }
    }

    /// Most bytes of its text that are read.
    fn most(&self) -> usize {
        match self {
            Self::JsonSchema(_) => 1 << 18,
            Self::Regex(_) => LONGEST_REGEX,
            Self::Lark(_) => 1 << 16,
        }
    }

    /// Its text.
    fn source(&self) -> &str {
        let (Self::JsonSchema(source) | Self::Regex(source) | Self::Lark(source)) = self;
        source
    }
}

/// Why a grammar cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrammarError {
    /// Its text is too long.
    #[error("the {kind} has {bytes} bytes, and at most {most} are read: shorten it")]
    Large {
        /// What it is.
        kind: &'static str,
        /// Its length.
        bytes: usize,
        /// The limit.
        most: usize,
    },
    /// Its brackets are nested too deeply.
    #[error("the {kind} has more than {MOST_NESTED} brackets inside one another: nest less")]
    Nested {
        /// What it is.
        kind: &'static str,
    },
    /// It has a mistake, uses something that is not supported, or needs too much work.
    #[error("the {kind} cannot be used: {problem}")]
    Wrong {
        /// What it is.
        kind: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// Grammars do not work with this tokenizer.
    #[error("the tokenizer cannot be used with grammars: {0}")]
    Vocabulary(String),
}

/// Makes constraints for one tokenizer.
pub struct Grammars {
    factory: ParserFactory,
    /// Tokens that end a text.
    ends: Arc<[u32]>,
}

impl Grammars {
    /// For a model whose vocabulary has `vocabulary` tokens, at least as many as the tokenizer. The tokens `ends` end a
    /// text.
    ///
    /// # Errors
    /// If the vocabulary is too large.
    pub fn new(tokenizer: &Tokenizer, vocabulary: usize, ends: &[u32]) -> Result<Self, GrammarError> {
        let words: Vec<Vec<u8>> = (0..vocabulary as u32).map(|id| word(tokenizer, id)).collect();
        let nodes: usize = words.iter().map(Vec::len).sum();
        if nodes > MOST_NODES {
            let problem = format!("its tokens have {nodes} bytes together, and at most {MOST_NODES} are supported");
            return Err(GrammarError::Vocabulary(problem));
        }
        let ends: Vec<u32> = ends.iter().copied().filter(|end| (*end as usize) < vocabulary).collect();
        let first = ends.first().copied().unwrap_or(llguidance::toktrie::INVALID_TOKEN);
        let mut trie = TokTrie::from(&TokRxInfo::new(vocabulary as u32, first), &words);
        if !ends.is_empty() {
            trie = trie.with_eos_tokens(&ends);
        }
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new_simple(&env).map_err(|e| GrammarError::Vocabulary(e.to_string()))?;
        factory.quiet().limits_mut().verbose_errors = false;
        Ok(Self { factory, ends: ends.into() })
    }

    /// Builds a grammar.
    ///
    /// # Errors
    /// If it has a mistake, uses something that is not supported, or is too large.
    pub fn constraint(&self, grammar: &Grammar) -> Result<Constraint, GrammarError> {
        let (kind, source, most) = (grammar.kind(), grammar.source(), grammar.most());
        if source.len() > most {
            return Err(GrammarError::Large { kind, bytes: source.len(), most });
        }
        if nesting(source) > MOST_NESTED {
            return Err(GrammarError::Nested { kind });
        }
        let wrong = |problem: &dyn std::fmt::Display| GrammarError::Wrong { kind, problem: tidy(&problem.to_string()) };
        let top = match grammar {
            Grammar::JsonSchema(schema) => {
                let mut schema = serde_json::from_str(schema).map_err(|e| wrong(&e))?;
                let bytes = longest_text(&schema);
                if bytes > LONGEST_REGEX {
                    return Err(GrammarError::Large { kind: "text in the JSON schema", bytes, most: LONGEST_REGEX });
                }
                limit_space(&mut schema);
                TopLevelGrammar::from_json_schema(schema)
            }
            Grammar::Regex(regex) => TopLevelGrammar::from_regex(regex),
            Grammar::Lark(lark) => TopLevelGrammar::from_lark(lark.clone()),
        };
        let build = || self.factory.create_parser(top);
        let built = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, build);
            thread.map(std::thread::ScopedJoinHandle::join)
        });
        let parser = match built {
            Ok(Ok(parser)) => parser.map_err(|e| wrong(&format_args!("{e:#}")))?,
            Ok(Err(_)) => return Err(wrong(&"the builder failed")),
            Err(error) => return Err(wrong(&format_args!("no thread could be started for it ({error})"))),
        };
        let matcher = Matcher::new(Ok(parser));
        match matcher.get_error() {
            Some(error) => Err(wrong(&error)),
            None => {
                Ok(Constraint::new(matcher, Arc::clone(&self.ends), self.factory.tok_env().tok_trie().vocab_size()))
            }
        }
    }
}

/// Limits white space in the JSON, unless the schema says what may stand there. Otherwise a model may write white space
/// for ever.
fn limit_space(schema: &mut Value) {
    if let Value::Object(keys) = schema {
        let space = format!(r"[ \t\r\n]{{1,{MOST_SPACE}}}");
        keys.entry("x-guidance").or_insert_with(|| json!({"whitespace_pattern": space}));
    }
}

/// The bytes of a token in the tree. Special tokens have a mark in front that no text has.
fn word(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    let bytes = tokenizer.token_bytes(id);
    if bytes.len() > LONGEST_TOKEN || bytes.is_empty() {
        return Vec::new();
    }
    let mark = tokenizer.is_special(id).then_some(TokTrie::SPECIAL_TOKEN_MARKER);
    mark.into_iter().chain(bytes.iter().copied()).collect()
}

/// How many brackets of a text are open at most. Brackets inside of strings count as well.
fn nesting(source: &str) -> usize {
    let (mut open, mut most) = (0usize, 0);
    for byte in source.bytes() {
        match byte {
            b'(' | b'[' | b'{' => open += 1,
            b')' | b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        most = most.max(open);
    }
    most
}

/// Length of the longest text that is a value in a JSON document, in bytes. It may be a regular expression.
fn longest_text(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(all) => all.iter().map(longest_text).max().unwrap_or(0),
        Value::Object(all) => all.iter().map(|(key, value)| key.len().max(longest_text(value))).max().unwrap_or(0),
        _ => 0,
    }
}

/// A message of the builder without its traces and without most of the grammar that it quotes.
fn tidy(message: &str) -> String {
    let end = ["\n<backtrace>", "\n<non-verbose/>"].iter().filter_map(|mark| message.find(mark)).min();
    let message = message[..end.unwrap_or(message.len())].trim();
    if let Some(panic) = message.strip_prefix("panic: ") {
        return format!("it is beyond what the builder can do ({panic})");
    }
    match message.floor_char_boundary(LONGEST_MESSAGE) {
        end if end < message.len() => format!("{} ...", &message[..end]),
        _ => message.to_owned(),
    }
}
