//! Log-probabilities of given tokens, for example of a text that the model did not write.
//!
//! The row of a token gives the logits of the token after it. Logits are computed for the rows that are wanted and for
//! some of them at a time, so memory does not grow with the text. A row has the same bits in every pass, so a text has
//! the same log-probabilities alone and among others. They are the logarithm of the softmax of [`Model::project`]'s
//! logits: the largest logit and all differences in f32, the sum of the exponentials in f64.

use crate::engine::{Engine, Event, Logprob, Request, RequestError, Reuse};
use crate::generate::run;
use hadal_model::Model;
use hadal_ops::{Chunks, Cx, Tensor};

/// Number of logits in memory at a time, for all rows together: 64 MB. Tests take few rows at a time.
const LOGITS: usize = if cfg!(test) { 1 << 11 } else { 1 << 24 };

/// Which log-probabilities of a prompt are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Score {
    /// The first token of the prompt to score. The prompt's first token has no log-probability, so 0 counts as 1.
    /// Latents of the tokens before may be re-used from earlier requests.
    pub from: usize,
    /// Number of most likely tokens to return for each place.
    pub top: usize,
}

/// A token of a prompt with its log-probability.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScoredToken {
    /// The token.
    pub token: u32,
    /// The natural logarithm of its probability.
    pub logprob: f32,
    /// Number of tokens that are more likely. Of equally likely ones, the lower one counts as more likely. A token of
    /// rank 0 is the one that greedy generation takes.
    pub rank: usize,
    /// The most likely tokens at its place, most likely first.
    pub top: Vec<Logprob>,
}

/// The progress of scoring a prompt.
pub(crate) struct Scoring {
    next: usize,
    top: usize,
}

impl Scoring {
    /// `None` if a prompt of `tokens` tokens has nothing to score.
    pub(crate) fn new(score: Score, tokens: usize) -> Option<Self> {
        let next = score.from.max(1);
        (next < tokens).then_some(Self { next, top: score.top })
    }

    /// The next token to score.
    pub(crate) fn next(&self) -> usize {
        self.next
    }

    /// The tokens to score in a pass over the tokens from `start` to `end` of a prompt of `prompt` tokens, and their
    /// number of most likely ones.
    pub(crate) fn in_pass(&self, start: usize, end: usize, prompt: usize) -> (std::ops::Range<usize>, usize) {
        (self.next.max(start + 1)..(end + 1).min(prompt), self.top)
    }

    /// Goes on to token `next`. `None` if that is the end of the prompt.
    pub(crate) fn until(self, next: usize, prompt: usize) -> Option<Self> {
        (next < prompt).then_some(Self { next, ..self })
    }
}

/// Scores `tokens`. The first of them is predicted by row `row` of the head's inputs `h`, the others by the rows after
/// it. Calls `each` with some of them at a time, in order.
pub(crate) fn score_rows(
    cx: &Cx,
    model: &Model,
    h: &Tensor,
    row: usize,
    tokens: &[i32],
    top: usize,
    each: &mut dyn FnMut(Vec<ScoredToken>),
) {
    let vocabulary = model.config.vocab_size;
    let mut row = row as i32;
    for tokens in tokens.chunks((LOGITS / vocabulary).max(1)) {
        let rows: Vec<i32> = (row..row + tokens.len() as i32).collect();
        row += tokens.len() as i32;
        let logits = model.project_rows(cx, h, &rows);
        let logits = logits.f32();
        let mut scored = vec![ScoredToken::default(); tokens.len()];
        let places = Chunks::new(&mut scored, 1);
        cx.threads().each(tokens.len(), |i| {
            places.take(i)[0] = score_token(&logits[i * vocabulary..(i + 1) * vocabulary], tokens[i] as usize, top);
        });
        each(scored);
    }
}

/// Scores a token, given the logits at its place.
fn score_token(logits: &[f32], token: usize, top: usize) -> ScoredToken {
    let (normal, own) = (log_sum_exp(logits), logits[token]);
    let rank =
        logits[..token].iter().filter(|l| **l >= own).count() + logits[token..].iter().filter(|l| **l > own).count();
    ScoredToken { token: token as u32, logprob: own - normal, rank, top: most_likely(logits, top, normal) }
}

/// `log sum_i exp(x_i)`.
pub(crate) fn log_sum_exp(x: &[f32]) -> f32 {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = x.iter().map(|v| f64::from(v - max).exp()).sum();
    max + sum.ln() as f32
}

/// The `n` most likely tokens, most likely first, the lower one first on ties.
pub(crate) fn most_likely(logits: &[f32], n: usize, normal: f32) -> Vec<Logprob> {
    let n = n.min(logits.len());
    if n == 0 {
        return Vec::new();
    }
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    let by = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    if n < order.len() {
        order.select_nth_unstable_by(n - 1, by);
    }
    order.truncate(n);
    order.sort_unstable_by(by);
    order.into_iter().map(|token| Logprob { token, logprob: logits[token as usize] - normal }).collect()
}

/// Scores the tokens of a text from token `from` on, with the `top` most likely tokens at each place. The engine must
/// be idle. Latents of the tokens before `from` are re-used if an earlier text began with them. The result has the bits
/// of a cold start.
///
/// # Errors
/// If the text is empty, has unknown tokens, or does not fit into the model's context or the engine's cache.
pub fn score(
    cx: &Cx,
    model: &Model,
    engine: &mut Engine,
    ids: &[u32],
    score: Score,
) -> Result<Vec<ScoredToken>, RequestError> {
    let request = Request { prompt: ids.to_vec(), score: Some(score), reuse: Reuse::Given, ..Request::default() };
    let mut scored = Vec::new();
    run(cx, model, engine, &request, &mut |event| {
        if let Event::Scored { tokens, .. } = event {
            scored.extend_from_slice(tokens);
        }
        true
    })?;
    Ok(scored)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hadal_ops::reduce::argmax;

    #[test]
    fn rank_0_is_what_greedy_generation_takes() {
        let logits = [1.0, 3.0, 3.0, 2.0, 3.0, f32::NEG_INFINITY];
        let ranks: Vec<usize> = (0..6).map(|token| score_token(&logits, token, 0).rank).collect();
        assert_eq!(ranks, [4, 0, 1, 3, 2, 5]);
        assert_eq!(argmax(&logits), 1);
        let tops: Vec<u32> = score_token(&logits, 0, 3).top.iter().map(|t| t.token).collect();
        assert_eq!(tops, [1, 2, 4]);
    }
}
