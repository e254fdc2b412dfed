//! What every layer needs to know about a pass over a batch of tokens.

use hadal_ops::{Tensor, attention::Segments, rope::RopeTable};

/// The balance loss of a pass (report eq. 17-20), computed for each segment of `seg`.
#[derive(Clone, Copy)]
pub struct BalancePass<'a> {
    /// Groups of tokens over which the loss is computed: sequences, or the whole batch.
    pub seg: &'a Segments,
    /// Factor of each group's loss in the total: alpha over the number of groups in the step.
    pub coef: f32,
}

/// Positions, segments and switches of one pass. Legend of shapes: T tokens of the pass, D hidden size.
#[derive(Clone, Copy)]
pub struct Pass<'a> {
    /// Cosines and sines.
    pub rope: &'a RopeTable,
    /// Position of each token in its segment, i32 `[T]`.
    pub positions: &'a Tensor,
    /// Which tokens may attend to each other.
    pub seg: &'a Segments,
    /// Balance loss, if it is on.
    pub balance: Option<BalancePass<'a>>,
    /// Expert choices that replace the gate's own: one i32 `[T, K]` for each MoE layer, in order.
    pub replay: Option<&'a [Tensor]>,
}
