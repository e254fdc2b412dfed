//! From answers to scores, and from scores to totals.

use serde::Serialize;
use serde_json::Value;

use super::{Answer, OutputType, Task};
use crate::checker::Case;
use crate::error::Result;
use crate::filter::{Responses, is_space};
use crate::metric::{Metric, MetricKind, Score};
use crate::stats;

/// The answers to the requests of a document.
#[derive(Clone, Debug)]
pub struct Answered {
    /// The document's number.
    pub document: usize,
    /// For each request, the answers: one, or one for each repeat.
    pub answers: Vec<Vec<Answer>>,
}

/// The scores of a document under one filter.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The document's number.
    pub document: usize,
    /// The filter's name.
    pub filter: String,
    /// What the filter left of the answers.
    pub filtered: Vec<Value>,
    /// The metrics and their values.
    pub scores: Vec<(String, Score)>,
    /// What the checker says about each answer.
    pub checks: Vec<f64>,
}

/// The value of a metric over all documents.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Total {
    /// The metric's name.
    pub metric: String,
    /// The filter's name.
    pub filter: String,
    /// The value.
    pub value: f64,
    /// Its standard error, where there is a formula.
    pub standard_error: Option<f64>,
    /// Whether a larger value is a better one.
    pub higher_is_better: bool,
    /// The number of documents.
    pub documents: usize,
}

/// All scores of a task.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The scores of each document under each filter.
    pub samples: Vec<Sample>,
    /// The totals.
    pub totals: Vec<Total>,
}

impl Outcome {
    /// The scores of a metric behind a filter, by document.
    pub fn scores(&self, metric: &str, filter: &str) -> Vec<Score> {
        scores_of(&self.samples, metric, filter)
    }
}

impl Task {
    /// Scores answers.
    pub fn score(&self, answered: &[Answered]) -> Result<Outcome> {
        let mut samples = Vec::new();
        if self.config.output == OutputType::GenerateUntil {
            for filter in &self.config.filters {
                let filtered = answered.iter().map(|one| self.filtered(filter, one)).collect::<Result<Vec<_>>>()?;
                let checks = self.checked(answered.iter().map(|one| one.document).zip(&filtered))?;
                for ((one, responses), checks) in answered.iter().zip(filtered).zip(checks) {
                    samples.push(self.text_sample(one.document, &filter.name, &responses, checks)?);
                }
            }
        } else {
            let filter = self.config.filters.first().map_or("none", |filter| filter.name.as_str());
            for one in answered {
                let scores = self.likelihood_scores(one)?;
                samples.push(Sample {
                    document: one.document,
                    filter: filter.to_owned(),
                    filtered: Vec::new(),
                    scores,
                    checks: Vec::new(),
                });
            }
        }
        let totals = self.totals(&samples);
        Ok(Outcome { samples, totals })
    }

    /// The reward of texts: the value of the metric that `reward` names, otherwise of the checker, otherwise of the first
    /// metric, behind the first filter.
    pub fn rewards(&self, texts: &[(usize, String)]) -> Result<Vec<f64>> {
        match self.values(0, texts)? {
            Some((_, values)) => Ok(values),
            None => Err(self.wrong("has no reward: its first filter needs several answers at once".to_owned())),
        }
    }

    /// The metric that rewards texts.
    fn reward(&self) -> Option<&Metric> {
        let metrics = &self.config.metrics;
        let metric = match &self.config.reward {
            Some(name) => metrics.iter().find(|metric| metric.name == *name),
            None => metrics.iter().find(|m| matches!(m.kind, MetricKind::Checker)).or_else(|| metrics.first()),
        };
        metric.filter(|_| self.config.output == OutputType::GenerateUntil)
    }

    /// What a filter left of each answer, and its reward, if the checker has seen each answer alone already.
    pub(crate) fn checked_values(&self, outcome: &Outcome, filter: usize) -> Option<(Vec<Value>, Vec<f64>)> {
        let filter = &self.config.filters[filter];
        let samples = || outcome.samples.iter().filter(|sample| sample.filter == filter.name);
        let all = self.reward().is_some_and(|metric| matches!(metric.kind, MetricKind::Checker))
            && filter.needs() == 1
            && samples().all(|sample| sample.checks.len() == self.config.repeats);
        all.then(|| {
            samples().flat_map(|sample| sample.filtered.iter().cloned().zip(sample.checks.iter().copied())).unzip()
        })
    }

    /// What a filter leaves of each text alone, and its reward. Nothing if the filter needs several answers at once.
    pub(crate) fn values(&self, filter: usize, texts: &[(usize, String)]) -> Result<Option<(Vec<Value>, Vec<f64>)>> {
        let Some(metric) = self.reward() else {
            return Err(self.wrong("has no reward: only generated text has one; add `checker:`".to_owned()));
        };
        let filter = &self.config.filters[filter];
        if filter.needs() > 1 {
            return Ok(None);
        }
        let one = |(document, text): &(usize, String)| {
            let answered = Answered { document: *document, answers: vec![vec![Answer::Text(text.clone())]] };
            self.filtered(filter, &answered)
        };
        let filtered = texts.iter().map(one).collect::<Result<Vec<_>>>()?;
        let values = if matches!(metric.kind, MetricKind::Checker) {
            let checks = self.checked(texts.iter().map(|(document, _)| *document).zip(&filtered))?;
            checks.iter().map(|checks| stats::mean(checks)).collect()
        } else {
            let score = |((document, _), responses): (&(usize, String), &Responses)| {
                Ok(self.exact_match(*document, metric, responses)?.value())
            };
            texts.iter().zip(&filtered).map(score).collect::<Result<_>>()?
        };
        let first = |left: &Responses| left.items().first().cloned().unwrap_or_default();
        Ok(Some((filtered.iter().map(first).collect(), values)))
    }

    /// The answers to a document's only request, filtered.
    fn filtered(&self, filter: &crate::filter::Pipeline, one: &Answered) -> Result<Responses> {
        self.check_number(one)?;
        let [answers] = one.answers.as_slice() else {
            return Err(self.wrong(format!("document {} has one request, not {}", one.document, one.answers.len())));
        };
        let text = |answer: &Answer| match answer {
            Answer::Text(text) => Ok(text.clone()),
            _ => Err(self.wrong(format!("document {} wants text, not a log-likelihood", one.document))),
        };
        let texts = answers.iter().map(text).collect::<Result<Vec<_>>>()?;
        let document = &self.documents[one.document].fields;
        filter.apply(texts, document).map_err(|problem| self.wrong(format!("filter `{}`: {problem}", filter.name)))
    }

    fn check_number(&self, one: &Answered) -> Result<()> {
        if one.document >= self.documents.len() || one.answers.iter().any(Vec::is_empty) {
            return Err(self.wrong(format!("there is no document {}, or it has no answer", one.document)));
        }
        Ok(())
    }

    /// What the checker says about each answer of each document. Nothing without a checker.
    fn checked<'a>(&self, responses: impl Iterator<Item = (usize, &'a Responses)>) -> Result<Vec<Vec<f64>>> {
        let mut sizes = Vec::new();
        let mut cases = Vec::new();
        for (document, responses) in responses {
            let items = responses.items();
            sizes.push(if self.checker.is_some() { items.len() } else { 0 });
            if self.checker.is_none() {
                continue;
            }
            let target = match self.target(document)? {
                Value::String(text) => text,
                other => other.to_string(),
            };
            for item in items {
                cases.push(Case {
                    id: format!("{}/{document}/{}", self.config.task, cases.len()),
                    document: &self.documents[document].fields,
                    target: target.clone(),
                    answer: item.as_str().unwrap_or_default(),
                });
            }
        }
        let verdicts = match &self.checker {
            Some(checker) => checker.check(&cases)?,
            None => Vec::new(),
        };
        let mut verdicts = verdicts.into_iter();
        Ok(sizes.into_iter().map(|size| verdicts.by_ref().take(size).collect()).collect())
    }

    fn text_sample(&self, document: usize, filter: &str, responses: &Responses, checks: Vec<f64>) -> Result<Sample> {
        let mut scores = Vec::new();
        for metric in &self.config.metrics {
            let score = match metric.kind {
                MetricKind::Checker => Score::Single(stats::mean(&checks)),
                _ => self.exact_match(document, metric, responses)?,
            };
            scores.push((metric.name.clone(), score));
        }
        Ok(Sample { document, filter: filter.to_owned(), filtered: responses.items().to_vec(), scores, checks })
    }

    /// The mean over the answers that are left. With several right answers, any of them will do.
    fn exact_match(&self, document: usize, metric: &Metric, responses: &Responses) -> Result<Score> {
        let MetricKind::ExactMatch(options) = &metric.kind else {
            return Err(self.wrong(format!("the metric `{}` cannot score text", metric.name)));
        };
        let mut gold = self.target(document)?;
        if self.fields.choice.is_some() {
            let choices = self.choices(document)?;
            let index = gold.as_i64().and_then(|index| usize::try_from(index).ok());
            let Some(choice) = index.and_then(|index| choices.get(index)) else {
                let problem = "must give the number of a choice, because there is `doc_to_choice`";
                return Err(self.fields.target.wrong(document, problem));
            };
            gold = Value::String(choice.clone());
        }
        let golds = match gold {
            Value::Array(golds) if self.fields.multiple_target => golds,
            other => vec![other],
        };
        let same = |item: &Value, gold: &Value| match (item, gold) {
            (Value::String(item), Value::String(gold)) => options.same(item, gold),
            (Value::String(item), Value::Number(gold)) => options.same(item, &gold.to_string()),
            (Value::String(item), Value::Bool(gold)) => options.same(item, if *gold { "True" } else { "False" }),
            _ => false,
        };
        let right = |item: &Value| f64::from(u8::from(golds.iter().any(|gold| same(item, gold))));
        let values: Vec<f64> = responses.items().iter().map(right).collect();
        Ok(Score::Single(stats::mean(&values)))
    }

    /// The totals, in the order of filters and metrics.
    fn totals(&self, samples: &[Sample]) -> Vec<Total> {
        let mut totals = Vec::new();
        for filter in &self.config.filters {
            for metric in &self.config.metrics {
                let scores = scores_of(samples, &metric.name, &filter.name);
                let Some(value) = metric.aggregation.value(&scores) else { continue };
                totals.push(Total {
                    metric: metric.name.clone(),
                    filter: filter.name.clone(),
                    value,
                    standard_error: metric.aggregation.standard_error(&scores),
                    higher_is_better: metric.higher_is_better,
                    documents: scores.len(),
                });
            }
        }
        totals
    }

    fn likelihood_scores(&self, one: &Answered) -> Result<Vec<(String, Score)>> {
        self.check_number(one)?;
        let first = one.answers.iter().map(|answers| &answers[0]);
        if self.config.output == OutputType::LoglikelihoodRolling {
            let [Answer::Rolling(logprob)] = first.collect::<Vec<_>>()[..] else {
                return Err(self.wrong(format!("document {} wants the log-likelihood of a text", one.document)));
            };
            return self.rolling_scores(one.document, *logprob);
        }
        let pair = |answer: &Answer| match answer {
            Answer::Likelihood { logprob, greedy } => Ok((*logprob, *greedy)),
            _ => Err(self.wrong(format!("document {} wants log-likelihoods of continuations", one.document))),
        };
        let pairs = first.map(pair).collect::<Result<Vec<_>>>()?;
        if self.config.output == OutputType::MultipleChoice {
            return self.choice_scores(one.document, &pairs);
        }
        let [(logprob, greedy)] = pairs[..] else {
            return Err(self.wrong(format!("document {} has one request, not {}", one.document, pairs.len())));
        };
        let score = |metric: &Metric| match metric.kind {
            MetricKind::Perplexity => Some(logprob),
            MetricKind::Acc => Some(truth(greedy)),
            _ => None,
        };
        let metrics = self.config.metrics.iter();
        Ok(metrics.filter_map(|metric| Some((metric.name.clone(), Score::Single(score(metric)?)))).collect())
    }

    fn rolling_scores(&self, document: usize, logprob: f64) -> Result<Vec<(String, Score)>> {
        let text = self.target_text(document)?;
        let metrics = self.config.metrics.iter();
        let score = |metric: &Metric| match metric.kind {
            MetricKind::WordPerplexity => Some(Score::Weighted(logprob, words(&text) as f64)),
            MetricKind::BytePerplexity | MetricKind::BitsPerByte => Some(Score::Weighted(logprob, text.len() as f64)),
            _ => None,
        };
        Ok(metrics.filter_map(|metric| Some((metric.name.clone(), score(metric)?))).collect())
    }

    fn choice_scores(&self, document: usize, pairs: &[(f64, bool)]) -> Result<Vec<(String, Score)>> {
        let choices = self.choices(document)?;
        let requests = choices.len() * (1 + usize::from(self.mutual_information()));
        if pairs.len() != requests || choices.is_empty() {
            return Err(self.wrong(format!("document {document} has {requests} requests, not {}", pairs.len())));
        }
        let (conditional, alone) = pairs.split_at(choices.len());
        let logprobs: Vec<f64> = conditional.iter().map(|pair| pair.0).collect();
        let per = |size: &dyn Fn(&String) -> usize| {
            argmax(logprobs.iter().zip(&choices).map(|(logprob, choice)| logprob / size(choice) as f64))
        };
        let best = argmax(logprobs.iter().copied());
        let golds = self.gold_choices(document, &choices)?;
        let right = |at: usize| truth(golds.contains(&Some(at)));
        let score = |metric: &Metric| match metric.kind {
            MetricKind::Acc => Some(right(best)),
            MetricKind::AccNorm => Some(right(per(&|choice| choice.chars().count()))),
            MetricKind::AccBytes => Some(right(per(&String::len))),
            MetricKind::AccMutualInfo => {
                Some(right(argmax(conditional.iter().zip(alone).map(|(with, without)| with.0 - without.0))))
            }
            MetricKind::ExactMatch(_) => Some(truth(golds.iter().flatten().any(|gold| conditional[*gold].1))),
            _ => None,
        };
        let metrics = self.config.metrics.iter();
        Ok(metrics.filter_map(|metric| Some((metric.name.clone(), Score::Single(score(metric)?)))).collect())
    }

    /// The numbers of the right choices. A target that is not among the choices gives `None`.
    fn gold_choices(&self, document: usize, choices: &[String]) -> Result<Vec<Option<usize>>> {
        let gold = if self.fields.multiple_input {
            self.fields.text.question(&self.documents[document], document, true)?
        } else {
            self.target(document)?
        };
        let index = |value: &Value| match value {
            Value::String(text) => choices.iter().position(|choice| choice == text),
            other => other.as_i64().and_then(|i| usize::try_from(i).ok()).filter(|i| *i < choices.len()),
        };
        Ok(match &gold {
            // In a list, the harness takes numbers only.
            Value::Array(golds) => golds.iter().map(|gold| if gold.is_string() { None } else { index(gold) }).collect(),
            one => vec![index(one)],
        })
    }
}

/// The scores of a metric behind a filter, by document.
fn scores_of(samples: &[Sample], metric: &str, filter: &str) -> Vec<Score> {
    let of = |sample: &Sample| sample.scores.iter().find(|(name, _)| name == metric).map(|(_, score)| *score);
    samples.iter().filter(|sample| sample.filter == filter).filter_map(of).collect()
}

fn truth(value: bool) -> f64 {
    f64::from(u8::from(value))
}

/// The number of words: runs of white space, and one more.
fn words(text: &str) -> usize {
    let mut count = 1;
    let mut space = false;
    for c in text.chars() {
        let now = is_space(c);
        count += usize::from(now && !space);
        space = now;
    }
    count
}

/// The position of the first largest value. The first NaN counts as the largest, as in numpy.
fn argmax(values: impl Iterator<Item = f64>) -> usize {
    let mut best: Option<(usize, f64)> = None;
    for (at, value) in values.enumerate() {
        match best {
            Some((_, most)) if most.is_nan() || !(value > most || value.is_nan()) => {}
            _ => best = Some((at, value)),
        }
    }
    best.map_or(0, |(at, _)| at)
}
