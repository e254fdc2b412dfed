//! Counter-based random numbers: a value is a function of (seed, purpose, step, index), so it depends on no order.

/// What random numbers are for; different purposes never share a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Purpose {
    /// Initial weights; step is the parameter's number.
    Init = 1,
    /// Fill-in-middle decisions; step is the document's number.
    Fim = 2,
    /// Order of documents; step is the epoch.
    Shuffle = 3,
    /// Random splits of combined tokens.
    TokenSplit = 4,
    /// Sampling of generated tokens; step is the position.
    Sample = 5,
    /// Anything in tests.
    Test = 6,
}

/// A stream of the generator.
#[derive(Clone, Copy, Debug)]
pub struct Rng {
    key: u64,
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Rng {
    /// The stream of (seed, purpose, step).
    pub fn new(seed: u64, purpose: Purpose, step: u64) -> Self {
        let key = mix(mix(mix(seed.wrapping_add(0x9e37_79b9_7f4a_7c15)) ^ purpose as u64) ^ step);
        Self { key }
    }
    /// 64 random bits at `index`.
    pub fn bits(&self, index: u64) -> u64 {
        mix(mix(self.key ^ index.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }
    /// Uniform in [0, 1).
    pub fn uniform(&self, index: u64) -> f64 {
        (self.bits(index) >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }
    /// Uniform in 0..n.
    pub fn below(&self, index: u64, n: usize) -> usize {
        ((u128::from(self.bits(index)) * n as u128) >> 64) as usize
    }
    /// Standard normal (Box-Muller on two uniforms of the same index).
    pub fn normal(&self, index: u64) -> f64 {
        let u = 1.0 - self.uniform(2 * index);
        let v = self.uniform(2 * index + 1);
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_of_the_normal_and_independence_of_streams() {
        let (n, r) = (200_000u64, Rng::new(3, Purpose::Test, 0));
        let mean = (0..n).map(|i| r.normal(i)).sum::<f64>() / n as f64;
        let var = (0..n).map(|i| r.normal(i).powi(2)).sum::<f64>() / n as f64;
        // Standard errors are 1/sqrt(n) and sqrt(2/n): allow five of them.
        assert!(mean.abs() < 5.0 / (n as f64).sqrt() && (var - 1.0).abs() < 5.0 * (2.0 / n as f64).sqrt());
        let other = Rng::new(3, Purpose::Test, 1);
        let corr = (0..n).map(|i| r.normal(i) * other.normal(i)).sum::<f64>() / n as f64;
        assert!(corr.abs() < 5.0 / (n as f64).sqrt());
    }
}
