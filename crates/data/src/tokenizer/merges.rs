//! Finds the merges of byte-pair encoding from counted pieces. They are those that the trainer of the `tokenizers`
//! library finds.
//!
//! The most frequent pair of neighbouring symbols is joined everywhere, until the vocabulary is full. Among equally
//! frequent pairs, the one with the smaller ids comes first. A heap holds the pairs and the pieces that they occur in.
//! Its counts may be out of date, so an entry is looked up again when it reaches the top. For every merge, the library
//! goes through a whole piece and moves everything after it, which takes quadratic time. Here long pieces store the
//! positions of their pairs.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use ahash::AHashMap;

/// From this number of bytes on, a piece stores the positions of its pairs.
const LONG_PIECE: usize = 256;

/// Two neighbouring symbols.
type Pair = (u32, u32);

/// The result of training.
pub(super) struct Merges {
    /// The bytes of every token, by id: first the given tokens, then one for each merge that makes a new token.
    pub(super) tokens: Vec<Vec<u8>>,
    /// The pairs in the order of their ranks.
    pub(super) pairs: Vec<Pair>,
}

/// A pair that may be merged next.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    count: i64,
    pair: Reverse<Pair>,
    /// Numbers of the pieces that contained it when this entry was made.
    pieces: Vec<u32>,
}

/// Merges pairs until there are `vocab_size` tokens or no pair occurs `min_frequency` times. `tokens` are the initial
/// tokens; `byte_ids` are the ids of the single bytes among them.
pub(super) fn find<'p>(
    counts: impl IntoIterator<Item = (&'p str, u64)>,
    tokens: Vec<Vec<u8>>,
    byte_ids: &[u32; 256],
    vocab_size: usize,
    min_frequency: u64,
) -> Merges {
    let mut ids: AHashMap<Vec<u8>, u32> = tokens.iter().cloned().zip(0..).collect();
    let mut found = Merges { tokens, pairs: Vec::new() };
    let (mut pieces, mut weights) = (Vec::new(), Vec::new());
    let mut pairs = Pairs::default();
    for (text, count) in counts {
        let symbols: Vec<u32> = text.bytes().map(|b| byte_ids[usize::from(b)]).collect();
        for pair in symbols.windows(2) {
            pairs.change((pair[0], pair[1]), count as i64, pieces.len() as u32);
        }
        pieces.push(if symbols.len() < LONG_PIECE { Piece::Short(symbols) } else { Piece::Long(Long::new(symbols)) });
        weights.push(count as i64);
    }
    let mut heap = BinaryHeap::new();
    pairs.move_new_to(&mut heap);
    let least = i64::try_from(min_frequency).unwrap_or(i64::MAX).max(1);
    while ids.len() < vocab_size {
        let Some(mut top) = heap.pop() else { break };
        let pair = top.pair.0;
        let now = pairs.count(pair);
        if top.count != now {
            top.count = now;
            heap.push(top);
            continue;
        }
        if now < least {
            break;
        }
        let joined = [found.tokens[pair.0 as usize].as_slice(), &found.tokens[pair.1 as usize]].concat();
        // Two pairs may make the same token, which has a single id.
        let id = *ids.entry(joined).or_insert_with_key(|joined| {
            found.tokens.push(joined.clone());
            found.tokens.len() as u32 - 1
        });
        found.pairs.push(pair);
        for piece in top.pieces {
            let weight = weights[piece as usize];
            pieces[piece as usize].merge(pair, id, |pair, by| pairs.change(pair, by * weight, piece));
        }
        pairs.move_new_to(&mut heap);
    }
    found
}

/// How often each pair occurs, and the positions of pairs that are new.
#[derive(Default)]
struct Pairs {
    counts: AHashMap<Pair, i64>,
    new: AHashMap<Pair, Vec<u32>>,
}

impl Pairs {
    fn count(&self, pair: Pair) -> i64 {
        self.counts.get(&pair).copied().unwrap_or(0)
    }

    /// Applies the change of a count that happened in a piece.
    fn change(&mut self, pair: Pair, by: i64, piece: u32) {
        *self.counts.entry(pair).or_default() += by;
        if by > 0 {
            let pieces = self.new.entry(pair).or_default();
            // Pieces are processed one after another.
            if pieces.last() != Some(&piece) {
                pieces.push(piece);
            }
        }
    }

    fn move_new_to(&mut self, heap: &mut BinaryHeap<Candidate>) {
        for (pair, pieces) in self.new.drain() {
            let count = self.counts[&pair];
            if count > 0 {
                heap.push(Candidate { count, pair: Reverse(pair), pieces });
            }
        }
    }
}

/// A piece's symbols.
enum Piece {
    Short(Vec<u32>),
    Long(Long),
}

impl Piece {
    /// Joins a pair everywhere, from the left. `change` is called for the neighbouring pairs that appear and disappear.
    fn merge(&mut self, pair: Pair, id: u32, change: impl FnMut(Pair, i64)) {
        match self {
            Self::Short(symbols) => merge_short(symbols, pair, id, change),
            Self::Long(long) => long.merge(pair, id, change),
        }
    }
}

fn merge_short(symbols: &mut Vec<u32>, (left, right): Pair, id: u32, mut change: impl FnMut(Pair, i64)) {
    let (mut read, mut write) = (0, 0);
    while read < symbols.len() {
        if symbols[read] == left && symbols.get(read + 1) == Some(&right) {
            if write > 0 {
                change((symbols[write - 1], left), -1);
                change((symbols[write - 1], id), 1);
            }
            if let Some(&next) = symbols.get(read + 2) {
                change((right, next), -1);
                change((id, next), 1);
            }
            symbols[write] = id;
            read += 2;
        } else {
            symbols[write] = symbols[read];
            read += 1;
        }
        write += 1;
    }
    symbols.truncate(write);
}

/// A long piece: a linked list of symbols and the positions of every pair. A position may be out of date.
struct Long {
    symbols: Vec<u32>,
    next: Vec<u32>,
    previous: Vec<u32>,
    places: AHashMap<Pair, Vec<u32>>,
}

impl Long {
    /// Marks the end of the list, and a symbol that was merged into the previous one.
    const NONE: u32 = u32::MAX;

    fn new(symbols: Vec<u32>) -> Self {
        let n = symbols.len() as u32;
        let mut places: AHashMap<Pair, Vec<u32>> = AHashMap::new();
        for (pair, at) in symbols.windows(2).zip(0..) {
            places.entry((pair[0], pair[1])).or_default().push(at);
        }
        let next = (1..n).chain([Self::NONE]).collect();
        let previous = std::iter::once(Self::NONE).chain(0..n - 1).collect();
        Self { symbols, next, previous, places }
    }

    fn merge(&mut self, (left, right): Pair, id: u32, mut change: impl FnMut(Pair, i64)) {
        let Some(mut places) = self.places.remove(&(left, right)) else { return };
        places.sort_unstable();
        for at in places {
            let other = self.next[at as usize];
            // Another merge, or the previous one, may have consumed one of the two symbols.
            if other == Self::NONE || self.symbols[at as usize] != left || self.symbols[other as usize] != right {
                continue;
            }
            let (before, after) = (self.previous[at as usize], self.next[other as usize]);
            self.symbols[at as usize] = id;
            self.symbols[other as usize] = Self::NONE;
            self.next[at as usize] = after;
            if before != Self::NONE {
                let symbol = self.symbols[before as usize];
                change((symbol, left), -1);
                change((symbol, id), 1);
                self.places.entry((symbol, id)).or_default().push(before);
            }
            if after != Self::NONE {
                self.previous[after as usize] = at;
                let symbol = self.symbols[after as usize];
                change((right, symbol), -1);
                change((id, symbol), 1);
                self.places.entry((id, symbol)).or_default().push(at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use compact_str::CompactString;
    use proptest::prelude::*;
    use tokenizers::models::bpe::{BPE, BpeTrainer};

    fn bytes() -> (Vec<Vec<u8>>, [u32; 256]) {
        let tokens = (0u8..128).map(|b| vec![b]).collect();
        (tokens, std::array::from_fn(|b| b as u32))
    }

    /// The library's vocabulary and merges as text.
    fn by_library(counts: &AHashMap<CompactString, u64>, vocab_size: usize, min_frequency: u64) -> serde_json::Value {
        let trainer = BpeTrainer::builder()
            .show_progress(false)
            .vocab_size(vocab_size)
            .min_frequency(min_frequency)
            .initial_alphabet((0u8..128).map(char::from).collect())
            .build();
        let mut model = BPE::default();
        trainer.do_train(counts, &mut model).unwrap();
        serde_json::to_value(&model).unwrap()
    }

    fn by_us(counts: &AHashMap<CompactString, u64>, vocab_size: usize, min_frequency: u64) -> serde_json::Value {
        let (tokens, byte_ids) = bytes();
        let found = find(counts.iter().map(|(p, n)| (p.as_str(), *n)), tokens, &byte_ids, vocab_size, min_frequency);
        let text = |id: u32| String::from_utf8(found.tokens[id as usize].clone()).unwrap();
        let vocab: AHashMap<String, u32> = (0..found.tokens.len() as u32).map(|id| (text(id), id)).collect();
        let merges: Vec<(String, String)> = found.pairs.iter().map(|(a, b)| (text(*a), text(*b))).collect();
        serde_json::to_value(BPE::builder().vocab_and_merges(vocab, merges).build().unwrap()).unwrap()
    }

    proptest! {
        #[test]
        fn as_the_library_finds_them(
            pieces in prop::collection::vec(("[ab]{1,9}|[a-e]{1,12}|a{1,9}", 1u64..9), 0..40),
            long in prop::collection::vec("([ab]{1,30}|[a-e]{1,30}){10,30}|a{200,300}", 0..3), frequency in 0u64..4,
        ) {
            let long = long.into_iter().map(|piece| (piece, 1));
            let mut counts: AHashMap<CompactString, u64> = AHashMap::new();
            for (piece, count) in pieces.into_iter().chain(long) {
                *counts.entry(piece.into()).or_default() += count;
            }
            prop_assert_eq!(by_us(&counts, 200, frequency), by_library(&counts, 200, frequency));
        }

        #[test]
        fn long_pieces_merge_as_short_ones_do(text in "([ab]{1,9}|[a-c]{1,9}){1,9}", pairs in prop::collection::vec((0u32..6, 0u32..6), 1..9)) {
            let symbols: Vec<u32> = text.bytes().map(|b| u32::from(b - b'a')).collect();
            let (mut short, mut long) = (Piece::Short(symbols.clone()), Piece::Long(Long::new(symbols)));
            for (pair, id) in pairs.into_iter().zip(3..) {
                let (mut a, mut b) = (Vec::new(), Vec::new());
                short.merge(pair, id, |pair, by| a.push((pair, by)));
                long.merge(pair, id, |pair, by| b.push((pair, by)));
                prop_assert_eq!(a, b);
            }
        }
    }

    /// A quadratic algorithm would need hours for this single piece.
    #[test]
    fn a_very_long_piece_takes_seconds() {
        let (tokens, byte_ids) = bytes();
        let piece: String = (0..600_000u64).map(|i| char::from(b'a' + (crate::hash::mix(i) % 4) as u8)).collect();
        let start = std::time::Instant::now();
        let found = find([(piece.as_str(), 1)], tokens, &byte_ids, 1000, 2);
        assert_eq!((found.tokens.len(), found.pairs.len()), (1000, 1000 - 128));
        assert!(start.elapsed().as_secs() < 60, "{:?}", start.elapsed());
    }
}
