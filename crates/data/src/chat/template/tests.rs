use std::path::Path;

use super::{ChatRequest, ChatTemplate, DataError};
use crate::source::Document;
use crate::tokenizer::{Tokenizer, TrainOptions};

fn request(json: &str) -> ChatRequest {
    serde_json::from_str(json).unwrap()
}

fn render(source: &str) -> Result<String, DataError> {
    let chat = ChatTemplate::from_source(source, &[("bos_token", "<s>")])?;
    chat.render(&request(r#"{"messages": [{"role": "user", "content": "hi"}]}"#)).map(|rendered| rendered.text)
}

#[test]
fn values_are_written_as_in_python() {
    // Expected texts come from the same templates in jinja2 with the settings of `transformers`.
    for (source, expected) in [
        ("{{ true }} {{ none }} {{ 1.0 }} {{ 1e20 }} {{ 3 // 2 }}", "True None 1.0 1e+20 1"),
        ("{{ ['a', \"it's\", none, {'k': 0.5}] }}", "['a', \"it's\", None, {'k': 0.5}]"),
        ("{{ {'b': 1, 'a': '<é>'} | tojson }}", "{\"b\": 1, \"a\": \"<é>\"}"),
        (
            "{{ {'b': 1, 'a': '<é🦀>'} | tojson(ensure_ascii=true, sort_keys=true) }}",
            "{\"a\": \"<\\u00e9\\ud83e\\udd80>\", \"b\": 1}",
        ),
        ("{{ [1, {}, []] | tojson(indent=2) }}", "[\n  1,\n  {},\n  []\n]"),
        ("{{ [1, 2] | tojson(separators=(',', ':')) }}", "[1,2]"),
        ("{{ 'a b c'.split(' ', 1) }}{{ ' x '.strip() }}{{ 'xxa'.lstrip('x') }}", "['a', 'b c']xa"),
        ("{{ 'abc'[::-1] }}{{ 'abcdef'[1:-1] }}{{ 'abc'[-1] }}", "cbabcdec"),
        ("{{ 'a-b-c'.rsplit('-', 1) }}{{ 'a-b'.partition('-')[2] }}{{ 'abc'.removeprefix('ab') }}", "['a-b', 'c']bc"),
        ("{{ none is iterable }}{{ none is defined }}{{ x is defined }}{{ 'a' is sequence }}", "FalseTrueFalseTrue"),
        (
            "{% set n = namespace(l=[]) %}{% set _ = n.l.append(1) %}{% set _ = n.l.extend([2, 3]) %}{{ n.l.pop(0) }}{{ n.l }}",
            "1[2, 3]",
        ),
        (
            "{% for i in range(5) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}",
            "02",
        ),
        ("  {% if true %}\n  a\n  {% endif %}\n{{ bos_token }}\n", "  a\n<s>"),
        ("{% macro f(a, b='y') %}{{ a ~ b }}{% endmacro %}{{ f('x') }}", "xy"),
        ("{% macro f(a) %}{{ a }}{{ caller() }}{% endmacro %}{% call f('q') %}z{% endcall %}", "qz"),
    ] {
        assert_eq!(render(source).unwrap(), expected, "{source}");
    }
}

#[test]
fn errors_name_the_line_and_say_what_to_do() {
    for (source, line, part, refused) in [
        ("a\n{% for %}", 2, "not valid", false),
        ("a\n\n{{ raise_exception('no ' ~ 'way') }}", 3, "does not accept these messages: no way", true),
        ("{% set a = 1 %}\n{{ a.b.c }}", 2, "undefined", false),
        ("\n{{ messages.append(1) }}", 2, "cannot be changed", false),
        ("{{ 1 | nothing }}", 1, "nothing", false),
    ] {
        match render(source).unwrap_err() {
            DataError::Template(error) => {
                assert_eq!((error.line, error.refused), (Some(line), refused), "{source}");
                assert!(error.problem.contains(part), "{error}");
            }
            error => panic!("{error}"),
        }
    }
}

#[test]
fn templates_without_end_are_stopped() {
    let double = "{% set n.x = [n.x, n.x] %}".repeat(60);
    let lines: Vec<String> = (0..60).map(|i| format!("{{% set a{} = [a{i}, a{i}] %}}", i + 1)).collect();
    let lines = lines.concat();
    let nested: String = (0..40).map(|_| "{% for a in [[a, a]] %}".to_owned()).collect::<String>();
    for source in [
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}".to_owned(),
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}".to_owned(),
        "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}{{ n.x }}".to_owned(),
        "{{ 'a' * 100000000000 }}".to_owned(),
        "{{ [1] * 100000000000 }}".to_owned(),
        "{{ range(100000000) | list }}".to_owned(),
        "{% for i in range(99999) %}{{ 'abcdefghijklmnopqrstuvwxyz' * 1000 }}{% endfor %}".to_owned(),
        // Values that double, nest or hold themselves.
        format!("{{% set n = namespace(x=[1]) %}}{double}{{{{ n.x ~ '' }}}}"),
        format!("{{% set a0 = [1] %}}{lines}{{{{ a60 == a60 ~ '' }}}}"),
        format!("{{% set a = [1] %}}{nested}{{{{ a ~ '' }}}}{}", "{% endfor %}".repeat(40)),
        "{% macro f(x, n) %}{% if n %}{{ f(x + x, n - 1) }}{% else %}{{ x ~ '' }}{% endif %}{% endmacro %}{{ f([1], 60) }}"
            .to_owned(),
        "{% set n = namespace(x=[1]) %}{% for i in range(9000) %}{% set n.x = [n.x] %}{% endfor %}{{ n.x ~ '' }}".to_owned(),
        "{% set n = namespace() %}{% set n.x = n %}{{ n ~ '' }}".to_owned(),
        "{% set n = namespace() %}{% set m = namespace(n=n) %}{% set n.x = {'m': m} %}{{ n ~ '' }}".to_owned(),
        "{% set l = [] %}{% set _ = l.append([l]) %}{{ l ~ '' }}".to_owned(),
        "{% set l = [] %}{% set m = [l] %}{% set _ = l.extend([m]) %}{{ l ~ '' }}".to_owned(),
        "{% set l = [1] %}{% for i in range(99999) %}{% set _ = l.append(1) %}{% endfor %}{{ l }}".to_owned(),
    ] {
        let error = render(&source).err().map(|error| error.to_string());
        assert!(error.is_some(), "{source}");
    }
}

#[test]
fn the_text_of_the_assistant_can_be_found_again() {
    let source = "{% for m in messages %}{% if m.role == 'assistant' %}<a>{% generation %}{{ m.content }}<end>\n\
                  {%- endgeneration %}{% else %}<u>{{ m.content }}{% endif %}{% endfor %}";
    let chat = ChatTemplate::from_source(source, &[]).unwrap();
    // The marks that are used otherwise occur in the text.
    let messages = r#"{"messages": [{"role": "user", "content": "x\ufdd0é"}, {"role": "assistant", "content": "\ufdd1ja"},
        {"role": "user", "content": "y"}, {"role": "assistant", "content": ""}]}"#;
    let rendered = chat.render(&request(messages)).unwrap();
    assert_eq!(rendered.text, "<u>x\u{fdd0}é<a>\u{fdd1}ja<end><u>y<a><end>");
    let spans: Vec<&str> = rendered.generated.iter().map(|span| &rendered.text[span.clone()]).collect();
    assert_eq!(spans, ["\u{fdd1}ja<end>", "<end>"]);
}

fn tokenizer() -> Tokenizer {
    let text = "the quick brown fox jumps over the lazy dog ".repeat(20);
    let document = Document { id: "fox".to_owned(), group: "fox".to_owned(), text };
    Tokenizer::train(&[document], &TrainOptions { vocab_size: 300, ..TrainOptions::default() }).unwrap().0
}

#[test]
fn templates_are_found_in_all_their_places() {
    let tokenizer = tokenizer();
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let load = |request: &ChatRequest| {
        let chat = ChatTemplate::load(folder.path(), &tokenizer)?;
        chat.render(request).map(|rendered| (rendered.text, chat.origin().to_owned()))
    };
    let plain = request(r#"{"messages": [{"role": "user", "content": "hi"}], "add_generation_prompt": true}"#);
    let tools = ChatRequest { tools: vec!["t".into()], ..plain.clone() };
    let (text, origin) = load(&plain).unwrap();
    assert_eq!(text, "<|bos_token|>User: hi\n\nAssistant:");
    assert!(origin.contains("has none"), "{origin}");
    write(
        "tokenizer_config.json",
        r#"{"bos_token": {"content": "<B>"}, "eos_token": null, "chat_template": [
            {"name": "default", "template": "D{{ bos_token }}{{ eos_token }}"},
            {"name": "tool_use", "template": "T{{ tools | length }}"}]}"#,
    );
    assert_eq!(load(&plain).unwrap().0, "D<B>");
    assert_eq!(load(&tools).unwrap().0, "T1");
    let named = |name: &str| ChatRequest { template: Some(name.to_owned()), ..plain.clone() };
    assert!(load(&named("tool_use")).unwrap_err().to_string().contains("length"));
    assert!(load(&named("other")).unwrap_err().to_string().contains("default, tool_use"));
    write("chat_template.json", r#"{"chat_template": "J"}"#);
    assert_eq!(load(&tools).unwrap().0, "J");
    write("chat_template.jinja", "F\n");
    std::fs::create_dir(folder.path().join("additional_chat_templates")).unwrap();
    write("additional_chat_templates/rag.jinja", "R");
    let (text, origin) = load(&plain).unwrap();
    assert_eq!(text, "F");
    assert_eq!(Path::new(&origin), folder.path().join("chat_template.jinja"));
    assert_eq!(load(&named("rag")).unwrap().0, "R");
    write("chat_template.jinja", "{% if %}");
    assert!(load(&plain).unwrap_err().to_string().contains("line 1"));
}

/// As in Jinja, whose lexer normalises them. A line break in a message stays as it is.
#[test]
fn line_breaks_of_a_source_are_read_alike() {
    let source = "{% if messages %}\r\na\r\n{% endif %}\rb{{ 'c\r\n' }}{{ messages[0].content }}";
    let chat = ChatTemplate::from_source(source, &[]).unwrap();
    let request = request(r#"{"messages": [{"role": "user", "content": "x\r\ny"}]}"#);
    assert_eq!(chat.render(&request).unwrap().text, "a\nbc\nx\r\ny");
}
