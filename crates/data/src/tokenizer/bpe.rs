//! Byte-pair encoding of the pieces that the pre-tokenizer cuts: the same result as the `tokenizers` library, but
//! faster.
//!
//! The library keeps offsets, normalised copies and a shared cache. Turning raw text into ids needs none of them. A
//! piece starts as its bytes. The neighbouring pair with the earliest merge rule is joined, leftmost first, until no
//! rule applies. Pieces repeat, so each thread that encodes uses a cache of the pieces seen.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Mutex, PoisonError};

use ahash::AHashMap;
use serde_json::Value;
use tokenizers::AddedToken;

use super::added::{Part, Words};
use super::pretoken;
use super::recognise::is_ours;
use super::tiktoken::{Kimi, Ranks};

/// Longest piece that is cached, in bytes.
const CACHED_BYTES: usize = 48;
/// Largest number of pieces in a cache. When it is full, further pieces are encoded each time.
const CACHED_PIECES: usize = 1 << 17;
/// From this number of bytes on, a heap finds the next merge instead of a scan.
const LONG_PIECE: usize = 96;

/// Merge rules, added words and caches.
pub(super) struct FastBpe {
    byte_ids: [u32; 256],
    /// (left, right) to (rank, merged id).
    merges: AHashMap<(u32, u32), (u32, u32)>,
    words: Words,
    cut: Cut,
    /// Pieces that are tokens as a whole, whatever merges make of them; empty where merges decide.
    whole: AHashMap<Vec<u8>, u32>,
    caches: Mutex<Vec<Cache>>,
}

/// How text is cut into pieces.
enum Cut {
    /// By the three passes of [`pretoken`].
    DeepSeek,
    /// By the one expression of `tiktoken.rs`.
    Kimi(Box<Kimi>),
}

#[derive(Default)]
struct Cache {
    places: AHashMap<Box<[u8]>, (u32, u32)>,
    ids: Vec<u32>,
    symbols: Vec<u32>,
}

/// The characters that stand for the 256 bytes in byte-level vocabularies (GPT-2's table).
pub(super) fn byte_chars() -> [char; 256] {
    let mut table = ['\0'; 256];
    let mut next = 256;
    for (byte, entry) in (0u32..).zip(&mut table) {
        let plain = matches!(byte, 33..=126 | 161..=172 | 174..=255);
        let code = if plain { byte } else { next };
        next += u32::from(!plain);
        *entry = char::from_u32(code).expect("below the surrogates");
    }
    table
}

impl FastBpe {
    /// Reads the rules from a `tokenizer.json`. `None` if the file is of another kind than ours, or if added words need
    /// something that only the library supports. Then the library must encode.
    pub(super) fn new<'a>(json: &Value, added: impl Iterator<Item = (u32, &'a AddedToken)>) -> Option<Self> {
        if !is_ours(json) {
            return None;
        }
        let words = Words::new(added)?;
        let model = &json["model"];
        let vocab = model["vocab"].as_object()?;
        let id_of = |token: &str| Some(vocab.get(token)?.as_u64()? as u32);
        let mut byte_ids = [0; 256];
        for (id, c) in byte_ids.iter_mut().zip(byte_chars()) {
            *id = id_of(c.encode_utf8(&mut [0; 4]))?;
        }
        let mut merges = AHashMap::new();
        for (rank, rule) in model["merges"].as_array()?.iter().enumerate() {
            // Either ["a", "b"] or, in older files, "a b".
            let (left, right) = match rule {
                Value::Array(pair) => (pair.first()?.as_str()?, pair.get(1)?.as_str()?),
                Value::String(pair) => pair.split_once(' ')?,
                _ => return None,
            };
            let merged = id_of(&format!("{left}{right}"))?;
            // If a rule occurs twice, the library keeps the last rank.
            merges.insert((id_of(left)?, id_of(right)?), (rank as u32, merged));
        }
        let (cut, whole) = (Cut::DeepSeek, AHashMap::new());
        Some(Self { byte_ids, merges, words, cut, whole, caches: Mutex::default() })
    }

    /// From the ranks of a `tiktoken.model`: any two tokens merge whose bytes together are a token.
    pub(super) fn of_ranks(ranks: &Ranks) -> Self {
        let mut byte_ids = [0; 256];
        let mut merges = AHashMap::new();
        for (token, id) in &ranks.tokens {
            if let &[byte] = token.as_slice() {
                byte_ids[usize::from(byte)] = *id;
            }
            for at in 1..token.len() {
                if let (Some(left), Some(right)) = (ranks.tokens.get(&token[..at]), ranks.tokens.get(&token[at..])) {
                    merges.insert((*left, *right), (*id, *id));
                }
            }
        }
        let (cut, whole) = (Cut::Kimi(Box::new(Kimi::new())), ranks.tokens.clone());
        Self { byte_ids, merges, words: Words::default(), cut, whole, caches: Mutex::default() }
    }

    /// Appends the ids of a text.
    pub(super) fn encode(&self, text: &str, out: &mut Vec<u32>) {
        let mut cache = self.caches.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        self.words.split(text, |part| match part {
            Part::Text(text) => {
                let each = |piece: &str| self.encode_piece(piece.as_bytes(), &mut cache, out);
                match &self.cut {
                    Cut::DeepSeek => pretoken::split(text, each),
                    Cut::Kimi(kimi) => kimi.split(text, each),
                }
            }
            Part::Token(id) => out.push(id),
        });
        self.caches.lock().unwrap_or_else(PoisonError::into_inner).push(cache);
    }

    fn encode_piece(&self, piece: &[u8], cache: &mut Cache, out: &mut Vec<u32>) {
        if let &[byte] = piece {
            out.push(self.byte_ids[usize::from(byte)]);
            return;
        }
        if let Some(id) = self.whole.get(piece) {
            out.push(*id);
            return;
        }
        if let Some(&(start, len)) = cache.places.get(piece) {
            out.extend_from_slice(&cache.ids[start as usize..(start + len) as usize]);
            return;
        }
        let symbols = &mut cache.symbols;
        symbols.clear();
        symbols.extend(piece.iter().map(|b| self.byte_ids[usize::from(*b)]));
        if symbols.len() < LONG_PIECE {
            self.merge_short(symbols);
        } else {
            self.merge_long(symbols);
        }
        out.extend_from_slice(symbols);
        if piece.len() <= CACHED_BYTES && cache.places.len() < CACHED_PIECES {
            cache.places.insert(piece.into(), (cache.ids.len() as u32, symbols.len() as u32));
            cache.ids.extend_from_slice(symbols);
        }
    }

    fn rule(&self, left: u32, right: u32) -> Option<(u32, u32)> {
        self.merges.get(&(left, right)).copied()
    }

    /// Scans for the earliest rule each time. This is fastest for few symbols.
    fn merge_short(&self, symbols: &mut Vec<u32>) {
        loop {
            let pairs = symbols.windows(2).enumerate();
            let best = pairs.filter_map(|(i, w)| self.rule(w[0], w[1]).map(|(rank, id)| (rank, i, id))).min();
            let Some((_, at, id)) = best else { return };
            symbols[at] = id;
            symbols.remove(at + 1);
        }
    }

    /// Uses a heap of possible merges over a linked list, for pieces of any length.
    fn merge_long(&self, symbols: &mut Vec<u32>) {
        const NONE: usize = usize::MAX;
        const GONE: u32 = u32::MAX;
        let n = symbols.len();
        let mut next: Vec<usize> = (1..n).chain([NONE]).collect();
        let mut previous: Vec<usize> = std::iter::once(NONE).chain(0..n - 1).collect();
        // The earliest rule comes first, then the leftmost. The pair tells whether an entry is still valid.
        let mut heap = BinaryHeap::new();
        let offer = |heap: &mut BinaryHeap<_>, symbols: &[u32], at: usize, right: usize| {
            if let Some((rank, id)) = self.rule(symbols[at], symbols[right]) {
                heap.push(Reverse((rank, at, symbols[at], symbols[right], id)));
            }
        };
        for at in 0..n - 1 {
            offer(&mut heap, symbols, at, at + 1);
        }
        while let Some(Reverse((_, at, left, right, id))) = heap.pop() {
            let other = next[at];
            if other == NONE || symbols[at] != left || symbols[other] != right {
                continue;
            }
            symbols[at] = id;
            symbols[other] = GONE;
            next[at] = next[other];
            if next[at] != NONE {
                previous[next[at]] = at;
                offer(&mut heap, symbols, at, next[at]);
            }
            if previous[at] != NONE {
                offer(&mut heap, symbols, previous[at], at);
            }
        }
        symbols.retain(|s| *s != GONE);
    }
}
