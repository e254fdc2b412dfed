//! YaRN: rotary frequencies and scales for contexts longer than the ones trained on (report 4.3; arXiv 2309.00071).
//!
//! With `dim` rotary channels and base `theta`, pair `i` turns by `f_i = theta^(-2i/dim)` a position. A pair that makes at
//! least `beta_fast` turns over the original context keeps its frequency, one that makes fewer than `beta_slow` is slowed
//! down by `factor`, and those between are mixed linearly:
//!
//! ```text
//! d(r)  = dim * ln(L0 / (2 pi r)) / (2 ln theta)        pair index at which r turns fit into L0 positions
//! low   = max(floor d(beta_fast), 0)   high = min(ceil d(beta_slow), dim - 1)
//! ramp  = clamp((i - low) / (high - low), 0, 1)
//! f'_i  = f_i / factor * ramp + f_i * (1 - ramp)
//! m(x)  = 0.1 x ln(factor) + 1 for factor > 1, else 1
//! ```
//!
//! Scores are multiplied by `m(mscale_all_dim)^2`, cosine and sine by `m(mscale) / m(mscale_all_dim)`. All in f64.

/// The keys of `rope_scaling` with `type: yarn`.
#[derive(Clone, Debug, PartialEq)]
pub struct Yarn {
    /// How many times longer the context becomes.
    pub factor: f64,
    /// Context length of the training before.
    pub original_max_position_embeddings: usize,
    /// Turns from which on a pair is left alone.
    pub beta_fast: f64,
    /// Turns below which a pair is slowed down by the whole factor.
    pub beta_slow: f64,
    /// See the module's header.
    pub mscale: f64,
    /// See the module's header; 0 leaves the scores alone.
    pub mscale_all_dim: f64,
    /// Replaces the factor of cosine and sine, when given.
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
    /// What cosine and sine are multiplied with.
    pub fn cos_sin_factor(&self) -> f64 {
        self.attention_factor
            .unwrap_or_else(|| mscale(self.factor, self.mscale) / mscale(self.factor, self.mscale_all_dim))
    }
}

/// `m(x)` of the module's header.
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

/// Pair indices between which frequencies are mixed; never equal.
fn correction_range(dim: usize, theta: f64, yarn: &Yarn) -> (f64, f64) {
    let length = yarn.original_max_position_embeddings as f64;
    let pair_with = |turns: f64| dim as f64 * (length / (turns * 2.0 * std::f64::consts::PI)).ln() / (2.0 * theta.ln());
    let low = pair_with(yarn.beta_fast).floor().max(0.0);
    let high = pair_with(yarn.beta_slow).ceil().min(dim as f64 - 1.0);
    // Equal ends would divide by zero; the released code widens them by a thousandth.
    (low, if low == high { high + 0.001 } else { high })
}
