//! Speculation with the MTP module (report 5.4.3): a sequence that generates has a second row in the pass, a draft of
//! its next token.
//!
//! The module makes the draft: the most likely token after the last drawn one. The pass then gives the logits after
//! both. The token at each place is drawn from the main model's logits as without drafts, by (seed, request, sample,
//! position). The draft is accepted if it equals the token drawn at its place. Then the row of the draft is a row of
//! the sequence, and another token is drawn from its logits. Otherwise the row is forgotten, and the next pass
//! overwrites its latents. So tokens and log-probabilities have the bits that they have without drafts, in every
//! setting of sampling.
//!
//! This accepts a draft x with probability p(x), where p is the distribution of the main model after temperature,
//! penalties and cuts. No scheme accepts a fixed draft more often. A draft drawn from the module's own distribution q,
//! with rejection sampling, would be accepted with probability `sum_x min(p(x), q(x))`. That is more where p is flat
//! and q is close to it. But then the tokens would depend on the module and on whether it was used.
//!
//! The module's latents are computed late: only for a sequence that gets a draft, and from outputs of the main model
//! that the pool keeps. So a sequence may rest and draft at any time, after any hit of a prefix, and after preemption.

use super::pace::{Measured, Pace, Rate};
use super::{Engine, Event, Planned, RequestId};
use crate::acceptance::Acceptance;
use crate::generate::Stop;
use hadal_base::{Purpose, Rng};
use hadal_model::{Cache, Form, Model, Rows, Stretch};
use hadal_ops::Cx;
use hadal_ops::latent::pages_for;
use hadal_ops::reduce::argmax;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Instant;

/// Most latents of the module that a step computes, as a multiple of the rows of a pass. A latent needs a small part of
/// a row's products.
const LATENTS: usize = 16;

/// A sequence is expected to generate as many tokens again as it has generated, and this many more.
const EXPECTED: usize = 64;

/// Whether the MTP module drafts tokens. It never changes what is generated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Speculation {
    /// Never.
    Off,
    /// While it pays, according to measured times and acceptance.
    #[default]
    Auto,
    /// For every sequence that generates.
    Always,
}

/// Drafts of an engine.
pub(crate) struct Drafting {
    always: bool,
    pace: Pace,
    rows: Rows,
    /// What the module computes in this step: latents alone, and drafts.
    behind: Vec<Behind>,
    drafts: Vec<Draft>,
    measured: Measured,
    forced: Option<ForcedDrafts>,
    /// The module's own drafts, by sequence and place in its continuation.
    #[cfg(test)]
    pub(crate) made: Vec<((RequestId, usize), usize, u32)>,
    /// All drafts so far that were compared with a drawn token.
    pub(crate) counts: Acceptance,
}

/// The module's latents that a sequence lacks: those of tokens `from..to`.
struct Behind {
    place: usize,
    from: usize,
    to: usize,
}

/// A sequence that gets a draft.
struct Draft {
    place: usize,
    /// Its place among the stretches of the pass.
    planned: usize,
}

impl Drafting {
    /// `None` if there is nothing to draft with.
    pub(crate) fn new(cx: &Cx, model: &Model, speculation: Speculation) -> Option<Self> {
        (speculation != Speculation::Off && !model.mtp.is_empty()).then(|| Self {
            always: speculation == Speculation::Always,
            pace: Pace::new(),
            rows: Rows::new(cx),
            behind: Vec::new(),
            drafts: Vec::new(),
            measured: Measured::default(),
            forced: None,
            #[cfg(test)]
            made: Vec::new(),
            counts: Acceptance::default(),
        })
    }

    /// Counts a draft that was compared with the token drawn at its place.
    fn verified(&mut self, rate: &mut Rate, accepted: bool) -> Acceptance {
        let one = Acceptance { accepted: usize::from(accepted), drafts: 1 };
        self.counts += one;
        self.pace.verified(rate, accepted);
        one
    }

    /// Ends a pass of `seconds` seconds. `reading` of its rows were of sequences that do not generate yet.
    pub(crate) fn end(&mut self, seconds: f64, reading: usize) {
        if reading == 0 {
            self.pace.end(Measured { seconds, ..self.measured });
        } else {
            self.pace.read(reading, seconds);
        }
    }
}

impl Engine {
    /// Drafts a token for sequences of the pass that generate, and adds its row to their stretches.
    pub(super) fn speculate(&mut self, cx: &Cx, model: &Model, planned: &mut [Planned]) {
        if let Some(mut drafting) = self.drafting.take() {
            self.choose_drafts(&mut drafting, planned);
            self.make_drafts(cx, model, &mut drafting, planned);
            self.drafting = Some(drafting);
        }
    }

    /// Chooses which sequences get a draft.
    fn choose_drafts(&mut self, drafting: &mut Drafting, planned: &[Planned]) {
        drafting.behind.clear();
        drafting.drafts.clear();
        let decoding = planned.iter().filter(|p| self.running[p.place].decodes()).count();
        drafting.pace.begin(decoding);
        let used: usize = planned.iter().map(|p| p.end - self.running[p.place].computed).sum();
        let rows = self.options.rows;
        let (mut room, mut latents) = (rows.saturating_sub(used), rows.saturating_mul(LATENTS));
        for (i, Planned { place, .. }) in planned.iter().enumerate() {
            let sequence = &mut self.running[*place];
            sequence.drafts.clear();
            // A draft is of no use if the next token is the last.
            let left = sequence.end.saturating_sub(sequence.tokens.len());
            if !sequence.decodes() || left < 2 || room == 0 {
                continue;
            }
            let (from, to) = (self.pages.drafted(&sequence.pages).max(1), sequence.computed);
            let behind = to.saturating_sub(from);
            let expected = left.min(sequence.tokens.len() - sequence.prompt + EXPECTED);
            let wanted = drafting.always || drafting.pace.wants(&mut sequence.rate, behind, expected);
            if !wanted || (behind > 0 && latents == 0) {
                continue;
            }
            let now = behind.min(latents);
            if now > 0 {
                latents -= now;
                let parts = (from..from + now).step_by(rows);
                drafting.behind.extend(parts.map(|at| Behind {
                    place: *place,
                    from: at,
                    to: (at + rows).min(from + now),
                }));
                self.pages.set_drafted(&sequence.pages, from + now);
            }
            if now == behind && self.has_page_for_draft(*place) {
                room -= 1;
                drafting.drafts.push(Draft { place: *place, planned: i });
                let sequence = &self.running[*place];
                self.pages.set_drafted(&sequence.pages, sequence.computed + 1);
            }
        }
    }

    /// Whether a sequence has a page for a draft after its last token, or gets one that nobody uses.
    fn has_page_for_draft(&mut self, place: usize) -> bool {
        let needed = pages_for(self.running[place].tokens.len() + 1);
        while self.running[place].pages.len() < needed {
            let Some(page) = self.take_page() else { return false };
            self.running[place].pages.push(page);
        }
        true
    }

    /// Computes the module's latents that the chosen sequences lack, in passes of no more rows than the engine's.
    fn catch_up(&mut self, cx: &Cx, model: &Model, drafting: &mut Drafting) {
        let Drafting { rows, behind, drafts, measured, .. } = drafting;
        let start = Instant::now();
        let (mut left, mut latents) = (behind.as_slice(), 0);
        while !left.is_empty() {
            let mut total = 0;
            let fit = left.iter().take_while(|b| {
                total += b.to - b.from;
                total <= self.options.rows
            });
            let (now, later) = left.split_at(fit.count());
            let stretches = now.iter().map(|b| {
                let s = &self.running[b.place];
                Stretch { tokens: &s.tokens[b.from..b.to], before: b.from, table: &s.pages, form: Form::Absorbed }
            });
            rows.set_draft(model.config.num_attention_heads, stretches);
            let mut cache = Cache { pool: &mut self.pool, views: &self.views, rows, loads: &self.loads };
            model.keep_draft_latents(cx, &mut cache);
            latents += now.iter().map(|b| b.to - b.from).sum::<usize>();
            left = later;
        }
        *measured = Measured { seconds: 0.0, drafts: drafts.len(), behind: (latents, start.elapsed().as_secs_f64()) };
    }

    /// Runs the module for the chosen sequences.
    fn make_drafts(&mut self, cx: &Cx, model: &Model, drafting: &mut Drafting, planned: &mut [Planned]) {
        self.catch_up(cx, model, drafting);
        #[cfg(test)]
        let made = &mut drafting.made;
        let Drafting { rows, drafts, forced, .. } = drafting;
        let (heads, vocab) = (model.config.num_attention_heads, model.config.vocab_size);
        if drafts.is_empty() {
            return;
        }
        let stretches = drafts.iter().map(|d| {
            let s = &self.running[d.place];
            Stretch { tokens: &s.tokens[s.computed..], before: s.computed, table: &s.pages, form: Form::Absorbed }
        });
        rows.set_draft(heads, stretches);
        let mut cache = Cache { pool: &mut self.pool, views: &self.views, rows, loads: &self.loads };
        let z = model.draft(cx, &mut cache);
        let mut logits = model.project(cx, &z);
        for (draft, logits) in drafts.iter().zip(logits.f32_mut().chunks_exact_mut(vocab)) {
            let s = &mut self.running[draft.place];
            s.adjust(logits);
            let token = argmax(logits) as u32;
            let place = s.tokens.len() - s.prompt;
            #[cfg(test)]
            made.push(((s.id, s.sample), place, token));
            let token = forced.as_ref().map_or(token, |f| f.draft((s.id, s.sample), place, token, vocab));
            s.drafts.push(token as i32);
            s.tokens.push(token as i32);
            planned[draft.planned].end += 1;
        }
    }

    /// Draws tokens of a sequence from the logits of its last rows: its next token, and one more after each draft that
    /// equals the token drawn at its place. Returns the reason if the sequence ends.
    pub(super) fn draw_and_verify(
        &mut self,
        place: usize,
        logits: &mut [f32],
        vocab: usize,
        each: &mut dyn FnMut(Event),
    ) -> Option<Stop> {
        let s = &mut self.running[place];
        for (i, logits) in logits.chunks_exact_mut(vocab).enumerate() {
            let before = s.tokens.len();
            let stop = s.draw(logits, each);
            let drawn = s.tokens.get(before).copied();
            self.generated += u64::from(drawn.is_some());
            let accepted = s.drafts.get(i).zip(drawn).map(|(draft, drawn)| *draft == drawn);
            if let Some((accepted, drafting)) = accepted.zip(self.drafting.as_mut()) {
                s.verified += drafting.verified(&mut s.rate, accepted);
            }
            if stop.is_some() || accepted != Some(true) {
                return stop;
            }
            s.advance(s.computed + 1, Form::Absorbed);
        }
        None
    }

    /// Replaces the drafts of known continuations, to measure the speed at a given acceptance. Does nothing without a
    /// module.
    pub(crate) fn force_drafts(&mut self, forced: ForcedDrafts) {
        if let Some(drafting) = &mut self.drafting {
            drafting.forced = Some(forced);
        }
    }
}

/// Drafts that are right with a given probability. They replace the module's drafts. The module still runs.
#[derive(Clone, Debug)]
pub(crate) struct ForcedDrafts {
    share: f64,
    rng: Rng,
    /// The continuations, from an engine without drafts.
    answers: BTreeMap<(RequestId, usize), Vec<u32>>,
}

impl ForcedDrafts {
    pub(crate) fn new(share: f64, seed: u64) -> Self {
        Self { share, rng: Rng::new(seed, Purpose::Test, u64::MAX), answers: BTreeMap::new() }
    }

    /// Adds the continuation of a sample of a request.
    pub(crate) fn expect(&mut self, id: RequestId, sample: usize, tokens: Vec<u32>) {
        self.answers.insert((id, sample), tokens);
    }

    /// The draft of token `place` of a continuation: the right token or another one. If the continuation is not known,
    /// the module's own.
    fn draft(&self, sequence: (RequestId, usize), place: usize, own: u32, vocab: usize) -> u32 {
        let Some(right) = self.answers.get(&sequence).and_then(|tokens| tokens.get(place)) else { return own };
        let (RequestId(id), sample) = sequence;
        let keep = self.rng.substream(id).substream(sample as u64).uniform(place as u64) < self.share;
        if keep { *right } else { (right + 1) % vocab as u32 }
    }
}
