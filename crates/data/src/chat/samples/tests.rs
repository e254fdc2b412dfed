//! Lines of both shapes, mistakes by key, and lines with random damage.

use std::path::PathBuf;

use hadal_base::{Purpose, Rng};
use serde_json::{Value as Json, json};

use super::{Sample, Seen, read_samples};
use crate::error::{DataError, Result};

/// Reads lines from a file.
fn read(lines: &str) -> Result<(Vec<Sample>, Seen)> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("chat.jsonl");
    std::fs::write(&path, lines).unwrap();
    let mut samples = Vec::new();
    let seen = read_samples(&path, |sample| {
        samples.push(sample);
        Ok(())
    })?;
    Ok((samples, seen))
}

/// A sample's messages as JSON.
fn messages(sample: &Sample) -> Json {
    serde_json::to_value(&sample.request.messages).unwrap()
}

#[test]
fn messages_of_openai_are_passed_on() {
    let lines = "\u{feff}{\"messages\": [{\"role\": \"user\", \"content\": \"a\", \"tool_calls\": null}, \
        {\"role\": \"assistant\", \"content\": \"b\", \"weight\": 0}, {\"role\": \"user\", \"content\": [{\"type\": \"text\", \
        \"text\": \"c\"}]}, {\"role\": \"assistant\", \"reasoning_content\": \"t\", \"content\": null, \"tool_calls\": \
        [{\"id\": \"x\", \"type\": \"function\", \"function\": {\"name\": \"f\", \"arguments\": \"{\\\"z\\\": 1, \\\"a\\\": 2}\"}}]}, \
        {\"role\": \"tool\", \"content\": \"r\"}], \"tools\": [{\"name\": \"f\", \"parameters\": {}}], \"source\": 3, \
        \"chat_template_kwargs\": {\"thinking\": true}}\n\n   \n";
    let (samples, seen) = read(lines).unwrap();
    let [sample] = samples.as_slice() else { panic!("{} samples", samples.len()) };
    let call = json!({"id": "x", "type": "function", "function": {"name": "f", "arguments": "{\"z\": 1, \"a\": 2}"}});
    let expected = json!([
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": [{"type": "text", "text": "c"}]},
        {"role": "assistant", "reasoning_content": "t", "content": null, "tool_calls": [call]},
    ]);
    assert_eq!(messages(sample), expected);
    assert_eq!(sample.trained, [false, false, false, true]);
    let tools = serde_json::to_value(&sample.request.tools).unwrap();
    assert_eq!(tools, json!([{"type": "function", "function": {"name": "f", "parameters": {}}}]));
    assert!(sample.request.values["thinking"].is_true());
    assert_eq!((sample.line, seen.samples, seen.after), (1, 1, 1));
    assert_eq!(seen.unused.into_iter().collect::<Vec<_>>(), [("source".to_owned(), 1)]);
}

#[test]
fn conversations_of_sharegpt_become_messages() {
    let line = json!({"conversations": [
        {"from": "human", "value": "a"}, {"from": "function_call", "value": "{\"name\": \"f\", \"arguments\": {\"x\": 1}}"},
        {"from": "observation", "value": "r"}, {"from": "gpt", "value": "b", "weight": 1}],
        "system": "s", "tools": "[{\"name\": \"f\"}]"});
    let (samples, _) = read(&line.to_string()).unwrap();
    let call = json!({"type": "function", "function": {"name": "f", "arguments": {"x": 1}}});
    let expected = json!([
        {"role": "system", "content": "s"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "r"},
        {"role": "assistant", "content": "b"},
    ]);
    assert_eq!(messages(&samples[0]), expected);
    assert_eq!(samples[0].trained, [false, false, true, false, true]);
    assert_eq!(samples[0].request.tools.len(), 1);
}

#[test]
fn mistakes_are_told_by_file_line_and_key() {
    let answer = json!({"role": "assistant", "content": "b"});
    let with = |message: Json| json!({"messages": [message, answer]}).to_string();
    let call = |call: Json| with(json!({"role": "assistant", "tool_calls": [call]}));
    let share = |entry: Json| json!({"conversations": [entry, {"from": "gpt", "value": "b"}]}).to_string();
    for (line, key, word) in [
        ("{".to_owned(), "", "not JSON"),
        ("[]".to_owned(), "", "a list, not an object"),
        ("{\"text\": 1, \"id\": 2}".to_owned(), "", "it has: text, id"),
        ("{\"messages\": [], \"conversations\": []}".to_owned(), "", "both"),
        ("{\"messages\": []}".to_owned(), "`messages`", "empty"),
        ("{\"messages\": {}}".to_owned(), "`messages`", "an object, not a list"),
        ("{\"messages\": [7]}".to_owned(), "`messages[0]`", "a number"),
        ("{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}".to_owned(), "`messages`", "nothing to learn"),
        (
            json!({"messages": [{"role": "assistant", "content": "b", "weight": 0}]}).to_string(),
            "`messages`",
            "`weight` 0",
        ),
        (with(json!({"content": "a"})), "`messages[0]`", "no `role`"),
        (with(json!({"role": 1, "content": "a"})), "`messages[0].role`", "a number, not text"),
        (with(json!({"role": "human", "content": "a"})), "`messages[0].role`", "`human` is not a role"),
        (with(json!({"from": "human", "value": "a"})), "`messages[0]`", "`conversations`"),
        (with(json!({"role": "user"})), "`messages[0]`", "no `content`"),
        (with(json!({"role": "user", "content": null})), "`messages[0].content`", "null"),
        (with(json!({"role": "user", "content": 7})), "`messages[0].content`", "a number"),
        (with(json!({"role": "assistant"})), "`messages[0]`", "no `content`"),
        (with(json!({"role": "assistant", "content": null, "tool_calls": []})), "`messages[0].content`", "null"),
        (
            with(json!({"role": "user", "content": [{"type": "image_url"}]})),
            "`messages[0].content[0].type`",
            "image_url",
        ),
        (with(json!({"role": "user", "content": [{"type": "text"}]})), "`messages[0].content[0].text`", "not text"),
        (with(json!({"role": "user", "content": ["a"]})), "`messages[0].content[0]`", "text, not a part"),
        (with(json!({"role": "user", "content": "a", "tool_calls": [1]})), "`messages[0].tool_calls`", "`user`'s"),
        (
            with(json!({"role": "user", "content": "a", "reasoning_content": "x"})),
            "`messages[0].reasoning_content`",
            "only",
        ),
        (with(json!({"role": "assistant", "content": "a", "weight": 0.5})), "`messages[0].weight`", "0.5"),
        (with(json!({"role": "tool", "content": "a", "tool_call_id": 5})), "`messages[0].tool_call_id`", "a number"),
        (with(json!({"role": "assistant", "tool_calls": 1})), "`messages[0].tool_calls`", "a number"),
        (call(json!(1)), "`messages[0].tool_calls[0].function`", "no object"),
        (call(json!({"type": "code", "function": {}})), "`messages[0].tool_calls[0].type`", "code"),
        (call(json!({"function": {}})), "`messages[0].tool_calls[0].function.name`", "no text"),
        (call(json!({"function": {"name": "f"}})), "`messages[0].tool_calls[0].function.arguments`", "no arguments"),
        (call(json!({"function": {"name": "f", "arguments": "{"}})), "arguments`", "not JSON"),
        (call(json!({"function": {"name": "f", "arguments": "[1]"}})), "arguments`", "a list"),
        (json!({"messages": [answer], "tools": "x"}).to_string(), "`tools`", "not a list as JSON"),
        (
            json!({"messages": [answer], "tools": [{"type": "function"}]}).to_string(),
            "`tools[0].function.name`",
            "no text",
        ),
        (json!({"messages": [answer], "tools": [1]}).to_string(), "`tools[0]`", "a number"),
        (json!({"messages": [answer], "system": "s"}).to_string(), "`system`", "first message"),
        (json!({"messages": [answer], "functions": []}).to_string(), "`functions`", "`tools`"),
        (json!({"messages": [answer], "chat_template_kwargs": 1}).to_string(), "`chat_template_kwargs`", "a number"),
        ("{\"conversations\": []}".to_owned(), "`conversations`", "empty"),
        ("{\"conversations\": 1}".to_owned(), "`conversations`", "a number"),
        (share(json!(1)), "`conversations[0]`", "a number"),
        (share(json!({"value": "a"})), "`conversations[0]`", "no `from`"),
        (share(json!({"from": "human"})), "`conversations[0]`", "no `value`"),
        (share(json!({"from": "alice", "value": "a"})), "`conversations[0].from`", "`alice`"),
        (share(json!({"from": "human", "value": 1})), "`conversations[0].value`", "a number"),
        (share(json!({"role": "user", "content": "a"})), "`conversations[0]`", "`messages`"),
        (share(json!({"from": "function_call", "value": "f()"})), "`conversations[0].value`", "not JSON"),
        (share(json!({"from": "function_call", "value": "[1]"})), "`conversations[0].value`", "`name`"),
        (
            json!({"conversations": [{"from": "system", "value": "a"}], "system": "s"}).to_string(),
            "`system`",
            "keep one",
        ),
    ] {
        let good = json!({"messages": [answer]});
        let error = read(&format!("{good}\n\n{line}\n")).expect_err(&line).to_string();
        assert!(error.contains("chat.jsonl:3: ") && error.contains(key) && error.contains(word), "{line}: {error}");
    }
    let empty = read("\n \n").unwrap_err().to_string();
    assert!(empty.contains("chat.jsonl") && empty.contains("no samples"), "{empty}");
    let absent = read_samples(&PathBuf::from("/nowhere/x.jsonl"), |_| Ok(())).unwrap_err();
    assert!(matches!(absent, DataError::Io(_)));
}

/// Random damage to good lines: characters, and values in place of values. The result is a sample or an error that
/// names the line. It is never a panic.
#[test]
fn damaged_lines_are_read_or_refused_by_name() {
    let call = json!({"id": "x", "type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"}});
    let good = [
        json!({"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "c"}]},
            {"role": "assistant", "content": "b", "reasoning_content": "t", "weight": 1, "tool_calls": [call]},
            {"role": "tool", "content": "r", "tool_call_id": "x"}, {"role": "assistant", "content": "b"}],
            "tools": [{"type": "function", "function": {"name": "f"}}], "chat_template_kwargs": {"a": 1}}),
        json!({"conversations": [{"from": "human", "value": "a"}, {"from": "function_call", "value": "{\"name\": \"f\"}"},
            {"from": "gpt", "value": "b"}], "system": "s", "tools": "[{\"name\": \"f\"}]"}),
    ];
    let spare = [json!(null), json!(1), json!(-0.5), json!("x"), json!([]), json!({}), json!([[]]), json!({"role": 1})];
    let (mut read_well, mut refused) = (0, 0);
    for seed in 0..3000 {
        let rng = Rng::new(seed, Purpose::Test, 0);
        let mut line = good[rng.below(0, 2) as usize].clone();
        let text = if seed % 2 == 0 {
            let mut left = rng.below(1, 25);
            replace(&mut line, &mut left, &spare[rng.below(2, spare.len() as u64) as usize]);
            line.to_string()
        } else {
            let mut bytes = line.to_string().into_bytes();
            for i in 0..=rng.below(3, 3) {
                let at = rng.below(10 + i, bytes.len() as u64) as usize;
                match rng.below(20 + i, 3) {
                    0 => _ = bytes.remove(at),
                    1 => bytes[at] = rng.below(30 + i, 256) as u8,
                    _ => bytes.insert(at, b"{}[]\",:\\\n"[rng.below(40 + i, 9) as usize]),
                }
            }
            String::from_utf8_lossy(&bytes).into_owned()
        };
        match read(&text) {
            Ok((samples, _)) => {
                read_well += 1;
                assert!(
                    samples.iter().all(|s| s.trained.contains(&true) && s.trained.len() == s.request.messages.len())
                );
            }
            Err(error) => {
                refused += 1;
                let shown = error.to_string();
                assert!(shown.contains("chat.jsonl"), "{text}: {shown}");
            }
        }
    }
    assert!(read_well > 100 && refused > 300, "{read_well} read, {refused} refused");
}

/// Replaces the value that is reached after `left` others.
fn replace(value: &mut Json, left: &mut u64, with: &Json) {
    if *left == 0 {
        *value = with.clone();
    }
    *left = left.wrapping_sub(1);
    match value {
        Json::Array(list) => list.iter_mut().for_each(|value| replace(value, left, with)),
        Json::Object(fields) => fields.iter_mut().for_each(|(_, value)| replace(value, left, with)),
        _ => {}
    }
}
