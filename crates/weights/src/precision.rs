//! The precision table (report 3.3, figure 6): the format of each product, and of each activation kept for backward.
//!
//! | | BF16 | FP8 |
//! | --- | --- | --- |
//! | products of linear layers, all three orientations | BF16 | E4M3: operands in tiles of 1x128 (128x1 for the weights' gradients), weights in blocks of 128x128, sums over 128 promoted to f32 |
//! | embedding, head, gate, norms, RoPE, attention core | BF16, f32 | the same |
//! | dispatch to the experts, and the gradient on its way back | BF16 | E4M3 with powers of two as scales |
//! | combine | BF16 | BF16 |
//! | SwiGLU's inputs kept for backward (its output is recomputed) | BF16 | E4M3 |
//! | the input of the linear after attention, kept | BF16 | E5M6 with powers of two as scales |
//! | outputs of norms and of MLA's up-projections | kept in BF16 | recomputed in backward |
//! | master weights, gradients, residual stream | f32 | f32 |
//!
//! The report keeps the inputs of linear layers in FP8 for their weight gradients. Here the rows sent to experts,
//! SwiGLU's inputs and the input of `o_proj` are kept in FP8 or E5M6. The other inputs are computed again, and
//! quantised when they are used. MLA's latents before their norms, the rotated key, and the input that an MTP module
//! takes from the previous depth stay in BF16.
//!
//! Departures, and choices where the report leaves them open:
//! - The gradient into a down projection has powers of two as scales if it is sent, that is for routed experts. Dense
//!   layers and shared experts send nothing. Their scale is `amax / 448`, as for all operands without their own rule.
//! - The forward product of `o_proj` reads E4M3 with scale `amax / 448`, quantised from the compute format. Only the kept
//!   copy is E5M6.
//! - `gradients = "block"` affects only the products for input gradients. For rows sent to routed experts, a block is 128
//!   neighbouring rows of the batch; for others, 128 neighbouring rows of the matrix. Sent rows have powers of two as
//!   scales. There, sharing a scale loses bits only in numbers of at most 2^-14 times the largest in the block.
//! - The table is for training. Evaluation and generation multiply in the compute format.
//!
//! Each row can be set separately: a recipe's `[precision]` overrides what `run.precision` chose.

use hadal_ops::fp8::{E4M3, E5M6, Shape, Style, TILE};
use hadal_ops::{Cx, DType};
use serde::{Deserialize, Serialize};

/// Format of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Product {
    /// The compute format of the context: bf16, or f32.
    Compute,
    /// E4M3 with scales.
    Fp8,
    /// f32, as for the gate.
    F32,
}

/// How a model that only runs stores the weights of its products.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunFormat {
    /// E4M3 codes for what the checkpoint has in FP8, and the compute format for everything else. The bits of results are
    /// those of `Compute`.
    #[default]
    Stored,
    /// The compute format of the context: bf16, or f32.
    Compute,
    /// E4M3 codes in blocks of 128x128 for what is FP8 in the released weights ([`crate::is_fp8`]). They are taken from
    /// the checkpoint or quantised. In f32, this is `Compute`.
    Fp8,
    /// 8 bits and a scale for each 32 inputs.
    Int8,
    /// 4 bits from a code book and a scale for each 32 inputs.
    Int4,
}

/// The same for each kind of product. The gate stays f32; norms, the router bias and an embedding table are no products.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunFormats {
    /// Projections of attention, and MTP's `eh_proj`.
    pub attention: RunFormat,
    /// Dense layers, shared and routed experts.
    pub experts: RunFormat,
    /// The output head.
    pub head: RunFormat,
}

impl RunFormats {
    /// Everything in the compute format: the bits of training's forward pass.
    pub const COMPUTE: Self = Self::all(RunFormat::Compute);
    /// Everything as the checkpoint stores it. It has the same bits.
    pub const STORED: Self = Self::all(RunFormat::Stored);

    /// The same format for everything.
    pub const fn all(format: RunFormat) -> Self {
        Self { attention: format, experts: format, head: format }
    }
}

/// Format of an activation that is kept for backward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// In the compute format.
    Compute,
    /// E4M3 in tiles of 1x128.
    Fp8,
    /// E5M6 in tiles of 1x128, scales powers of two.
    E5m6,
}

/// Which gradients share a scale in the products for input gradients (the report's appendix B.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Gradients {
    /// Tiles of 1x128, the report's choice.
    Tile,
    /// Blocks of 128x128, which diverged at scale.
    Block,
}

/// The table. Fields are the rows that can vary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Precision {
    /// `q_a_proj` and `kv_a_proj_with_mqa` (or `q_proj`).
    pub attn_down: Product,
    /// `q_b_proj`.
    pub query_up: Product,
    /// `kv_b_proj`.
    pub kv_up: Product,
    /// `o_proj`.
    pub attn_out: Product,
    /// `gate_proj` and `up_proj` of dense layers and shared experts.
    pub gate_up: Product,
    /// `down_proj` of the same.
    pub down: Product,
    /// `gate_proj` and `up_proj` of routed experts.
    pub expert_gate_up: Product,
    /// `down_proj` of routed experts.
    pub expert_down: Product,
    /// `eh_proj` of MTP modules.
    pub mtp_proj: Product,
    /// Rows sent to routed experts, and their gradients (`e5m6` is not offered here).
    pub dispatch: Keep,
    /// SwiGLU's inputs.
    pub swiglu_input: Keep,
    /// The input of `o_proj`.
    pub attn_out_input: Keep,
    /// Whether the outputs of norms (including those of MTP and of the latents) and of MLA's up-projections are
    /// computed again in backward.
    pub recompute: bool,
    /// Which gradients share a scale in products for input gradients.
    pub gradients: Gradients,
}

impl Precision {
    /// Every row in the compute format of the context.
    pub const COMPUTE: Self = Self {
        attn_down: Product::Compute,
        query_up: Product::Compute,
        kv_up: Product::Compute,
        attn_out: Product::Compute,
        gate_up: Product::Compute,
        down: Product::Compute,
        expert_gate_up: Product::Compute,
        expert_down: Product::Compute,
        mtp_proj: Product::Compute,
        dispatch: Keep::Compute,
        swiglu_input: Keep::Compute,
        attn_out_input: Keep::Compute,
        recompute: false,
        gradients: Gradients::Tile,
    };

    /// The report's FP8 training. The compute format of the context should be bf16.
    pub const FP8: Self = Self {
        attn_down: Product::Fp8,
        query_up: Product::Fp8,
        kv_up: Product::Fp8,
        attn_out: Product::Fp8,
        gate_up: Product::Fp8,
        down: Product::Fp8,
        expert_gate_up: Product::Fp8,
        expert_down: Product::Fp8,
        mtp_proj: Product::Fp8,
        dispatch: Keep::Fp8,
        swiglu_input: Keep::Fp8,
        attn_out_input: Keep::E5m6,
        recompute: true,
        gradients: Gradients::Tile,
    };

    /// The formats of all products.
    pub fn products(&self) -> [Product; 9] {
        let Self { attn_down, query_up, kv_up, attn_out, gate_up, down, expert_gate_up, expert_down, mtp_proj, .. } =
            *self;
        [attn_down, query_up, kv_up, attn_out, gate_up, down, expert_gate_up, expert_down, mtp_proj]
    }
}

impl Keep {
    /// How tiles are made, or `None` if the activation stays unchanged. Dispatched rows and the input of `o_proj` have
    /// powers of two as scales. So do the tiles of 128x1 into which they are converted for the weight gradient (report
    /// 3.3.3). The conversion adds no error to E4M3, except for values below the grid's normal numbers. E5M6 is rounded
    /// to E4M3 by the conversion.
    pub fn style(self, power_of_two: bool) -> Option<Style> {
        match self {
            Self::Compute => None,
            Self::Fp8 => Some(Style { format: E4M3, power_of_two, shape: Shape::Tile }),
            Self::E5m6 => Some(Style { format: E5M6, power_of_two: true, shape: Shape::Tile }),
        }
    }

    /// Bytes for `n` numbers of a token. The compute format counts as bf16.
    pub fn bytes(self, n: u64) -> u64 {
        let tiles = n.div_ceil(TILE as u64);
        match self {
            Self::Compute => 2 * n,
            Self::Fp8 => n + 4 * tiles,
            Self::E5m6 => n + (TILE as u64 / 2 + 4) * tiles,
        }
    }
}

/// The formats that a run computes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Formats {
    /// The compute format of the table: bf16 or f32.
    pub compute: DType,
    /// Formats of products and of kept activations.
    pub table: Precision,
}

impl Formats {
    /// Everything in bf16.
    pub const BF16: Self = Self { compute: DType::Bf16, table: Precision::COMPUTE };
    /// The report's FP8 training.
    pub const FP8: Self = Self { compute: DType::Bf16, table: Precision::FP8 };

    /// A context that computes in these formats, with this number of threads (0: one for each core).
    pub fn cx(&self, threads: usize) -> Cx {
        Cx::cpu(threads, self.compute)
    }
}
