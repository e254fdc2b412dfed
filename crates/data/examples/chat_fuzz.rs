//! Random chat templates and random texts of models: `chat_fuzz [SECONDS] [SEED]`.
//!
//! Templates are those of the tests with parts cut, repeated and exchanged. They must end soon, with a prompt or an
//! error. Texts are marks of all families in any order. The parser must tell the same however a text is cut. A panic or
//! a difference ends the program with an error.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hadal_data::chat::{ChatRequest, ChatTemplate, Delta, OutputParser, Syntax, Value};
use hadal_data::hash::mix;

/// The longest that one template may take.
const LONGEST: Duration = Duration::from_secs(20);

/// Expressions and tags to put into templates.
const SNIPPETS: [&str; 34] = [
    "{% set n = namespace(x=[1], y={}) %}",
    "{% set n.x = n.x + n.x %}",
    "{% set n.x = [n.x, n.x] %}",
    "{% set n.y = n %}",
    "{% for a in messages %}",
    "{% for i in range(9999) %}",
    "{% endfor %}",
    "{% if tools %}",
    "{% endif %}",
    "{% else %}",
    "{% macro f(x) %}",
    "{{ f(f) }}",
    "{{ f([x, x]) }}",
    "{% endmacro %}",
    "{{ messages | tojson(indent=4) }}",
    "{{ n }}",
    "{{ n ~ n.x }}",
    "{% set _ = n.x.append(n.x) %}",
    "{{ n.x.pop() }}",
    "{{ 'ab' * 99999 }}",
    "{{ messages[::-1][0].content.split() }}",
    "{% raw %}",
    "{% generation %}",
    "{% endgeneration %}",
    "{{ x | map(attribute='a') | list }}",
    "{{ raise_exception(n) }}",
    "{% break %}",
    "{% set x %}",
    "{% endset %}",
    "{{ strftime_now('%Y') }}",
    "{% call f(1) %}",
    "{% endcall %}",
    "{{ self }}",
    "{{ loop }}",
];

/// Parts of what models write.
const PARTS: [&str; 44] = [
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
    "12",
    "null",
    "find",
    "\n",
    " ",
    "```json\n",
    "```",
    ";",
    "<",
    "é",
];

/// Random numbers by a counter.
struct Numbers(u64, u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.1 += 1;
        (mix(self.0 ^ mix(self.1)) % end.max(1) as u64) as usize
    }

    fn of<'t>(&mut self, list: &[&'t str]) -> &'t str {
        list[self.below(list.len())]
    }

    /// A place between characters.
    fn place(&mut self, text: &str) -> usize {
        text.floor_char_boundary(self.below(text.len() + 1))
    }
}

fn main() {
    // As large a stack as the threads of a server have.
    let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(run).expect("a thread");
    if thread.join().is_err() {
        std::process::exit(1);
    }
}

fn run() {
    let mut arguments = std::env::args().skip(1).map(|a| a.parse().expect("a number"));
    let seconds = arguments.next().unwrap_or(60);
    let mut numbers = Numbers(arguments.next().unwrap_or(1), 0);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/chat");
    let read = |path: PathBuf| std::fs::read_to_string(path).expect("a file of the tests");
    let names = ["plain", "deepseek_v3", "deepseek_v31", "kimi", "glm", "qwen3", "llama3", "gigachat3"];
    let sources = names.map(|name| read(folder.join(format!("templates/{name}.jinja"))));
    let requests: std::collections::BTreeMap<String, ChatRequest> =
        serde_json::from_str(&read(folder.join("conversations.json"))).expect("conversations");
    let requests: Vec<ChatRequest> = requests.into_values().collect();
    let tools = requests.iter().find(|r| !r.tools.is_empty()).map(|r| r.tools.clone()).unwrap_or_default();
    let (start, mut templates, mut prompts, mut texts) = (Instant::now(), 0u64, 0u64, 0u64);
    let mut slowest = Duration::ZERO;
    while start.elapsed() < Duration::from_secs(seconds) {
        let source = template(&mut numbers, &sources);
        let request = &requests[numbers.below(requests.len())];
        let began = Instant::now();
        templates += 1;
        if let Ok(chat) = ChatTemplate::from_source(&source, &[("bos_token", "<s>"), ("eos_token", "</s>")]) {
            prompts += u64::from(chat.render(request).is_ok());
        }
        slowest = slowest.max(began.elapsed());
        assert!(slowest < LONGEST, "a template took {slowest:?}:\n{source}");
        for _ in 0..20 {
            texts += 1;
            check_text(&mut numbers, &tools);
        }
    }
    println!("{templates} templates ({prompts} with a prompt, the slowest took {slowest:?}), {texts} texts");
}

/// A template with parts cut, repeated or put in.
fn template(numbers: &mut Numbers, sources: &[String]) -> String {
    let mut source = if numbers.below(4) == 0 { String::new() } else { sources[numbers.below(sources.len())].clone() };
    for _ in 0..=numbers.below(6) {
        let (a, b) = (numbers.place(&source), numbers.place(&source));
        let (a, b) = (a.min(b), a.max(b).min(source.ceil_char_boundary(a.min(b) + 60)));
        match numbers.below(4) {
            0 => source.replace_range(a..b, ""),
            1 => {
                let part = source[a..b].to_owned();
                let at = numbers.place(&source);
                source.insert_str(at, &part);
            }
            _ => source.insert_str(a, numbers.of(&SNIPPETS)),
        }
    }
    source
}

fn check_text(numbers: &mut Numbers, tools: &[Value]) {
    let names = Syntax::names();
    let syntax = Syntax::named(names[numbers.below(names.len())]).expect("a name from the list");
    let prompt = if numbers.below(3) == 0 { "<think>\n" } else { "" };
    let count = numbers.below(30);
    let text: String = (0..count).map(|_| numbers.of(&PARTS)).collect();
    let whole = told(syntax, prompt, tools, &[&text]);
    let (a, b) = (numbers.place(&text), numbers.place(&text));
    let (a, b) = (a.min(b), a.max(b));
    assert_eq!(told(syntax, prompt, tools, &[&text[..a], &text[a..b], &text[b..]]), whole, "{syntax:?} {text:?}");
    let chars: Vec<String> = text.chars().map(String::from).collect();
    let chars: Vec<&str> = chars.iter().map(String::as_str).collect();
    assert_eq!(told(syntax, prompt, tools, &chars), whole, "{syntax:?} {text:?}");
}

/// What the parser tells, with neighbours of one kind put together.
fn told(syntax: Syntax, prompt: &str, tools: &[Value], pieces: &[&str]) -> Vec<Delta> {
    let mut parser = OutputParser::new(syntax, prompt, tools);
    let mut all: Vec<Delta> = Vec::new();
    let mut deltas: Vec<Delta> = pieces.iter().flat_map(|piece| parser.push(piece)).collect();
    deltas.extend(parser.finish());
    for delta in deltas {
        match (all.last_mut(), &delta) {
            (Some(Delta::Content(last)), Delta::Content(text))
            | (Some(Delta::Reasoning(last)), Delta::Reasoning(text)) => {
                last.push_str(text);
            }
            (Some(Delta::Arguments { text: last, .. }), Delta::Arguments { text, .. }) => last.push_str(text),
            _ => all.push(delta),
        }
    }
    all
}
