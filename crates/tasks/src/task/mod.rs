//! A task: a benchmark's questions, what to ask of a model, and what its answers are worth.
//!
//! The same object serves evaluation and reinforcement learning:
//!
//! 1. [`Task::open`] reads the file and its documents.
//! 2. [`Task::requests`] gives what to ask for a document: text to generate, or log-likelihoods.
//! 3. The caller gets [`Answer`]s from wherever it likes: the engine, a server, a file.
//! 4. [`Task::score`] gives the scores of documents and their totals. [`Task::rewards`] gives one number for each text.
//!
//! The task never runs a model.

mod chat;
mod config;
mod context;
mod documents;
mod field;
pub(crate) mod keys;
mod literal;
mod score;

use std::path::PathBuf;

pub use chat::Chat;
pub use config::{Config, Documents, Fewshot, Generation, OutputType, Source};
pub use field::Document;
pub use score::{Answered, Outcome, Sample, Total};

use serde_json::Value;

use crate::checker::{self, Checker};
use crate::error::{Result, TaskError};
use crate::families::Generator;
use crate::file::{Node, Yaml};
use crate::metric::MetricKind;
use chat::Turn;
use context::Shots;
use field::Field;

/// Something to ask of a model.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// Generate text behind a prompt.
    Generate {
        /// The prompt.
        prompt: String,
        /// When to stop, and how to sample.
        generation: Generation,
    },
    /// The log-likelihood of a continuation behind a context.
    Likelihood {
        /// The context.
        context: String,
        /// The continuation.
        continuation: String,
    },
    /// The log-likelihood of a whole text, in windows.
    Rolling {
        /// The text.
        text: String,
    },
}

/// A model's answer to a [`Request`].
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Generated text.
    Text(String),
    /// The log-likelihood of a continuation, and whether it is what the model would generate without sampling.
    Likelihood {
        /// The sum of the log-probabilities of its tokens.
        logprob: f64,
        /// Whether each token is the most likely one.
        greedy: bool,
    },
    /// The log-likelihood of a text.
    Rolling(f64),
}

impl Answer {
    /// Generated text. A log-likelihood has none.
    pub fn text(&self) -> &str {
        match self {
            Self::Text(text) => text,
            Self::Likelihood { .. } | Self::Rolling(_) => "",
        }
    }
}

/// How a task is opened.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The folder in which data files are looked for first.
    pub data: Option<PathBuf>,
    /// The split, in place of the one that is evaluated.
    pub split: Option<String>,
    /// The number of generated documents, in place of the file's.
    pub count: Option<usize>,
    /// The number of examples, in place of the file's.
    pub num_fewshot: Option<usize>,
    /// The seed of generated documents, in place of the file's.
    pub seed: Option<u64>,
    /// The number of answers to each question, in place of the file's.
    pub repeats: Option<usize>,
    /// The most tokens of an answer, in place of the file's.
    pub max_tokens: Option<usize>,
    /// The sampling temperature, in place of the file's.
    pub temperature: Option<f64>,
    /// Nucleus sampling, in place of the file's.
    pub top_p: Option<f64>,
    /// Sampling among the most likely tokens, in place of the file's.
    pub top_k: Option<usize>,
}

impl Options {
    /// Puts the settings in place of the file's.
    fn apply(&self, config: &mut Config) {
        if self.split.is_some() {
            config.test_split.clone_from(&self.split);
        }
        config.num_fewshot = self.num_fewshot.unwrap_or(config.num_fewshot);
        config.repeats = self.repeats.unwrap_or(config.repeats);
        let generation = &mut config.generation;
        generation.max_tokens = self.max_tokens.unwrap_or(generation.max_tokens);
        generation.temperature = self.temperature.unwrap_or(generation.temperature);
        generation.top_p = self.top_p.or(generation.top_p);
        generation.top_k = self.top_k.or(generation.top_k);
    }
}

/// A task with its documents.
pub struct Task {
    config: Config,
    documents: Vec<Document>,
    fields: Fields,
    shots: Shots,
    checker: Option<Box<dyn Checker>>,
    chat: Option<Chat>,
    /// What the file says.
    written: Value,
}

#[derive(Debug)]
struct Fields {
    text: Field,
    target: Field,
    choice: Option<Field>,
    description: Option<Field>,
    gen_prefix: Option<Field>,
    /// Each choice is a question of its own.
    multiple_input: bool,
    /// Any of several answers is right.
    multiple_target: bool,
}

impl Task {
    /// Opens the task that a file describes.
    pub fn open(node: &Node, options: &Options) -> Result<Self> {
        let mut config = Config::of(node, options.data.as_deref())?;
        options.apply(&mut config);
        let generator = match &config.documents {
            Documents::Generator { node } => Some(Generator::read(node, options)?),
            Documents::Files { .. } => None,
        };
        let checker = match (&config.checker, &generator) {
            (Some(node), _) => Some(checker::read(node)?),
            (None, Some(generator)) => Some(generator.checker()),
            (None, None) => None,
        };
        let splits = [("test_split", &config.test_split), ("validation_split", &config.validation_split)];
        let Some((key, name)) = splits.iter().find_map(|(key, name)| Some((*key, name.as_ref()?))) else {
            return Err(
                config.wrong("test_split", "is missing, and so is `validation_split`; name the split to evaluate")
            );
        };
        let split = documents::split(&config, generator.as_ref(), name, key)?;
        let field = |source: &Source| Field::new(source, &split.columns);
        let maybe = |source: &Option<Source>| source.as_ref().map(field).transpose();
        let mut fields = Fields {
            text: field(&config.text)?,
            target: field(&config.target)?,
            choice: maybe(&config.choice)?,
            description: maybe(&config.description)?,
            gen_prefix: maybe(&config.gen_prefix)?,
            multiple_input: false,
            multiple_target: false,
        };
        fields.probe(&split.documents)?;
        let fewshot = &config.fewshot;
        let shots = Shots {
            text: field(&fewshot.text)?,
            target: field(&fewshot.target)?,
            choice: maybe(&fewshot.choice)?,
            gen_prefix: maybe(&fewshot.gen_prefix)?,
            fewshot_delimiter: fewshot.fewshot_delimiter.clone(),
            target_delimiter: fewshot.target_delimiter.clone(),
            documents: shots(&config, generator.as_ref())?,
            same_split: fewshot.split == config.test_split,
        };
        let available = shots.documents.len().saturating_sub(usize::from(shots.same_split));
        if config.num_fewshot > available {
            let problem = format!("asks for {} examples, but there are {available}", config.num_fewshot);
            return Err(config.wrong("num_fewshot", &problem));
        }
        let written = node.json();
        Ok(Self { config, documents: split.documents, fields, shots, checker, chat: None, written })
    }

    /// The task's name.
    pub fn name(&self) -> &str {
        &self.config.task
    }

    /// What the file says.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The keys of the file and their values, included files merged.
    pub fn written(&self) -> &Value {
        &self.written
    }

    /// How prompts become chats, if they do.
    pub fn chat(&self) -> Option<&Chat> {
        self.chat.as_ref()
    }

    /// Writes prompts as chats from now on.
    pub fn set_chat(&mut self, chat: Chat) {
        self.chat = Some(chat);
    }

    /// A number that stands for the file, the documents and the examples. It changes if they change.
    pub fn hash(&self) -> u64 {
        let documents = self.documents.iter().chain(&self.shots.documents).map(|document| &document.fields);
        let parts = [&self.written].into_iter().chain(documents);
        parts.fold(0, |hash, part| hadal_base::mix(hash ^ hadal_base::checksum(part.to_string().as_bytes())))
    }

    /// The documents that are evaluated.
    pub fn documents(&self) -> &[Document] {
        &self.documents
    }

    /// Each document as a conversation to learn from, in the form of OpenAI's messages: the description if there is one,
    /// the question, and the right answer. A model is asked the same in a chat without examples.
    pub fn conversations(&self) -> Result<Vec<Value>> {
        let conversation = |(at, document): (usize, &Document)| {
            let mut turns: Vec<Turn> = Vec::new();
            turns.extend(self.description(document, at)?.map(|text| Turn::new("system", text, "")));
            turns.extend(self.example(document, at)?);
            if turns.last().is_none_or(|turn| !turn.is_answer()) {
                return Err(self.fields.target.wrong(at, "gives no text, so there is no answer to learn"));
            }
            Ok(chat::messages(turns))
        };
        self.documents.iter().enumerate().map(conversation).collect()
    }

    /// What to ask for a document. Each request to generate is asked `repeats` times.
    pub fn requests(&self, document: usize) -> Result<Vec<Request>> {
        if self.config.output == OutputType::LoglikelihoodRolling {
            let text = self.target_text(document)?;
            return Ok(vec![Request::Rolling { text }]);
        }
        let contexts = self.contexts(document)?;
        let delimiter = self.choice_delimiter(document)?;
        let continued = |context: &str, text: &str| Request::Likelihood {
            context: context.to_owned(),
            continuation: format!("{delimiter}{text}"),
        };
        Ok(match self.config.output {
            OutputType::GenerateUntil => {
                let generation = self.config.generation.clone();
                contexts
                    .into_iter()
                    .map(|prompt| Request::Generate { prompt, generation: generation.clone() })
                    .collect()
            }
            OutputType::Loglikelihood => {
                let continuation = self.target_text(document)?;
                let context = contexts.into_iter().next().ok_or_else(|| {
                    self.fields.text.wrong(document, "gives the number of a choice, but the document has no choices")
                })?;
                vec![Request::Likelihood { context, continuation }]
            }
            _ => {
                let choices = self.choices(document)?;
                let mut requests: Vec<Request> = if self.fields.multiple_input {
                    let target = self.target_text(document)?;
                    contexts.iter().map(|context| continued(context, &target)).collect()
                } else {
                    choices.iter().map(|choice| continued(&contexts[0], choice)).collect()
                };
                if self.mutual_information() {
                    requests.extend(choices.iter().map(|choice| continued("", choice)));
                }
                requests
            }
        })
    }

    /// What stands before a choice. In a chat, the answer begins with the choice itself.
    fn choice_delimiter(&self, document: usize) -> Result<&str> {
        let written = self.chat.is_none()
            || self.gen_prefix(document)?.is_some_and(|prefix| !prefix.ends_with(char::is_whitespace));
        Ok(if written { &self.config.target_delimiter } else { "" })
    }

    /// Whether log-likelihoods of the choices alone are needed.
    fn mutual_information(&self) -> bool {
        self.config.metrics.iter().any(|metric| matches!(metric.kind, MetricKind::AccMutualInfo))
    }

    fn choices(&self, document: usize) -> Result<Vec<String>> {
        match &self.fields.choice {
            Some(choice) => choice.choices(&self.documents[document], document),
            None => Ok(Vec::new()),
        }
    }

    /// The right answer: text, the number of a choice, or a list of right answers.
    pub(crate) fn target(&self, document: usize) -> Result<Value> {
        self.fields.target.target(&self.documents[document], document, self.fields.choice.is_some())
    }

    /// The right answer as text.
    fn target_text(&self, document: usize) -> Result<String> {
        match self.target(document)? {
            Value::String(text) => Ok(text),
            Value::Number(number) if self.config.output == OutputType::MultipleChoice => Ok(number.to_string()),
            other => {
                let problem = format!("gives {}, but text is needed; write a template", field::kind(&other));
                Err(self.fields.target.wrong(document, problem))
            }
        }
    }

    fn wrong(&self, problem: String) -> TaskError {
        TaskError::Answers { task: self.config.task.clone(), problem }
    }
}

impl Config {
    fn wrong(&self, key: &str, problem: &str) -> TaskError {
        TaskError::Key { place: self.place.clone(), key: key.to_owned(), problem: problem.to_owned() }
    }
}

/// The documents that examples are taken from: the split or the samples that the file names, otherwise the training,
/// validation or test split.
fn shots(config: &Config, generator: Option<&Generator>) -> Result<Vec<Document>> {
    if config.num_fewshot == 0 {
        return Ok(Vec::new());
    }
    let fewshot = &config.fewshot;
    if let Some(name) = &fewshot.split {
        return Ok(documents::split(config, generator, name, "fewshot_split")?.documents);
    }
    if let Some(samples) = &fewshot.samples {
        let document = |sample: &Node| match (&sample.yaml, sample.json()) {
            (Yaml::Map(_), Value::Object(fields)) => Ok(Document::new(fields)),
            _ => Err(TaskError::Key {
                place: sample.place.clone(),
                key: "fewshot_config.samples".to_owned(),
                problem: "give a mapping of fields".to_owned(),
            }),
        };
        return samples.iter().map(document).collect();
    }
    let splits = [&config.training_split, &config.validation_split, &config.test_split];
    match splits.into_iter().flatten().next() {
        Some(name) => Ok(documents::split(config, generator, name, "training_split")?.documents),
        None => Ok(Vec::new()),
    }
}
