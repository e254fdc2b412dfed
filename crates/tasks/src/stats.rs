//! What scores tell: means with standard errors and intervals, clustered by question; repeats (avg@k, pass@k, maj@k); the
//! difference between two models on the same questions.
//!
//! Where each question is either right or wrong, the interval is Wilson's: it holds near 0 and 1 as well, where the other one
//! would be empty.
//!
//! With n values x of mean m, the standard error of the mean is `sqrt(sum (x - m)^2 / (n - 1) / n)`. Values of the same
//! question are not independent. With G questions, the clustered error is
//! `sqrt(G / (G - 1) * sum_g (sum_{i in g} (x_i - m))^2) / n`. It is the plain one where each question has one value.

/// The 97.5% quantile of the normal distribution.
const NORMAL: f64 = 1.959_963_984_540_054;

/// A mean with its standard error.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// The standard error, if there are at least two questions.
    pub standard_error: Option<f64>,
    /// The number of questions.
    pub questions: usize,
    /// The number of values.
    pub values: usize,
}

impl Estimate {
    /// The interval that contains the true mean in 95 of 100 cases, from Student's t with one degree of freedom less than
    /// there are questions.
    pub fn interval(&self) -> Option<(f64, f64)> {
        let half = t_quantile(self.questions.checked_sub(1)?)? * self.standard_error?;
        Some((self.mean - half, self.mean + half))
    }
}

/// The mean of values. NaN if there are none.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The standard error of the mean of independent values.
pub fn standard_error(values: &[f64]) -> f64 {
    let m = mean(values);
    let squares: f64 = values.iter().map(|x| (x - m).powi(2)).sum();
    (squares / (values.len() as f64 - 1.0)).sqrt() / (values.len() as f64).sqrt()
}

/// The mean of the values of questions, each of which may have several (avg@k), with the clustered standard error.
/// Questions without values are left out. Nothing if there are none.
pub fn clustered(questions: &[Vec<f64>]) -> Option<Estimate> {
    let groups: Vec<&Vec<f64>> = questions.iter().filter(|values| !values.is_empty()).collect();
    let values: usize = groups.iter().map(|group| group.len()).sum();
    if values == 0 {
        return None;
    }
    let n = values as f64;
    let mean = groups.iter().flat_map(|group| group.iter()).sum::<f64>() / n;
    let standard_error = (groups.len() > 1).then(|| {
        let g = groups.len() as f64;
        let squares: f64 = groups.iter().map(|group| group.iter().map(|x| x - mean).sum::<f64>().powi(2)).sum();
        (g / (g - 1.0) * squares).sqrt() / n
    });
    Some(Estimate { mean, standard_error, questions: groups.len(), values })
}

/// The chance that at least one of k answers is right, where `right` of `answers` are: `1 - C(n-c, k) / C(n, k)`. Nothing
/// if there are fewer than k answers.
pub fn pass_at_k(answers: usize, right: usize, k: usize) -> Option<f64> {
    if k == 0 || k > answers || right > answers {
        return None;
    }
    if answers - right < k {
        return Some(1.0);
    }
    let all_wrong: f64 = (answers - right + 1..=answers).map(|i| 1.0 - k as f64 / i as f64).product();
    Some(1.0 - all_wrong)
}

/// pass@k: for each question, with the verdicts on its answers, the value whose mean it is.
pub fn pass_values(questions: &[Vec<bool>], k: usize) -> Option<Vec<Vec<f64>>> {
    let one = |verdicts: &Vec<bool>| {
        let right = verdicts.iter().filter(|verdict| **verdict).count();
        pass_at_k(verdicts.len(), right, k).map(|value| vec![value])
    };
    questions.iter().map(one).collect()
}

/// The position of the most frequent value. Among equally frequent ones it is the one that came first.
pub fn majority<T: PartialEq>(values: &[T]) -> Option<usize> {
    let count = |value: &T| values.iter().filter(|other| *other == value).count();
    let mut best: Option<(usize, usize)> = None;
    for (at, value) in values.iter().enumerate() {
        if values[..at].contains(value) {
            continue;
        }
        let times = count(value);
        if best.is_none_or(|(_, most)| times > most) {
            best = Some((at, times));
        }
    }
    best.map(|(at, _)| at)
}

/// maj@k: for each question, with the final answers of its samples and their verdicts, the value whose mean it is. The
/// verdict of the majority of the first k answers counts.
pub fn majority_values(questions: &[Vec<(String, bool)>], k: usize) -> Option<Vec<Vec<f64>>> {
    let one = |samples: &Vec<(String, bool)>| {
        let first = samples.get(..k)?;
        let answers: Vec<&str> = first.iter().map(|(answer, _)| answer.as_str()).collect();
        majority(&answers).map(|at| vec![f64::from(u8::from(first[at].1))])
    };
    questions.iter().map(one).collect()
}

/// An interval that contains the true mean in 95 of 100 cases. If each question is either right or wrong, it is Wilson's,
/// and otherwise that of [`Estimate::interval`].
pub fn interval(questions: &[Vec<f64>]) -> Option<(f64, f64)> {
    let sure = |value: f64| value == 0.0 || value == 1.0;
    let groups = || questions.iter().filter(|values| !values.is_empty());
    if groups().all(|values| sure(values[0]) && values.iter().all(|value| *value == values[0])) {
        let right = groups().filter(|values| values[0] == 1.0).count();
        return wilson(right, groups().count());
    }
    clustered(questions)?.interval()
}

/// Wilson's interval for a share of `right` of `all`.
fn wilson(right: usize, all: usize) -> Option<(f64, f64)> {
    if all == 0 {
        return None;
    }
    let (n, share, square) = (all as f64, right as f64 / all as f64, NORMAL * NORMAL);
    let middle = (share + square / (2.0 * n)) / (1.0 + square / n);
    let half = NORMAL / (1.0 + square / n) * (share * (1.0 - share) / n + square / (4.0 * n * n)).sqrt();
    // At the ends, the exact bound is the end itself.
    let low = if right == 0 { 0.0 } else { middle - half };
    Some((low, if right == all { 1.0 } else { middle + half }))
}

/// The difference between two models on the same questions: of each question, the difference of its means. Nothing if the
/// numbers of questions differ or a question has no value.
pub fn paired(first: &[Vec<f64>], second: &[Vec<f64>]) -> Option<Estimate> {
    if first.len() != second.len() {
        return None;
    }
    let one = |(a, b): (&Vec<f64>, &Vec<f64>)| (!a.is_empty() && !b.is_empty()).then(|| vec![mean(a) - mean(b)]);
    clustered(&first.iter().zip(second).map(one).collect::<Option<Vec<_>>>()?)
}

/// The ratio of the sums of pairs `(x, w)` with its standard error: that of the mean of `x - r w`, divided by the mean
/// weight. So a document counts as a whole. Nothing without pairs.
pub fn ratio(pairs: &[(f64, f64)]) -> Option<Estimate> {
    let weights: f64 = pairs.iter().map(|pair| pair.1).sum();
    if pairs.is_empty() || weights <= 0.0 {
        return None;
    }
    let ratio = pairs.iter().map(|pair| pair.0).sum::<f64>() / weights;
    let n = pairs.len() as f64;
    let squares: f64 = pairs.iter().map(|(x, w)| (x - ratio * w).powi(2)).sum();
    let standard_error = (pairs.len() > 1).then(|| (n / (n - 1.0) * squares).sqrt() / weights);
    Some(Estimate { mean: ratio, standard_error, questions: pairs.len(), values: pairs.len() })
}

/// The standard error of a mean over tasks that is weighted by their sizes, as the harness pools it.
pub fn pooled_standard_error(errors: &[f64], sizes: &[usize]) -> f64 {
    let total: f64 = sizes.iter().map(|size| *size as f64).sum();
    let squares: f64 =
        errors.iter().zip(sizes).map(|(error, size)| (*size as f64 - 1.0) * error * error * *size as f64).sum();
    (squares / (total - sizes.len() as f64) / total).sqrt()
}

/// The 97.5% quantile of Student's t with `degrees` of freedom, to within 1e-8.
fn t_quantile(degrees: usize) -> Option<f64> {
    if degrees == 0 {
        return None;
    }
    if degrees > 1000 {
        // The expansion around the quantile of the normal distribution (Abramowitz and Stegun 26.7.5).
        let (z, n) = (NORMAL, degrees as f64);
        let first = (z.powi(3) + z) / 4.0;
        let second = (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / 96.0;
        return Some(z + first / n + second / (n * n));
    }
    // Bisection on the distribution function, which grows.
    let (mut low, mut high) = (0.0, 20.0);
    for _ in 0..80 {
        let middle = f64::midpoint(low, high);
        if t_distribution(middle, degrees) < 0.975 { low = middle } else { high = middle }
    }
    Some(f64::midpoint(low, high))
}

/// The distribution function of Student's t, for t of at least 0: finite sums of powers of cos(arctan(t / sqrt(n)))
/// (Abramowitz and Stegun 26.7.3 and 26.7.4).
fn t_distribution(t: f64, degrees: usize) -> f64 {
    let n = degrees as f64;
    let angle = (t / n.sqrt()).atan();
    let (sine, cosine) = angle.sin_cos();
    let square = cosine * cosine;
    let terms = |first: f64, start: usize| {
        let (mut term, mut sum, mut k) = (first, first, start);
        while k + 2 < degrees {
            term *= (k + 1) as f64 / (k + 2) as f64 * square;
            sum += term;
            k += 2;
        }
        sum
    };
    let between = if degrees == 1 {
        2.0 * angle / std::f64::consts::PI
    } else if degrees % 2 == 1 {
        2.0 / std::f64::consts::PI * (angle + sine * terms(cosine, 1))
    } else {
        sine * terms(1.0, 0)
    };
    f64::midpoint(1.0, between)
}

#[cfg(test)]
mod tests;
