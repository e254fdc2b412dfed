//! `tiktoken.model`: the vocabulary of Kimi-K2 and Moonlight, which come without a `tokenizer.json`.
//!
//! A line is a token in base64 and its rank, which is its id. A merge joins two neighbours whose joined bytes are a
//! token. The lowest rank is merged first, and of equal ones the leftmost. A piece of text that is a token as a whole
//! becomes that token, even if no merges lead to it. Text is cut by the expression of the released
//! `tokenization_kimi.py` ([`EXPRESSION`]). The special tokens are in `added_tokens_decoder` of
//! `tokenizer_config.json`. The ids are those of the tiktoken library.
//!
//! There are two departures. The released Python code cuts runs of more than 25,000 characters with or without white
//! space. Here a run is one text. That code also names the ids between the special tokens `<|reserved_token_N|>`. Here
//! those ids have no name.

use ahash::AHashMap;
use regex::Regex;
use serde_json::Value;

/// The alternatives in their order. White space in front of a word needs a look-ahead, so [`Kimi::split`] handles it.
const EXPRESSION: [&str; 7] = [
    r"[\p{Han}]+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"\p{N}{1,3}",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*",
    r"\s*[\r\n]+",
    r"\s+",
];

/// Cuts text as the released code does.
pub(super) struct Kimi(Regex);

impl Kimi {
    pub(super) fn new() -> Self {
        Self(Regex::new(&EXPRESSION.join("|")).expect("a constant expression"))
    }

    /// Calls `each` with every piece of `text` in order. Together the pieces are the text.
    ///
    /// The last alternatives of the released expression are `\s+(?!\S)|\s+`. So white space in front of a visible
    /// character leaves its last character to the next piece, unless it has only one.
    pub(super) fn split<'t>(&self, text: &'t str, mut each: impl FnMut(&'t str)) {
        let mut at = 0;
        while let Some(found) = self.0.find_at(text, at) {
            if at < found.start() {
                each(&text[at..found.start()]);
            }
            let (start, mut end) = (found.start(), found.end());
            let piece = found.as_str();
            // Line breaks belong to another alternative, which takes all white space up to the last of them.
            if end < text.len() && !piece.ends_with(['\r', '\n']) && piece.chars().all(char::is_whitespace) {
                let last = piece.chars().next_back().map_or(0, char::len_utf8);
                end = if last < piece.len() { end - last } else { end };
            }
            each(&text[start..end]);
            at = end;
        }
        if at < text.len() {
            each(&text[at..]);
        }
    }
}

/// The contents of both files.
pub(super) struct Ranks {
    /// Tokens by their bytes.
    pub(super) tokens: AHashMap<Vec<u8>, u32>,
    /// Special tokens: names and ids.
    pub(super) special: Vec<(String, u32)>,
}

/// Largest id.
const MOST: u32 = 1 << 24;

impl Ranks {
    /// Reads both files. The error names the line or the key.
    pub(super) fn read(model: &str, config: Option<&str>) -> Result<Self, String> {
        let tokens = tokens(model)?;
        let config = config
            .ok_or("tokenizer_config.json is missing beside it, which names the special tokens: copy it there")?;
        let config: Value =
            serde_json::from_str(config).map_err(|e| format!("its tokenizer_config.json is not JSON ({e})"))?;
        // Other vocabularies of this kind are cut by other expressions, which are only in their code.
        let class = &config["tokenizer_class"];
        if *class != "TikTokenTokenizer" {
            return Err(format!(
                "its tokenizer_config.json has `tokenizer_class` {class}; only \"TikTokenTokenizer\" (Kimi, Moonlight) is \
                 known: use a tokenizer.json instead"
            ));
        }
        Ok(Self { special: special(&config["added_tokens_decoder"], &tokens)?, tokens })
    }
}

fn tokens(model: &str) -> Result<AHashMap<Vec<u8>, u32>, String> {
    let mut tokens = AHashMap::new();
    let mut seen = Vec::new();
    for (number, line) in model.lines().enumerate().filter(|(_, line)| !line.is_empty()) {
        let wrong = |what: &str| format!("line {}: {what}; copy the file again", number + 1);
        let (token, rank) = line.split_once(' ').ok_or_else(|| wrong("must be a token in base64 and its rank"))?;
        let rank: u32 = rank.trim().parse().map_err(|_| wrong("the rank is not a whole number"))?;
        if rank >= MOST {
            return Err(wrong("the rank is too large"));
        }
        let token = base64(token).filter(|t| !t.is_empty()).ok_or_else(|| wrong("the token is not base64"))?;
        if tokens.insert(token, rank).is_some() {
            return Err(wrong("the token is there twice"));
        }
        let rank = rank as usize;
        if seen.len() <= rank {
            seen.resize(rank + 1, false);
        }
        if std::mem::replace(&mut seen[rank], true) {
            return Err(wrong("the rank is there twice"));
        }
    }
    match (0..=255u8).find(|byte| !tokens.contains_key([*byte].as_slice())) {
        Some(byte) => Err(format!("has no token for byte {byte}; copy the file again")),
        None => Ok(tokens),
    }
}

/// The tokens of `added_tokens_decoder`. All of them are special: a prompt may name them, and text may not.
fn special(added: &Value, tokens: &AHashMap<Vec<u8>, u32>) -> Result<Vec<(String, u32)>, String> {
    let wrong = |what: String| format!("its tokenizer_config.json has {what}; copy the file again");
    let map = match added {
        Value::Null => return Ok(Vec::new()),
        Value::Object(map) => map,
        _ => return Err(wrong("an `added_tokens_decoder` that is not an object".into())),
    };
    let taken: ahash::AHashSet<u32> = tokens.values().copied().collect();
    let mut all = Vec::with_capacity(map.len());
    for (id, token) in map {
        let number: Option<u32> = id.parse().ok().filter(|id| *id < MOST && !taken.contains(id));
        // `07` and `+7` would be the same id as `7`.
        let number = number.filter(|number| number.to_string() == *id);
        let name = token["content"].as_str().filter(|name| !name.is_empty());
        match (number, name) {
            (Some(number), Some(name)) => all.push((name.to_owned(), number)),
            (None, _) => return Err(wrong(format!("`added_tokens_decoder.{id}`, which is not an id of its own"))),
            (_, None) => return Err(wrong(format!("`added_tokens_decoder.{id}` without text as its `content`"))),
        }
    }
    all.sort_by_key(|(_, id)| *id);
    Ok(all)
}

/// The bytes of base64 with padding.
fn base64(text: &str) -> Option<Vec<u8>> {
    let text = text.as_bytes();
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let digits = text.strip_suffix(b"==").or_else(|| text.strip_suffix(b"=")).unwrap_or(text);
    let (mut bits, mut held) = (0u32, 0);
    let mut bytes = Vec::with_capacity(digits.len());
    for digit in digits {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        (bits, held) = (bits << 6 | u32::from(value), held + 6);
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    (bits == 0).then_some(bytes)
}

#[cfg(test)]
mod tests;
