//! Measures the gates' choices on a text: the load of each expert, and the number of nodes per token (report 2.1.2,
//! 4.5.3).

use hadal_data::EvalSet;
use hadal_model::{Model, Probe};
use hadal_ops::Cx;
use hadal_train::evaluate::each_input;
use serde::{Deserialize, Serialize};

/// The choices of one layer's gate on a text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LayerRouting {
    /// Number of the layer, as in the checkpoint.
    pub layer: usize,
    /// Number of tokens that chose each expert.
    pub load: Vec<u64>,
    /// Number of tokens.
    pub tokens: u64,
    /// Number of groups (nodes) that contain a token's experts, summed over the tokens.
    pub nodes: u64,
}

impl LayerRouting {
    /// Each expert's share of all choices.
    pub fn shares(&self) -> impl Iterator<Item = f64> {
        let all = self.load.iter().sum::<u64>().max(1) as f64;
        self.load.iter().map(move |n| *n as f64 / all)
    }

    /// Each expert's load as a multiple of the mean. It is 1 if all loads are equal (report, figure 9).
    pub fn relative(&self) -> Vec<f64> {
        self.shares().map(|s| s * self.load.len() as f64).collect()
    }

    /// Mean number of nodes per token.
    pub fn nodes_a_token(&self) -> f64 {
        self.nodes as f64 / self.tokens.max(1) as f64
    }
}

/// Runs `model` over the windows of `set` and counts the gates' choices for the first `most` scored tokens, for each
/// MoE layer.
pub fn routing(cx: &Cx, model: &Model, set: &EvalSet, most: u64) -> Vec<LayerRouting> {
    let (experts, groups) = (model.config.n_routed_experts, model.config.n_group.max(1));
    let mut layers: Vec<LayerRouting> = Vec::new();
    if model.moe_blocks().next().is_none() {
        return layers;
    }
    let mut left = most;
    each_input(cx, set, &mut |input, _| {
        let mut counted = |target: &i32| {
            let counts = *target >= 0 && left > 0;
            left -= u64::from(counts);
            counts
        };
        let real: Vec<bool> = input.targets.ids.i32().iter().map(&mut counted).collect();
        let mut count = |probe: Probe<'_>| {
            let Probe::Routing(layer, routing) = probe else { return };
            let at = layers.iter().position(|l| l.layer == layer).unwrap_or_else(|| {
                layers.push(LayerRouting { layer, load: vec![0; experts], ..LayerRouting::default() });
                layers.len() - 1
            });
            let found = &mut layers[at];
            for (chosen, _) in routing.idx.i32().chunks_exact(routing.idx.cols()).zip(&real).filter(|row| *row.1) {
                let mut nodes: Vec<usize> = chosen.iter().map(|e| *e as usize * groups / experts).collect();
                chosen.iter().for_each(|e| found.load[*e as usize] += 1);
                nodes.sort_unstable();
                nodes.dedup();
                found.tokens += 1;
                found.nodes += nodes.len() as u64;
            }
        };
        model.losses(cx, input, None, false, Some(&mut count));
        left > 0
    });
    layers
}

/// How differently texts are routed: half the summed difference between two texts' shares of the experts, averaged over
/// the pairs of texts and the layers. 0 means alike, 1 means that they share no expert.
pub fn specialisation(texts: &[&[LayerRouting]]) -> f64 {
    let mut all = Vec::new();
    for (i, a) in texts.iter().enumerate() {
        for b in &texts[i + 1..] {
            for (a, b) in a.iter().zip(*b) {
                all.push(a.shares().zip(b.shares()).map(|(a, b)| (a - b).abs()).sum::<f64>() / 2.0);
            }
        }
    }
    all.iter().sum::<f64>() / all.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::windows;
    use hadal_model::Fresh;
    use hadal_ops::DType;
    use hadal_weights::precision::Precision;

    fn layer(load: &[u64]) -> LayerRouting {
        LayerRouting { layer: 1, load: load.to_vec(), tokens: 4, nodes: 6 }
    }

    #[test]
    fn specialisation_is_the_distance_of_loads() {
        let (a, b, c) = ([layer(&[4, 0])], [layer(&[0, 8])], [layer(&[1, 1])]);
        assert!((specialisation(&[&a, &b]) - 1.0).abs() < 1e-12);
        assert!(specialisation(&[&a, &a]).abs() < 1e-12);
        assert!((specialisation(&[&a, &b, &c]) - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(specialisation(&[&a]), 0.0);
        assert_eq!(layer(&[3, 1]).relative(), [1.5, 0.5]);
        assert_eq!(layer(&[3, 1]).nodes_a_token(), 1.5);
    }

    #[test]
    fn every_scored_token_is_counted_once_in_each_layer() {
        let texts = ["a text of some forty bytes, more or less", "short", "and a third one"];
        let (mut config, set) = windows(&texts, 24, 0);
        let (experts, chosen) = (config.n_routed_experts, config.num_experts_per_tok);
        for limit in [2, config.n_group] {
            config.topk_group = limit;
            let cx = Cx::cpu(2, DType::F32);
            let model = Model::fresh(&cx, &config, Precision::COMPUTE, Fresh { seed: 1, std: 0.1 });
            let found = routing(&cx, &model, &set, u64::MAX);
            assert_eq!(found.len(), (0..config.num_hidden_layers).filter(|l| config.is_moe_layer(*l)).count());
            for layer in &found {
                assert_eq!((layer.tokens, layer.load.len()), (set.scored, experts));
                assert_eq!(layer.load.iter().sum::<u64>(), set.scored * chosen as u64);
                let nodes = layer.nodes_a_token();
                assert!(nodes >= 1.0 && nodes <= limit.min(chosen) as f64, "{nodes} of {limit}");
            }
            let part = routing(&cx, &model, &set, 30);
            assert!(part.iter().all(|l| l.tokens == 30 && l.load.iter().sum::<u64>() == 30 * chosen as u64));
        }
    }
}
