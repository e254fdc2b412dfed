//! Prompts are those of `transformers`, byte for byte.

use std::path::Path;

#[path = "chat/compare.rs"]
mod compare;

#[test]
fn prompts_are_those_of_transformers() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/chat");
    let (mut equal, mut refused) = (0, 0);
    for name in ["plain", "deepseek_v3", "deepseek_v31", "kimi", "glm", "qwen3", "llama3", "gigachat3"] {
        let template = folder.join("templates").join(format!("{name}.jinja"));
        let expected = folder.join("expected").join(format!("{name}.json"));
        let outcome = compare::compare(&template, &expected, &folder.join("conversations.json"));
        let problems = [outcome.different, outcome.only_ours].concat();
        assert!(problems.is_empty(), "{name}: {}", problems.join("\n"));
        equal += outcome.equal;
        refused += outcome.refused;
    }
    assert_eq!((equal, refused), (156, 12));
}
