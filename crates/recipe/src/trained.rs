//! Which parameters of a model are trained.

use serde::{Deserialize, Serialize};

/// The parameters that a run trains. All others are frozen: they have no gradients and no moments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Trained {
    /// Whether MTP modules are trained. Their losses count only if they are.
    pub mtp: bool,
    /// Low-rank adapters. With them, nothing else is trained.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<Lora>,
}

impl Default for Trained {
    fn default() -> Self {
        Self { mtp: true, lora: None }
    }
}

/// Low-rank adapters (LoRA) on linear layers: `y += alpha / rank (x A^T) B^T`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Lora {
    /// Rank of the adapters.
    pub rank: usize,
    /// Their outputs are multiplied by this number over the rank.
    pub alpha: f32,
    /// The layers that have adapters, by the last part of their names.
    pub layers: Vec<String>,
}

/// The names of layers that can have adapters.
pub const LORA_LAYERS: [&str; 9] = [
    "q_a_proj",
    "q_b_proj",
    "q_proj",
    "kv_a_proj_with_mqa",
    "kv_b_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
];

impl Default for Lora {
    fn default() -> Self {
        // The layers of attention.
        Self { rank: 16, alpha: 32.0, layers: LORA_LAYERS[..6].iter().map(|name| (*name).to_owned()).collect() }
    }
}

impl Lora {
    /// What is wrong with it, if something is: the key and the reason.
    pub(crate) fn problem(&self) -> Option<(&'static str, String)> {
        if self.rank == 0 {
            return Some(("rank", "must be at least 1".into()));
        }
        if !(self.alpha > 0.0 && self.alpha.is_finite()) {
            return Some(("alpha", "must be above 0".into()));
        }
        let unknown = self.layers.iter().find(|name| !LORA_LAYERS.contains(&name.as_str()));
        match unknown {
            Some(name) => Some(("layers", format!("`{name}` is not one of: {}", LORA_LAYERS.join(", ")))),
            None => self.layers.is_empty().then(|| ("layers", "must name at least one layer".into())),
        }
    }
}
