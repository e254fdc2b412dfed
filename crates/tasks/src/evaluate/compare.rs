//! Two models on the same questions.
//!
//! What differs is computed for each question, and then its mean. So questions that are hard for both models add nothing
//! to its error.

use serde::Serialize;

use super::{Evaluation, Figure};
use crate::stats;

/// The difference of a figure between two models.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// The metric's name.
    pub metric: String,
    /// The filter's name.
    pub filter: String,
    /// The other model's value.
    pub other: f64,
    /// How much larger the value of the model is.
    pub difference: f64,
    /// Its standard error, where the figure is a mean.
    pub standard_error: Option<f64>,
    /// An interval that contains the true difference in 95 of 100 cases. There is none if no question differs: then
    /// nothing is known of how much questions differ.
    pub interval: Option<(f64, f64)>,
}

/// The differences between a model and another one on a task.
pub fn compare(model: &Evaluation, other: &Evaluation) -> Vec<Difference> {
    let of = |figure: &Figure| {
        let same = |f: &&Figure| f.metric == figure.metric && f.filter == figure.filter;
        let second = other.figures.iter().find(same)?;
        let paired = stats::paired(&figure.values, &second.values);
        Some(Difference {
            metric: figure.metric.clone(),
            filter: figure.filter.clone(),
            other: second.value,
            difference: paired.map_or(figure.value - second.value, |paired| paired.mean),
            standard_error: paired.and_then(|paired| paired.standard_error),
            interval: paired.filter(|paired| paired.standard_error != Some(0.0)).and_then(|paired| paired.interval()),
        })
    };
    model.figures.iter().filter_map(of).collect()
}
