//! Near copies: MinHash sketches over five-word shingles, found by banding (Broder 1997; one permutation with
//! densification, Li, Owen and Zhang 2012, Shrivastava and Li 2014).
//!
//! Each shingle is hashed once. The top bits of the hash choose one of [`SLOTS`] slots, and each slot keeps its
//! smallest hash. So the cost is one hash per word, instead of one per word and slot. The probability that two sketches
//! agree in a slot is the Jaccard similarity of the shingle sets. Candidates agree in all slots of at least one band. A
//! candidate is a near copy if the share of equal slots reaches the threshold. With 21 bands of 6, 99.8% of the pairs
//! with similarity 0.8 are found. At similarity 0.5, 28% are compared and rejected.

use ahash::AHashMap as HashMap;

use crate::hash::{hash_bytes, mix};

/// Slots per sketch.
pub const SLOTS: usize = 128;
const BANDS: usize = 21;
const ROWS: usize = 6;
const SHINGLE: usize = 5;
/// With fewer shingles the estimate is unreliable, so only exact copies count.
const FEWEST_SHINGLES: usize = 24;

/// A document's sketch.
#[derive(Clone, PartialEq, Eq)]
pub struct Sketch([u32; SLOTS]);

impl Sketch {
    /// The sketch of a text, or `None` if the text is too short to compare.
    pub fn of(text: &str) -> Option<Self> {
        let mut slots = [u64::MAX; SLOTS];
        let mut recent = [0u64; SHINGLE];
        let mut words = 0usize;
        for_each_word(text.as_bytes(), |hash| {
            recent[words % SHINGLE] = hash;
            words += 1;
            if words >= SHINGLE {
                // The oldest word comes first, so the order inside the shingle counts.
                let shingle = (0..SHINGLE).fold(0u64, |h, i| {
                    (h.rotate_left(23) ^ recent[(words + i) % SHINGLE]).wrapping_mul(0x9e37_79b9_7f4a_7c15)
                });
                let h = mix(shingle);
                let slot = &mut slots[(h >> 57) as usize];
                *slot = (*slot).min(h & 0xffff_ffff);
            }
        });
        if words < SHINGLE + FEWEST_SHINGLES {
            return None;
        }
        // An empty slot copies the next full one and mixes in the distance. So equal copies mean equal surroundings.
        let mut dense = [0u32; SLOTS];
        for (i, out) in dense.iter_mut().enumerate() {
            let distance = (0..SLOTS).find(|d| slots[(i + d) % SLOTS] != u64::MAX)?;
            let value = slots[(i + distance) % SLOTS];
            *out = if distance == 0 { value as u32 } else { mix(value ^ ((distance as u64) << 32)) as u32 };
        }
        Some(Self(dense))
    }

    /// Estimate of the Jaccard similarity of the shingle sets.
    pub fn similarity(&self, other: &Self) -> f64 {
        self.0.iter().zip(&other.0).filter(|(a, b)| a == b).count() as f64 / SLOTS as f64
    }

    fn band(&self, band: usize) -> u64 {
        let rows = &self.0[band * ROWS..(band + 1) * ROWS];
        rows.iter().fold(band as u64 + 1, |h, r| mix(h ^ u64::from(*r)))
    }
}

/// Calls `each` with every word: a run of letters, digits and underscores, or a single mark. Bytes beyond ASCII count
/// as letters.
fn for_each_word(bytes: &[u8], mut each: impl FnMut(u64)) {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b >= 0x80;
    let mut i = 0;
    while i < bytes.len() {
        let start = i;
        while i < bytes.len() && is_word(bytes[i]) {
            i += 1;
        }
        if i > start {
            each(hash_bytes(&bytes[start..i]));
        } else {
            if !bytes[i].is_ascii_whitespace() {
                each(u64::from(bytes[i]));
            }
            i += 1;
        }
    }
}

/// The sketches seen so far, searchable for near copies.
pub struct NearCopies {
    threshold: f64,
    sketches: Vec<Sketch>,
    bands: HashMap<u64, Vec<u32>>,
}

impl NearCopies {
    /// Finds sketches of at least the given similarity.
    pub fn new(threshold: f64) -> Self {
        Self { threshold, sketches: Vec::new(), bands: HashMap::new() }
    }

    /// Adds a sketch unless it is a near copy of an earlier one. Returns whether it was added.
    pub fn insert(&mut self, sketch: Sketch) -> bool {
        let keys: [u64; BANDS] = std::array::from_fn(|band| sketch.band(band));
        let is_copy = keys
            .iter()
            .filter_map(|key| self.bands.get(key))
            .flatten()
            .any(|&other| self.sketches[other as usize].similarity(&sketch) >= self.threshold);
        if is_copy {
            return false;
        }
        let number = self.sketches.len() as u32;
        for key in keys {
            self.bands.entry(key).or_default().push(number);
        }
        self.sketches.push(sketch);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::{Purpose, Rng};

    fn words(n: usize, seed: u64) -> Vec<String> {
        let rng = Rng::new(seed, Purpose::Subset, 0);
        (0..n).map(|i| format!("w{}", rng.below(i as u64, 1 << 30))).collect()
    }

    #[test]
    fn estimates_jaccard_similarity() {
        // A changed word changes 5 shingles. With c of n words changed far apart, J = (n - 5c) / (n + 5c).
        let base = words(2000, 1);
        for changed in [0usize, 10, 40, 100] {
            let mut other = base.clone();
            for i in 0..changed {
                other[i * (2000 / changed) + 7] = format!("x{i}");
            }
            let expect = (2000.0 - 5.0 * changed as f64) / (2000.0 + 5.0 * changed as f64);
            let got = Sketch::of(&base.join(" ")).unwrap().similarity(&Sketch::of(&other.join("\n")).unwrap());
            // With 128 slots the standard error is at most 0.044; the bound is four of them.
            assert!((got - expect).abs() < 0.18, "{changed}: {got} for {expect}");
        }
        let far = Sketch::of(&words(2000, 2).join(" ")).unwrap();
        assert!(Sketch::of(&base.join(" ")).unwrap().similarity(&far) < 0.05);
    }

    #[test]
    fn short_texts_have_no_sketch_and_sparse_ones_are_dense() {
        assert!(Sketch::of("a few words only").is_none());
        let few = words(60, 3).join(" ");
        assert_eq!(Sketch::of(&few).unwrap().similarity(&Sketch::of(&few).unwrap()), 1.0);
        assert!(Sketch::of(&few).unwrap().similarity(&Sketch::of(&words(60, 4).join(" ")).unwrap()) < 0.1);
    }

    #[test]
    fn near_copies_are_refused_and_others_kept() {
        let mut near = NearCopies::new(0.8);
        let base = words(500, 5);
        let mut close = base.clone();
        close[250] = "changed".into();
        assert!(near.insert(Sketch::of(&base.join(" ")).unwrap()));
        assert!(!near.insert(Sketch::of(&close.join(" ")).unwrap()));
        let mut halves = base.clone();
        halves.splice(250.., words(250, 6));
        assert!(near.insert(Sketch::of(&halves.join(" ")).unwrap()));
    }
}
