//! Memory of a training step: its state, and the activations of each token that are kept from forward to backward.

use hadal_ops::{DType, fp8::TILE};
use hadal_weights::ModelConfig;
use hadal_weights::list::{Parameter, parameters};
use hadal_weights::precision::{Formats, Keep, Product};
use serde::Serialize;

/// Lanes of a packed panel.
const LANES: usize = 16;

/// Sizes in the given formats.
trait Sizes {
    fn plain(&self, n: u64) -> u64;
    fn kept(&self, keep: Keep, n: u64) -> u64;
    fn packed(&self, p: &Parameter) -> u64;
}

impl Sizes for Formats {
    /// Bytes of `n` numbers in the compute format.
    fn plain(&self, n: u64) -> u64 {
        self.compute.size() as u64 * n
    }
    /// Bytes for `n` numbers of a token that are kept as this row of the table says.
    fn kept(&self, keep: Keep, n: u64) -> u64 {
        if keep == Keep::Compute { self.plain(n) } else { keep.bytes(n) }
    }
    /// Bytes of a weight's two packed forms, including padding and scales.
    fn packed(&self, p: &Parameter) -> u64 {
        let Some(product) = p.product(&self.table) else { return 0 };
        let form = |lanes: usize, k: usize| {
            let (even, lanes) = (k.next_multiple_of(2), lanes.next_multiple_of(LANES));
            lanes
                * match (product, self.compute) {
                    (Product::Fp8, _) => even + 4 * k.div_ceil(TILE),
                    (Product::Compute, DType::Bf16) => 2 * even,
                    (Product::Compute | Product::F32, _) => 4 * k,
                }
        };
        (p.groups * (form(p.n(), p.k()) + form(p.k(), p.n()))) as u64
    }
}

/// Memory of a training step in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TrainingMemory {
    /// f32 master weights: 4 bytes per parameter.
    pub master: u64,
    /// f32 gradients: 4 bytes per parameter.
    pub gradients: u64,
    /// Two AdamW moments in bf16: 2 + 2 bytes per parameter.
    pub moments: u64,
    /// Two packed forms of every matrix that is used in products, for forward and backward. They take 2 + 2 bytes per
    /// parameter in bf16, 1 + 1 and scales in E4M3, and 4 + 4 in f32 (always for the router).
    pub packed: u64,
    /// The sum of the fields above.
    pub state: u64,
    /// f32 moving average of the weights, if one is kept: 4 bytes per parameter.
    pub ema: u64,
    /// Kept from forward to backward for each token of a micro-batch. The last tokens of a sequence have no rows in MTP
    /// modules: one in the first module, two in the second.
    pub activations_per_token: u64,
}

/// What one layer keeps of a token until its backward: (name, bytes). The names are those of fields in the saved
/// structs.
pub fn saved_by_layer(c: &ModelConfig, layer: usize, f: &Formats) -> Vec<(&'static str, u64)> {
    let n = |x: usize| x as u64;
    let (d, heads, dc, dr) = (n(c.hidden_size), n(c.num_attention_heads), n(c.kv_lora_rank), n(c.qk_rope_head_dim));
    let (qr, table) = (n(c.q_lora_rank.unwrap_or(0)), &f.table);
    let mut saved = vec![
        ("attn.x f32", 4 * d),
        ("attn.a", f.plain(qr + dc + dr)),
        ("attn.k_rope", f.plain(dr)),
        ("attn.o", f.kept(table.attn_out_input, heads * n(c.v_head_dim))),
        ("attn.lse f32", 4 * heads),
        ("x f32", 4 * d),
    ];
    if !table.recompute {
        saved.extend([
            ("attn.n, rstd", f.plain(d) + 4),
            ("attn.c_kv, rstd", f.plain(dc) + 4),
            ("attn.c_q, rstd", if qr > 0 { f.plain(qr) + 4 } else { 0 }),
            ("attn.q", f.plain(heads * n(c.qk_head_dim()))),
            ("attn.kv", f.plain(heads * n(c.qk_nope_head_dim + c.v_head_dim))),
            ("u, rstd", f.plain(d) + 4),
        ]);
    }
    if c.is_moe_layer(layer) {
        let (k, inner) = (n(c.num_experts_per_tok), n(c.moe_intermediate_size));
        let shared = f.kept(table.swiglu_input, 2 * n(c.n_shared_experts) * inner);
        saved.extend([
            ("router.scores f32", 4 * n(c.n_routed_experts)),
            ("router.idx, weight", 8 * k),
            ("moe.plan", 12 * k),
            ("moe.x, g", (f.kept(table.dispatch, d) + 4) * k),
            ("moe.gu", f.kept(table.swiglu_input, 2 * inner) * k),
            ("moe.shared.gu", shared),
        ]);
    } else {
        saved.push(("ffn.gu", f.kept(table.swiglu_input, 2 * n(c.intermediate_size))));
    }
    saved
}

/// What is kept of a token outside of blocks: by the final norm, and by MTP modules around their blocks.
pub fn saved_at_the_ends(c: &ModelConfig, f: &Formats) -> Vec<(&'static str, u64)> {
    let d = c.hidden_size as u64;
    let mut saved = vec![("x f32, rstd", 4 * d + 4), ("d_h f32", 4 * d)];
    for module in 0..c.num_nextn_predict_layers {
        // The first module reads the final norm's output. The others read the residual stream of the previous module.
        let h = if module == 0 { f.plain(d) } else { 4 * d };
        let normed = if f.table.recompute { 0 } else { f.plain(2 * d) + 8 };
        saved.extend([
            ("mtp.e f32", 4 * d),
            ("mtp.h", h),
            ("mtp.cat, two rstd", normed),
            ("mtp.y f32, rstd", 4 * d + 4),
            ("mtp.d_z f32", 4 * d),
        ]);
    }
    saved
}

/// Computes [`TrainingMemory`].
pub fn training_memory(c: &ModelConfig, f: &Formats) -> TrainingMemory {
    let list = parameters(c);
    let elements =
        |wanted: fn(&Parameter) -> bool| list.iter().filter(|p| wanted(p)).map(|p| p.len() as u64).sum::<u64>();
    // Router biases have neither gradient nor moments, because the balance rule moves them.
    let (all, trained) = (elements(|_| true), elements(Parameter::trainable));
    let layers = 0..c.num_hidden_layers + c.num_nextn_predict_layers;
    let (master, gradients, moments) = (4 * all, 4 * trained, 4 * trained);
    let packed = list.iter().map(|p| f.packed(p)).sum();
    let saved = layers.flat_map(|l| saved_by_layer(c, l, f)).chain(saved_at_the_ends(c, f));
    TrainingMemory {
        master,
        gradients,
        moments,
        packed,
        state: master + gradients + moments + packed,
        ema: 4 * all,
        activations_per_token: saved.map(|(_, bytes)| bytes).sum(),
    }
}
