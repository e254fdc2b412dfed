//! Prompts are those of `transformers`, byte for byte.

use std::path::Path;

use hadal_data::chat::{CallSyntax, ChatRequest, ChatTemplate, Delta, OutputParser, Syntax};

#[path = "chat/compare.rs"]
mod compare;

#[test]
fn prompts_are_those_of_transformers() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/chat");
    let (mut equal, mut refused, mut left_out) = (0, 0, Vec::new());
    for name in ["plain", "deepseek_v3", "deepseek_v31", "kimi", "glm", "qwen3", "llama3", "gigachat3"] {
        let template = folder.join("templates").join(format!("{name}.jinja"));
        let expected = folder.join("expected").join(format!("{name}.json"));
        let outcome = compare::compare(&template, &expected, &folder.join("conversations.json"));
        let problems = [outcome.different, outcome.only_ours].concat();
        assert!(problems.is_empty(), "{name}: {}", problems.join("\n"));
        equal += outcome.equal;
        refused += outcome.refused;
        left_out.extend(outcome.left_out.iter().map(|case| format!("{name}: {case}")));
    }
    // Two templates write calls of tools, or nothing of them, and never say which tools there are. All the other prompts
    // are whole.
    let of_tools = |case: &String| {
        (case.starts_with("plain: ") || case.starts_with("deepseek_v3: ")) && case.contains("no place for `tools`")
    };
    assert!(left_out.len() == 11 && left_out.iter().all(of_tools), "{}", left_out.join("\n"));
    assert_eq!((equal, refused), (156, 12));
}

/// The calls of a message, written by a family's template, are read back by its parser.
#[test]
fn what_a_template_writes_is_read_back() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/chat");
    let request: ChatRequest = serde_json::from_str(
        r#"{"messages": [{"role": "user", "content": "Look"}, {"role": "assistant", "content": "Well.",
            "reasoning_content": "I must.", "tool_calls": [
            {"type": "function", "function": {"name": "find", "arguments": "{\"q\": \"a <b>\", \"n\": [1, null]}"}},
            {"type": "function", "function": {"name": "stop", "arguments": "{}"}}]}],
            "tools": [{"type": "function", "function": {"name": "find", "description": "d", "parameters": {}}}],
            "chat_template_kwargs": {"thinking": true}}"#,
    )
    .unwrap();
    let given = ["find {\"q\": \"a <b>\", \"n\": [1, null]}", "stop {}"];
    for (name, syntax) in [
        ("deepseek_v3", CallSyntax::DeepSeekV3),
        ("deepseek_v31", CallSyntax::DeepSeekV31),
        ("kimi", CallSyntax::Kimi),
        ("glm", CallSyntax::Glm),
        ("qwen3", CallSyntax::Hermes),
        ("gigachat3", CallSyntax::GigaChat),
    ] {
        let source = std::fs::read_to_string(folder.join(format!("templates/{name}.jinja"))).unwrap();
        let chat = ChatTemplate::from_source(&source, &[("bos_token", ""), ("eos_token", "")]).unwrap();
        let recognised = Syntax::recognise(&source, |_| false);
        assert_eq!(recognised.calls, Some(syntax), "{name}");
        let whole = chat.render(&request).unwrap().text;
        let messages = request.messages[..1].to_vec();
        let prompt = ChatRequest { messages, add_generation_prompt: true, ..request.clone() };
        let prompt = chat.render(&prompt).unwrap().text;
        // The model goes on where both agree.
        let common = whole.char_indices().zip(prompt.chars()).take_while(|((_, a), b)| a == b).last();
        let written = common.map_or("", |((at, c), _)| &whole[at + c.len_utf8()..]);
        let mut parser = OutputParser::new(recognised, "", &request.tools);
        let (mut calls, mut text) = (Vec::new(), String::new());
        for delta in parser.push(written).into_iter().chain(parser.finish()) {
            match delta {
                Delta::Call { name, .. } => calls.push(name + " "),
                Delta::Arguments { index, text } => calls[index] += &text,
                Delta::Content(more) | Delta::Reasoning(more) => text += &more,
            }
        }
        assert_eq!(calls, given, "{name}: {written}");
        assert!(text.contains("Well."), "{name}: {text}");
    }
    let llama = std::fs::read_to_string(folder.join("templates/llama3.jinja")).unwrap();
    assert_eq!(Syntax::recognise(&llama, |_| false), Syntax { thoughts: None, calls: Some(CallSyntax::Llama3) });
    let plain = std::fs::read_to_string(folder.join("templates/plain.jinja")).unwrap();
    assert_eq!(Syntax::recognise(&plain, |_| false), Syntax::default());
    assert!(Syntax::recognise(&plain, |token| token.ends_with("think>")).thoughts.is_some());
}
