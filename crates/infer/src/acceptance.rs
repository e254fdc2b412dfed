//! Measures how often the draft of the first MTP module would be accepted (report 5.4.3). That is the share of tokens
//! for which the module predicts the same as the main model, although it sees one token less. It is measured on
//! greedily generated text, or at every position of a given text.
//!
//! A small model's own text soon repeats itself and is easy to predict. A given text is not.
//!
//! Every position counts here. The engine's own counts ([`crate::Load::drafts`]) are of drafts that it made. It makes
//! none for the token after an accepted draft, which comes from the same pass.

use crate::engine::{Engine, RequestError};
use crate::generate::{Generation, generate};
use crate::sample::SampleParams;
use hadal_model::{Input, Model};
use hadal_ops::Cx;
use hadal_ops::reduce::argmax;
use serde::{Deserialize, Serialize};

/// The counted drafts of one module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acceptance {
    /// Number of drafts that equal the generated token.
    pub accepted: usize,
    /// Number of drafts.
    pub drafts: usize,
}

impl Acceptance {
    /// The share of accepted drafts, or `None` without drafts.
    pub fn rate(&self) -> Option<f64> {
        (self.drafts > 0).then(|| self.accepted as f64 / self.drafts as f64)
    }
}

impl std::ops::AddAssign for Acceptance {
    fn add_assign(&mut self, other: Self) {
        self.accepted += other.accepted;
        self.drafts += other.drafts;
    }
}

impl std::ops::Sub for Acceptance {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self { accepted: self.accepted - earlier.accepted, drafts: self.drafts - earlier.drafts }
    }
}

/// Generates at most `n` tokens after `prompt`, greedily. Also returns the acceptance of module 1's drafts of these
/// tokens.
pub fn generate_with_drafts(
    cx: &Cx,
    model: &Model,
    engine: &mut Engine,
    prompt: &[u32],
    stop: &[u32],
    n: usize,
) -> Result<(Generation, Acceptance), RequestError> {
    let done = generate(cx, model, engine, prompt, SampleParams::default(), stop, n, &mut |_| true)?;
    let all = [prompt, &done.tokens].concat();
    let seen = mtp_acceptance(cx, model, &all, prompt.len());
    Ok((done, seen))
}

/// Acceptance of module 1's drafts at every position of `tokens`. A draft is accepted if the main model finds the same
/// token most likely.
pub fn acceptance_along(cx: &Cx, model: &Model, tokens: &[u32]) -> Acceptance {
    let ids: Vec<i32> = tokens.iter().map(|t| *t as i32).collect();
    if model.mtp.is_empty() || ids.len() < 2 {
        return Acceptance::default();
    }
    let (main, mtp) = model.logits(cx, &Input::of(cx, &[&ids], 1), None, None);
    let vocab = model.config.vocab_size;
    // Row i of the module and row i + 1 of the main model both predict token i + 2.
    let rows = mtp[0].f32().chunks_exact(vocab).zip(main.f32().chunks_exact(vocab).skip(1));
    let (mut accepted, mut drafts) = (0, 0);
    for (draft, main) in rows {
        drafts += 1;
        accepted += usize::from(argmax(draft) == argmax(main));
    }
    Acceptance { accepted, drafts }
}

/// Acceptance of module 1's drafts over `tokens`. The tokens from `generated` on were generated greedily.
pub fn mtp_acceptance(cx: &Cx, model: &Model, tokens: &[u32], generated: usize) -> Acceptance {
    let ids: Vec<i32> = tokens.iter().map(|t| *t as i32).collect();
    let mut out = Acceptance::default();
    if model.mtp.is_empty() || ids.len() < 3 {
        return out;
    }
    let input = Input::of(cx, &[&ids], 1);
    let (_, mtp) = model.logits(cx, &input, None, None);
    let vocab = model.config.vocab_size;
    // Row i drafts token i + 2. By then the main model itself has produced token i + 1.
    for (i, logits) in mtp[0].f32().chunks_exact(vocab).enumerate() {
        if i + 1 >= generated && i + 2 < tokens.len() {
            out.drafts += 1;
            out.accepted += usize::from(argmax(logits) == tokens[i + 2] as usize);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EngineOptions;
    use hadal_model::Fresh;
    use hadal_ops::DType;
    use hadal_weights::ModelConfig;
    use hadal_weights::precision::Precision;

    #[test]
    fn both_counts_agree_on_greedy_text() {
        let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/../model/tests/fixtures/mtp2/config.json");
        let config = ModelConfig::from_file(fixture).unwrap();
        let cx = Cx::cpu(1, DType::F32);
        let model = Model::fresh(&cx, &config, Precision::COMPUTE, Fresh { seed: 5, std: 0.3 });
        let mut engine = Engine::new(&cx, &model, EngineOptions::default());
        let mut seen = Acceptance::default();
        for prompt in 1..20 {
            let (done, own) = generate_with_drafts(&cx, &model, &mut engine, &[prompt], &[], 16).unwrap();
            let all = [&[prompt], done.tokens.as_slice()].concat();
            assert_eq!((all.len(), own.drafts), (17, 15));
            // The last position of a text predicts a token that is not in the text.
            let (along, less) = (acceptance_along(&cx, &model, &all), acceptance_along(&cx, &model, &all[..16]));
            assert_eq!((along.drafts, less.drafts), (16, 15));
            assert_eq!(less, own, "prompt {prompt}");
            seen += own;
        }
        assert!(seen.accepted > 0 && seen.accepted < seen.drafts, "{seen:?}");
        assert_eq!(acceptance_along(&cx, &model, &[1]), Acceptance::default());
    }
}
