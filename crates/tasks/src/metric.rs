//! Metrics of single documents and how they are put together, as lm-evaluation-harness 0.4.13 does it.

use crate::error::{Result, TaskError};
use crate::file::{Node, Yaml};
use crate::pattern::Pattern;
use crate::stats;
use crate::task::OutputType;
use crate::task::keys::Keys;

/// A metric of a task.
#[derive(Clone, Debug)]
pub struct Metric {
    /// Its name.
    pub name: String,
    /// What it computes for a document.
    pub kind: MetricKind,
    /// What it computes for all of them.
    pub aggregation: Aggregation,
    /// Whether a larger value is a better one.
    pub higher_is_better: bool,
}

/// What a metric computes for a document.
#[derive(Clone, Debug)]
pub enum MetricKind {
    /// Whether the most likely choice is right; for one continuation, whether it is the greedy one.
    Acc,
    /// The same with log-likelihoods per character.
    AccNorm,
    /// The same with log-likelihoods per byte.
    AccBytes,
    /// The same with the log-likelihood of the choice alone taken off.
    AccMutualInfo,
    /// Whether the answer is the right text.
    ExactMatch(Box<ExactMatch>),
    /// The log-likelihood of the continuation.
    Perplexity,
    /// The log-likelihood of the text, and its number of words.
    WordPerplexity,
    /// The log-likelihood of the text, and its number of bytes.
    BytePerplexity,
    /// The log-likelihood of the text, and its number of bytes.
    BitsPerByte,
    /// What the task's checker says.
    Checker,
}

/// How values of documents become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aggregation {
    /// Their mean.
    Mean,
    /// The upper of the middle ones.
    Median,
    /// `exp(-mean)`.
    Perplexity,
    /// `exp` of minus the sum of the first parts over the sum of the second parts.
    WeightedPerplexity,
    /// The same in bits, without `exp`.
    BitsPerByte,
}

/// The value of a metric for a document.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Score {
    /// A number.
    Single(f64),
    /// A number and its weight, such as a log-likelihood and a number of bytes.
    Weighted(f64, f64),
}

/// The options of `exact_match`.
#[derive(Clone, Debug, Default)]
pub struct ExactMatch {
    regexes_to_ignore: Vec<Pattern>,
    ignore_case: bool,
    ignore_punctuation: bool,
    ignore_numbers: bool,
}

impl ExactMatch {
    /// Whether two texts are the same, but for what is ignored.
    pub fn same(&self, prediction: &str, reference: &str) -> bool {
        self.cleaned(prediction) == self.cleaned(reference)
    }

    fn cleaned(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for pattern in &self.regexes_to_ignore {
            text = pattern.replace_all(&text, "");
        }
        if self.ignore_case {
            text = text.to_lowercase();
        }
        if self.ignore_punctuation {
            text.retain(|c| !c.is_ascii_punctuation());
        }
        if self.ignore_numbers {
            text.retain(|c| !c.is_ascii_digit());
        }
        text
    }

    fn read(keys: &mut Keys) -> Result<Self> {
        let patterns = keys.texts("regexes_to_ignore")?.unwrap_or_default();
        let compile =
            |pattern: &String| Pattern::new(pattern).map_err(|problem| keys.wrong("regexes_to_ignore", &problem));
        Ok(Self {
            regexes_to_ignore: patterns.iter().map(compile).collect::<Result<_>>()?,
            ignore_case: keys.bool("ignore_case")?.unwrap_or(false),
            ignore_punctuation: keys.bool("ignore_punctuation")?.unwrap_or(false),
            ignore_numbers: keys.bool("ignore_numbers")?.unwrap_or(false),
        })
    }
}

impl Metric {
    /// The metrics of a task that names none.
    pub fn defaults(output: OutputType) -> Vec<Self> {
        let names: &[&str] = match output {
            OutputType::Loglikelihood => &["perplexity", "acc"],
            OutputType::LoglikelihoodRolling => &["word_perplexity", "byte_perplexity", "bits_per_byte"],
            OutputType::MultipleChoice => &["acc", "acc_norm"],
            OutputType::GenerateUntil => &["exact_match"],
        };
        let metric = |name: &&str| {
            let (kind, aggregation, higher_is_better) = known(name, output)?;
            Some(Self { name: (*name).to_owned(), kind, aggregation, higher_is_better })
        };
        names.iter().filter_map(metric).collect()
    }

    pub(crate) fn read(node: &Node, output: OutputType) -> Result<Self> {
        let mut keys = Keys::new(node, "metric_list.")?;
        let Some(name) = keys.text("metric")? else {
            return Err(keys.wrong("metric", "is missing; name the metric"));
        };
        let Some((mut kind, mut aggregation, higher)) = known(&name, output) else {
            let problem = format!("`{name}` is not a metric of this output type; use one of: {}", names(output));
            return Err(keys.wrong("metric", &problem));
        };
        if let MetricKind::ExactMatch(options) = &mut kind
            && output == OutputType::GenerateUntil
        {
            **options = ExactMatch::read(&mut keys)?;
        }
        if let Some(named) = keys.text("aggregation")? {
            aggregation = match named.as_str() {
                "mean" | "nanmean" => Aggregation::Mean,
                "median" => Aggregation::Median,
                "perplexity" => Aggregation::Perplexity,
                "weighted_perplexity" => Aggregation::WeightedPerplexity,
                "bits_per_byte" => Aggregation::BitsPerByte,
                other => {
                    let problem = format!(
                        "`{other}` is not known; use mean, median, perplexity, weighted_perplexity or \
                                           bits_per_byte"
                    );
                    return Err(keys.wrong("aggregation", &problem));
                }
            };
        }
        let weighted =
            matches!(kind, MetricKind::WordPerplexity | MetricKind::BytePerplexity | MetricKind::BitsPerByte);
        let wants_weights = matches!(aggregation, Aggregation::WeightedPerplexity | Aggregation::BitsPerByte);
        if weighted != wants_weights {
            let problem = format!("does not fit the metric `{name}`; leave it out");
            return Err(keys.wrong("aggregation", &problem));
        }
        let higher_is_better = keys.bool("higher_is_better")?.unwrap_or(higher);
        if keys.bool("hf_evaluate")? == Some(true) {
            return Err(keys.wrong("hf_evaluate", "metrics of the package `evaluate` need Python"));
        }
        keys.finish()?;
        Ok(Self { name, kind, aggregation, higher_is_better })
    }
}

fn names(output: OutputType) -> String {
    let all = [
        "acc",
        "acc_norm",
        "acc_bytes",
        "acc_mutual_info",
        "exact_match",
        "perplexity",
        "word_perplexity",
        "byte_perplexity",
        "bits_per_byte",
    ];
    all.into_iter().filter(|name| known(name, output).is_some()).collect::<Vec<_>>().join(", ")
}

fn known(name: &str, output: OutputType) -> Option<(MetricKind, Aggregation, bool)> {
    use MetricKind::{
        Acc, AccBytes, AccMutualInfo, AccNorm, BitsPerByte, BytePerplexity, ExactMatch, Perplexity, WordPerplexity,
    };
    use OutputType::{GenerateUntil, Loglikelihood, LoglikelihoodRolling, MultipleChoice};
    Some(match (name, output) {
        ("acc", Loglikelihood | MultipleChoice) => (Acc, Aggregation::Mean, true),
        ("acc_norm", MultipleChoice) => (AccNorm, Aggregation::Mean, true),
        ("acc_bytes", MultipleChoice) => (AccBytes, Aggregation::Mean, true),
        ("acc_mutual_info", MultipleChoice) => (AccMutualInfo, Aggregation::Mean, true),
        ("exact_match", MultipleChoice | GenerateUntil) => (ExactMatch(Box::default()), Aggregation::Mean, true),
        ("perplexity", Loglikelihood) => (Perplexity, Aggregation::Perplexity, false),
        ("word_perplexity", LoglikelihoodRolling) => (WordPerplexity, Aggregation::WeightedPerplexity, false),
        ("byte_perplexity", LoglikelihoodRolling) => (BytePerplexity, Aggregation::WeightedPerplexity, false),
        ("bits_per_byte", LoglikelihoodRolling) => (BitsPerByte, Aggregation::BitsPerByte, false),
        _ => return None,
    })
}

impl Aggregation {
    /// The value of all documents. Nothing if there are none.
    pub fn value(self, scores: &[Score]) -> Option<f64> {
        let plain = || scores.iter().map(Score::value).collect::<Vec<_>>();
        let weighted = || {
            let (sum, weight) = scores.iter().fold((0.0, 0.0), |(sum, weight), score| match score {
                Score::Weighted(value, w) => (sum + value, weight + w),
                Score::Single(value) => (sum + value, weight + 1.0),
            });
            sum / weight
        };
        if scores.is_empty() {
            return None;
        }
        Some(match self {
            Self::Mean => stats::mean(&plain()),
            Self::Median => {
                let mut values = plain();
                values.sort_by(f64::total_cmp);
                values[values.len() / 2]
            }
            Self::Perplexity => (-stats::mean(&plain())).exp(),
            Self::WeightedPerplexity => (-weighted()).exp(),
            Self::BitsPerByte => -weighted() / std::f64::consts::LN_2,
        })
    }

    /// An interval for a value that is a function of a mean or of a ratio of sums: the ends of that one's interval, put
    /// into the function. For means, [`stats::interval`] knows more.
    pub fn interval(self, scores: &[Score]) -> Option<(f64, f64)> {
        let pair = |score: &Score| match score {
            Score::Single(value) => (*value, 1.0),
            Score::Weighted(value, weight) => (*value, *weight),
        };
        let (low, high) = stats::ratio(&scores.iter().map(pair).collect::<Vec<_>>())?.interval()?;
        match self {
            Self::Mean | Self::Median => None,
            Self::Perplexity | Self::WeightedPerplexity => Some(((-high).exp(), (-low).exp())),
            Self::BitsPerByte => Some((-high / std::f64::consts::LN_2, -low / std::f64::consts::LN_2)),
        }
    }

    /// The standard error of the value, where the harness has a formula for it. (For medians and perplexities it draws
    /// samples with Python's generator. We give none.)
    pub fn standard_error(self, scores: &[Score]) -> Option<f64> {
        let values: Vec<f64> = scores.iter().map(Score::value).collect();
        (self == Self::Mean && values.len() > 1).then(|| stats::standard_error(&values))
    }
}

impl Score {
    /// The number without its weight.
    pub fn value(&self) -> f64 {
        match self {
            Self::Single(value) | Self::Weighted(value, _) => *value,
        }
    }
}

/// Checks that a list of metrics has no name twice.
pub(crate) fn distinct(node: &Node, metrics: &[Metric]) -> Result<()> {
    for (at, metric) in metrics.iter().enumerate() {
        if metrics[..at].iter().any(|other| other.name == metric.name) {
            let place = match &node.yaml {
                Yaml::List(items) => items.get(at).map_or(&node.place, |item| &item.place),
                _ => &node.place,
            };
            let problem = format!("the metric `{}` stands here twice; remove one of them", metric.name);
            return Err(TaskError::Key { place: place.clone(), key: "metric_list".to_owned(), problem });
        }
    }
    Ok(())
}
