//! Counter-based random numbers and hashes: every value is a function of its key and index, never of an order of calls.
//!
//! The mixing function is SplitMix64's finaliser. Streams are keyed by (seed, purpose, step) as in the rest of the
//! system, so that a run's data is a function of its seed alone.

use xxhash_rust::xxh3;

/// What a stream of random numbers is for; different purposes never share a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Purpose {
    /// Fill-in-middle decisions; step is the epoch and index the document.
    Fim = 2,
    /// Order of documents; step is the epoch.
    Shuffle = 3,
    /// Random splits of combined tokens; step is the epoch and the document.
    TokenSplit = 4,
    /// Choice of groups or documents for a subset.
    Subset = 7,
    /// Order of rows in a window; step is the window's first row.
    Rows = 8,
    /// Needles in training rows; step is the row.
    Needle = 9,
    /// Needles in evaluations; step is the sample.
    NeedleTest = 10,
}

/// SplitMix64's finaliser: a bijection of 64 bits in which every input bit reaches every output bit.
pub fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A 64-bit hash of bytes (XXH3), the same on every machine.
pub fn hash_bytes(bytes: &[u8]) -> u64 {
    xxh3::xxh3_64(bytes)
}

/// A stream of random numbers.
#[derive(Clone, Copy, Debug)]
pub struct Rng {
    key: u64,
}

impl Rng {
    /// The stream of (seed, purpose, step).
    pub fn new(seed: u64, purpose: Purpose, step: u64) -> Self {
        Self { key: mix(mix(mix(seed.wrapping_add(0x9e37_79b9_7f4a_7c15)) ^ purpose as u64) ^ step) }
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
}

/// A keyed permutation of `0..len` that needs no memory: a Feistel network over the next even number of bits, walked
/// until it lands inside (fewer than four rounds of walking on average).
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

    /// Where `index` goes. `index` must be below the length.
    pub fn at(&self, index: u64) -> u64 {
        assert!(index < self.len, "permutation of {} asked for {index}", self.len);
        let mask = (1u64 << self.half_bits) - 1;
        let mut x = index;
        loop {
            let (mut left, mut right) = (x >> self.half_bits, x & mask);
            for round in 0..Self::ROUNDS {
                // half_bits is at most 32, so the round number never meets the half's bits.
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
        // Each of 8 places gets item 0 about equally often over 4000 keys: chi-squared with 7 degrees of freedom
        // exceeds 24.3 once in a thousand, and the keys are fixed.
        let mut counts = [0f64; 8];
        for epoch in 0..4000 {
            counts[Permutation::new(Rng::new(1, Purpose::Shuffle, epoch), 8).at(0) as usize] += 1.0;
        }
        let chi: f64 = counts.iter().map(|c| (c - 500.0) * (c - 500.0) / 500.0).sum();
        assert!(chi < 24.3, "{counts:?}");
    }
}
