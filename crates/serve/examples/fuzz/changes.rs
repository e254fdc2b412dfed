//! Changes to JSON values and bytes at random.

use super::numbers::Numbers;
use serde_json::{Value, json};

/// Values that are often wrong.
const VALUES: [&str; 34] = [
    "null",
    "true",
    "false",
    "0",
    "1",
    "-1",
    "2",
    "1.5",
    "1e308",
    "-1e308",
    "1e-320",
    "9223372036854775808",
    "-9223372036854775809",
    "4294967296",
    "\"\"",
    "\"x\"",
    "\"auto\"",
    "\"required\"",
    "\"\\u0000\"",
    "\"\u{1f600}\"",
    "[]",
    "{}",
    "[[]]",
    "[1, 2]",
    "[\"a\", \"b\"]",
    "[null]",
    "{\"1\": -100}",
    "{\"type\": \"object\"}",
    "{\"type\": \"json_object\"}",
    "{\"include_usage\": true}",
    "[{\"role\": \"user\", \"content\": \"a\"}]",
    "{\"type\": \"function\", \"function\": {\"name\": \"f\"}}",
    "[{\"type\": \"function\", \"function\": {\"name\": \"f\", \"parameters\": {\"type\": \"object\"}}}]",
    "[[1], [2, 3]]",
];
/// Changes, cuts or adds a few bytes. There must be some.
pub(crate) fn change_bytes(bytes: &mut Vec<u8>, numbers: &mut Numbers) {
    for _ in 0..=numbers.below(3) {
        let at = numbers.below(bytes.len());
        match numbers.below(3) {
            0 => bytes[at] = numbers.below(256) as u8,
            1 => bytes.truncate(at + 1),
            _ => bytes.insert(at, b"{}[]\",:\\0e-"[numbers.below(11)]),
        }
    }
}

/// Changes a value somewhere inside of this one. Fields may be put in from `other`.
pub(crate) fn change(value: &mut Value, other: &Value, numbers: &mut Numbers) {
    let deeper = numbers.below(3) > 0;
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            let names: Vec<String> = fields.keys().cloned().collect();
            let name = &names[numbers.below(names.len())];
            match numbers.below(8) {
                0 => {
                    fields.shift_remove(name);
                }
                1 => {
                    let all = other.as_object().map_or(0, serde_json::Map::len);
                    if let Some((name, value)) = other.as_object().and_then(|o| o.iter().nth(numbers.below(all))) {
                        fields.insert(name.clone(), value.clone());
                    }
                }
                2 => {
                    fields.insert(format!("{name}s"), random(numbers));
                }
                _ if deeper => change(&mut fields[name], other, numbers),
                _ => fields[name] = random(numbers),
            }
        }
        Value::Array(all) if !all.is_empty() && deeper => {
            let at = numbers.below(all.len());
            change(&mut all[at], other, numbers);
        }
        Value::String(text) if deeper => {
            let at = text.floor_char_boundary(numbers.below(text.len() + 1));
            let more =
                ["\u{0}", "<think>", "</tool_call>", "{{", "(", "[", "\\", "é", "<|bos_token|>"][numbers.below(9)];
            text.insert_str(at, &more.repeat(1 + numbers.below(3) * numbers.below(40)));
        }
        Value::Array(all) if deeper => all.push(random(numbers)),
        other => *other = random(numbers),
    }
}

fn random(numbers: &mut Numbers) -> Value {
    match numbers.below(12) {
        0 => json!("x".repeat(numbers.below(5000))),
        1 => json!(vec![numbers.below(330); numbers.below(3000)]),
        2 => (0..numbers.below(120)).fold(json!(1), |inner, _| json!([inner])),
        _ => serde_json::from_str(VALUES[numbers.below(VALUES.len())]).unwrap_or_default(),
    }
}
