//! A continuation on its way.

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

    /// Tokens to compute before there is something to draw. After the last token nothing is drawn.
    fn known(&self) -> usize {
        if self.tokens.len() < self.end { self.tokens.len() } else { self.tokens.len() - 1 }
    }

    /// Whether all that was asked for is done.
    pub(crate) fn is_over(&self) -> bool {
        self.tokens.len() >= self.end && self.scoring.is_none()
    }

    /// First tokens whose latents it may take from others. The pass of the last one gives the logits of the next one, and so
    /// does the pass before a token whose log-probability is wanted.
    pub(crate) fn reusable(&self) -> usize {
        self.scoring.as_ref().map_or(self.tokens.len(), Scoring::next) - 1
    }

    /// The form of token `i`: what it was found with, or what it is.
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

    /// Draws the next token from the logits after the last one, and tells of it. Returns why the continuation ends with it,
    /// if it does.
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

    /// Tells of the text that was held back to the end. Returns why the continuation ends.
    pub(crate) fn finish(&mut self, stop: Stop, each: &mut dyn FnMut(Event)) -> Stop {
        // A stop string has cut off what comes after it.
        let text = self.text.as_mut().filter(|_| !matches!(stop, Stop::Text(_))).map(Text::finish);
        text.and_then(|said| self.say(said, each)).unwrap_or(stop)
    }

    /// Tells of a piece of text. Returns the end, if a stop string has come.
    fn say(&self, (piece, stop): (Piece, Option<usize>), each: &mut dyn FnMut(Event)) -> Option<Stop> {
        if !piece.is_empty() {
            each(Event::Text { id: self.id, sample: self.sample, piece });
        }
        stop.map(Stop::Text)
    }
}
