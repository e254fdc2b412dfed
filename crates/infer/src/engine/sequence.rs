//! A continuation on its way.

use super::pace::Rate;
use super::pages::Pages;
use super::prefix::{PrefixTree, Reuse};
use super::request::{Logprob, NewToken, Request, RequestId};
use crate::acceptance::Acceptance;
use crate::sample::{Adjusted, SampleParams, Sampler};
use hadal_model::Form;

/// One sample of a request: all its tokens, and how far its latents are computed.
pub(crate) struct Sequence {
    pub(crate) id: RequestId,
    pub(crate) sample: usize,
    pub(crate) priority: i32,
    /// Steps that it has waited.
    pub(crate) waited: u32,
    pub(crate) reuse: Reuse,
    /// Prompt and new tokens.
    pub(crate) tokens: Vec<i32>,
    /// How each token attends, as far as that is fixed: once computed, or found, it never changes.
    pub(crate) forms: Vec<Form>,
    pub(crate) prompt: usize,
    /// Most tokens that it may come to.
    pub(crate) end: usize,
    /// Tokens whose latents are in its pages.
    pub(crate) computed: usize,
    pub(crate) pages: Vec<u32>,
    /// Drafts of the tokens that come next, in the pass that is under way. They stand at the end of `tokens`.
    pub(crate) drafts: Vec<i32>,
    /// Drafts that were compared with the drawn tokens.
    pub(crate) verified: Acceptance,
    /// How they have fared.
    pub(crate) rate: Rate,
    /// Prompt tokens that were found when it began.
    pub(crate) cached: usize,
    stop: Vec<u32>,
    logprobs: Option<usize>,
    sampler: Sampler,
    adjusted: Adjusted,
}

impl Sequence {
    pub(crate) fn new(id: RequestId, sample: usize, request: &Request, longest: usize) -> Self {
        let tokens: Vec<i32> = request.prompt.iter().map(|t| *t as i32).collect();
        let params = SampleParams { sample: sample as u64, ..request.params };
        Self {
            id,
            sample,
            priority: request.priority,
            waited: 0,
            reuse: request.reuse,
            prompt: tokens.len(),
            end: request.end(longest),
            forms: Vec::new(),
            computed: 0,
            pages: Vec::new(),
            drafts: Vec::new(),
            verified: Acceptance::default(),
            rate: Rate::default(),
            cached: 0,
            stop: request.stop.clone(),
            logprobs: request.logprobs,
            sampler: Sampler::new(params),
            adjusted: Adjusted::new(&request.adjust, &request.prompt),
            tokens,
        }
    }

    /// The form of token `i`: what it was found with, or what it is.
    pub(crate) fn form(&self, i: usize) -> Form {
        let own = if i < self.prompt { Form::Decompressed } else { Form::Absorbed };
        self.forms.get(i).copied().unwrap_or(own)
    }

    /// Tokens from `computed` on that attend in one form, at most `most`.
    pub(crate) fn stretch(&self, most: usize) -> (usize, Form) {
        let form = self.form(self.computed);
        let end = self.tokens.len().min(self.computed + most);
        let same = (self.computed..end).take_while(|i| self.form(*i) == form).count();
        (self.computed + same, form)
    }

    /// Whether its prompt is computed and one generated token waits.
    pub(crate) fn decodes(&self) -> bool {
        self.computed + 1 == self.tokens.len() && self.computed >= self.prompt
    }

    /// Notes that the tokens up to `end` are computed in `form`.
    pub(crate) fn advance(&mut self, end: usize, form: Form) {
        self.forms.resize(self.forms.len().max(end), form);
        self.computed = end;
    }

    /// Lets others share the latents of its first `tokens` tokens, unless it shares nothing.
    pub(crate) fn keep(&self, tokens: usize, prefixes: &mut PrefixTree, pages: &mut Pages) {
        if self.reuse != Reuse::None {
            prefixes.add(&self.tokens[..tokens], &self.forms[..tokens], &self.pages, pages);
        }
    }

    /// Changes logits as they are changed before a token is drawn.
    pub(crate) fn adjust(&self, logits: &mut [f32]) {
        self.adjusted.apply(logits);
    }

    /// Draws the next token from the logits after the last one. None if it is a token that ends the continuation.
    pub(crate) fn draw(&mut self, logits: &mut [f32]) -> Option<NewToken> {
        // Log-probabilities are the model's own, before anything is changed.
        let raw = self.logprobs.map(|n| (n, logits.to_vec()));
        self.adjusted.apply(logits);
        let token = self.sampler.next(logits, self.tokens.len());
        if self.stop.contains(&token) {
            return None;
        }
        self.adjusted.count(token);
        self.tokens.push(token as i32);
        let Some((n, raw)) = raw else { return Some(NewToken { token, logprob: None, top: Vec::new() }) };
        let normal = log_sum_exp(&raw);
        Some(NewToken { token, logprob: Some(raw[token as usize] - normal), top: most_likely(&raw, n, normal) })
    }
}

/// `log sum_i exp(x_i)`.
fn log_sum_exp(x: &[f32]) -> f32 {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = x.iter().map(|v| f64::from(v - max).exp()).sum();
    max + sum.ln() as f32
}

/// The `n` most likely tokens, most likely first, the lower one first on ties.
fn most_likely(logits: &[f32], n: usize, normal: f32) -> Vec<Logprob> {
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    let by = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    let n = n.min(order.len());
    if n < order.len() && n > 0 {
        order.select_nth_unstable_by(n - 1, by);
    }
    order.truncate(n);
    order.sort_unstable_by(by);
    order.into_iter().map(|token| Logprob { token, logprob: logits[token as usize] - normal }).collect()
}
