//! The engine: many requests at once over one pool of latent pages.
//!
//! A step is one pass of the model over rows of several sequences. Each sequence that generates has one row, or two
//! with a draft of its next token ([`speculation`]). Pieces of prompts take the rows that are left, so a long prompt
//! delays the others by one pass at most. Sequences that begin with the same tokens share pages ([`prefix`]). When
//! pages run out, prefixes that nobody uses are dropped first. Then the sequence that came last is preempted. Its
//! latents are computed again later, in the same attention forms.
//!
//! None of this changes what a sequence computes. A row has the same bits in every pass, and the attention form of a
//! token never changes. So a request gives the same tokens and log-probabilities alone and among others.

#[cfg(test)]
mod draft_tests;
mod pace;
mod pages;
mod prefix;
mod request;
mod score;
mod sequence;
mod speculation;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod text_tests;

use crate::acceptance::Acceptance;
use crate::generate::Stop;
use hadal_model::{AbsorbedViews, Cache, ExpertLoads, Form, LatentPool, Model, PassBytes, Rows, Stretch};
use hadal_ops::latent::{PAGE, pages_for};
use hadal_ops::{Cx, Tensor};
use pages::Pages;
use prefix::PrefixTree;
pub use prefix::Reuse;
pub(crate) use request::check_length;
pub use request::{Event, Logprob, NewToken, Request, RequestError, RequestId, Usage};
use sequence::Sequence;
use speculation::Drafting;
pub(crate) use speculation::ForcedDrafts;
pub use speculation::Speculation;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

/// Steps of waiting that count as one level of priority.
const PATIENCE: u32 = 64;

/// Limits of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// Tokens whose latents fit into the cache.
    pub cache_tokens: usize,
    /// Rows of a pass. Sequences that generate come first, one row each, and one more for a draft.
    pub rows: usize,
    /// Number of sequences that run at the same time.
    pub sequences: usize,
    /// Whether the model's MTP module drafts tokens. A model without one never does.
    pub speculation: Speculation,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self { cache_tokens: 16_384, rows: 512, sequences: 64, speculation: Speculation::Auto }
    }
}

/// The state of an engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Running sequences.
    pub running: usize,
    /// Waiting sequences.
    pub waiting: usize,
    /// Pages of the cache.
    pub pages: usize,
    /// Free pages.
    pub free_pages: usize,
    /// Pages in the prefix tree.
    pub prefix_pages: usize,
    /// Preemptions so far.
    pub preemptions: u64,
    /// Drafts so far that were verified and accepted.
    pub drafts: Acceptance,
    /// Passes so far.
    pub passes: u64,
    /// Distinct experts that the passes and their drafts used, summed over layers.
    pub experts: u64,
    /// Prompt tokens that passes have read so far. Those read again after a preemption count again.
    pub read: u64,
    /// Tokens drawn so far.
    pub generated: u64,
}

/// Sequences of many requests. The model is borrowed for each step, so that it may be trained between two of them.
pub struct Engine {
    options: EngineOptions,
    pool: LatentPool,
    views: AbsorbedViews,
    rows: Rows,
    pages: Pages,
    prefixes: PrefixTree,
    /// In the order of service.
    running: Vec<Sequence>,
    waiting: VecDeque<Sequence>,
    next_id: u64,
    preemptions: u64,
    passes: u64,
    read: u64,
    generated: u64,
    loads: Arc<ExpertLoads>,
    /// `None` without speculation.
    drafting: Option<Drafting>,
    lists: Lists,
}

/// Lists that a step fills, kept so that it allocates nothing.
#[derive(Default)]
struct Lists {
    planned: Vec<Planned>,
    /// Running sequences whose next token is drawn.
    drawing: Vec<usize>,
    /// Rows of the pass that give their logits: the last row of each, and the rows of its drafts.
    rows: Vec<i32>,
    done: Vec<(usize, Stop)>,
}

/// The tokens of a running sequence that a pass computes.
struct Planned {
    /// Place in `running`.
    place: usize,
    /// Where the stretch ends, in tokens of the sequence.
    end: usize,
    form: Form,
}

impl Engine {
    /// An engine for `model`.
    pub fn new(cx: &Cx, model: &Model, options: EngineOptions) -> Self {
        let options = EngineOptions { rows: options.rows.max(1), sequences: options.sequences.max(1), ..options };
        let count = pages_for(options.cache_tokens).max(1);
        let drafting = Drafting::new(cx, model, options.speculation);
        let pool = LatentPool::new(cx, &model.config, count, drafting.is_some());
        Self {
            options,
            views: AbsorbedViews::new(model, &pool),
            pool,
            rows: Rows::new(cx),
            pages: Pages::new(count),
            prefixes: PrefixTree::new(),
            running: Vec::new(),
            waiting: VecDeque::new(),
            next_id: 0,
            preemptions: 0,
            passes: 0,
            read: 0,
            generated: 0,
            loads: Arc::new(ExpertLoads::new(model)),
            drafting,
            lists: Lists::default(),
        }
    }

    /// Takes a request. Its tokens come from the steps that follow.
    ///
    /// # Errors
    /// If the prompt is empty, has unknown tokens, or does not fit into the model's context or the cache, if a stop
    /// string is empty, if a setting for drawing is NaN or outside of its range, if the biases forbid every token, or if
    /// the constraint is for another vocabulary.
    pub fn submit(&mut self, model: &Model, request: &Request) -> Result<RequestId, RequestError> {
        let longest = model.config.max_position_embeddings;
        request.check(longest, model.config.vocab_size, self.pages.total() * PAGE)?;
        let id = RequestId(self.next_id);
        self.next_id += 1;
        self.waiting.extend((0..request.samples.max(1)).map(|sample| Sequence::new(id, sample, request, longest)));
        Ok(id)
    }

    /// Forgets a request at once: its pages are free when this returns.
    pub fn cancel(&mut self, id: RequestId) {
        self.waiting.retain(|s| s.id != id);
        while let Some(place) = self.running.iter().position(|s| s.id == id) {
            let sequence = self.running.remove(place);
            self.release(sequence.pages);
        }
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// The state of the engine.
    pub fn load(&self) -> Load {
        Load {
            running: self.running.len(),
            waiting: self.waiting.len(),
            pages: self.pages.total(),
            free_pages: self.pages.free(),
            prefix_pages: self.prefixes.len(),
            preemptions: self.preemptions,
            drafts: self.drafting.as_ref().map(|d| d.counts).unwrap_or_default(),
            passes: self.passes,
            experts: self.loads.used(),
            read: self.read,
            generated: self.generated,
        }
    }

    /// Tokens of each routed expert. They may be read while the engine works.
    pub fn expert_loads(&self) -> Arc<ExpertLoads> {
        Arc::clone(&self.loads)
    }

    /// Drops the latents in the prefix tree. They are outdated when the weights have changed. Pages that a running
    /// sequence uses stay, so the engine should be idle.
    pub fn forget_prefixes(&mut self) {
        self.prefixes.clear(&mut self.pages);
    }

    /// Makes one pass and gives its events to `each`. Does nothing if the engine is idle.
    pub fn step(&mut self, cx: &Cx, model: &Model, each: &mut dyn FnMut(Event)) {
        self.admit();
        self.end_full(each);
        let mut lists = std::mem::take(&mut self.lists);
        self.plan(&mut lists.planned);
        if !lists.planned.is_empty() {
            self.views.refresh(model);
            let start = Instant::now();
            let reading = lists.planned.iter().filter(|p| !self.running[p.place].decodes());
            let reading: usize = reading.map(|p| p.end - self.running[p.place].computed).sum();
            self.speculate(cx, model, &mut lists.planned);
            let h = self.pass(cx, model, &lists.planned);
            self.score(cx, model, &h, &lists.planned, each);
            self.draw(cx, model, &h, &mut lists, each);
            self.end_full(each);
            self.passes += 1;
            self.read += reading as u64;
            if let Some(drafting) = &mut self.drafting {
                drafting.end(start.elapsed().as_secs_f64(), reading);
            }
        }
        self.lists = lists;
    }

    /// Moves waiting sequences to the running ones, by priority and then in their order.
    fn admit(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        self.waiting.iter_mut().for_each(|s| s.waited += 1);
        let rank = |s: &Sequence| (-(i64::from(s.priority) + i64::from(s.waited / PATIENCE)), s.id, s.sample);
        self.waiting.make_contiguous().sort_unstable_by_key(rank);
        let mut place = 0;
        while place < self.waiting.len() && self.running.len() < self.options.sequences {
            if !self.admit_one(place) {
                place += 1;
            }
        }
    }

    /// Moves a waiting sequence to the running ones, with the latents that the prefix tree has of its tokens. Leaves it
    /// where it is and returns false if another one is about to compute a page that it can share.
    fn admit_one(&mut self, place: usize) -> bool {
        let sequence = &self.waiting[place];
        let known = &sequence.tokens[..sequence.reusable()];
        let (fixed, reuse) = (&sequence.forms, sequence.reuse);
        let hit = self.prefixes.find(known, |i, form| match fixed.get(i) {
            Some(fixed) => *fixed == form && reuse != Reuse::None,
            None => reuse.accepts(form),
        });
        if self.is_under_way(sequence, hit.tokens()) {
            return false;
        }
        hit.pages.iter().for_each(|page| self.pages.share(*page));
        // If only the first tokens of a page are wanted, they are copied to a page of the sequence's own, if there is
        // one.
        let copied = hit.part.and_then(|(page, tokens)| {
            self.pages.share(page);
            let own = self.take_page();
            if let Some(own) = own {
                self.pool.copy_page(page, own, tokens);
                self.pages.copied(page, own, tokens);
            }
            self.pages.release(page);
            own
        });
        let found = hit.pages.len() * PAGE + if copied.is_some() { hit.part.map_or(0, |(_, n)| n) } else { 0 };
        let Some(mut sequence) = self.waiting.remove(place) else { return false };
        if sequence.forms.is_empty() {
            sequence.cached = found;
        }
        if sequence.forms.len() < found {
            sequence.forms.clear();
            sequence.forms.extend_from_slice(&hit.forms[..found]);
        }
        sequence.pages.extend(hit.pages.into_iter().chain(copied));
        sequence.computed = found;
        let rank = |s: &Sequence| (-i64::from(s.priority), s.id, s.sample);
        let at = self.running.partition_point(|s| rank(s) < rank(&sequence));
        self.running.insert(at, sequence);
        true
    }

    /// Whether a running sequence is about to compute a page that this one could share beyond the `found` tokens.
    fn is_under_way(&self, sequence: &Sequence, found: usize) -> bool {
        let next = (found / PAGE + 1) * PAGE;
        let begins = sequence.tokens.get(..next);
        sequence.reuse != Reuse::None
            && sequence.forms.is_empty()
            && next <= sequence.reusable()
            && self.running.iter().any(|r| r.computed < r.prompt && r.prompt >= next && r.tokens.get(..next) == begins)
    }

    /// Ends sequences that were asked for no new token, or whose context is full, once their prompt is scored.
    fn end_full(&mut self, each: &mut dyn FnMut(Event)) {
        let mut place = 0;
        while place < self.running.len() {
            if self.running[place].is_over() { self.finish(place, Stop::Length, each) } else { place += 1 }
        }
    }

    /// Takes a free page. If there is none, a prefix that nobody uses is dropped.
    fn take_page(&mut self) -> Option<u32> {
        loop {
            match self.pages.take() {
                None if self.prefixes.evict(&mut self.pages) => {}
                page => return page,
            }
        }
    }

    /// Plans the next pass: how far it computes which sequences, in the order of service. Takes the pages for it.
    fn plan(&mut self, planned: &mut Vec<Planned>) {
        planned.clear();
        // Those that had a draft in the last pass will want one.
        let decoding: usize = self.running.iter().filter(|s| s.decodes()).map(|s| 1 + s.drafts.len()).sum();
        let mut left = self.options.rows.saturating_sub(decoding).max(1);
        let mut place = 0;
        while place < self.running.len() {
            let sequence = &self.running[place];
            let decodes = sequence.decodes();
            let (mut end, form) = sequence.stretch(if decodes { 1 } else { left });
            if end == sequence.computed {
                place += 1;
                continue;
            }
            while self.running[place].pages.len() < pages_for(end) {
                if let Some(page) = self.take_page() {
                    self.running[place].pages.push(page);
                } else if self.running.len() > place + 1 {
                    self.preempt();
                } else {
                    // The last sequence can preempt no other one. It uses the pages that it has, and waits for more.
                    end = end.min(self.running[place].pages.len() * PAGE);
                    break;
                }
            }
            if end > self.running[place].computed {
                if !decodes {
                    left -= end - self.running[place].computed;
                }
                planned.push(Planned { place, end, form });
            } else if planned.is_empty() {
                // Others hold the pages that it needs, and none of them is in this pass. So it is preempted itself.
                self.preempt();
            }
            place += 1;
        }
        // Decompressed rows come first in a pass.
        planned.sort_unstable_by_key(|p| (p.form == Form::Absorbed, p.place));
    }

    /// Preempts the last running sequence: it releases its pages and waits. Its latents stay in the prefix tree while
    /// there is room.
    fn preempt(&mut self) {
        let Some(mut sequence) = self.running.pop() else { return };
        self.preemptions += 1;
        sequence.keep(sequence.computed, &mut self.prefixes, &mut self.pages);
        self.release(std::mem::take(&mut sequence.pages));
        sequence.computed = 0;
        self.waiting.push_front(sequence);
    }

    /// Releases pages of a sequence.
    fn release(&mut self, pages: Vec<u32>) {
        pages.into_iter().for_each(|page| self.pages.release(page));
    }

    /// Packs what the first generated token would otherwise wait for.
    pub fn prepare(&self, cx: &Cx, model: &Model) {
        self.views.pack(cx, model);
    }

    /// Bytes of the weights that a pass of generated tokens reads, without drafts. It is known once one was generated, or
    /// after [`Self::prepare`].
    pub fn pass_bytes(&self, model: &Model) -> PassBytes {
        PassBytes::of(model, &self.views)
    }

    /// Runs the planned rows. Returns the head's inputs of all of them.
    fn pass(&mut self, cx: &Cx, model: &Model, planned: &[Planned]) -> Tensor {
        let Self { pool, views, rows, running, loads, .. } = self;
        let stretches = planned.iter().map(|p| {
            let s = &running[p.place];
            Stretch { tokens: &s.tokens[s.computed..p.end], before: s.computed, table: &s.pages, form: p.form }
        });
        rows.set(model.config.num_attention_heads, stretches);
        model.extend(cx, &mut Cache { pool, views, rows, loads })
    }

    /// Draws the next tokens of each sequence that is computed to its last one, and ends those that are done.
    fn draw(&mut self, cx: &Cx, model: &Model, h: &Tensor, lists: &mut Lists, each: &mut dyn FnMut(Event)) {
        let Lists { planned, drawing, rows, done } = lists;
        drawing.clear();
        rows.clear();
        done.clear();
        let mut row = 0;
        for p in planned {
            let s = &mut self.running[p.place];
            row += p.end - s.computed;
            let (was_given, drafts) = (s.computed < s.prompt, s.drafts.len());
            s.tokens.truncate(s.tokens.len() - drafts);
            s.advance(p.end - drafts, p.form);
            if was_given && s.computed >= s.prompt {
                // Others may share the prompt from now on. They do not read what follows it in its last page.
                s.keep(s.prompt, &mut self.prefixes, &mut self.pages);
            }
            if s.computed == s.tokens.len() {
                drawing.push(p.place);
                rows.extend((row - 1 - drafts..row).map(|row| row as i32));
            }
        }
        if rows.is_empty() {
            return;
        }
        let mut logits = model.project_rows(cx, h, rows);
        let (mut left, vocab) = (logits.f32_mut(), model.config.vocab_size);
        for place in drawing {
            let rows = 1 + self.running[*place].drafts.len();
            let (own, others) = std::mem::take(&mut left).split_at_mut(rows * vocab);
            left = others;
            if let Some(stop) = self.draw_and_verify(*place, own, vocab, each) {
                done.push((*place, stop));
            }
        }
        // From the last place to the first, so that the other places stay valid.
        done.sort_unstable_by_key(|(place, _)| std::cmp::Reverse(*place));
        for (place, stop) in done {
            self.finish(*place, *stop, each);
        }
    }

    /// Ends a sequence. Its latents go to the prefix tree, and its pages are released.
    fn finish(&mut self, place: usize, stop: Stop, each: &mut dyn FnMut(Event)) {
        let mut s = self.running.remove(place);
        let stop = s.finish(stop, each);
        s.keep(s.computed, &mut self.prefixes, &mut self.pages);
        let generated = s.tokens.len() - s.prompt;
        let usage = Usage { prompt: s.prompt, cached: s.cached, generated, drafts: s.verified };
        self.release(s.pages);
        each(Event::Finished { id: s.id, sample: s.sample, stop, end: s.ended, usage });
    }
}
