//! What a task file says, checked: the second of two phases. The first ([`crate::file`]) reads what is written.
//!
//! The keys are those of lm-evaluation-harness 0.4.13. Beside them stand ours: `checker`, `reward` and `generator`.

use std::path::PathBuf;

use serde_json::Value;

use super::keys::Keys;
use crate::error::{Place, Result, TaskError};
use crate::file::{Node, Yaml};
use crate::filter::Pipeline;
use crate::metric::{Aggregation, Metric, MetricKind, distinct};

/// What a task asks of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputType {
    /// The log-likelihood of one continuation.
    Loglikelihood,
    /// The log-likelihood of the whole text.
    LoglikelihoodRolling,
    /// The log-likelihoods of several continuations, of which one is right.
    MultipleChoice,
    /// Generated text.
    GenerateUntil,
}

/// A key whose value is a field, a template or a constant, with the place where it stands.
#[derive(Clone, Debug)]
pub struct Source {
    /// What is written.
    pub node: Node,
    /// The key.
    pub key: &'static str,
}

/// Where documents come from.
#[derive(Clone, Debug)]
pub enum Documents {
    /// Local files, by the name of their split.
    Files {
        /// Name of the split and its files.
        splits: Vec<(String, Vec<PathBuf>)>,
        /// The field that holds the array, in `.json` files.
        field: Option<String>,
        /// Where the files are named.
        place: Place,
    },
    /// A synthetic family.
    Generator {
        /// What is written under `generator`.
        node: Node,
    },
}

/// The settings of few-shot examples. They begin as those of the task.
#[derive(Clone, Debug)]
pub struct Fewshot {
    /// The split they come from.
    pub split: Option<String>,
    /// Examples that stand in the file itself.
    pub samples: Option<Vec<Node>>,
    /// The question.
    pub text: Source,
    /// The answer.
    pub target: Source,
    /// The choices.
    pub choice: Option<Source>,
    /// What the answer begins with.
    pub gen_prefix: Option<Source>,
    /// What stands between examples.
    pub fewshot_delimiter: String,
    /// What stands between question and answer.
    pub target_delimiter: String,
}

/// A task file's settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// The task's name.
    pub task: String,
    /// The name to show.
    pub alias: Option<String>,
    /// Where the file begins.
    pub place: Place,
    /// Where documents come from.
    pub documents: Documents,
    /// Name of the split to train on.
    pub training_split: Option<String>,
    /// Name of the split for validation.
    pub validation_split: Option<String>,
    /// Name of the split for tests.
    pub test_split: Option<String>,
    /// What is asked of the model.
    pub output: OutputType,
    /// The question.
    pub text: Source,
    /// The answer.
    pub target: Source,
    /// The choices.
    pub choice: Option<Source>,
    /// What stands before the examples.
    pub description: Option<Source>,
    /// What the answer begins with.
    pub gen_prefix: Option<Source>,
    /// What stands between question and answer.
    pub target_delimiter: String,
    /// The number of examples.
    pub num_fewshot: usize,
    /// The settings of examples.
    pub fewshot: Fewshot,
    /// How text is generated.
    pub generation: Generation,
    /// How many answers are generated for each question.
    pub repeats: usize,
    /// How answers are cut down before they are scored.
    pub filters: Vec<Pipeline>,
    /// How answers are scored.
    pub metrics: Vec<Metric>,
    /// The metric that is the reward in reinforcement learning.
    pub reward: Option<String>,
    /// What is written under `checker`.
    pub checker: Option<Node>,
    /// The version that the file states.
    pub version: Option<Value>,
}

/// How text is generated.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// Strings that end the text.
    pub until: Vec<String>,
    /// The most tokens.
    pub max_tokens: usize,
    /// The sampling temperature. 0 takes the most likely token.
    pub temperature: f64,
    /// Nucleus sampling.
    pub top_p: Option<f64>,
    /// Sampling among the most likely tokens.
    pub top_k: Option<usize>,
}

/// Keys that are read.
const KEYS: [&str; 30] = [
    "task",
    "task_alias",
    "dataset_path",
    "dataset_name",
    "dataset_kwargs",
    "training_split",
    "validation_split",
    "test_split",
    "fewshot_split",
    "fewshot_config",
    "num_fewshot",
    "doc_to_text",
    "doc_to_target",
    "doc_to_choice",
    "doc_to_image",
    "doc_to_audio",
    "description",
    "gen_prefix",
    "target_delimiter",
    "fewshot_delimiter",
    "output_type",
    "generation_kwargs",
    "repeats",
    "filter_list",
    "metric_list",
    "use_prompt",
    "checker",
    "reward",
    "generator",
    "include",
];

/// Keys whose values are Python.
const PYTHON: [&str; 4] = ["process_docs", "process_results", "custom_dataset", "class"];

/// Keys that change nothing here: names for tables, and searches for contamination.
const IGNORED: [&str; 6] =
    ["tag", "metadata", "should_decontaminate", "doc_to_decontamination_query", "unsafe_code", "group"];

impl Config {
    /// Checks a task file. `folder` is where the program looks for data files first.
    pub fn of(node: &Node, data: Option<&std::path::Path>) -> Result<Self> {
        let mut keys = Keys::new(node, "")?;
        keys.only(&[&KEYS[..], &PYTHON, &IGNORED].concat())?;
        let task = match keys.node("task")?.map(|node| &node.yaml) {
            Some(Yaml::Text(name)) => name.clone(),
            Some(_) => {
                return Err(keys.wrong("task", "give the task's name; a group has `group` beside its list of tasks"));
            }
            None => return Err(keys.wrong("task", "is missing; give the task a name")),
        };
        for key in ["doc_to_image", "doc_to_audio"] {
            keys.refuse(key, "only text is supported")?;
        }
        for key in PYTHON {
            keys.refuse(key, "needs Python, which task files may not run; use templates or `checker:`")?;
        }
        keys.refuse("use_prompt", "promptsource is not supported; write the template into `doc_to_text`")?;
        keys.ignore(&IGNORED);
        let version = keys.node("metadata")?.and_then(|node| node.get("version")).map(Node::json);
        let output = output_type(&mut keys)?;
        let documents = documents(&mut keys, data)?;
        let source = |keys: &mut Keys, key: &'static str| -> Result<Option<Source>> {
            Ok(keys.node(key)?.map(|n| Source { node: n.clone(), key }))
        };
        let generated = matches!(documents, Documents::Generator { .. });
        let field = |keys: &Keys, key: &'static str, name: &str| {
            let node = Node { yaml: Yaml::Text(name.to_owned()), place: keys.place().clone() };
            generated.then_some(Source { node, key })
        };
        let missing = |keys: &Keys, key| keys.wrong(key, "is missing; name a field or write a template");
        let rolling = output == OutputType::LoglikelihoodRolling;
        let empty =
            || Source { node: Node { yaml: Yaml::Text(String::new()), place: node.place.clone() }, key: "doc_to_text" };
        let text = source(&mut keys, "doc_to_text")?.or_else(|| field(&keys, "doc_to_text", "question"));
        let text = text.or_else(|| rolling.then(empty)).ok_or_else(|| missing(&keys, "doc_to_text"))?;
        let target = source(&mut keys, "doc_to_target")?.or_else(|| field(&keys, "doc_to_target", "answer"));
        let target = target.ok_or_else(|| missing(&keys, "doc_to_target"))?;
        let choice = source(&mut keys, "doc_to_choice")?;
        if output == OutputType::MultipleChoice && choice.is_none() {
            return Err(missing(&keys, "doc_to_choice"));
        }
        let description = source(&mut keys, "description")?;
        let gen_prefix = source(&mut keys, "gen_prefix")?;
        let target_delimiter = keys.text("target_delimiter")?.unwrap_or_else(|| " ".to_owned());
        let fewshot_delimiter = keys.text("fewshot_delimiter")?.unwrap_or_else(|| "\n\n".to_owned());
        let num_fewshot = keys.count("num_fewshot")?.unwrap_or(0);
        let defaults = Fewshot {
            split: keys.text("fewshot_split")?,
            samples: None,
            text: text.clone(),
            target: target.clone(),
            choice: choice.clone(),
            gen_prefix: gen_prefix.clone(),
            fewshot_delimiter: fewshot_delimiter.clone(),
            target_delimiter: target_delimiter.clone(),
        };
        let fewshot = fewshot(&mut keys, defaults, num_fewshot)?;
        let splits = ["training_split", "validation_split", "test_split"];
        let [training_split, validation_split, test_split] =
            [keys.text(splits[0])?, keys.text(splits[1])?, keys.text(splits[2])?];
        let generation = generation(&mut keys, &fewshot_delimiter)?;
        let repeats = keys.count("repeats")?.unwrap_or(1);
        if repeats == 0 {
            return Err(keys.wrong("repeats", "give a number from 1 up"));
        }
        let checker = keys.node("checker")?.cloned();
        // A synthetic family has a checker of its own.
        let checked = checker.is_some() || generated && output == OutputType::GenerateUntil;
        let filters = Pipeline::list(&mut keys, checked)?;
        let metrics = metrics(&mut keys, output, checked)?;
        let reward = keys.text("reward")?;
        if let Some(reward) = &reward
            && !metrics.iter().any(|metric| metric.name == *reward)
        {
            let names: Vec<&str> = metrics.iter().map(|metric| metric.name.as_str()).collect();
            return Err(
                keys.wrong("reward", &format!("there is no metric `{reward}`; name one of: {}", names.join(", ")))
            );
        }
        let alias = keys.text("task_alias")?;
        Ok(Self {
            task,
            alias,
            place: node.place.clone(),
            documents,
            training_split,
            validation_split,
            test_split,
            output,
            text,
            target,
            choice,
            description,
            gen_prefix,
            target_delimiter,
            num_fewshot,
            fewshot,
            generation,
            repeats,
            filters,
            metrics,
            reward,
            checker,
            version,
        })
    }
}

fn output_type(keys: &mut Keys) -> Result<OutputType> {
    match keys.text("output_type")?.as_deref() {
        None | Some("generate_until") => Ok(OutputType::GenerateUntil),
        Some("loglikelihood") => Ok(OutputType::Loglikelihood),
        Some("loglikelihood_rolling") => Ok(OutputType::LoglikelihoodRolling),
        Some("multiple_choice") => Ok(OutputType::MultipleChoice),
        Some(other) => Err(keys.wrong(
            "output_type",
            &format!("`{other}` is not one of: loglikelihood, loglikelihood_rolling, multiple_choice, generate_until"),
        )),
    }
}

/// `dataset_path: json` with `dataset_kwargs.data_files`, or our `generator`.
fn documents(keys: &mut Keys, data: Option<&std::path::Path>) -> Result<Documents> {
    let path = keys.text("dataset_path")?;
    keys.ignore(&["dataset_name"]);
    let kwargs = keys.node("dataset_kwargs")?;
    if let Some(generator) = keys.node("generator")? {
        if path.is_some() {
            return Err(
                keys.wrong("dataset_path", "a task has either `dataset_path` or `generator`; remove one of them")
            );
        }
        return Ok(Documents::Generator { node: generator.clone() });
    }
    match path.as_deref() {
        Some("json" | "parquet") => {}
        Some(other) => {
            return Err(keys.wrong(
                "dataset_path",
                &format!(
                    "`{other}` would have to be downloaded; save it as .jsonl or .parquet, and give `dataset_path: json` with \
                     `dataset_kwargs: {{data_files: {{test: FILE}}}}`"
                ),
            ));
        }
        None => return Err(keys.wrong("dataset_path", "is missing; give `json`, or a `generator`")),
    }
    let Some(kwargs) = kwargs else {
        return Err(keys.wrong("dataset_kwargs", "is missing; give `data_files` with a file for each split"));
    };
    let mut inner = Keys::new(kwargs, "dataset_kwargs.")?;
    inner.ignore(&["trust_remote_code", "cache_dir", "features"]);
    let field = inner.text("field")?;
    let Some(files) = inner.node("data_files")? else {
        return Err(inner.wrong("data_files", "is missing; give a file for each split"));
    };
    let resolve = |name: &str| {
        let beside = files.place.file.parent().unwrap_or(std::path::Path::new("")).join(name);
        let given = data.map(|folder| folder.join(name));
        [given, Some(beside.clone())]
            .into_iter()
            .flatten()
            .find(|path| path.exists())
            .unwrap_or_else(|| if std::path::Path::new(name).exists() { PathBuf::from(name) } else { beside })
    };
    let names = |node: &Node| {
        let text = |node: &Node| match &node.yaml {
            Yaml::Text(name) => Some(resolve(name)),
            _ => None,
        };
        match &node.yaml {
            Yaml::List(items) => items.iter().map(text).collect::<Option<Vec<_>>>(),
            _ => text(node).map(|path| vec![path]),
        }
    };
    let wrong = || inner.wrong("data_files", "give the name of a file, a list of them, or a mapping of splits to them");
    let splits = match &files.yaml {
        Yaml::Map(entries) => entries
            .iter()
            .map(|e| Some((e.key.clone(), names(&e.value)?)))
            .collect::<Option<Vec<_>>>()
            .ok_or_else(wrong)?,
        // A file without a split is the split `train`.
        _ => vec![("train".to_owned(), names(files).ok_or_else(wrong)?)],
    };
    let place = files.place.clone();
    inner.finish()?;
    Ok(Documents::Files { splits, field, place })
}

fn fewshot(keys: &mut Keys, defaults: Fewshot, shots: usize) -> Result<Fewshot> {
    let node = keys.node("fewshot_config")?;
    let sampler_missing = "examples are drawn at random by Python's generator unless `sampler: first_n` stands here";
    let Some(node) = node else {
        if shots > 0 {
            let problem = format!("is missing: {sampler_missing}; add it");
            return Err(keys.wrong("fewshot_config", &problem));
        }
        return Ok(defaults);
    };
    let mut inner = Keys::new(node, "fewshot_config.")?;
    match inner.text("sampler")?.as_deref() {
        Some("first_n") => {}
        None | Some("default") if shots == 0 => {}
        _ => return Err(inner.wrong("sampler", &format!("{sampler_missing}; add it"))),
    }
    inner.refuse("process_docs", "needs Python, which task files may not run")?;
    inner
        .refuse("fewshot_indices", "`first_n` does not read it; put the examples in order into a file or `samples`")?;
    let samples = match inner.node("samples")? {
        None => None,
        Some(Node { yaml: Yaml::List(items), .. }) => Some(items.clone()),
        Some(_) => return Err(inner.wrong("samples", "give a list of documents")),
    };
    let mut source = |key: &'static str, default: Option<Source>| {
        Ok::<_, TaskError>(inner.node(key)?.map(|n| Source { node: n.clone(), key }).or(default))
    };
    let fallback = defaults.clone();
    let result = Fewshot {
        text: source("doc_to_text", Some(defaults.text))?.unwrap_or(fallback.text),
        target: source("doc_to_target", Some(defaults.target))?.unwrap_or(fallback.target),
        choice: source("doc_to_choice", defaults.choice)?,
        gen_prefix: source("gen_prefix", defaults.gen_prefix)?,
        split: inner.text("split")?.or(defaults.split),
        samples,
        fewshot_delimiter: inner.text("fewshot_delimiter")?.unwrap_or(defaults.fewshot_delimiter),
        target_delimiter: inner.text("target_delimiter")?.unwrap_or(defaults.target_delimiter),
    };
    inner.finish()?;
    Ok(result)
}

fn generation(keys: &mut Keys, fewshot_delimiter: &str) -> Result<Generation> {
    let default = Generation {
        until: vec![fewshot_delimiter.to_owned()],
        max_tokens: 256,
        temperature: 0.0,
        top_p: None,
        top_k: None,
    };
    let Some(node) = keys.node("generation_kwargs")? else { return Ok(default) };
    let mut inner = Keys::new(node, "generation_kwargs.")?;
    let until = inner.texts("until")?.unwrap_or(default.until);
    let mut max_tokens = default.max_tokens;
    for key in ["max_gen_toks", "max_tokens", "max_new_tokens"] {
        max_tokens = inner.count(key)?.unwrap_or(max_tokens);
    }
    let temperature = inner.float("temperature")?;
    let sample = inner.bool("do_sample")?;
    let (top_p, top_k) = (inner.float("top_p")?, inner.count("top_k")?);
    if temperature.is_some_and(|t| t.is_nan() || t < 0.0) {
        return Err(inner.wrong("temperature", "give a number from 0 up"));
    }
    let temperature = match (sample, temperature) {
        (Some(false), _) => 0.0,
        (Some(true), None) => 1.0,
        (_, temperature) => temperature.unwrap_or(0.0),
    };
    inner.finish()?;
    Ok(Generation { until, max_tokens, temperature, top_p, top_k })
}

fn metrics(keys: &mut Keys, output: OutputType, checker: bool) -> Result<Vec<Metric>> {
    let mut metrics = Vec::new();
    match keys.node("metric_list")? {
        Some(node) => {
            let Yaml::List(items) = &node.yaml else {
                return Err(keys.wrong("metric_list", "give a list of metrics"));
            };
            for item in items {
                metrics.push(Metric::read(item, output)?);
            }
            distinct(node, &metrics)?;
        }
        None if checker => {}
        None => metrics.extend(Metric::defaults(output)),
    }
    if checker {
        if output != OutputType::GenerateUntil {
            return Err(keys.wrong("checker", "only generated text can be checked; set `output_type: generate_until`"));
        }
        metrics.push(Metric {
            name: "correct".to_owned(),
            kind: MetricKind::Checker,
            aggregation: Aggregation::Mean,
            higher_is_better: true,
        });
    }
    Ok(metrics)
}
