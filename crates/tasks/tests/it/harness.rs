//! Requests, filtered answers, scores, totals and standard errors equal those of lm-evaluation-harness 0.4.13 on the task
//! files in `fixtures/harness`. `oracle/make_tasks.py` made the expected values with the harness's own classes.

use std::path::{Path, PathBuf};

use hadal_tasks::metric::Score;
use hadal_tasks::suite::Suite;
use hadal_tasks::{Answer, Answered, Options, Request, Task};
use serde_json::Value;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/harness")
}

fn expected() -> Value {
    serde_json::from_slice(&std::fs::read(folder().join("expected.json")).unwrap()).unwrap()
}

fn open(name: &str) -> Task {
    let suite = Suite::open(&folder().join(format!("{name}.yaml")), &Options::default());
    suite.unwrap_or_else(|error| panic!("{error}")).tasks.remove(0)
}

fn answer(given: &Value) -> Answer {
    match given {
        Value::String(text) => Answer::Text(text.clone()),
        Value::Array(pair) => {
            Answer::Likelihood { logprob: pair[0].as_f64().unwrap(), greedy: pair[1].as_bool().unwrap() }
        }
        number => Answer::Rolling(number.as_f64().unwrap()),
    }
}

fn check_request(request: &Request, expected: &Value) {
    match request {
        Request::Generate { prompt, generation } => {
            assert_eq!(prompt.as_str(), expected["context"].as_str().unwrap());
            assert_eq!(serde_json::to_value(&generation.until).unwrap(), expected["until"]);
        }
        Request::Likelihood { context, continuation } => {
            assert_eq!(context.as_str(), expected["context"].as_str().unwrap());
            assert_eq!(continuation.as_str(), expected["continuation"].as_str().unwrap());
        }
        Request::Rolling { text } => assert_eq!(text.as_str(), expected["text"].as_str().unwrap()),
    }
}

/// Python sums in the same order, so values are equal to the last bits.
fn close(ours: f64, theirs: f64, what: &str) {
    assert!((ours - theirs).abs() <= 1e-12 * theirs.abs().max(1.0), "{what}: {ours} and {theirs}");
}

#[test]
fn requests_and_scores_are_the_harnesss() {
    for expected in expected()["tasks"].as_array().unwrap() {
        let name = expected["task"].as_str().unwrap();
        let task = open(name);
        let requests: Vec<(usize, Request)> = (0..task.documents().len())
            .flat_map(|doc| task.requests(doc).unwrap().into_iter().map(move |request| (doc, request)))
            .collect();
        let theirs = expected["requests"].as_array().unwrap();
        assert_eq!(requests.len(), theirs.len(), "{name}");
        for ((doc, request), theirs) in requests.iter().zip(theirs) {
            assert_eq!(*doc as u64, theirs["doc"].as_u64().unwrap(), "{name}");
            check_request(request, theirs);
        }
        for round in expected["rounds"].as_array().unwrap() {
            check_round(&task, &requests, round, name);
        }
    }
}

fn check_round(task: &Task, requests: &[(usize, Request)], round: &Value, name: &str) {
    let mut answered: Vec<Answered> = Vec::new();
    for ((doc, _), given) in requests.iter().zip(round["answers"].as_array().unwrap()) {
        let answers = given.as_array().unwrap().iter().map(answer).collect();
        match answered.last_mut() {
            Some(last) if last.document == *doc => last.answers.push(answers),
            _ => answered.push(Answered { document: *doc, answers: vec![answers] }),
        }
    }
    let outcome = task.score(&answered).unwrap_or_else(|error| panic!("{error}"));
    let samples = round["samples"].as_array().unwrap();
    assert_eq!(outcome.samples.len(), samples.len(), "{name}");
    for (ours, theirs) in outcome.samples.iter().zip(samples) {
        let what = format!("{name}, document {}, filter {}: {theirs}", ours.document, ours.filter);
        assert_eq!(ours.document as u64, theirs["doc"].as_u64().unwrap(), "{what}");
        assert_eq!(ours.filter.as_str(), theirs["filter"].as_str().unwrap(), "{what}");
        if !theirs["filtered"].is_null() {
            assert_eq!(ours.filtered, vec![theirs["filtered"].clone()], "{what}");
        }
        let scores = theirs["scores"].as_object().unwrap();
        assert_eq!(ours.scores.len(), scores.len(), "{what}");
        for (metric, score) in &ours.scores {
            match (score, &scores[metric]) {
                (Score::Weighted(value, weight), Value::Array(pair)) => {
                    close(*value, pair[0].as_f64().unwrap(), &what);
                    close(*weight, pair[1].as_f64().unwrap(), &what);
                }
                (score, value) => close(score.value(), value.as_f64().unwrap(), &what),
            }
        }
    }
    let totals = round["totals"].as_object().unwrap();
    assert_eq!(outcome.totals.len() * 2, totals.len(), "{name}");
    for total in &outcome.totals {
        let key = format!("{},{}", total.metric, total.filter);
        close(total.value, totals[&key].as_f64().unwrap(), &key);
        let error = &totals[&format!("{}_stderr,{}", total.metric, total.filter)];
        match total.standard_error {
            Some(ours) => close(ours, error.as_f64().unwrap(), &key),
            None => assert_eq!(error, "N/A", "{key}"),
        }
    }
}

#[test]
fn a_groups_totals_are_the_harnesss() {
    let expected = expected();
    let suite = Suite::open(&folder().join("exams.yaml"), &Options::default()).unwrap();
    let names: Vec<&str> = suite.tasks.iter().map(Task::name).collect();
    assert_eq!(names, ["science", "history"]);
    let mut outcomes = Vec::new();
    for task in &suite.tasks {
        let theirs = expected["tasks"].as_array().unwrap().iter().find(|t| t["task"] == task.name()).unwrap();
        let mut answers = theirs["rounds"][0]["answers"].as_array().unwrap().iter();
        let answered: Vec<Answered> = (0..task.documents().len())
            .map(|document| {
                let requests = task.requests(document).unwrap();
                let answers = requests.iter().map(|_| vec![answer(&answers.next().unwrap()[0])]).collect();
                Answered { document, answers }
            })
            .collect();
        outcomes.push((task.name().to_owned(), task.score(&answered).unwrap().totals));
    }
    let totals = suite.groups[0].totals(&outcomes);
    assert_eq!(totals.len(), 2);
    for total in totals {
        close(total.value, expected["group"][format!("{},none", total.metric)].as_f64().unwrap(), &total.metric);
        let error = expected["group"][format!("{}_stderr,none", total.metric)].as_f64().unwrap();
        close(total.standard_error.unwrap(), error, &total.metric);
    }
}
