//! Requests to the engine, and the events with which it answers.

use super::prefix::Reuse;
use crate::acceptance::Acceptance;
use crate::generate::Stop;
use crate::grammar::Constraint;
use crate::sample::{Adjust, SampleParams};
use crate::score::{Score, ScoredToken};
use crate::text::{Piece, TextOptions};

/// A prompt to continue, once or several times.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The prompt's tokens, at least one.
    pub prompt: Vec<u32>,
    /// How tokens are drawn. The engine sets the number of the sample.
    pub params: SampleParams,
    /// Penalties and biases.
    pub adjust: Adjust,
    /// Continuations to make (0 counts as 1).
    pub samples: usize,
    /// Largest number of new tokens of each.
    pub max_new: usize,
    /// Tokens that end a continuation. They are not part of it.
    pub stop: Vec<u32>,
    /// Return the log-probability of each new token, and this number of the most likely tokens at its place.
    pub logprobs: Option<usize>,
    /// The text of the continuations, and stop strings. Without this, there are only tokens.
    pub text: Option<TextOptions>,
    /// The grammar of the continuations.
    pub constraint: Option<Constraint>,
    /// Log-probabilities of the prompt. With `max_new` 0, nothing else is computed.
    pub score: Option<Score>,
    /// Requests with a higher number go first. Waiting raises it.
    pub priority: i32,
    /// What may be re-used of earlier requests.
    pub reuse: Reuse,
}

impl Request {
    /// Tokens of prompt and continuation together, at most, in a model whose context has `longest` tokens.
    pub(crate) fn end(&self, longest: usize) -> usize {
        self.prompt.len().saturating_add(self.max_new).min(longest)
    }

    /// Whether only the prompt's log-probabilities are wanted. Then the prompt's last token is not read.
    fn is_score(&self) -> bool {
        self.max_new == 0 && self.score.is_some()
    }

    /// Checks that a model with this context and vocabulary, and a cache for `room` tokens, can do what is asked.
    pub(crate) fn check(&self, longest: usize, vocabulary: usize, room: usize) -> Result<(), RequestError> {
        let tokens = if self.is_score() {
            let read = self.prompt.len().checked_sub(1).ok_or(RequestError::EmptyPrompt)?;
            if read > longest {
                return Err(RequestError::LongText { tokens: self.prompt.len(), longest });
            }
            read
        } else {
            check_length(self.prompt.len(), longest)?;
            self.end(longest)
        };
        if let Some(token) = self.prompt.iter().copied().find(|t| *t as usize >= vocabulary) {
            return Err(RequestError::UnknownToken { token, vocabulary });
        }
        if tokens > room {
            return Err(RequestError::LargeRequest { tokens, room });
        }
        if self.text.as_ref().is_some_and(|text| text.stop.iter().any(String::is_empty)) {
            return Err(RequestError::EmptyStop);
        }
        self.check_drawing(vocabulary)?;
        match self.constraint.as_ref().map(Constraint::vocabulary) {
            Some(tokens) if tokens != vocabulary => Err(RequestError::OtherVocabulary { tokens, vocabulary }),
            _ => Ok(()),
        }
    }

    /// Checks how tokens are drawn: no setting may make a logit NaN, and a token must be left to draw.
    fn check_drawing(&self, vocabulary: usize) -> Result<(), RequestError> {
        if let Some((name, value, wanted)) = self.params.wrong().or_else(|| self.adjust.wrong()) {
            return Err(RequestError::Setting { name, value: value.to_string(), wanted });
        }
        if let Some((token, _)) = self.adjust.bias.iter().find(|(token, _)| *token as usize >= vocabulary) {
            return Err(RequestError::UnknownBias { token: *token, vocabulary });
        }
        if self.adjust.forbids_all(vocabulary) { Err(RequestError::NothingAllowed) } else { Ok(()) }
    }
}

/// The number of a request in its engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub(crate) u64);

/// A token and the natural logarithm of its probability.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Logprob {
    /// The token.
    pub token: u32,
    /// The model's own, before temperature, penalties and cuts.
    pub logprob: f32,
}

/// A new token of a continuation.
#[derive(Clone, Debug, PartialEq)]
pub struct NewToken {
    /// The token.
    pub token: u32,
    /// Its log-probability, if asked for.
    pub logprob: Option<f32>,
    /// The most likely tokens at its place, if asked for, most likely first.
    pub top: Vec<Logprob>,
}

/// Numbers of tokens of a finished continuation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Tokens of the prompt whose latents were re-used at the start.
    pub cached: usize,
    /// New tokens.
    pub generated: usize,
    /// Drafts of the new tokens that were verified and accepted.
    pub drafts: Acceptance,
}

/// Something that happened to a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A new token.
    Token {
        /// The request.
        id: RequestId,
        /// The number of the sample.
        sample: usize,
        /// The token.
        token: NewToken,
    },
    /// More text, if the request asks for text. It comes after the tokens that complete it.
    Text {
        /// The request.
        id: RequestId,
        /// The number of the sample.
        sample: usize,
        /// The text.
        piece: Piece,
    },
    /// Log-probabilities of the next tokens of a prompt, if the request asks for them.
    Scored {
        /// The request.
        id: RequestId,
        /// The tokens, in the order of the prompt.
        tokens: Vec<ScoredToken>,
    },
    /// The end of a continuation.
    Finished {
        /// The request.
        id: RequestId,
        /// The number of the sample.
        sample: usize,
        /// Why it ended.
        stop: Stop,
        /// The stop token that ended it, if log-probabilities are asked for.
        end: Option<NewToken>,
        /// The numbers of its tokens.
        usage: Usage,
    },
}

impl Event {
    /// Of which request it tells.
    pub fn id(&self) -> RequestId {
        match self {
            Self::Token { id, .. } | Self::Text { id, .. } | Self::Scored { id, .. } | Self::Finished { id, .. } => *id,
        }
    }
}

/// Why a request cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// There is nothing to continue.
    #[error("the prompt is empty: give at least one token")]
    EmptyPrompt,
    /// The prompt leaves no room in the model's context.
    #[error("the prompt has {tokens} tokens and leaves no room in the model's context of {longest}: shorten it")]
    LongPrompt {
        /// Of the prompt.
        tokens: usize,
        /// The model's context.
        longest: usize,
    },
    /// The request alone would not fit into the cache.
    #[error(
        "prompt and new tokens are {tokens} together, and the cache has room for {room}: ask for fewer, or give the \
         engine a larger cache"
    )]
    LargeRequest {
        /// Of prompt and continuation.
        tokens: usize,
        /// Of the cache.
        room: usize,
    },
    /// A text to score is longer than the model's context.
    #[error(
        "the text to score has {tokens} tokens, but a text may have one token more than the model's context of {longest}: \
         shorten it"
    )]
    LongText {
        /// Of the text.
        tokens: usize,
        /// The model's context.
        longest: usize,
    },
    /// A stop string without characters.
    #[error("a stop string is empty: leave it out")]
    EmptyStop,
    /// A setting for drawing tokens is outside of its range.
    #[error("the {name} is {value}, and must be {wanted}")]
    Setting {
        /// Its name.
        name: &'static str,
        /// Its value.
        value: String,
        /// What it must be.
        wanted: &'static str,
    },
    /// A bias is for a token that the model does not have.
    #[error("there is a bias for token {token}, which is not in the model's vocabulary of {vocabulary}: leave it out")]
    UnknownBias {
        /// The token.
        token: u32,
        /// Number of tokens that the model has.
        vocabulary: usize,
    },
    /// No token is left to draw.
    #[error("the biases forbid every token: allow at least one")]
    NothingAllowed,
    /// The constraint was made for another model.
    #[error(
        "the constraint is for a vocabulary of {tokens} tokens, and the model has {vocabulary}: build it for this model"
    )]
    OtherVocabulary {
        /// Number of tokens that it is for.
        tokens: usize,
        /// Number of tokens that the model has.
        vocabulary: usize,
    },
    /// A token that the model does not have.
    #[error("token {token} of the prompt is not in the model's vocabulary of {vocabulary}")]
    UnknownToken {
        /// The token.
        token: u32,
        /// Number of tokens that the model has.
        vocabulary: usize,
    },
}

/// Checks that a model whose context has `longest` tokens can continue a prompt of `tokens` tokens.
pub(crate) fn check_length(tokens: usize, longest: usize) -> Result<(), RequestError> {
    match tokens {
        0 => Err(RequestError::EmptyPrompt),
        tokens if tokens >= longest => Err(RequestError::LongPrompt { tokens, longest }),
        _ => Ok(()),
    }
}
