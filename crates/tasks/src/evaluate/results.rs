//! Figures and settings as JSON, in the form of lm-evaluation-harness's `results_….json`. Keys of our own stand beside
//! the harness's: intervals, and the comparison with another model.

use serde_json::{Map, Value, json};

use super::answers::hex;
use super::{Figure, Report};
use crate::task::{Task, Total};
use hadal_data::chat::ChatRequest;

pub(super) fn results(report: &Report) -> Value {
    let groups = report.groups();
    let by_task = |value: &dyn Fn(&Task) -> Value| -> Value {
        Value::Object(report.suite.tasks.iter().map(|task| (task.name().to_owned(), value(task))).collect())
    };
    let mut all: Map<String, Value> =
        report.parts().map(|(t, e)| (t.name().to_owned(), figures(t, &e.figures))).collect();
    let of_groups: Map<String, Value> =
        groups.iter().filter(|(_, totals)| !totals.is_empty()).map(|(n, t)| ((*n).to_owned(), group(n, t))).collect();
    all.extend(of_groups.clone());
    let mut out = json!({ "results": all });
    if !of_groups.is_empty() {
        out["groups"] = Value::Object(of_groups);
    }
    let mut subtasks: Map<String, Value> =
        report.suite.groups.iter().map(|group| (group.name.clone(), json!(group.tasks))).collect();
    subtasks.extend(report.suite.tasks.iter().map(|task| (task.name().to_owned(), json!([]))));
    out["group_subtasks"] = Value::Object(subtasks);
    out["configs"] = by_task(&config);
    out["versions"] = by_task(&|task| json!(task.config().version));
    out["n-shot"] = by_task(&|task| json!(task.config().num_fewshot));
    out["higher_is_better"] = by_task(&|task| {
        Value::Object(task.config().metrics.iter().map(|m| (m.name.clone(), json!(m.higher_is_better))).collect())
    });
    let counts = report.parts().map(|(task, evaluation)| {
        let counts = json!({"original": task.documents().len(), "effective": evaluation.answered.len()});
        (task.name().to_owned(), counts)
    });
    out["n-samples"] = Value::Object(counts.collect());
    let settings = report.settings;
    out["config"] = json!({
        "model": "hadal", "model_args": report.model, "model_sha": hex(report.hash), "limit": settings.limit,
        "random_seed": settings.seed, "add_bos_token": settings.begin, "batch_size": settings.sequences,
    });
    let chat = report.suite.tasks.iter().find_map(Task::chat);
    out["fewshot_as_multiturn"] = json!(chat.map(|chat| chat.multiturn));
    out["chat_template"] = json!(chat.and_then(|chat| chat.template.source(&ChatRequest::default()).ok()));
    out["hadal_version"] = json!(env!("CARGO_PKG_VERSION"));
    let notes = report.evaluations.iter().map(|e| (e.task.clone(), json!(e.notes)));
    out["notes"] = Value::Object(notes.collect());
    if let Some(against) = &report.against {
        let differences = report.evaluations.iter().map(|e| (e.task.clone(), json!(report.differences(e))));
        out["against"] = json!({"model": against.model, "differences": Value::Object(differences.collect())});
    }
    out
}

/// The figures of a task.
fn figures(task: &Task, figures: &[Figure]) -> Value {
    let alias = task.config().alias.as_deref().unwrap_or(task.name());
    let mut out = json!({"name": task.name(), "alias": alias});
    if let Some(figure) = figures.first() {
        out["sample_len"] = json!(figure.questions);
    }
    for figure in figures {
        let Figure { metric, filter, .. } = figure;
        out[format!("{metric},{filter}")] = json!(figure.value);
        out[format!("{metric}_stderr,{filter}")] = standard_error(figure.standard_error);
        if let Some(interval) = figure.interval {
            out[format!("{metric}_interval,{filter}")] = json!(interval);
        }
    }
    out
}

fn group(name: &str, totals: &[Total]) -> Value {
    let mut out = json!({"name": name, "alias": name});
    for Total { metric, filter, value, standard_error: error, documents, .. } in totals {
        out["sample_len"] = json!(documents);
        out[format!("{metric},{filter}")] = json!(value);
        out[format!("{metric}_stderr,{filter}")] = standard_error(*error);
    }
    out
}

fn standard_error(error: Option<f64>) -> Value {
    error.map_or_else(|| json!("N/A"), |error| json!(error))
}

/// A task's file with the settings that were used.
fn config(task: &Task) -> Value {
    let (config, mut out) = (task.config(), task.written().clone());
    out["num_fewshot"] = json!(config.num_fewshot);
    out["repeats"] = json!(config.repeats);
    let generation = &config.generation;
    if out.get("output_type").is_none_or(|kind| kind == "generate_until") {
        out["generation_kwargs"] = json!({
            "until": generation.until, "max_gen_toks": generation.max_tokens, "temperature": generation.temperature,
            "top_p": generation.top_p, "top_k": generation.top_k, "do_sample": generation.temperature > 0.0,
        });
    }
    out
}
