//! Needle in a haystack (report 4.3): whether a model finds a fact that it has read.
//!
//! A single prefill of text, question and right answer tells what greedy generation would produce. Generation gives the
//! answer as long as each of its tokens is the most likely one after the tokens before it. At the first token that is
//! not, it fails. Logits are computed only for the few tokens of the answer, however long the text is. The attention is
//! block-wise.

use crate::sample::argmax;
use hadal_model::{Input, Model};
use hadal_ops::{Cx, elementwise};
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

/// Asks for the tokens of `ids` at `answer`. The question stands before them.
///
/// # Panics
/// If the answer is empty, starts the text, or ends after it.
pub fn retrieve(cx: &Cx, model: &Model, ids: &[u32], answer: Range<usize>) -> Retrieval {
    assert!(0 < answer.start && answer.start < answer.end && answer.end <= ids.len(), "retrieve: answer {answer:?}");
    // The last token of the answer is only predicted, not read.
    let read: Vec<i32> = ids[..answer.end - 1].iter().map(|id| *id as i32).collect();
    let hidden = model.head_inputs(cx, &Input::of(cx, &[&read], 0));
    let rows: Vec<i32> = (answer.start - 1..answer.end - 1).map(|row| row as i32).collect();
    let mut last = cx.empty(&[rows.len(), hidden.cols()], hidden.dtype());
    elementwise::gather_rows(cx, &hidden, &cx.indices(&[rows.len()], &rows), &mut last);
    let logits = model.project(cx, &last);
    let tokens = answer.len();
    let said = logits.f32().chunks_exact(model.config.vocab_size).map(|row| argmax(row) as u32);
    let right = said.zip(&ids[answer]).take_while(|(said, right)| said == *right).count();
    Retrieval { right, tokens }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Engine, EngineOptions, SampleParams, generate};
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
        let whole = retrieve(&cx, &model, &all, 40..44);
        assert_eq!(whole, Retrieval { right: 4, tokens: 4 });
        assert!(whole.found());
        all[42] = (all[42] + 1) % config.vocab_size as u32;
        assert_eq!(retrieve(&cx, &model, &all, 40..44).right, 2);
    }
}
