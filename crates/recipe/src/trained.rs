//! Which parameters of a model are trained.

use hadal_weights::ModelConfig;
use hadal_weights::list::parameters;
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

/// The largest rank of adapters.
pub const MAX_RANK: usize = 1 << 20;

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
    /// What is wrong with it for a model, if something is: the key and the reason.
    pub(crate) fn problem(&self, model: &ModelConfig) -> Option<(&'static str, String)> {
        if !(1..=MAX_RANK).contains(&self.rank) {
            return Some(("rank", format!("must be from 1 to {MAX_RANK}")));
        }
        if !(self.alpha > 0.0 && self.alpha.is_finite()) {
            return Some(("alpha", "must be above 0".into()));
        }
        let problem = match &self.layers[..] {
            [] => Some("must name at least one layer".into()),
            layers => layers.iter().enumerate().find_map(|(at, name)| {
                let twice = || layers[..at].contains(name).then(|| format!("has `{name}` twice"));
                let unknown = || format!("`{name}` is not one of: {}", LORA_LAYERS.join(", "));
                if LORA_LAYERS.contains(&name.as_str()) { twice() } else { Some(unknown()) }
            }),
        };
        problem.or_else(|| self.absent(model)).map(|what| ("layers", what))
    }

    /// A layer that the model does not have. Queries are computed by `q_proj`, or by `q_a_proj` and `q_b_proj`: a list
    /// may name all three.
    fn absent(&self, model: &ModelConfig) -> Option<String> {
        let all = parameters(model);
        let is_there = |name: &str| {
            let end = format!(".{name}.weight");
            all.iter().flat_map(|p| &p.parts).any(|part| part.name.ends_with(&end))
        };
        let queries = self.layers.iter().any(|name| name.starts_with("q_") && is_there(name));
        let accounted = |name: &String| is_there(name) || queries && name.starts_with("q_");
        let absent = self.layers.iter().find(|name| !accounted(name))?;
        Some(format!("the model has no `{absent}`"))
    }
}
