//! Which sequences an epoch has, in which order, and how they are packed into rows.
//!
//! Everything is a function of the lengths, the weights of the data sets, the seed and the number of the epoch. So a
//! position is two numbers: the epoch, and the row in it.
//!
//! Sequences come in a random order. Each goes into the open row in which it leaves the least room. If it fits into
//! none, a new row is opened. Some rows stay open at a time, so rows are full without an order by length.

use hadal_base::{Permutation, Purpose, Rng};

/// Number of rows that are open at a time.
const OPEN: usize = 32;

/// The sequences of a run.
#[derive(Clone, Debug)]
pub struct Rows {
    /// Inputs of each sequence.
    pub inputs: Vec<u32>,
    /// The sequences of each data set, with the number of times that each occurs in an epoch.
    pub sets: Vec<(Vec<u32>, f64)>,
    /// Largest number of inputs in a row.
    pub seq_len: usize,
    /// Seed of the run.
    pub seed: u64,
}

impl Rows {
    /// The sequences of an epoch, those of the first data set first.
    fn picks(&self, epoch: u64) -> Vec<u32> {
        let mut picks = Vec::new();
        for (number, (sequences, weight)) in (0..).zip(&self.sets) {
            for _ in 0..weight.floor() as u64 {
                picks.extend_from_slice(sequences);
            }
            // Of a fraction, each epoch takes the next part of a fixed order. So all sequences get their turn.
            let n = sequences.len() as u64;
            let part = (weight.fract() * n as f64).round() as u64;
            if part > 0 {
                let order = Permutation::new(Rng::new(self.seed, Purpose::Subset, number), n);
                picks.extend((0..part).map(|i| sequences[order.at((epoch * part + i) % n) as usize]));
            }
        }
        picks
    }

    /// Number of inputs in so many epochs.
    pub fn total_inputs(&self, epochs: u64) -> u64 {
        (0..epochs).flat_map(|epoch| self.picks(epoch)).map(|of| u64::from(self.inputs[of as usize])).sum()
    }

    /// The rows of an epoch. A row is a list of sequences.
    pub fn epoch(&self, epoch: u64) -> Vec<Vec<u32>> {
        let picks = self.picks(epoch);
        let order = Permutation::new(Rng::new(self.seed, Purpose::Shuffle, epoch), picks.len() as u64);
        let mut rows: Vec<Vec<u32>> = Vec::new();
        // Room and sequences of open rows, the oldest first.
        let mut open: Vec<(usize, Vec<u32>)> = Vec::new();
        for at in 0..picks.len() as u64 {
            let sequence = picks[order.at(at) as usize];
            let need = self.inputs[sequence as usize] as usize;
            let fits = open.iter().enumerate().filter(|(_, (room, _))| *room >= need);
            if let Some(best) = fits.min_by_key(|(_, (room, _))| *room).map(|(i, _)| i) {
                open[best].0 -= need;
                open[best].1.push(sequence);
                if open[best].0 == 0 {
                    rows.push(open.remove(best).1);
                }
                continue;
            }
            if open.len() == OPEN
                && let Some(fullest) = (0..open.len()).min_by_key(|i| open[*i].0)
            {
                rows.push(open.remove(fullest).1);
            }
            open.push((self.seq_len.saturating_sub(need), vec![sequence]));
        }
        rows.extend(open.into_iter().map(|(_, row)| row));
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn rows(weights: [f64; 2]) -> Rows {
        let rng = Rng::new(3, Purpose::Test, 0);
        let inputs = (0..500).map(|i| 1 + rng.below(i, 100) as u32).collect();
        let sets = vec![((0..300).collect(), weights[0]), ((300..500).collect(), weights[1])];
        Rows { inputs, sets, seq_len: 100, seed: 7 }
    }

    fn counts(epoch: &[Vec<u32>]) -> BTreeMap<u32, u32> {
        let mut counts = BTreeMap::new();
        epoch.iter().flatten().for_each(|of| *counts.entry(*of).or_default() += 1);
        counts
    }

    #[test]
    fn each_sequence_occurs_as_often_as_its_data_set_says() {
        let rows = rows([1.0, 2.25]);
        let mut all: BTreeMap<u32, u32> = BTreeMap::new();
        let mut inputs = 0;
        for epoch in 0..4 {
            let of = rows.epoch(epoch);
            assert_eq!(of, rows.epoch(epoch));
            for row in &of {
                let sum: usize = row.iter().map(|of| rows.inputs[*of as usize] as usize).sum();
                assert!((1..=100).contains(&sum));
                inputs += sum as u64;
            }
            let counts = counts(&of);
            assert!((0..300).all(|i| counts[&i] == 1));
            let (two, three): (Vec<u32>, Vec<u32>) = (300..500).map(|i| counts[&i]).partition(|n| *n == 2);
            assert_eq!((two.len(), three.len()), (150, 50));
            counts.into_iter().for_each(|(of, n)| *all.entry(of).or_default() += n);
        }
        // Four quarters are a whole.
        assert!((300..500).all(|i| all[&i] == 9));
        assert_eq!(rows.total_inputs(4), inputs);
    }

    #[test]
    fn epochs_have_other_orders_and_rows_are_nearly_full() {
        let rows = rows([1.0, 1.0]);
        let (first, second) = (rows.epoch(0), rows.epoch(1));
        assert!(first != second && counts(&first) == counts(&second));
        assert!(Rows { seed: 8, ..rows.clone() }.epoch(0) != first);
        let least = rows.total_inputs(1).div_ceil(100) as usize;
        assert!(first.len() <= least + least / 20, "{} rows, at least {least} are needed", first.len());
    }
}
