//! A mistake in a task file is an error that names file, line and key.

use std::path::Path;

use hadal_tasks::suite::Suite;
use hadal_tasks::{Options, Task};

const GOOD: &str = "task: t
dataset_path: json
dataset_kwargs:
  data_files:
    test: data.jsonl
output_type: generate_until
test_split: test
doc_to_text: \"Q: {{question}}\"
doc_to_target: answer
num_fewshot: 0
metric_list:
  - metric: exact_match
filter_list:
  - name: first
    filter:
      - function: regex
        regex_pattern: \"([0-9]+)\"
      - function: take_first
";

fn open(text: &str) -> Result<Task, String> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("t.yaml"), text).unwrap();
    std::fs::write(
        folder.path().join("data.jsonl"),
        "{\"question\": \"1?\", \"answer\": \"1\"}\n{\"question\": \"2?\", \"answer\": null}\n",
    )
    .unwrap();
    let suite = Suite::open(&folder.path().join("t.yaml"), &Options::default());
    suite.map(|mut suite| suite.tasks.remove(0)).map_err(|error| error.to_string())
}

/// Replaces a line of the good file.
fn changed(line: &str, by: &str) -> Result<Task, String> {
    assert!(GOOD.contains(line), "{line}");
    open(&GOOD.replacen(line, by, 1))
}

#[test]
fn mistakes_name_their_line_and_key() {
    assert!(open(GOOD).is_ok());
    for (line, by, at, words) in [
        ("doc_to_target: answer", "doc_to_tarket: answer", 9, "doc_to_tarket` | did you mean `doc_to_target`"),
        ("output_type: generate_until", "output_type: generate", 6, "output_type` | loglikelihood_rolling"),
        ("dataset_path: json", "dataset_path: openai/gsm8k", 2, "dataset_path` | downloaded"),
        (
            "doc_to_text: \"Q: {{question}}\"",
            "doc_to_text: !function utils.text",
            8,
            "doc_to_text` | `!function utils.text` needs Python",
        ),
        ("num_fewshot: 0", "process_docs: !function utils.docs", 10, "process_docs` | !function utils.docs"),
        ("num_fewshot: 0", "process_results: utils.docs", 10, "process_results` | Python"),
        ("num_fewshot: 0", "num_fewshot: 2", 1, "fewshot_config` | first_n"),
        ("num_fewshot: 0", "num_fewshot: -1", 10, "num_fewshot` | from 0 up"),
        ("num_fewshot: 0", "num_fewshot: two", 10, "num_fewshot` | whole number"),
        (
            "num_fewshot: 0",
            "num_fewshot: 1\nfewshot_config:\n  sampler: default",
            12,
            "fewshot_config.sampler` | first_n",
        ),
        ("num_fewshot: 0", "num_fewshot: 5\nfewshot_config: {sampler: first_n}", 1, "num_fewshot` | there are 2"),
        ("num_fewshot: 0", "repeats: 0", 10, "repeats` | from 1 up"),
        ("num_fewshot: 0", "generation_kwargs:\n  until: 3.5", 11, "generation_kwargs.until` | text"),
        ("num_fewshot: 0", "generation_kwargs:\n  beams: 3", 11, "generation_kwargs.beams` | no such key"),
        ("num_fewshot: 0", "checker: nobody", 10, "checker.name` | maths"),
        ("num_fewshot: 0", "checker: {command: []}", 10, "checker.command` | empty"),
        ("num_fewshot: 0", "reward: nothing", 10, "reward` | exact_match"),
        ("num_fewshot: 0", "generator: {family: sums}", 2, "dataset_path` | either"),
        ("  - metric: exact_match", "  - metric: bleu", 12, "metric_list.metric` | exact_match"),
        ("  - metric: exact_match", "  - metric: !function utils.f", 12, "metric_list.metric` | !function utils.f"),
        (
            "  - metric: exact_match",
            "  - metric: exact_match\n    ignore_cases: true",
            13,
            "metric_list.ignore_cases` | ignore_case",
        ),
        ("  - metric: exact_match", "  - metric: exact_match\n  - metric: exact_match", 13, "metric_list` | twice"),
        ("      - function: regex", "      - function: regexp", 16, "filter_list.filter.function` | majority_vote"),
        (
            "        regex_pattern: \"([0-9]+)\"",
            "        regex_pattern: \"([0-9+\"",
            17,
            "regex_pattern` | not a regular expression",
        ),
        ("test_split: test", "test_split: validation", 1, "test_split` | data_files` has: test"),
        ("    test: data.jsonl", "    test: 5", 4, "data_files` | splits"),
        ("test_split: test", "", 1, "test_split` | is missing"),
    ] {
        let error = changed(line, by).err().unwrap_or_else(|| panic!("{by} is accepted"));
        assert!(error.contains(&format!("t.yaml:{at}: ")), "{by}: {error}");
        for word in words.split(" | ") {
            assert!(error.contains(word), "{by}: {error}");
        }
    }
    let lost = changed("    test: data.jsonl", "    test: lost.jsonl").err().unwrap();
    assert!(lost.contains("t.yaml:5") && lost.contains("lost.jsonl") && lost.contains("--data"), "{lost}");
    assert!(
        changed("doc_to_text: \"Q: {{question}}\"", "doc_to_text: \"{{question\"").err().unwrap().contains("t.yaml:8")
    );
}

#[test]
fn mistakes_that_a_document_shows_name_the_document() {
    let error = |result: Result<Task, String>| match result {
        Err(error) => error,
        Ok(task) => task.requests(0).and_then(|_| task.requests(1)).map(|_| ()).unwrap_err().to_string(),
    };
    let absent = error(changed("doc_to_text: \"Q: {{question}}\"", "doc_to_text: \"{{questions}}\""));
    assert!(absent.contains("t.yaml:8") && absent.contains("doc_to_text") && absent.contains("document 0"), "{absent}");
    let null = error(changed("doc_to_text: \"Q: {{question}}\"", "doc_to_text: answer"));
    assert!(null.contains("document 1"), "{null}");
}

#[test]
fn a_name_that_does_not_exist_is_told_what_does() {
    let error = Suite::open(Path::new("gsm9k"), &Options::default()).err().unwrap().to_string();
    assert!(error.contains("gsm9k") && error.contains("gsm8k"), "{error}");
}

#[test]
fn groups_that_hold_themselves_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("g.yaml");
    std::fs::write(&path, "group: g\ntask: [g]\n").unwrap();
    let error = Suite::open(&path, &Options::default()).err().unwrap().to_string();
    assert!(error.contains("g.yaml") && error.contains("nested"), "{error}");
}
