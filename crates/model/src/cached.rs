//! Generation with a latent KV cache. Prefill uses the same blocks as training, decoding uses the absorbed form.

use crate::Input;
use crate::mla::decode::{Absorbed, LatentCache};
use crate::model::Model;
use crate::norm;
use crate::param::embed;
use crate::pass::Pass;
use hadal_ops::{Cx, DType, Tensor, attention::Segments};

/// The model's weights in the form that decoding needs. It is valid for one state of the weights: make a new one after
/// a change.
pub struct Decoder<'a> {
    model: &'a Model,
    layers: Vec<Absorbed>,
}

/// The latents of one sequence in every layer.
pub struct SequenceCache {
    layers: Vec<LatentCache>,
}

impl SequenceCache {
    /// Number of tokens stored.
    pub fn len(&self) -> usize {
        self.layers.first().map_or(0, LatentCache::len)
    }
    /// Whether no token is stored.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Number of tokens for which there is room.
    pub fn capacity(&self) -> usize {
        self.layers.first().map_or(0, LatentCache::capacity)
    }
    /// Removes everything after the first `len` tokens.
    pub fn truncate(&mut self, len: usize) {
        self.layers.iter_mut().for_each(|l| l.truncate(len));
    }
}

impl<'a> Decoder<'a> {
    /// Packs the weights for the absorbed form.
    pub fn new(cx: &Cx, model: &'a Model) -> Self {
        Self { model, layers: model.blocks.iter().map(|b| b.attn.absorb(cx)).collect() }
    }

    /// The model.
    pub fn model(&self) -> &'a Model {
        self.model
    }

    /// An empty cache for `capacity` tokens.
    pub fn cache(&self, cx: &Cx, capacity: usize) -> SequenceCache {
        let width = self.model.config.kv_lora_rank + self.model.config.qk_rope_head_dim;
        SequenceCache { layers: self.model.blocks.iter().map(|_| LatentCache::new(cx, capacity, width)).collect() }
    }

    /// Runs a prompt through the model and fills the empty `cache` with it. Returns the head's inputs for all its
    /// tokens, `[T, D]` in the compute format.
    pub fn prefill(&self, cx: &Cx, tokens: &[i32], cache: &mut SequenceCache) -> Tensor {
        assert!(cache.is_empty(), "prefill: the cache must be empty");
        let input = Input::of(cx, &[tokens], 0);
        let model = self.model;
        let pass =
            Pass { rope: &model.rope, positions: &input.positions, seg: &input.seg, balance: None, replay: None };
        let mut x = cx.empty(&[tokens.len(), model.config.hidden_size], DType::F32);
        embed(cx, &model.embed, &input.ids, &mut x);
        for (block, cache) in model.blocks.iter().zip(&mut cache.layers) {
            let (y, saved) = block.forward(cx, x, &pass, false);
            let (c_kv, k_rope) = block.latents(cx, saved);
            cache.append(cx, &c_kv, &k_rope, 0, tokens.len());
            x = y;
        }
        norm::forward(cx, &x, &model.norm, model.config.rms_norm_eps as f32).0
    }

    /// Runs one new token of each sequence and returns the head's inputs `[B, D]`.
    pub fn step(&self, cx: &Cx, tokens: &[i32], caches: &mut [&mut SequenceCache]) -> Tensor {
        let (b, model) = (tokens.len(), self.model);
        assert_eq!(b, caches.len(), "decode: {b} tokens for {} sequences", caches.len());
        let ids = cx.indices(&[b], tokens);
        let at: Vec<i32> = caches.iter().map(|c| c.len() as i32).collect();
        let positions = cx.indices(&[b], &at);
        let starts: Vec<usize> = (0..=b).collect();
        let seg = Segments::new(cx, &starts);
        let pass = Pass { rope: &model.rope, positions: &positions, seg: &seg, balance: None, replay: None };
        let mut x = cx.empty(&[b, model.config.hidden_size], DType::F32);
        embed(cx, &model.embed, &ids, &mut x);
        for (l, (block, absorbed)) in model.blocks.iter().zip(&self.layers).enumerate() {
            let mut layer: Vec<&mut LatentCache> = caches.iter_mut().map(|c| &mut c.layers[l]).collect();
            x = block.decode(cx, absorbed, x, &pass, &mut layer);
        }
        norm::forward(cx, &x, &model.norm, model.config.rms_norm_eps as f32).0
    }
}
