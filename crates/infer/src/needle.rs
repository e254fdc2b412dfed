//! Needle in a haystack (report 4.3): whether a model finds a fact that it has read.
//!
//! The log-probabilities of the right answer tell what greedy generation would produce. Generation gives the answer as
//! long as each of its tokens is the most likely one after the tokens before it. At the first token that is not, it
//! fails. Logits are computed only for the few tokens of the answer. The text is read in pieces, so memory does not
//! grow with it.

use crate::engine::{Engine, RequestError};
use crate::score::{Score, score};
use hadal_model::Model;
use hadal_ops::Cx;
use std::ops::Range;

/// The result of one question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retrieval {
    /// Number of answer tokens that greedy generation gets right before its first wrong one.
    pub right: usize,
    /// Number of answer tokens.
    pub tokens: usize,
}

impl Retrieval {
    /// Whether the whole answer is right.
    pub fn found(&self) -> bool {
        self.right == self.tokens
    }
}

/// Asks for the tokens of `ids` at `answer`. The question stands before them. The engine must be idle. If several texts
/// begin alike, their beginning is computed once.
///
/// # Errors
/// If the text has unknown tokens, or does not fit into the model's context or the engine's cache.
///
/// # Panics
/// If the answer is empty, starts the text, or ends after it.
pub fn retrieve(
    cx: &Cx,
    model: &Model,
    engine: &mut Engine,
    ids: &[u32],
    answer: Range<usize>,
) -> Result<Retrieval, RequestError> {
    assert!(0 < answer.start && answer.start < answer.end && answer.end <= ids.len(), "retrieve: answer {answer:?}");
    let scored = score(cx, model, engine, &ids[..answer.end], Score { from: answer.start, top: 0 })?;
    Ok(Retrieval { right: scored.iter().take_while(|token| token.rank == 0).count(), tokens: answer.len() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EngineOptions, SampleParams, generate};
    use hadal_model::Fresh;
    use hadal_ops::DType;
    use hadal_weights::ModelConfig;
    use hadal_weights::precision::Precision;

    #[test]
    fn says_what_generation_would() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../model/tests/fixtures/yarn");
        let config = ModelConfig::from_file(format!("{folder}/config.json")).unwrap();
        let cx = Cx::cpu(1, DType::F32);
        let model = Model::fresh(&cx, &config, Precision::COMPUTE, Fresh { seed: 3, std: 0.3 });
        let mut engine = Engine::new(&cx, &model, EngineOptions::default());
        let prompt: Vec<u32> = (0..40).map(|i| (i * 7 + 3) % config.vocab_size as u32).collect();
        let done = generate(&cx, &model, &mut engine, &prompt, SampleParams::default(), &[], 4, &mut |_| true);
        let done = done.unwrap();
        let mut all = [prompt.as_slice(), &done.tokens].concat();
        let whole = retrieve(&cx, &model, &mut engine, &all, 40..44).unwrap();
        assert_eq!(whole, Retrieval { right: 4, tokens: 4 });
        assert!(whole.found());
        all[42] = (all[42] + 1) % config.vocab_size as u32;
        assert_eq!(retrieve(&cx, &model, &mut engine, &all, 40..44).unwrap().right, 2);
        // The last token of the answer is not read, so a text may be one token longer than the context.
        let longest = config.max_position_embeddings;
        let room = EngineOptions { cache_tokens: longest, ..EngineOptions::default() };
        let mut engine = Engine::new(&cx, &model, room);
        let mut ask = |n: usize| retrieve(&cx, &model, &mut engine, &vec![1; n], n - 2..n);
        assert!(ask(longest + 1).is_ok());
        assert_eq!(ask(longest + 2), Err(RequestError::LongText { tokens: longest + 2, longest }));
    }
}
