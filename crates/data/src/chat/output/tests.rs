use proptest::prelude::*;

use super::{Delta, OutputParser, Syntax, Value};

/// What was said, put together.
#[derive(Debug, Default, PartialEq, Eq)]
struct Said {
    thoughts: String,
    content: String,
    calls: Vec<(Option<String>, String, String)>,
}

impl Said {
    fn add(&mut self, deltas: Vec<Delta>) {
        for delta in deltas {
            match delta {
                Delta::Reasoning(text) => self.thoughts += &text,
                Delta::Content(text) => self.content += &text,
                Delta::Call { index, id, name } => {
                    assert_eq!(index, self.calls.len());
                    self.calls.push((id, name, String::new()));
                }
                Delta::Arguments { index, text } => {
                    assert_eq!(index + 1, self.calls.len());
                    self.calls[index].2 += &text;
                }
            }
        }
    }
}

fn tools() -> Vec<Value> {
    let tool = r#"{"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties":
        {"q": {"type": "string"}, "n": {"type": "integer"}}}}}"#;
    vec![serde_json::from_str(tool).unwrap()]
}

fn parse<'t>(syntax: Syntax, prompt: &str, tools: &[Value], pieces: impl IntoIterator<Item = &'t str>) -> Said {
    let mut parser = OutputParser::new(syntax, prompt, tools);
    let mut said = Said::default();
    pieces.into_iter().for_each(|piece| said.add(parser.push(piece)));
    said.add(parser.finish());
    said
}

fn syntax(name: &str) -> Syntax {
    Syntax::named(name).unwrap()
}

/// A case: syntax, what is written, and the expected thoughts, content and calls.
type Case = (&'static str, &'static str, &'static str, &'static str, &'static [(&'static str, &'static str)]);

const WRITTEN: &[Case] = &[
    ("none", "<think>\nHm.\n</think>\n\nYes. ", "Hm.", "Yes. ", &[]),
    ("none", "  plain <think> text", "", "  plain <think> text", &[]),
    (
        "deepseek-v3",
        "<think>a</think>Look:\n<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>find\n```json\n{\"q\": \"`x`\"}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>stop\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        "a",
        "Look:",
        &[("find", "{\"q\": \"`x`\"}"), ("stop", "{}")],
    ),
    (
        "deepseek-v3.1",
        "<think>I must look<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>find<｜tool▁sep｜>{\"q\": 1}<｜tool▁call▁end｜><｜tool▁call▁begin｜>find<｜tool▁sep｜>{\"q\": 2} <｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        "I must look",
        "",
        &[("find", "{\"q\": 1}"), ("find", "{\"q\": 2}")],
    ),
    (
        "kimi-k2",
        "<think>x</think>ok <|tool_calls_section_begin|><|tool_call_begin|>functions.find:3<|tool_call_argument_begin|>{\"q\":\"é\"}<|tool_call_end|><|tool_calls_section_end|>",
        "x",
        "ok",
        &[("find", "{\"q\":\"é\"}")],
    ),
    (
        "glm-4",
        "<think>t</think>\n<tool_call>find\n<arg_key>q</arg_key>\n<arg_value>12 \"a\"\nb</arg_value>\n<arg_key>n</arg_key>\n<arg_value>3</arg_value>\n<arg_key>o</arg_key><arg_value>x y</arg_value></tool_call><tool_call>stop</tool_call>",
        "t",
        "",
        &[("find", "{\"q\": \"12 \\\"a\\\"\\nb\", \"n\": 3, \"o\": \"x y\"}"), ("stop", "{}")],
    ),
    (
        "hermes",
        "<think>\nt\n</think>\n\nNow\n<tool_call>\n{\"name\": \"find\", \"arguments\": {\"q\": \"} </tool_call> \\\" {\"}}\n</tool_call>\n<tool_call>\n{\"arguments\": {\"n\": [1, {}]}, \"name\": \"find\"}\n</tool_call>\n<tool_call>{\"name\": \"stop\"}</tool_call>",
        "t",
        "Now",
        &[("find", "{\"q\": \"} </tool_call> \\\" {\"}"), ("find", "{\"n\": [1, {}]}"), ("stop", "{}")],
    ),
    (
        "hermes",
        "<tool_call>{\"name\": \"a\", \"arguments\": \"{\\\"q\\\": 1}\"}</tool_call>done",
        "",
        "done",
        &[("a", "{\"q\": 1}")],
    ),
    (
        "llama-3",
        " {\"name\": \"find\", \"parameters\": {\"q\": \"x\"}}; {\"type\": \"function\", \"name\": \"stop\", \"parameters\": {}}",
        "",
        "",
        &[("find", "{\"q\": \"x\"}"), ("stop", "{}")],
    ),
    ("hermes", "<tool_call>\n{\"name\": \"find\", \"arguments\": {}}\n</tool_ca", "", "", &[("find", "{}")]),
    ("llama-3", "<|python_tag|>{\"name\": \"find\", \"parameters\": {}}", "", "", &[("find", "{}")]),
    (
        "gigachat-3",
        "Well<|function_call|>{\"name\": \"find\", \"arguments\": {\"q\": \"x\"}}",
        "",
        "Well",
        &[("find", "{\"q\": \"x\"}")],
    ),
    (
        "gigachat-3",
        "Well<|message_sep|>\n\nfunction call<|role_sep|>\n{\"name\": \"find\", \"arguments\": {\"q\": \"x\"}}<|message_sep|>\n\n",
        "",
        "Well",
        &[("find", "{\"q\": \"x\"}")],
    ),
];

#[test]
fn every_family_is_understood() {
    for (name, text, thoughts, content, calls) in WRITTEN {
        let said = parse(syntax(name), "", &tools(), [*text]);
        assert_eq!((said.thoughts.as_str(), said.content.as_str()), (*thoughts, *content), "{name}: {text}");
        let found: Vec<(&str, &str)> = said.calls.iter().map(|(_, n, a)| (n.as_str(), a.as_str())).collect();
        assert_eq!(found, *calls, "{name}: {text}");
    }
    let kimi = WRITTEN.iter().find(|case| case.0 == "kimi-k2").unwrap();
    let said = parse(syntax("kimi-k2"), "", &tools(), [kimi.1]);
    assert_eq!(said.calls[0].0.as_deref(), Some("functions.find:3"));
}

#[test]
fn what_is_no_call_stays_text() {
    for (name, text) in [
        ("deepseek-v3", "a <｜tool▁calls▁begin｜> b"),
        ("deepseek-v3", "<｜tool▁call▁begin｜>function<｜tool▁sep｜>no name here\n{}"),
        ("deepseek-v3.1", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>find<｜tool▁call▁end｜><｜tool▁calls▁end｜>"),
        ("deepseek-v3.1", "<｜tool▁calls▁begin｜><｜tool▁calls▁end｜>"),
        ("kimi-k2", "<|tool_calls_section_begin|>\n<|tool_call_begin|>functions.f"),
        ("glm-4", "a <tool_call> b"),
        ("glm-4", "<tool_call>{\"name\": \"f\"}</tool_call>"),
        ("hermes", "x  <tool_call>\n{\"nam\": 1}\n</tool_call> y"),
        ("hermes", "<tool_call>{\"name\": \"two words\", \"arguments\": {}}</tool_call>"),
        ("hermes", "<tool_call>{\"name\": "),
        ("llama-3", "{\"a\": 1}"),
        ("llama-3", "<|python_tag|>print(1)"),
        ("gigachat-3", "<|function_call|>?"),
    ] {
        let said = parse(syntax(name), "", &tools(), [text]);
        assert_eq!(said, Said { content: text.to_owned(), ..Said::default() }, "{name}");
    }
    // Without tools, everything is text.
    let text = "{\"name\": \"find\", \"parameters\": {}}";
    assert_eq!(parse(syntax("llama-3"), "", &[], [text]).content, text);
}

#[test]
fn what_was_told_of_a_broken_call_is_followed_by_the_rest() {
    for (name, text, arguments, content) in [
        (
            "hermes",
            "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1} oh </tool_call>",
            "{\"a\": 1}",
            "oh </tool_call>",
        ),
        ("hermes", "<tool_call>{\"name\": \"f\", \"arguments\": {\"a", "{\"a", ""),
        ("deepseek-v3", "<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{\"a\": ", "{\"a\":", ""),
        ("deepseek-v3.1", "<｜tool▁call▁begin｜>f<｜tool▁sep｜>{}<｜tool▁call▁end｜>and", "{}", "and"),
        ("glm-4", "<tool_call>f<arg_key>a</arg_key>b", "{}", "<arg_key>a</arg_key>b"),
        ("glm-4", "<tool_call>f<arg_key>a</arg_key><arg_value>b c", "{\"a\": \"b c", ""),
    ] {
        let said = parse(syntax(name), "", &tools(), [text]);
        assert_eq!(said.calls, [(None, "f".to_owned(), arguments.to_owned())], "{text}");
        assert_eq!(said.content, content, "{text}");
    }
}

#[test]
fn a_prompt_may_begin_the_thoughts() {
    let syntax = syntax("none");
    assert_eq!(syntax.thinks_until("<｜Assistant｜><think>\n"), Some("</think>"));
    assert_eq!(syntax.thinks_until("<｜Assistant｜><think></think>"), None);
    let said = parse(syntax, "<think>\n", &[], ["\nso\n", "</thi", "nk>\n\nyes"]);
    assert_eq!((said.thoughts.as_str(), said.content.as_str()), ("so", "yes"));
    // Thoughts without an end stay thoughts.
    assert_eq!(parse(syntax, "<think>", &[], ["so </think"]).thoughts, "so </think");
    let older = Syntax::recognise("{{ '◁/think▷' }}", |_| false);
    assert_eq!(parse(older, "", &[], ["◁think▷a◁/think▷b"]).thoughts, "a");
}

#[test]
fn deltas_come_as_soon_as_they_are_certain() {
    let mut parser = OutputParser::new(syntax("hermes"), "", &tools());
    assert_eq!(parser.push("Now <tool"), [Delta::Content("Now".to_owned())]);
    assert_eq!(parser.push("_call>{\"name\": \"find\", "), []);
    let name = Delta::Call { index: 0, id: None, name: "find".to_owned() };
    let arguments = |text: &str| Delta::Arguments { index: 0, text: text.to_owned() };
    assert_eq!(parser.push("\"arguments\": {\"q\": \"a"), [name, arguments("{\"q\": \"a")]);
    assert_eq!(parser.push(" b"), [arguments(" b")]);
    assert_eq!(parser.push("\"}}</tool"), [arguments("\"}")]);
    assert_eq!(parser.push("_call>"), []);
    assert_eq!(parser.finish(), []);
}

#[test]
fn names_are_known() {
    for name in Syntax::names() {
        Syntax::named(name).unwrap();
    }
    assert!(Syntax::named("x").unwrap_err().to_string().contains("deepseek-v3.1"));
}

/// Parts of what models write, from which texts are made.
fn part() -> impl Strategy<Value = String> {
    let parts: Vec<&str> = vec![
        "<think>",
        "</think>",
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁call▁begin｜>",
        "<｜tool▁sep｜>",
        "<｜tool▁call▁end｜>",
        "<｜tool▁calls▁end｜>",
        "<|tool_calls_section_begin|>",
        "<|tool_call_begin|>",
        "<|tool_call_argument_begin|>",
        "<|tool_call_end|>",
        "<|tool_calls_section_end|>",
        "<tool_call>",
        "</tool_call>",
        "<arg_key>",
        "</arg_key>",
        "<arg_value>",
        "</arg_value>",
        "<|python_tag|>",
        "<|function_call|>",
        "<|message_sep|>\n\n",
        "<|message_sep|>",
        "function call<|role_sep|>\n",
        "{\"name\": \"f\", ",
        "\"arguments\": ",
        "\"parameters\": ",
        "{\"q\": \"x\"}",
        "{",
        "}",
        "\"",
        "\\",
        "[",
        "]",
        ":",
        ",",
        "1",
        "null",
        "function",
        "functions.f:0",
        "find",
        "q",
        "\n",
        " ",
        "```json\n",
        "```",
        "`",
        ";",
        "<",
        "é",
        "<|",
        "｜",
    ];
    prop_oneof![4 => proptest::sample::select(parts).prop_map(str::to_owned), 1 => "[ -~]{0,8}"]
}

/// A text of parts, or what a model wrote, with an error in it.
fn text() -> impl Strategy<Value = String> {
    let mutated = (0..WRITTEN.len(), any::<usize>(), any::<usize>(), part()).prop_map(|(case, at, length, part)| {
        let chars: Vec<char> = WRITTEN[case].1.chars().collect();
        let at = at % chars.len();
        let length = length % 12;
        let rest = chars.iter().skip(at + length);
        chars[..at].iter().copied().chain(part.chars()).chain(rest.copied()).collect()
    });
    prop_oneof![proptest::collection::vec(part(), 0..24).prop_map(|parts| parts.concat()), mutated]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 250, failure_persistence: None, ..ProptestConfig::default() })]

    /// How the text is cut does not matter, and no text of any kind ends in a panic.
    #[test]
    fn pieces_give_what_the_whole_gives(
        text in text(), cuts in proptest::collection::vec(any::<usize>(), 0..8), thinks in any::<bool>()
    ) {
        for name in Syntax::names() {
            let prompt = if thinks { "<think>" } else { "" };
            let whole = parse(syntax(name), prompt, &tools(), [text.as_str()]);
            let chars: Vec<String> = text.chars().map(String::from).collect();
            prop_assert_eq!(&parse(syntax(name), prompt, &tools(), chars.iter().map(String::as_str)), &whole, "{}", name);
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| text.floor_char_boundary(cut % (text.len() + 1))).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|cut| &text[cut[0]..cut[1]]);
            prop_assert_eq!(&parse(syntax(name), prompt, &tools(), pieces), &whole, "{}", name);
        }
    }
}
