//! Every question with its answers and scores as JSON lines, in the form of lm-evaluation-harness's `samples_….jsonl`.

use std::fmt::Write;

use serde_json::{Map, Value, json};

use super::Evaluation;
use crate::error::Result;
use crate::metric::Score;
use crate::task::{Answer, Answered, Request, Task};

/// One line for each question and filter.
pub(super) fn samples(task: &Task, evaluation: &Evaluation) -> Result<String> {
    let mut out = String::new();
    for sample in &evaluation.outcome.samples {
        let Some(answered) = evaluation.answered.get(sample.document) else { continue };
        let mut line = common(task, answered)?;
        let responses: Vec<Value> =
            answered.answers.iter().map(|answers| answers.iter().map(response).collect()).collect();
        let filtered = if sample.filtered.is_empty() {
            answered.answers.iter().filter_map(|answers| answers.first()).map(response).collect()
        } else {
            sample.filtered.clone()
        };
        line["resps"] = json!(responses);
        line["filtered_resps"] = json!(filtered);
        line["filter"] = json!(sample.filter);
        line["metrics"] = json!(sample.scores.iter().map(|(name, _)| name).collect::<Vec<_>>());
        for (name, score) in &sample.scores {
            line[name] = match score {
                Score::Single(value) => json!(value),
                Score::Weighted(value, weight) => json!([value, weight]),
            };
        }
        let _ = writeln!(out, "{line}");
    }
    Ok(out)
}

/// The question.
fn common(task: &Task, answered: &Answered) -> Result<Value> {
    let number = answered.document;
    let generation = &task.config().generation;
    let argument = |request: Request| match request {
        Request::Generate { prompt, .. } => json!({"arg_0": prompt, "arg_1": {
            "until": generation.until, "max_gen_toks": generation.max_tokens, "temperature": generation.temperature,
        }}),
        Request::Likelihood { context, continuation } => json!({"arg_0": context, "arg_1": continuation}),
        Request::Rolling { text } => json!({"arg_0": text}),
    };
    let arguments: Map<String, Value> = task
        .requests(number)?
        .into_iter()
        .enumerate()
        .map(|(at, request)| (format!("gen_args_{at}"), argument(request)))
        .collect();
    let target = task.target(number)?;
    Ok(json!({"doc_id": number, "doc": task.documents()[number].fields, "target": target, "arguments": arguments}))
}

/// An answer: text, `[log-likelihood, greedy]`, or a log-likelihood.
fn response(answer: &Answer) -> Value {
    match answer {
        Answer::Text(text) => json!(text),
        Answer::Likelihood { logprob, greedy } => json!([logprob, greedy]),
        Answer::Rolling(logprob) => json!(logprob),
    }
}
