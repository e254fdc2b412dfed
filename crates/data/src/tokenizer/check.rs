//! Checks the merges of a `tokenizer.json` before the library reads them. It removes the prefix
//! from the second token of a merge and copies both tokens into one buffer. If that is not possible, it panics.

use serde_json::Value;

/// An error if a merge of a BPE model makes no token. The library refuses such files as well, or panics.
pub(super) fn merges(tokenizer: &Value) -> Result<(), String> {
    let model = &tokenizer["model"];
    if model.get("type").is_some_and(|kind| kind != "BPE") {
        return Ok(());
    }
    let (Some(vocabulary), Some(merges)) = (model["vocab"].as_object(), model["merges"].as_array()) else {
        return Ok(());
    };
    let prefix = model["continuing_subword_prefix"].as_str().unwrap_or_default().len();
    for (i, merge) in merges.iter().enumerate() {
        let pair = match merge {
            Value::String(text) => text.split_once(' '),
            Value::Array(pair) => pair.first().and_then(Value::as_str).zip(pair.get(1).and_then(Value::as_str)),
            _ => None,
        };
        // The library refuses anything else.
        let Some((first, second)) = pair else { continue };
        let merged = second.get(prefix..).map(|rest| [first, rest].concat());
        if !merged.is_some_and(|merged| vocabulary.contains_key(&merged)) {
            return Err(format!("merge {i} of `{first}` and `{second}` makes no token of the vocabulary"));
        }
    }
    Ok(())
}
