//! Losses as curves over the tokens seen: smoothed, compared, averaged over seeds.

use crate::metrics::StepMetrics;

/// Mean over the last `smooth` steps at each point, as (tokens, loss). Points with fewer steps before them are left
/// out.
pub fn smoothed(steps: &[StepMetrics], smooth: usize) -> Vec<(u64, f64)> {
    let mean = |w: &[StepMetrics]| (w[w.len() - 1].tokens, w.iter().map(|m| m.loss).sum::<f64>() / w.len() as f64);
    steps.windows(smooth.max(1)).map(mean).collect()
}

/// `run / base - 1` at the numbers of tokens where both curves have a point.
pub fn relative(run: &[(u64, f64)], base: &[(u64, f64)]) -> Vec<(u64, f64)> {
    let of_base = |tokens: u64| base.binary_search_by_key(&tokens, |p| p.0).ok().map(|i| base[i].1);
    run.iter().filter_map(|(tokens, loss)| Some((*tokens, loss / of_base(*tokens)? - 1.0))).collect()
}

/// Mean and standard error over the seeds, at the numbers of tokens where all curves have a point. For a single seed
/// the standard error is 0.
pub fn over_seeds(curves: &[Vec<(u64, f64)>]) -> Vec<(u64, Spread)> {
    let Some((first, others)) = curves.split_first() else { return Vec::new() };
    let at = |curve: &Vec<(u64, f64)>, tokens| curve.binary_search_by_key(&tokens, |p| p.0).ok().map(|i| curve[i].1);
    let point = |(tokens, value): &(u64, f64)| {
        let values: Option<Vec<f64>> = others.iter().map(|c| at(c, *tokens)).collect();
        let values: Vec<f64> = [*value].into_iter().chain(values?).collect();
        Some((*tokens, Spread::of(&values)))
    };
    first.iter().filter_map(point).collect()
}

/// Values of the same quantity, one per seed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation (of the sample). It is 0 for a single value.
    pub deviation: f64,
    /// Number of values.
    pub seeds: usize,
}

impl Spread {
    /// Computes mean and deviation of one or more values.
    pub fn of(values: &[f64]) -> Self {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
        let deviation = if values.len() > 1 { (squares / (n - 1.0)).sqrt() } else { 0.0 };
        Self { mean, deviation, seeds: values.len() }
    }

    /// Standard error of the mean.
    pub fn error(&self) -> f64 {
        self.deviation / (self.seeds as f64).sqrt()
    }
}

/// Mean over the last tenth of the steps, or NaN without steps.
pub fn end(values: impl Iterator<Item = f64>) -> f64 {
    let all: Vec<f64> = values.collect();
    let last = &all[all.len() - all.len().div_ceil(10)..];
    last.iter().sum::<f64>() / last.len() as f64
}
