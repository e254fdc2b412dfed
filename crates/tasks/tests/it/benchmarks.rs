//! The built-in benchmarks: each opens on data of its form, asks what its publisher asks, and scores a right and a wrong
//! answer.

use std::path::Path;

use hadal_tasks::suite::{BUILT_IN, Suite};
use hadal_tasks::{Answer, Answered, Options, Request, Task};
use serde_json::{Value, json};

/// Opens a benchmark on lines of data.
fn open(name: &str, files: &[(&str, &[Value])]) -> Task {
    let folder = tempfile::tempdir().unwrap();
    for (file, rows) in files {
        let text = rows.iter().map(Value::to_string).collect::<Vec<_>>().join("\n");
        std::fs::write(folder.path().join(file), text).unwrap();
    }
    let options = Options { data: Some(folder.path().to_owned()), num_fewshot: Some(0), ..Options::default() };
    Suite::open(Path::new(name), &options).unwrap_or_else(|error| panic!("{error}")).tasks.remove(0)
}

fn prompt(task: &Task) -> String {
    match &task.requests(0).unwrap()[0] {
        Request::Generate { prompt, .. } => prompt.clone(),
        other => panic!("{other:?}"),
    }
}

/// The value of a metric of a task of one document.
fn score(task: &Task, texts: &[&str], metric: &str) -> f64 {
    let answers = texts.iter().map(|text| Answer::Text((*text).to_owned())).collect();
    let outcome = task.score(&[Answered { document: 0, answers: vec![answers] }]).unwrap();
    outcome.totals.iter().find(|total| total.metric == metric).unwrap().value
}

#[test]
fn gsm8k_has_both_filters_and_a_reward() {
    let row = json!({"question": "How many?", "answer": "Two.\n#### 1,234"});
    let task = open(
        "gsm8k",
        &[("gsm8k_train.jsonl", std::slice::from_ref(&row)), ("gsm8k_test.jsonl", std::slice::from_ref(&row))],
    );
    assert_eq!(prompt(&task), "Question: How many?\nAnswer:");
    let answered = |text: &str| [Answered { document: 0, answers: vec![vec![Answer::Text(text.to_owned())]] }];
    let values = |text: &str| {
        let outcome = task.score(&answered(text)).unwrap();
        let value = |filter: &str| {
            outcome.totals.iter().find(|t| t.filter == filter && t.metric == "exact_match").unwrap().value
        };
        (value("strict-match"), value("flexible-extract"))
    };
    assert_eq!(values(" #### 1234"), (1.0, 1.0));
    assert_eq!(values(" It is 1,234."), (0.0, 1.0));
    assert_eq!(values(" It is 5."), (0.0, 0.0));
    let rewards = task.rewards(&[(0, "#### 1234.0".to_owned()), (0, "1234".to_owned()), (0, "#### 7".to_owned())]);
    assert_eq!(rewards.unwrap(), [1.0, 0.0, 0.0]);
}

#[test]
fn humaneval_runs_programs() {
    let row = json!({
        "prompt": "def add(a, b):\n    \"\"\"Adds.\"\"\"\n", "entry_point": "add",
        "test": "def check(candidate):\n    assert candidate(2, 3) == 5\n",
    });
    let task = open("humaneval", &[("HumanEval.jsonl.gz", &[row])]);
    assert_eq!(prompt(&task), "def add(a, b):\n    \"\"\"Adds.\"\"\"\n");
    let texts = ["    return a + b\n", "    return a - b\n"].map(|text| (0, text.to_owned()));
    match task.rewards(&texts) {
        Ok(rewards) => assert_eq!(rewards, [1.0, 0.0]),
        Err(hadal_tasks::TaskError::Sandbox(problem)) => eprintln!("skipped: {problem}"),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn boxed_answers_are_judged_as_mathematics() {
    let row = json!({"problem": "Halve 1.", "solution": "So it is $\\boxed{\\frac{1}{2}}$."});
    let task = open("math_boxed", &[("math_test.jsonl", &[row])]);
    assert!(prompt(&task).contains("Problem: Halve 1.\n"));
    assert_eq!(score(&task, &["Hence \\boxed{0.5}."], "correct"), 1.0);
    assert_eq!(score(&task, &["Hence \\boxed{0.25}."], "correct"), 0.0);
    // Several answers to a question: their mean.
    assert_eq!(score(&task, &["\\boxed{1/2}", "\\boxed{2}", "\\boxed{\\dfrac24}", "no"], "correct"), 0.5);
}

#[test]
fn all_instructions_must_be_followed() {
    let row = json!({
        "prompt": "Write.", "instruction_id_list": ["punctuation:no_comma", "change_case:english_lowercase"],
        "kwargs": [{}, {}],
    });
    let task = open("ifeval", &[("ifeval.jsonl", &[row])]);
    assert_eq!(prompt(&task), "Write.");
    assert_eq!(score(&task, &["all fine"], "correct"), 1.0);
    assert_eq!(score(&task, &["all, fine"], "correct"), 0.0);
}

/// The continuations and whether the right one is found.
fn choices(task: &Task, right: usize) -> (Vec<(String, String)>, f64) {
    let requests = task.requests(0).unwrap();
    let pair = |request: &Request| match request {
        Request::Likelihood { context, continuation } => (context.clone(), continuation.clone()),
        other => panic!("{other:?}"),
    };
    let likelihood =
        |at: usize| vec![Answer::Likelihood { logprob: if at == right { -1.0 } else { -50.0 }, greedy: false }];
    let answers = (0..requests.len()).map(likelihood).collect();
    let totals = task.score(&[Answered { document: 0, answers }]).unwrap().totals;
    (requests.iter().map(pair).collect(), totals[0].value)
}

#[test]
fn multiple_choice_is_asked_by_letter_or_by_text() {
    let row = json!({"question": " Which? ", "choices": ["a", "b", "c", "d"], "answer": 2, "subject": "high_school"});
    let task = open(
        "mmlu",
        &[("mmlu_test.jsonl", std::slice::from_ref(&row)), ("mmlu_dev.jsonl", std::slice::from_ref(&row))],
    );
    let (pairs, acc) = choices(&task, 2);
    assert_eq!(
        pairs[2].0,
        "The following are multiple choice questions (with answers) about high school.\n\nWhich?\nA. a\nB. b\nC. c\nD. d\nAnswer:"
    );
    assert_eq!((pairs[2].1.as_str(), acc), (" C", 1.0));
    assert_eq!(choices(&task, 1).1, 0.0);
    let row =
        json!({"question": "Which?", "choices": {"text": ["x", "it's y"], "label": ["1", "2"]}, "answerKey": "2"});
    let task = open("arc", &[("arc_test.jsonl", &[row])]);
    let (pairs, acc) = choices(&task, 1);
    assert_eq!((pairs[1].0.as_str(), pairs[1].1.as_str(), acc), ("Question: Which?\nAnswer:", " it's y", 1.0));
}

#[test]
fn hellaswags_texts_are_cleaned_as_the_harness_cleans_them() {
    // Queries and choices come from lm_eval.tasks.hellaswag.utils.process_docs.
    let fixture: Value = serde_json::from_str(include_str!("../fixtures/hellaswag.json")).unwrap();
    let rows: Vec<Value> = fixture["rows"].as_array().unwrap().clone();
    let task = open("hellaswag", &[("hellaswag_val.jsonl", &rows)]);
    for (document, expected) in fixture["processed"].as_array().unwrap().iter().enumerate() {
        let requests = task.requests(document).unwrap();
        let theirs = expected["choices"].as_array().unwrap();
        assert_eq!(requests.len(), theirs.len());
        for (request, choice) in requests.iter().zip(theirs) {
            let Request::Likelihood { context, continuation } = request else { panic!("{request:?}") };
            assert_eq!(context.as_str(), expected["query"].as_str().unwrap());
            assert_eq!(continuation.as_str(), format!(" {}", choice.as_str().unwrap()));
        }
    }
}

#[test]
fn every_synthetic_benchmark_gives_prompts_and_rewards_its_own_answers() {
    for name in ["sums", "countdown", "sorting", "edits", "programs", "needle"] {
        let suite = Suite::open(Path::new(name), &Options::default()).unwrap_or_else(|error| panic!("{error}"));
        let task = &suite.tasks[0];
        let Request::Generate { prompt, generation } = &task.requests(0).unwrap()[0] else { panic!("{name}") };
        assert!(prompt.ends_with("\nAnswer:") && prompt.contains("\n\nQuestion: "), "{name}: {prompt}");
        assert!(generation.until.contains(&"Question:".to_owned()));
        let texts: Vec<(usize, String)> = (0..20)
            .map(|document| (document, format!(" {}", task.documents()[document].fields["answer"].as_str().unwrap())))
            .collect();
        assert_eq!(task.rewards(&texts).unwrap(), vec![1.0; 20], "{name}");
        let moved: Vec<(usize, String)> = (0..20).map(|document| (document, "no".to_owned())).collect();
        assert_eq!(task.rewards(&moved).unwrap(), vec![0.0; 20], "{name}");
        // Another seed gives other questions.
        let other = Suite::open(Path::new(name), &Options { seed: Some(7), ..Options::default() }).unwrap();
        assert_ne!(other.tasks[0].documents()[0].fields, task.documents()[0].fields);
    }
    assert_eq!(BUILT_IN.len(), 13);
}

/// What is learned is what is asked: the same question, in a split of its own, with the right answer.
#[test]
fn a_family_gives_conversations_to_learn_from() {
    let open = |split: Option<&str>| {
        let (split, count) = (split.map(str::to_owned), Some(20));
        let options = Options { split, count, num_fewshot: Some(0), ..Options::default() };
        Suite::open(Path::new("sorting"), &options).unwrap().tasks.remove(0)
    };
    let (train, test) = (open(Some("train")), open(None));
    let conversations = train.conversations().unwrap();
    assert_eq!((conversations.len(), test.documents().len()), (20, 20));
    for (at, conversation) in conversations.iter().enumerate() {
        let messages = conversation["messages"].as_array().unwrap();
        let [question, answer] = &messages[..] else { panic!("{conversation}") };
        assert_eq!((&question["role"], &answer["role"]), (&json!("user"), &json!("assistant")));
        assert_eq!(train.requests(at).unwrap().len(), 1);
        let Request::Generate { prompt, .. } = &train.requests(at).unwrap()[0] else { panic!("{at}") };
        assert_eq!(question["content"], json!(prompt));
        let right = answer["content"].as_str().unwrap().to_owned();
        assert_eq!(train.rewards(&[(at, right)]).unwrap(), [1.0]);
        assert!((0..20).all(|other| test.requests(other).unwrap() != train.requests(at).unwrap()));
    }
}

#[test]
fn a_document_without_an_answer_is_no_conversation() {
    let row = json!({"question": "How many?", "answer": ""});
    let rows = std::slice::from_ref(&row);
    let task = open("gsm8k", &[("gsm8k_train.jsonl", rows), ("gsm8k_test.jsonl", rows)]);
    assert!(task.conversations().unwrap_err().to_string().contains("no answer to learn"));
}

/// Several texts of one document are cases of their own.
#[test]
fn a_command_rewards_several_texts_of_a_document() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("data.jsonl", "{\"q\": \"a\", \"a\": \"x\"}\n");
    // The answer is its reward.
    write("check.sh", r#"sed 's/^{"id":"\([^"]*\)","answer":"\(.\)".*/{"id": "\1", "reward": \2}/'"#);
    write(
        "t.yaml",
        "task: t\ndataset_path: json\ndataset_kwargs: {data_files: {test: data.jsonl}}\ntest_split: test\n\
         doc_to_text: q\ndoc_to_target: a\nchecker: {command: [sh, check.sh]}\n",
    );
    let task = Suite::open(&folder.path().join("t.yaml"), &Options::default()).unwrap().tasks.remove(0);
    let texts = ["1", "0", "1"].map(|text| (0, text.to_owned()));
    match task.rewards(&texts) {
        Err(hadal_tasks::TaskError::Sandbox(problem)) => eprintln!("skipped: {problem}"),
        other => assert_eq!(other.unwrap(), [1.0, 0.0, 1.0]),
    }
}

#[test]
fn a_question_among_no_choices_is_a_mistake() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("data.jsonl", "{\"q\": 3, \"a\": \"x\", \"c\": []}\n");
    write(
        "t.yaml",
        "task: t\noutput_type: loglikelihood\ndataset_path: json\ndataset_kwargs: {data_files: {test: data.jsonl}}\n\
         test_split: test\ndoc_to_text: q\ndoc_to_target: a\ndoc_to_choice: c\n",
    );
    let error = Suite::open(&folder.path().join("t.yaml"), &Options::default())
        .and_then(|suite| suite.tasks[0].requests(0).map(|_| ()))
        .unwrap_err();
    assert!(error.to_string().contains("no choices"), "{error}");
}
