//! YaRN: rotary frequencies and scales for contexts longer than the ones trained on (report 4.3; arXiv 2309.00071).
//!
//! With `dim` rotary channels and base `theta`, pair `i` turns by `f_i = theta^(-2i/dim)` per position. A pair that
//! makes at least `beta_fast` turns over the original context keeps its frequency. A pair that makes fewer than
//! `beta_slow` turns is slowed down by `factor`. Between the two, the frequencies are mixed linearly:
//!
//! ```text
//! d(r)  = dim * ln(L0 / (2 pi r)) / (2 ln theta)        pair index at which r turns fit into L0 positions
//! low   = max(floor d(beta_fast), 0)   high = min(ceil d(beta_slow), dim - 1)
//! ramp  = clamp((i - low) / (high - low), 0, 1)
//! f'_i  = f_i / factor * ramp + f_i * (1 - ramp)
//! m(x)  = 0.1 x ln(factor) + 1 for factor > 1, else 1
//! ```
//!
//! Scores are multiplied by `m(mscale_all_dim)^2`, cosine and sine by `m(mscale) / m(mscale_all_dim)`. Everything is
//! computed in f64.

/// The keys of `rope_scaling` with `type: yarn`.
#[derive(Clone, Debug, PartialEq)]
pub struct Yarn {
    /// How many times as long the context becomes.
    pub factor: f64,
    /// Context length of the original training.
    pub original_max_position_embeddings: usize,
    /// Pairs with at least this number of turns keep their frequency.
    pub beta_fast: f64,
    /// Pairs with fewer turns than this are slowed down by the whole factor.
    pub beta_slow: f64,
    /// See the module's header.
    pub mscale: f64,
    /// See the module's header. 0 means that the scores are not scaled.
    pub mscale_all_dim: f64,
    /// If given, replaces the factor of cosine and sine.
    pub attention_factor: Option<f64>,
}

impl Default for Yarn {
    fn default() -> Self {
        Self {
            factor: 1.0,
            original_max_position_embeddings: 4096,
            beta_fast: 32.0,
            beta_slow: 1.0,
            mscale: 1.0,
            mscale_all_dim: 0.0,
            attention_factor: None,
        }
    }
}

impl Yarn {
    /// Factor of cosine and sine.
    pub fn cos_sin_factor(&self) -> f64 {
        self.attention_factor
            .unwrap_or_else(|| mscale(self.factor, self.mscale) / mscale(self.factor, self.mscale_all_dim))
    }
}

/// `m(x)` from the module's header.
pub fn mscale(factor: f64, x: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * x * factor.ln() + 1.0 }
}

/// The `dim / 2` angles per position.
pub fn inv_freq(dim: usize, theta: f64, yarn: Option<&Yarn>) -> Vec<f64> {
    let plain = (0..dim / 2).map(|i| theta.powf(-2.0 * i as f64 / dim as f64));
    let Some(yarn) = yarn else { return plain.collect() };
    let (low, high) = correction_range(dim, theta, yarn);
    plain
        .enumerate()
        .map(|(i, f)| {
            let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
            f / yarn.factor * ramp + f * (1.0 - ramp)
        })
        .collect()
}

/// The range of pair indices in which frequencies are mixed. Its ends are never equal.
fn correction_range(dim: usize, theta: f64, yarn: &Yarn) -> (f64, f64) {
    let length = yarn.original_max_position_embeddings as f64;
    let pair_with = |turns: f64| dim as f64 * (length / (turns * 2.0 * std::f64::consts::PI)).ln() / (2.0 * theta.ln());
    let low = pair_with(yarn.beta_fast).floor().max(0.0);
    let high = pair_with(yarn.beta_slow).ceil().min(dim as f64 - 1.0);
    // With equal ends there would be a division by zero. The released code widens them by a thousandth.
    (low, if low == high { high + 0.001 } else { high })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ModelConfig;
    use std::path::Path;

    fn assert_close(ours: &[f64], theirs: &[f64], what: &str) {
        assert_eq!(ours.len(), theirs.len(), "{what}");
        for (a, b) in ours.iter().zip(theirs) {
            // The other implementation computes in f32: a power, two products and a sum, each rounded.
            assert!((a - b).abs() <= 1e-6 * b.abs(), "{what}: {a} and {b}");
        }
    }

    /// The results of transformers 5.23 for DeepSeek-V3's configuration.
    #[test]
    fn v3_s_frequencies() {
        let theirs = [
            1.0,
            0.7498942017555237,
            0.5623413324356079,
            0.4216965138912201,
            0.3162277638912201,
            0.23713736236095428,
            0.17782793939113617,
            0.1333521455526352,
            0.10000000149011612,
            0.07498941570520401,
            0.05623412877321243,
            0.039006926119327545,
            0.026879360899329185,
            0.01837814413011074,
            0.012447956018149853,
            0.0083345090970397,
            0.005500000435858965,
            0.0035619973205029964,
            0.002249365206807852,
            0.0013705134624615312,
            0.0007905694073997438,
            0.0004149904125370085,
            0.00017782794020604342,
            3.333803397254087e-05,
            2.499999936844688e-05,
            1.8747354260995053e-05,
            1.4058532542549074e-05,
            1.0542412383074407e-05,
            7.905694474175107e-06,
            5.928434347879374e-06,
            4.445698323252145e-06,
            3.3338035336782923e-06,
        ];
        assert_close(&ModelConfig::named("deepseek-v3").unwrap().rope_inv_freq(), &theirs, "v3");
        let plain = inv_freq(64, 10000.0, None);
        assert_close(&plain[..4], &theirs[..4], "pairs that turn often are left alone");
        assert!(plain[31] > 39.9 * theirs[31] && plain[31] < 40.1 * theirs[31], "slow ones by the whole factor");
    }

    /// All stored reference results: frequencies, score scale and the factor of cosine and sine.
    #[test]
    fn reference_results() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/fixtures");
        let mut seen = 0;
        for dir in std::fs::read_dir(fixtures).unwrap() {
            let dir = dir.unwrap().path();
            let Ok(text) = std::fs::read(dir.join("oracle.json")) else { continue };
            let oracle: serde_json::Value = serde_json::from_slice(&text).unwrap();
            let config = ModelConfig::from_file(dir.join("config.json")).unwrap();
            let what = dir.display().to_string();
            let theirs: Vec<f64> = oracle["inv_freq"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
            assert_close(&config.rope_inv_freq(), &theirs, &what);
            assert_close(&[config.softmax_scale()], &[oracle["softmax_scale"].as_f64().unwrap()], &what);
            assert_close(&[config.rope_attention_factor()], &[oracle["cos_sin_factor"].as_f64().unwrap()], &what);
            seen += 1;
        }
        assert!(seen > 0, "no reference results found");
    }

    #[test]
    fn factors() {
        assert_eq!(mscale(1.0, 5.0), 1.0);
        let yarn = Yarn { factor: 4.0, ..Yarn::default() };
        // transformers: 0.1 ln 4 + 1 when mscale_all_dim is 0.
        assert!((yarn.cos_sin_factor() - 1.138629436111989).abs() < 1e-15);
        assert_eq!(Yarn { attention_factor: Some(0.5), ..yarn }.cos_sin_factor(), 0.5);
    }
}
