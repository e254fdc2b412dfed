//! Evaluations of a small model are those of lm-evaluation-harness 0.4.13 with transformers: log-likelihoods to 1e-4 in f32,
//! and texts, extracted answers, totals and standard errors to the letter. `oracle/eval_harness.py` recorded them.

use std::path::{Path, PathBuf};

use hadal_infer::Loaded;
use hadal_ops::{Cx, DType};
use hadal_tasks::evaluate::{Evaluation, Model, Settings, evaluate};
use hadal_tasks::{Answer, Options, Suite};
use hadal_weights::precision::RunFormats;
use serde_json::Value;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn number(value: &Value) -> f64 {
    // The harness writes what is in a list as text.
    value.as_f64().or_else(|| value.as_str()?.parse().ok()).unwrap_or_else(|| panic!("{value} is not a number"))
}

fn check(evaluation: &Evaluation, recorded: &Value) {
    let task = &evaluation.task;
    let samples = recorded["samples"].as_array().unwrap();
    assert_eq!(evaluation.outcome.samples.len(), samples.len(), "{task}");
    let mut likelihoods = 0;
    for sample in samples {
        let document = sample["doc_id"].as_u64().unwrap() as usize;
        let what = format!("{task}, document {document}");
        let answers = &evaluation.answered[document].answers;
        let theirs = sample["resps"].as_array().unwrap();
        assert_eq!(answers.len(), theirs.len(), "{what}");
        for (answer, theirs) in answers.iter().zip(theirs) {
            match &answer[0] {
                Answer::Text(text) => assert_eq!(text.as_str(), theirs[0].as_str().unwrap(), "{what}"),
                Answer::Likelihood { logprob, greedy } => {
                    assert!((logprob - number(&theirs[0][0])).abs() < 1e-4, "{what}: {logprob} and {theirs}");
                    let theirs = &theirs[0][1];
                    assert_eq!(*greedy, *theirs == Value::Bool(true) || *theirs == "True", "{what}");
                    likelihoods += 1;
                }
                Answer::Rolling(logprob) => {
                    assert!((logprob - number(&theirs[0])).abs() < 1e-4, "{what}: {logprob} and {theirs}");
                    likelihoods += 1;
                }
            }
        }
        let filter = sample["filter"].as_str().unwrap();
        let found = |s: &&hadal_tasks::task::Sample| s.document == document && s.filter == filter;
        let own = evaluation.outcome.samples.iter().find(found).unwrap_or_else(|| panic!("{what}, {filter}"));
        if !own.filtered.is_empty() {
            assert_eq!(Value::from(own.filtered.clone()), sample["filtered_resps"], "{what}, {filter}");
        }
    }
    let text = matches!(evaluation.answered[0].answers[0][0], Answer::Text(_));
    assert!(text || likelihoods >= evaluation.answered.len(), "{task}");
}

fn check_totals(evaluation: &Evaluation, recorded: &Value) {
    let totals = recorded["totals"].as_object().unwrap();
    assert_eq!(totals.len(), 2 * evaluation.outcome.totals.len(), "{}", evaluation.task);
    for total in &evaluation.outcome.totals {
        let what = format!("{}, {}, {}", evaluation.task, total.metric, total.filter);
        let theirs = number(&totals[&format!("{},{}", total.metric, total.filter)]);
        // Scores that are right or wrong are equal. Those made of log-likelihoods have their error.
        let exact = total.standard_error.is_some();
        let bound = if exact { 1e-12 } else { 1e-4 * theirs.abs() };
        assert!((total.value - theirs).abs() <= bound, "{what}: {} and {theirs}", total.value);
        let error = &totals[&format!("{}_stderr,{}", total.metric, total.filter)];
        if let Some(own) = total.standard_error {
            assert!((own - number(error)).abs() < 1e-12, "{what}: {own} and {error}");
        }
    }
}

#[test]
fn evaluations_are_those_of_the_harness_with_transformers() {
    let recorded: Value = serde_json::from_slice(&std::fs::read(fixtures().join("recorded.json")).unwrap()).unwrap();
    let cx = Cx::cpu(2, DType::F32);
    let loaded = Loaded::open(&fixtures().join("model"), None, RunFormats::default(), cx).unwrap();
    let model = Model::new(&loaded, "small", &fixtures().join("model"), RunFormats::default()).unwrap();
    let settings = Settings { limit: None, begin: false, seed: 0, sequences: 16 };
    let out = tempfile::tempdir().unwrap();
    for (task, expected) in recorded.as_object().unwrap() {
        let file = fixtures().join(format!("harness/{task}.yaml"));
        let suite = Suite::open(&file, &Options::default()).unwrap_or_else(|error| panic!("{error}"));
        let evaluation = evaluate(&suite.tasks[0], &model, &settings, out.path(), &mut |_| {});
        let evaluation = evaluation.unwrap_or_else(|error| panic!("{error}"));
        check(&evaluation, expected);
        check_totals(&evaluation, expected);
    }
}
