//! A grammar that is ready for use, and its state in a continuation.

use crate::generate::Stop;
use crate::pattern::Pattern;
use llguidance::Matcher;
use llguidance::api::StopReason;
use std::fmt;
use std::sync::Arc;

/// A grammar that is ready for use, with the place where it begins. Cloning it is cheap.
#[derive(Clone)]
pub struct Constraint {
    start: Arc<Matcher>,
    ends: Arc<[u32]>,
    vocabulary: usize,
    after: Option<Arc<Pattern<u32>>>,
    unless: Option<u32>,
}

impl fmt::Debug for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let after = self.after.as_ref().map_or(0, |pattern| pattern.len());
        f.debug_struct("Constraint").field("after", &after).finish_non_exhaustive()
    }
}

impl Constraint {
    pub(crate) fn new(start: Matcher, ends: Arc<[u32]>, vocabulary: usize) -> Self {
        Self { start: Arc::new(start), ends, vocabulary, after: None, unless: None }
    }

    /// The same grammar, which begins after these tokens in a row. Until then every token is allowed. So a model can
    /// think freely before it answers in a given form. Without tokens, it begins at once.
    pub fn after(self, tokens: &[u32]) -> Self {
        Self { after: Pattern::new(tokens.to_vec()).map(Arc::new), ..self }
    }

    /// The same grammar, which begins at once or, if the first token is `open`, after the tokens `close` in a row. So a
    /// model can choose whether to think.
    pub fn unless_begun(self, open: u32, close: &[u32]) -> Self {
        let after = Pattern::new(close.to_vec()).map(Arc::new);
        Self { unless: after.is_some().then_some(open), after, ..self }
    }

    /// Vocabulary size of the model that it is for.
    pub(crate) fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// The state at the start of a continuation. It shares no state that changes with others, because limits count the
    /// work of one sequence.
    pub(crate) fn follow(&self) -> Follower {
        let after = self.after.clone().map(|pattern| (pattern, 0));
        let (waiting, choice) = match self.unless {
            Some(open) => (None, after.map(|after| (open, after))),
            None => (after, None),
        };
        Follower { matcher: self.start.deep_clone(), ends: Arc::clone(&self.ends), waiting, choice }
    }
}

/// The state of a grammar in a continuation.
pub(crate) struct Follower {
    matcher: Matcher,
    ends: Arc<[u32]>,
    /// The tokens after which the grammar begins, and how many of them the last tokens are. `None` once it has begun.
    waiting: Option<Waiting>,
    /// Before the first token: the token that makes the grammar wait, and for what.
    choice: Option<(u32, Waiting)>,
}

type Waiting = (Arc<Pattern<u32>>, usize);

impl Follower {
    /// Sets the logits of all tokens that may not come next to minus infinity.
    ///
    /// # Errors
    /// The reason for the end, if no token can follow.
    pub(crate) fn mask(&mut self, logits: &mut [f32]) -> Result<(), Stop> {
        if self.waiting.is_some() {
            return Ok(());
        }
        let allowed = self.matcher.compute_mask().map_err(|_| Stop::Stuck)?;
        let words = allowed.as_slice();
        let open = self.choice.as_ref().map(|(open, _)| *open as usize);
        let is_allowed = |token: usize| {
            open == Some(token) || words.get(token / 32).is_some_and(|word| word >> (token % 32) & 1 == 1)
        };
        let mut any = false;
        for (token, logit) in logits.iter_mut().enumerate() {
            if is_allowed(token) {
                any |= *logit > f32::NEG_INFINITY;
            } else {
                *logit = f32::NEG_INFINITY;
            }
        }
        // Biases may forbid all that the grammar allows.
        if any { Ok(()) } else { Err(Stop::Stuck) }
    }

    /// Whether this token ends the text.
    pub(crate) fn is_end(&self, token: u32) -> bool {
        self.waiting.is_none() && self.ends.contains(&token)
    }

    /// Takes the next token, which is not an end. Returns the reason if the continuation ends with it.
    pub(crate) fn advance(&mut self, token: u32) -> Option<Stop> {
        if let Some((_, waiting)) = self.choice.take().filter(|(open, _)| *open == token) {
            self.waiting = Some(waiting);
            return None;
        }
        if let Some((pattern, matched)) = &mut self.waiting {
            *matched = pattern.step(*matched, &token);
            if *matched == pattern.len() {
                self.waiting = None;
            }
            return None;
        }
        if self.matcher.consume_token(token).is_err() {
            return Some(Stop::Stuck);
        }
        match self.matcher.stop_reason() {
            StopReason::NotStopped => None,
            reason if reason.is_ok() => Some(Stop::Grammar),
            _ => Some(Stop::Stuck),
        }
    }
}
