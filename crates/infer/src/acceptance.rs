//! How often an MTP module's draft would be accepted (report 5.4.3): of greedily generated text, the share of tokens
//! that the module at depth k, looking k tokens less far, predicts the same.

use crate::generate::{Generation, generate};
use crate::sample::{SampleParams, argmax};
use hadal_model::{Decoder, Input, Model};
use hadal_ops::Cx;

/// Counted drafts of one module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Acceptance {
    /// Drafts equal to the generated token.
    pub accepted: usize,
    /// Drafts made.
    pub drafts: usize,
}

impl Acceptance {
    /// Accepted share; none without drafts.
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

/// At most `n` tokens after `prompt`, greedily, and the acceptance of module 1's drafts of them.
pub fn generate_with_drafts(
    cx: &Cx,
    decoder: &Decoder<'_>,
    prompt: &[u32],
    stop: &[u32],
    n: usize,
) -> (Generation, Acceptance) {
    let done = generate(cx, decoder, prompt, SampleParams::default(), stop, n, &mut |_| true);
    let all = [prompt, &done.tokens].concat();
    let seen = mtp_acceptance(cx, decoder.model(), &all, prompt.len());
    (done, seen)
}

/// Acceptance of the drafts of module 1 over `tokens`, of which those from `generated` on were generated greedily.
pub fn mtp_acceptance(cx: &Cx, model: &Model, tokens: &[u32], generated: usize) -> Acceptance {
    let ids: Vec<i32> = tokens.iter().map(|t| *t as i32).collect();
    let mut out = Acceptance::default();
    if model.mtp.is_empty() || ids.len() < 3 {
        return out;
    }
    let input = Input::of(cx, &[&ids], 1);
    let (_, mtp) = model.logits(cx, &input, None, None);
    let vocab = model.config.vocab_size;
    // Row i drafts token i + 2, after the main model has produced token i + 1 itself.
    for (i, logits) in mtp[0].f32().chunks_exact(vocab).enumerate() {
        if i + 1 >= generated && i + 2 < tokens.len() {
            out.drafts += 1;
            out.accepted += usize::from(argmax(logits) == tokens[i + 2] as usize);
        }
    }
    out
}
