//! `hadal chat` in a pipe: lines in, answers out.

use crate::setup::{Tiny, fails, ok, ok_with, run_with};
use serde_json::{Value, json};

/// A template with words for roles. It has a switch for thoughts, and shows tools and calls in Hermes' form.
const TEMPLATE: &str = r#"{{ bos_token }}{% if tools %}[tools]{% for t in tools %}<tool_call>{"name": "{{ t.function.name }}", "arguments"}{% endfor %}{% endif %}
{%- for m in messages %}[{{ m.role }}]{{ m.content or '' }}{% endfor %}
{%- if add_generation_prompt %}[assistant]{{ '<think>' if thinking else '<think></think>' }}{% endif %}"#;

/// A tiny model with the template.
struct Talker(Tiny);

impl Talker {
    fn new() -> Self {
        let tiny = Tiny::new();
        std::fs::write(format!("{}/chat_template.jinja", tiny.path("model")), TEMPLATE).unwrap();
        Self(tiny)
    }

    fn path(&self, name: &str) -> String {
        self.0.path(name)
    }

    /// The arguments of a chat in f32, whose tokens are the most likely ones.
    fn args(&self, more: &[&str]) -> Vec<String> {
        let model = self.path("model");
        let all = ["chat", &model, "--dtype", "f32", "--threads", "1", "--temperature", "0", "-n", "12"];
        all.iter().chain(more).map(|arg| (*arg).to_owned()).collect()
    }

    /// What `generate` writes after a prompt, as a chat shows it.
    fn alone(&self, prompt: &str) -> String {
        let model = self.path("model");
        let all = ["generate", &model, prompt, "--dtype", "f32", "--threads", "1", "--temperature", "0", "-n", "12"];
        ok(all).strip_prefix(prompt).unwrap().trim().to_owned()
    }
}

#[test]
fn each_line_is_answered_as_if_its_conversation_were_a_prompt() {
    let talker = Talker::new();
    let first = talker.alone("[system]Be brief.[user]sub[assistant]<think></think>");
    let second = talker
        .alone(&format!("[system]Be brief.[user]sub[assistant]{first}[user]let\nit be[assistant]<think></think>"));
    let saved = talker.path("saved.json");
    let lines = format!("/system Be brief.\nsub\nlet\\\nit be\n/save {saved}\n");
    let out = ok_with(talker.args(&[]), &lines);
    assert_eq!(out, format!("{first}\n{second}\n"));
    let messages = json!([
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "sub"},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "let\nit be"},
        {"role": "assistant", "content": second},
    ]);
    let file: Value = serde_json::from_str(&std::fs::read_to_string(&saved).unwrap()).unwrap();
    assert_eq!(file, json!({"messages": messages}));

    // The same by options, and with turns that are taken back.
    let out = ok(talker.args(&["--system", "Be brief.", "--prompt", "sub", "--prompt", "let\nit be"]));
    assert_eq!(out, format!("{first}\n{second}\n"));
    let lines = "/undo\n/undo\nsub\n/new\nsub\n/retry\n/quit\nnever said\n";
    let out = ok_with(talker.args(&["--load", &saved]), lines);
    assert_eq!(out, format!("{first}\n{first}\n{first}\n"));
}

#[test]
fn thoughts_and_notes_are_not_among_the_answers() {
    let talker = Talker::new();
    let lines = "fn add(a: u32, b: u32) -> u32 { a.wrapping_add(b) }\n".repeat(4).replace('\n', "\\\n");
    let lines = format!("{lines}\nand then\n/stats\n/set\n");
    let out = run_with(talker.args(&["--think", "on"]), &lines);
    let (answers, notes) = (String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap());
    assert!(out.status.success(), "{notes}");
    // The model never ends its thoughts.
    assert_eq!(answers, "\n\n");
    assert!(notes.contains("(the answer is cut off"), "{notes}");
    let cached = notes.split_once(" tokens, ").and_then(|(_, rest)| rest.split_once(" of them from the cache"));
    let cached: usize = cached.unwrap_or_else(|| panic!("{notes}")).0.parse().unwrap();
    assert!(cached >= 64, "{notes}");
    assert!(notes.contains("answer: 12 tokens at ") && notes.contains("conversation: "), "{notes}");
    assert!(notes.contains("temperature 0, top_p 0.95") && !notes.contains('\x1b') && !answers.contains('\x1b'));
}

#[test]
fn results_of_calls_are_asked_for() {
    let talker = Talker::new();
    let (tools, talk) = (talker.path("tools.json"), talker.path("talk.json"));
    std::fs::write(&tools, r#"[{"type": "function", "function": {"name": "f"}}]"#).unwrap();
    let call = json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}});
    let messages =
        json!([{"role": "user", "content": "go"}, {"role": "assistant", "content": null, "tool_calls": [call]}]);
    std::fs::write(&talk, messages.to_string()).unwrap();
    let saved = talker.path("saved.json");
    let answer = talker.alone(
        "[tools]<tool_call>{\"name\": \"f\", \"arguments\"}[user]go[assistant][tool]done[assistant]<think></think>",
    );
    let args = talker.args(&["--load", &talk, "--tools", &tools]);
    let out = ok_with(args, &format!("done\n/save {saved}\n"));
    assert_eq!(out, format!("{answer}\n"));
    let file: Value = serde_json::from_str(&std::fs::read_to_string(&saved).unwrap()).unwrap();
    assert_eq!(file["messages"][2], json!({"role": "tool", "tool_call_id": "c", "content": "done"}));
    assert_eq!(file["tools"][0]["function"]["name"], "f");
}

#[test]
fn mistakes_in_a_pipe_end_the_program() {
    let talker = Talker::new();
    for (line, part) in [
        ("/stop", "there is no command /stop"),
        ("/set beams 3", "there is no setting `beams`"),
        ("/undo", "nothing to take back"),
        ("/load nowhere.json", "cannot read nowhere.json"),
    ] {
        let out = run_with(talker.args(&[]), line);
        let error = String::from_utf8(out.stderr).unwrap();
        assert!(!out.status.success() && error.contains(part), "{line}: {error}");
    }
    // Without a template of its own, the model has one without a switch for thoughts.
    std::fs::remove_file(format!("{}/chat_template.jinja", talker.path("model"))).unwrap();
    assert!(fails(talker.args(&["--think", "on"])).contains("no switch for thoughts"));
    let long = "add ".repeat(3000);
    assert!(fails(talker.args(&["--prompt", &long])).contains("tokens, and"));
    assert!(!ok(talker.args(&["--prompt", "fn"])).is_empty());
}
