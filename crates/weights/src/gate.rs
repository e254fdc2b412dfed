//! The gate's selection rule in the form that the kernels use (report 2.1.2).

use crate::config::{ModelConfig, ScoringFunc, TopkMethod};
use hadal_ops::gate::{self, GateCfg};

impl ModelConfig {
    /// The selection rule in the form that the kernels use.
    pub fn gate(&self) -> GateCfg {
        GateCfg {
            experts: self.n_routed_experts,
            top_k: self.num_experts_per_tok,
            n_group: self.n_group,
            topk_group: self.topk_group,
            scoring: match self.scoring_func {
                ScoringFunc::Sigmoid => gate::Scoring::Sigmoid,
                ScoringFunc::Softmax => gate::Scoring::Softmax,
            },
            method: match self.topk_method {
                TopkMethod::Greedy => gate::TopK::Greedy,
                TopkMethod::GroupLimitedGreedy => gate::TopK::GroupLimitedGreedy,
                TopkMethod::NoauxTc => gate::TopK::NoauxTc,
            },
            norm_topk_prob: self.norm_topk_prob,
            scale: self.routed_scaling_factor as f32,
            scale_after_norm: self.gate_scale_after_norm(),
        }
    }
}
