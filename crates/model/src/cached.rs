//! Passes that continue sequences: prefill in pieces, generated tokens, and MTP's drafts ([`crate::drafts`]). They run
//! the same blocks as training ([`Model::trunk`](crate::Model)). The only difference is that attention reads earlier
//! tokens from a pool of latent pages.
//!
//! Each token always has the same one of two forms of attention. The form depends on what the token is, never on sizes.
//! Given tokens (a prompt) attend in the decompressed form, as in training. Generated tokens attend in the absorbed
//! form. A pass may have rows of both forms; those of given tokens come first.

use crate::batch::put;
use crate::expert_loads::ExpertLoads;
use crate::mla::absorbed::Absorbed;
use crate::mla::heads::HeadMajor;
use crate::model::Model;
use crate::pass::Pass;
use hadal_ops::attention::Segments;
use hadal_ops::latent::{PAGE, PagedRows};
use hadal_ops::rope::RopeTable;
use hadal_ops::{Cx, DType, Tensor, elementwise};
use hadal_weights::ModelConfig;
use hadal_weights::list::Role;
use std::sync::OnceLock;

/// The form of a token's attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Keys and values are computed from the latents. It is for given tokens.
    Decompressed,
    /// `W_UK` and `W_UV` are folded into query and output. It is for generated tokens.
    Absorbed,
}

/// New tokens of a sequence.
#[derive(Clone, Copy, Debug)]
pub struct Stretch<'a> {
    /// The tokens, at least one.
    pub tokens: &'a [i32],
    /// Number of earlier tokens of the sequence. Their latents are in its pages.
    pub before: usize,
    /// Pages of the sequence, including space for the new tokens.
    pub table: &'a [u32],
    /// The form of the new tokens' attention.
    pub form: Form,
}

/// The latents of all sequences in every layer: rows `[c_kv | k_rope]` in the compute format, in pages of [`PAGE`]
/// tokens. The layers are the blocks. A pool for drafts also has a layer for the first MTP module, and the main model's
/// outputs, from which the module computes its latents.
pub struct LatentPool {
    layers: Vec<Tensor>,
    /// The head's inputs `[D]` of each token.
    pub(crate) outputs: Option<Tensor>,
}

impl LatentPool {
    /// A pool of `pages` pages, for drafts if `drafts` is set and the model has an MTP module. A page needs memory only
    /// after it is written.
    pub fn new(cx: &Cx, config: &ModelConfig, pages: usize, drafts: bool) -> Self {
        let (layers, width, outputs) = Self::sizes(config, drafts);
        let rows = |width: usize| cx.fixed(&[pages * PAGE, width], cx.compute());
        Self { layers: (0..layers).map(|_| rows(width)).collect(), outputs: outputs.map(rows) }
    }

    /// Bytes of such a pool once every page is written.
    pub fn bytes(cx: &Cx, config: &ModelConfig, pages: usize, drafts: bool) -> usize {
        let (layers, width, outputs) = Self::sizes(config, drafts);
        pages * PAGE * (layers * width + outputs.unwrap_or(0)) * cx.compute().size()
    }

    /// Number of layers, the width of their rows, and the width of the outputs' rows if there are outputs.
    fn sizes(config: &ModelConfig, drafts: bool) -> (usize, usize, Option<usize>) {
        let drafts = drafts && config.num_nextn_predict_layers > 0;
        let layers = config.num_hidden_layers + usize::from(drafts);
        (layers, config.kv_lora_rank + config.qk_rope_head_dim, drafts.then_some(config.hidden_size))
    }

    /// Copies everything of the first `tokens` tokens of a page to another page.
    pub fn copy_page(&mut self, from: u32, to: u32, tokens: usize) {
        for layer in self.layers.iter_mut().chain(&mut self.outputs) {
            let n = tokens * layer.cols();
            let [from, to] = [from, to].map(|page| page as usize * PAGE * layer.cols());
            match layer.dtype() {
                DType::Bf16 => layer.bf16_mut().copy_within(from..from + n, to),
                _ => layer.f32_mut().copy_within(from..from + n, to),
            }
        }
    }
}

/// `W_UK` and `W_UV` of every layer of a pool, in the layout of the absorbed form. They are packed when the first
/// generated token needs them, so a first token does not wait for them, and again when the weights have changed.
pub struct AbsorbedViews {
    layers: Vec<(u64, OnceLock<Absorbed>)>,
}

impl AbsorbedViews {
    /// Views of the layers that `pool` has.
    pub fn new(model: &Model, pool: &LatentPool) -> Self {
        let view = |(version, _): (u64, &crate::Mla)| (version, OnceLock::new());
        Self { layers: layers(model).take(pool.layers.len()).map(view).collect() }
    }

    /// Packs the views that are not packed yet.
    pub fn pack(&self, cx: &Cx, model: &Model) {
        for ((_, view), (_, attn)) in self.layers.iter().zip(layers(model)) {
            view.get_or_init(|| attn.absorb(cx));
        }
    }

    /// Forgets the views of layers whose weights have changed since.
    pub fn refresh(&mut self, model: &Model) {
        for ((of, view), (version, _)) in self.layers.iter_mut().zip(layers(model)) {
            if *of != version {
                (*of, *view) = (version, OnceLock::new());
            }
        }
    }
}

/// Bytes of the weights that a pass of generated tokens reads, without drafts.
#[derive(Clone, Copy, Debug)]
pub struct PassBytes {
    /// What every pass reads: all but the experts. `W_UK` and `W_UV` are read from their views.
    pub always: usize,
    /// Matrices of one expert of one layer. Rounded down.
    pub expert: usize,
}

impl PassBytes {
    /// Counts the main model's weights and the views that are packed.
    pub fn of(model: &Model, views: &AbsorbedViews) -> Self {
        let (mut always, mut experts, mut count) = (0, 0, 0);
        let tied = model.head.is_none();
        for param in model.params() {
            let (bytes, spec) = (param.stored().bytes(), &param.spec);
            let main = spec.layer.is_none_or(|layer| layer < model.blocks.len());
            match spec.role {
                _ if !main => {}
                Role::Embedding if !tied => {}
                Role::KeyValueUp => {}
                Role::ExpertGateUp | Role::ExpertDown => {
                    experts += bytes;
                    // An expert has both matrices.
                    count += if spec.role == Role::ExpertDown { spec.groups } else { 0 };
                }
                _ => always += bytes,
            }
        }
        always +=
            views.layers[..model.blocks.len()].iter().filter_map(|(_, view)| Some(view.get()?.bytes())).sum::<usize>();
        Self { always, expert: experts / count.max(1) }
    }
}

/// The attention of every layer that a pool may have, with the version of the weight from which its view is made.
fn layers(model: &Model) -> impl Iterator<Item = (u64, &crate::Mla)> {
    let blocks = model.blocks.iter().chain(model.mtp.first().map(|m| &m.block));
    blocks.map(|b| (b.attn.kv_up.param.version(), &b.attn))
}

/// The rows of a pass that continues sequences. It can be filled repeatedly. It allocates only when a pass is larger
/// than all previous ones.
pub struct Rows {
    /// Tokens, i32 `[T]`.
    pub ids: Tensor,
    /// Their positions in their sequences, i32 `[T]`.
    pub positions: Tensor,
    /// Number of rows in the decompressed form. They come first.
    pub(crate) given: usize,
    /// Segments of these rows, with their earlier keys.
    pub(crate) seg: Segments,
    /// Rows of the pool that hold these keys, i32 `[K]`.
    pub(crate) keys: Tensor,
    /// The other rows.
    pub(crate) paged: PagedRows,
    /// Their order by heads.
    pub(crate) heads: HeadMajor,
    /// Where the new tokens' latents are stored: (row of the pass, row of the pool, number of rows).
    pub(crate) slots: Vec<(usize, usize, usize)>,
    /// For rows of an MTP module: the row of the pool that belongs to the token before, i32 `[T]`.
    pub(crate) previous: Tensor,
}

impl Rows {
    /// No rows.
    pub fn new(cx: &Cx) -> Self {
        let ints = || cx.empty(&[0], DType::I32);
        Self {
            ids: ints(),
            positions: ints(),
            given: 0,
            seg: Segments::of(cx, std::iter::empty()),
            keys: ints(),
            paged: PagedRows::new(cx),
            heads: HeadMajor::new(cx),
            slots: Vec::new(),
            previous: ints(),
        }
    }

    /// Sets the rows to those of these stretches, in order. `heads` is the model's number of heads.
    ///
    /// # Panics
    /// If a stretch is empty, if its table is too short, or if a decompressed stretch comes after an absorbed one.
    pub fn set<'a>(&mut self, heads: usize, stretches: impl Iterator<Item = Stretch<'a>> + Clone) {
        self.set_shifted(heads, 0, stretches);
    }

    /// Sets the rows to those of the first MTP module for these stretches. The module's row of token `j` has position
    /// `j - 1`, since it continues the main model's row of the token before. Token 0 has none.
    ///
    /// # Panics
    /// As [`Rows::set`], and if a stretch begins at token 0.
    pub fn set_draft<'a>(&mut self, heads: usize, stretches: impl Iterator<Item = Stretch<'a>> + Clone) {
        assert!(
            stretches.clone().all(|s| s.before > 0),
            "rows: the first token of a sequence has no row of an MTP module"
        );
        let before =
            stretches.clone().flat_map(|s| (0..s.tokens.len()).map(move |t| slot(s.table, s.before + t - 1) as i32));
        let total = stretches.clone().map(|s| s.tokens.len()).sum();
        put(&mut self.previous, total, before);
        self.set_shifted(heads, 1, stretches);
    }

    /// Rows whose positions are `shift` less than the places of their tokens. The first `shift` tokens have no rows.
    fn set_shifted<'a>(&mut self, heads: usize, shift: usize, stretches: impl Iterator<Item = Stretch<'a>> + Clone) {
        let of = |form: Form| stretches.clone().filter(move |s| s.form == form);
        let (given, generated) = (of(Form::Decompressed), of(Form::Absorbed));
        let ordered = stretches.clone().is_sorted_by_key(|s| s.form == Form::Absorbed);
        assert!(ordered, "rows: decompressed stretches must come first");
        let total = stretches.clone().map(|s| s.tokens.len()).sum();
        self.given = given.clone().map(|s| s.tokens.len()).sum();
        put(&mut self.ids, total, stretches.clone().flat_map(|s| s.tokens.iter().copied()));
        let positions = stretches.clone().flat_map(|s| (0..s.tokens.len()).map(move |t| (s.before + t - shift) as i32));
        put(&mut self.positions, total, positions);
        self.seg.set_continued(given.clone().map(|s| (s.before - shift, s.tokens.len())));
        let keys =
            given.clone().flat_map(|s| (shift..s.before + s.tokens.len()).map(move |at| slot(s.table, at) as i32));
        put(&mut self.keys, self.seg.keys(), keys);
        let seen =
            generated.clone().enumerate().flat_map(|(i, s)| (0..s.tokens.len()).map(move |t| (i, s.before + t + 1)));
        self.paged.set(heads, shift, generated.map(|s| s.table), seen);
        self.heads.set(total - self.given, heads);
        self.slots.clear();
        let mut row = 0;
        for s in stretches {
            assert!(!s.tokens.is_empty(), "rows: a stretch of the pass is empty");
            let (mut at, end) = (s.before, s.before + s.tokens.len());
            assert!(end <= s.table.len() * PAGE, "rows: {end} tokens in {} pages of {PAGE}", s.table.len());
            while at < end {
                let n = (PAGE - at % PAGE).min(end - at);
                self.slots.push((row, slot(s.table, at), n));
                (row, at) = (row + n, at + n);
            }
        }
    }

    /// The data of these rows that layers need.
    pub(crate) fn pass<'a>(&'a self, rope: &'a RopeTable) -> Pass<'a> {
        Pass { rope, positions: &self.positions, seg: &self.seg, balance: None, replay: None }
    }
}

/// The row of the pool that belongs to token `at` of the sequence with this table.
fn slot(table: &[u32], at: usize) -> usize {
    table[at / PAGE] as usize * PAGE + at % PAGE
}

/// The data that a pass over [`Rows`] reads and extends.
pub struct Cache<'a> {
    /// Latents of all sequences.
    pub pool: &'a mut LatentPool,
    /// Weights of the absorbed form.
    pub views: &'a AbsorbedViews,
    /// The rows.
    pub rows: &'a Rows,
    /// Where a pass counts the rows of its experts.
    pub loads: &'a ExpertLoads,
}

/// The part of a [`Cache`] that belongs to one layer.
pub struct LayerCache<'a> {
    pub(crate) pool: &'a mut Tensor,
    pub(crate) view: &'a OnceLock<Absorbed>,
    pub(crate) rows: &'a Rows,
}

impl Cache<'_> {
    /// The part of block `l`.
    pub fn layer(&mut self, l: usize) -> LayerCache<'_> {
        LayerCache { pool: &mut self.pool.layers[l], view: &self.views.layers[l].1, rows: self.rows }
    }

    /// The main model's outputs, and the part of the first MTP module. It comes after the blocks.
    pub(crate) fn module(&mut self) -> (&Tensor, LayerCache<'_>) {
        let LatentPool { layers, outputs } = &mut *self.pool;
        let outputs = outputs.as_ref().expect("drafts: the pool was not made for them");
        let l = layers.len() - 1;
        (outputs, LayerCache { pool: &mut layers[l], view: &self.views.layers[l].1, rows: self.rows })
    }
}

impl LayerCache<'_> {
    /// Stores the latents of the new tokens.
    pub(crate) fn keep(&mut self, cx: &Cx, c_kv: &Tensor, k_rope: &Tensor) {
        for &(row, slot, n) in &self.rows.slots {
            elementwise::copy_rows(cx, c_kv, row, n, self.pool, slot, 0);
            elementwise::copy_rows(cx, k_rope, row, n, self.pool, slot, c_kv.cols());
        }
    }
}

impl Model {
    /// Runs the rows of a pass through the blocks and stores their latents. Returns the head's inputs `[T, D]` in the
    /// compute format. [`Model::project`] turns them into logits.
    pub fn extend(&self, cx: &Cx, cache: &mut Cache<'_>) -> Tensor {
        let rows = cache.rows;
        let x = self.trunk(cx, &rows.ids, &rows.pass(&self.rope), Some(cache), None, &mut None);
        let h = self.final_norm(cx, &x).0;
        if let Some(outputs) = &mut cache.pool.outputs {
            rows.slots.iter().for_each(|&(row, slot, n)| elementwise::copy_rows(cx, &h, row, n, outputs, slot, 0));
        }
        h
    }
}
