//! Figures of an evaluation: a value, its standard error, and an interval.
//!
//! Value and standard error of a task's metrics are those of lm-evaluation-harness. With several answers to each question
//! there are, for each filter, avg@k (their mean), pass@k (at least one of k is right) and maj@k (the most frequent of the
//! first k is right). An answer's own value is that of the task's reward.

use serde::Serialize;

use crate::error::Result;
use crate::metric::Aggregation;
use crate::stats;
use crate::task::{Answered, Outcome, OutputType, Task};

/// A figure of an evaluation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// The metric's name.
    pub metric: String,
    /// The filter's name.
    pub filter: String,
    /// The value.
    pub value: f64,
    /// Its standard error, where there is a formula.
    pub standard_error: Option<f64>,
    /// An interval that contains the true value in 95 of 100 cases.
    pub interval: Option<(f64, f64)>,
    /// Whether a larger value is a better one.
    pub higher_is_better: bool,
    /// The number of questions.
    pub questions: usize,
    /// The values of each question, where the figure is their mean.
    #[serde(skip)]
    pub values: Vec<Vec<f64>>,
}

/// The figures of a task.
pub(super) fn figures(task: &Task, answered: &[Answered], outcome: &Outcome) -> Result<Vec<Figure>> {
    let mut figures: Vec<Figure> = Vec::new();
    for total in &outcome.totals {
        let metric = task.config().metrics.iter().find(|metric| metric.name == total.metric);
        let aggregation = metric.map_or(Aggregation::Median, |metric| metric.aggregation);
        let scores = outcome.scores(&total.metric, &total.filter);
        let (values, interval) = if aggregation == Aggregation::Mean {
            let values: Vec<Vec<f64>> = scores.iter().map(|score| vec![score.value()]).collect();
            let interval = stats::interval(&values);
            (values, interval)
        } else {
            (Vec::new(), aggregation.interval(&scores))
        };
        figures.push(Figure {
            metric: total.metric.clone(),
            filter: total.filter.clone(),
            value: total.value,
            standard_error: total.standard_error,
            interval,
            higher_is_better: total.higher_is_better,
            questions: total.documents,
            values,
        });
    }
    if task.config().output == OutputType::GenerateUntil && task.config().repeats > 1 {
        for filter in 0..task.config().filters.len() {
            figures.extend(repeated(task, answered, outcome, filter)?);
        }
    }
    Ok(figures)
}

/// avg@k, pass@k and maj@k of the answers behind a filter. Nothing if the filter needs several answers at once.
fn repeated(task: &Task, answered: &[Answered], outcome: &Outcome, filter: usize) -> Result<Vec<Figure>> {
    let repeats = task.config().repeats;
    let name = &task.config().filters[filter].name;
    // A checker that has seen the answers does not run again.
    let found = if let Some(checked) = task.checked_values(outcome, filter) {
        Some(checked)
    } else {
        let text = |one: &Answered| {
            one.answers[0].iter().map(|answer| (one.document, answer.text().to_owned())).collect::<Vec<_>>()
        };
        task.values(filter, &answered.iter().flat_map(text).collect::<Vec<_>>())?
    };
    let Some((texts, values)) = found else { return Ok(Vec::new()) };
    let texts: Vec<String> = texts.iter().map(final_text).collect();
    let values: Vec<Vec<f64>> = values.chunks(repeats).map(<[f64]>::to_vec).collect();
    let verdicts: Vec<Vec<bool>> = values.iter().map(|values| values.iter().map(|v| *v >= 1.0).collect()).collect();
    let votes: Vec<Vec<(String, bool)>> = texts
        .chunks(repeats)
        .zip(&verdicts)
        .map(|(texts, verdicts)| texts.iter().cloned().zip(verdicts.iter().copied()).collect())
        .collect();
    let mut found = vec![(format!("avg@{repeats}"), Some(values))];
    let powers = (1..).map(|power| 1 << power).take_while(|k| *k < repeats);
    found.extend(powers.chain([repeats]).map(|k| (format!("pass@{k}"), stats::pass_values(&verdicts, k))));
    found.push((format!("maj@{repeats}"), stats::majority_values(&votes, repeats)));
    let figure = |(metric, values): (String, Option<Vec<Vec<f64>>>)| {
        let values = values?;
        let estimate = stats::clustered(&values)?;
        Some(Figure {
            metric,
            filter: name.clone(),
            value: estimate.mean,
            standard_error: estimate.standard_error,
            interval: stats::interval(&values),
            higher_is_better: true,
            questions: estimate.questions,
            values,
        })
    };
    Ok(found.into_iter().filter_map(figure).collect())
}

/// What is left of an answer, as text that can be voted on.
fn final_text(left: &serde_json::Value) -> String {
    match left {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Null => String::new(),
        other => other.to_string(),
    }
}
