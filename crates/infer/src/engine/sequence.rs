//! The state of a continuation, from its prompt to its end.

use super::pace::Rate;
use super::pages::Pages;
use super::prefix::{PrefixTree, Reuse};
use super::request::{Event, NewToken, Request, RequestId};
use crate::acceptance::Acceptance;
use crate::generate::Stop;
use crate::grammar::{Constraint, Follower};
use crate::sample::{Adjusted, SampleParams, Sampler};
use crate::score::{Scoring, log_sum_exp, most_likely};
use crate::text::{Piece, Text};
use hadal_model::Form;
use hadal_ops::latent::pages_for;

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
    /// The attention form of each token that was computed or found. It never changes.
    pub(crate) forms: Vec<Form>,
    pub(crate) prompt: usize,
    /// Largest number of tokens, prompt included.
    pub(crate) end: usize,
    /// Tokens whose latents are in its pages.
    pub(crate) computed: usize,
    pub(crate) pages: Vec<u32>,
    /// Drafts in the current pass. They are the last of `tokens`.
    pub(crate) drafts: Vec<i32>,
    /// Drafts that were compared with the drawn tokens.
    pub(crate) verified: Acceptance,
    /// Their acceptance.
    pub(crate) rate: Rate,
    /// Prompt tokens that were found in the prefix tree at the start.
    pub(crate) cached: usize,
    /// Prompt tokens whose log-probabilities are still wanted.
    pub(crate) scoring: Option<Scoring>,
    /// The stop token that ended it, if log-probabilities are wanted.
    pub(crate) ended: Option<NewToken>,
    stop: Vec<u32>,
    logprobs: Option<usize>,
    sampler: Sampler,
    adjusted: Adjusted,
    text: Option<Text>,
    grammar: Option<Follower>,
}

impl Sequence {
    pub(crate) fn new(id: RequestId, sample: usize, request: &Request, longest: usize) -> Self {
        let end = request.end(longest);
        // Room for all tokens and a draft, so that a step allocates nothing.
        let mut tokens = Vec::with_capacity(end.max(request.prompt.len()) + 1);
        tokens.extend(request.prompt.iter().map(|t| *t as i32));
        let params = SampleParams { sample: sample as u64, ..request.params };
        Self {
            id,
            sample,
            priority: request.priority,
            waited: 0,
            reuse: request.reuse,
            prompt: tokens.len(),
            end,
            forms: Vec::with_capacity(end + 1),
            computed: 0,
            pages: Vec::with_capacity(pages_for(end + 1)),
            drafts: Vec::with_capacity(1),
            verified: Acceptance::default(),
            rate: Rate::default(),
            cached: 0,
            ended: None,
            stop: request.stop.clone(),
            logprobs: request.logprobs,
            sampler: Sampler::new(params),
            adjusted: Adjusted::new(&request.adjust, &request.prompt),
            // All samples have the same prompt.
            scoring: request.score.filter(|_| sample == 0).and_then(|score| Scoring::new(score, tokens.len())),
            text: request.text.clone().map(Text::new),
            grammar: request.constraint.as_ref().map(Constraint::follow),
            tokens,
        }
    }

    /// Number of tokens to compute before the next one is drawn. Nothing is drawn after the last one, so it is not
    /// computed.
    fn known(&self) -> usize {
        if self.tokens.len() < self.end { self.tokens.len() } else { self.tokens.len() - 1 }
    }

    /// Whether all that was asked for is done.
    pub(crate) fn is_over(&self) -> bool {
        self.tokens.len() >= self.end && self.scoring.is_none()
    }

    /// Number of first tokens whose latents may come from the prefix tree. The last token is always computed, because
    /// its row gives the logits of the next one. So is the token before the first one to score.
    pub(crate) fn reusable(&self) -> usize {
        self.scoring.as_ref().map_or(self.tokens.len(), Scoring::next) - 1
    }

    /// The attention form of token `i`: the one in `forms`, or the one that it will have.
    pub(crate) fn form(&self, i: usize) -> Form {
        let own = if i < self.prompt { Form::Decompressed } else { Form::Absorbed };
        self.forms.get(i).copied().unwrap_or(own)
    }

    /// Tokens from `computed` on that attend in one form, at most `most`.
    pub(crate) fn stretch(&self, most: usize) -> (usize, Form) {
        let form = self.form(self.computed);
        let end = self.known().min(self.computed + most);
        let same = (self.computed..end).take_while(|i| self.form(*i) == form).count();
        (self.computed + same, form)
    }

    /// Whether everything is computed except for the last token, which was generated.
    pub(crate) fn decodes(&self) -> bool {
        self.computed + 1 == self.tokens.len() && self.computed >= self.prompt
    }

    /// Notes that the tokens up to `end` are computed in `form`.
    pub(crate) fn advance(&mut self, end: usize, form: Form) {
        self.forms.resize(self.forms.len().max(end), form);
        self.computed = end;
    }

    /// Adds its first `tokens` tokens to the prefix tree, unless it shares nothing.
    pub(crate) fn keep(&self, tokens: usize, prefixes: &mut PrefixTree, pages: &mut Pages) {
        if self.reuse != Reuse::None {
            prefixes.add(&self.tokens[..tokens], &self.forms[..tokens], &self.pages, pages);
        }
    }

    /// Applies penalties and biases.
    pub(crate) fn adjust(&self, logits: &mut [f32]) {
        self.adjusted.apply(logits);
    }

    /// Draws the next token from the logits after the last one and gives it to `each`. Returns the reason if the
    /// continuation ends.
    pub(crate) fn draw(&mut self, logits: &mut [f32], each: &mut dyn FnMut(Event)) -> Option<Stop> {
        // Log-probabilities are the model's own, before anything is changed.
        let raw = self.logprobs.map(|n| (n, logits.to_vec()));
        self.adjusted.apply(logits);
        if let Some(Err(stop)) = self.grammar.as_mut().map(|grammar| grammar.mask(logits)) {
            return Some(stop);
        }
        let token = self.sampler.next(logits, self.tokens.len());
        let (logprob, top) = raw.map_or((None, Vec::new()), |(n, raw)| {
            let normal = log_sum_exp(&raw);
            (Some(raw[token as usize] - normal), most_likely(&raw, n, normal))
        });
        let new = NewToken { token, logprob, top };
        if self.stop.contains(&token) || self.grammar.as_ref().is_some_and(|grammar| grammar.is_end(token)) {
            self.ended = logprob.map(|_| new);
            return Some(Stop::Token);
        }
        self.adjusted.count(token);
        self.tokens.push(token as i32);
        each(Event::Token { id: self.id, sample: self.sample, token: new });
        let text = self.text.as_mut().map(|text| text.push(token)).and_then(|said| self.say(said, each));
        let grammar = self.grammar.as_mut().and_then(|grammar| grammar.advance(token));
        text.or(grammar).or_else(|| (self.tokens.len() >= self.end).then_some(Stop::Length))
    }

    /// Gives `each` the text that was held back. Returns the reason for the end: this text may complete a stop string.
    pub(crate) fn finish(&mut self, stop: Stop, each: &mut dyn FnMut(Event)) -> Stop {
        // No text comes after a stop string.
        let text = self.text.as_mut().filter(|_| !matches!(stop, Stop::Text(_))).map(Text::finish);
        text.and_then(|said| self.say(said, each)).unwrap_or(stop)
    }

    /// Gives `each` a piece of text. Returns the reason if a stop string ends the continuation.
    fn say(&self, (piece, stop): (Piece, Option<usize>), each: &mut dyn FnMut(Event)) -> Option<Stop> {
        if !piece.is_empty() {
            each(Event::Text { id: self.id, sample: self.sample, piece });
        }
        stop.map(Stop::Text)
    }
}
