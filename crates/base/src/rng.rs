//! Counter-based random numbers. A value is a function of (seed, purpose, step, index), so it does not depend on any
//! order.
//!
//! The mixing function is the finaliser of SplitMix64. The numbers of the purposes and the keys of names never change.
//! So a seed gives the same run in every version of the program.

/// What random numbers are used for. Different purposes never share a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Purpose {
    /// Initial weights. The step is the key of the parameter's name ([`name_key`]).
    Init = 1,
    /// Fill-in-middle decisions. The step is the epoch, the index is the document.
    Fim = 2,
    /// Order of documents. The step is the epoch.
    Shuffle = 3,
    /// Random splits of combined tokens. The step is the epoch and the document.
    TokenSplit = 4,
    /// Sampling of generated tokens. The step is the request, a substream is the sample, and the index is the position.
    Sample = 5,
    /// Used only in tests.
    Test = 6,
    /// Choice of groups or documents for a subset.
    Subset = 7,
    /// Order of rows in a window. The step is the window's first row.
    Rows = 8,
    /// Needles in training rows. The step is the row.
    Needle = 9,
    /// Needles in evaluations. The step is the sample.
    NeedleTest = 10,
    /// Questions of a synthetic family. The step is the key of the family and the split, a substream is the question.
    Task = 11,
}

/// A stream of the generator.
#[derive(Clone, Copy, Debug)]
pub struct Rng {
    key: u64,
}

/// The finaliser of SplitMix64. It is a bijection of 64 bits, and every input bit affects every output bit.
pub fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A stable 64-bit key of a name (FNV-1a).
pub fn name_key(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

impl Rng {
    /// The stream of (seed, purpose, step).
    pub fn new(seed: u64, purpose: Purpose, step: u64) -> Self {
        let key = mix(mix(mix(seed.wrapping_add(0x9e37_79b9_7f4a_7c15)) ^ purpose as u64) ^ step);
        Self { key }
    }
    /// The stream inside this one that belongs to `index`.
    pub fn substream(&self, index: u64) -> Self {
        Self { key: mix(self.bits(index) ^ 0x6a09_e667_f3bc_c909) }
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
    pub fn below(&self, index: u64, n: u64) -> u64 {
        ((u128::from(self.bits(index)) * u128::from(n)) >> 64) as u64
    }
    /// Standard normal (Box-Muller on two uniforms of the same index).
    pub fn normal(&self, index: u64) -> f64 {
        let u = 1.0 - self.uniform(2 * index);
        let v = self.uniform(2 * index + 1);
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }
}

/// A keyed permutation of `0..len` that needs no memory. It is a Feistel network over the next even number of bits. It
/// is applied again until the result lies below `len`, fewer than four times on average.
#[derive(Clone, Copy, Debug)]
pub struct Permutation {
    rng: Rng,
    len: u64,
    half_bits: u32,
}

impl Permutation {
    const ROUNDS: u64 = 6;

    /// The permutation of `0..len` that belongs to `rng`.
    pub fn new(rng: Rng, len: u64) -> Self {
        let bits = 64 - len.saturating_sub(1).leading_zeros();
        Self { rng, len, half_bits: bits.div_ceil(2).max(1) }
    }

    /// The image of `index`, which must be below the length.
    pub fn at(&self, index: u64) -> u64 {
        assert!(index < self.len, "permutation of {} asked for {index}", self.len);
        let mask = (1u64 << self.half_bits) - 1;
        let mut x = index;
        loop {
            let (mut left, mut right) = (x >> self.half_bits, x & mask);
            for round in 0..Self::ROUNDS {
                // half_bits is at most 32, so the round number never overlaps the bits of the half.
                let f = self.rng.bits(right | (round << 40)) & mask;
                (left, right) = (right, left ^ f);
            }
            x = (left << self.half_bits) | right;
            if x < self.len {
                return x;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{prop_assert, prop_assert_eq, proptest};

    proptest! {
        #[test]
        fn permutation_is_one(len in 1u64..600, seed: u64) {
            let p = Permutation::new(Rng::new(seed, Purpose::Shuffle, 0), len);
            let mut seen: Vec<u64> = (0..len).map(|i| p.at(i)).collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..len).collect::<Vec<_>>());
        }

        #[test]
        fn below_is_below(seed: u64, index: u64, n in 1u64..) {
            prop_assert!(Rng::new(seed, Purpose::Fim, 0).below(index, n) < n);
        }
    }

    #[test]
    fn permutation_spreads_every_start_over_every_place() {
        // Each of 8 places gets item 0 about equally often over 4000 keys. With 7 degrees of freedom, chi-squared
        // exceeds 24.3 once in a thousand times. The keys are fixed.
        let mut counts = [0f64; 8];
        for epoch in 0..4000 {
            counts[Permutation::new(Rng::new(1, Purpose::Shuffle, epoch), 8).at(0) as usize] += 1.0;
        }
        let chi: f64 = counts.iter().map(|c| (c - 500.0) * (c - 500.0) / 500.0).sum();
        assert!(chi < 24.3, "{counts:?}");
    }

    #[test]
    fn moments_of_the_normal_and_independence_of_streams() {
        let (n, r) = (200_000u64, Rng::new(3, Purpose::Test, 0));
        let mean = (0..n).map(|i| r.normal(i)).sum::<f64>() / n as f64;
        let var = (0..n).map(|i| r.normal(i).powi(2)).sum::<f64>() / n as f64;
        // The standard errors are 1/sqrt(n) and sqrt(2/n). The bounds are five of them.
        assert!(mean.abs() < 5.0 / (n as f64).sqrt() && (var - 1.0).abs() < 5.0 * (2.0 / n as f64).sqrt());
        let other = Rng::new(3, Purpose::Test, 1);
        let corr = (0..n).map(|i| r.normal(i) * other.normal(i)).sum::<f64>() / n as f64;
        assert!(corr.abs() < 5.0 / (n as f64).sqrt());
    }
}
