//! A page with every prompt, answer and score of a task: one file of HTML that needs nothing else.
//!
//! Everything that comes from questions or from the model is escaped. Beside that, the page's policy allows no script and
//! nothing from elsewhere. The beginning that all prompts share, such as examples, stands once at the top.

use std::fmt::Write;

use serde_json::Value;

use super::table::{figure_text, named, plural};
use super::{Evaluation, Figure, Report};
use crate::error::Result;
use crate::metric::Score;
use crate::task::{Answer, Answered, Request, Sample, Task};

/// A shared beginning is worth showing once if it has so many bytes.
const SHARED: usize = 200;

pub(super) fn page(report: &Report, task: &Task, evaluation: &Evaluation) -> Result<String> {
    let requests = evaluation.answered.iter().map(|one| task.requests(one.document)).collect::<Result<Vec<_>>>()?;
    let prompts: Vec<&str> = requests.iter().flatten().map(prompt).collect();
    let shared = shared(&prompts);
    let mut out = head(report, task, evaluation);
    if shared > 0 {
        let _ = write!(
            out,
            "<details><summary>All prompts begin with this text</summary>{}</details>",
            block(&prompts[0][..shared])
        );
    }
    let verdicts: Vec<Option<bool>> = (0..requests.len()).map(|at| verdict(evaluation, at)).collect();
    if verdicts.iter().any(Option::is_some) {
        out.push_str(CHOICE);
    }
    for ((answered, requests), verdict) in evaluation.answered.iter().zip(&requests).zip(verdicts) {
        question(&mut out, task, evaluation, answered, requests, shared, verdict)?;
    }
    out.push_str("</body></html>\n");
    Ok(out)
}

/// Which questions are shown.
const CHOICE: &str = "<fieldset><label><input type=\"radio\" name=\"show\" checked> all questions</label>\
    <label><input type=\"radio\" name=\"show\" id=\"only-right\"> right ones</label>\
    <label><input type=\"radio\" name=\"show\" id=\"only-wrong\"> wrong ones</label></fieldset>";

/// Everything up to the questions.
fn head(report: &Report, task: &Task, evaluation: &Evaluation) -> String {
    let (name, model, number) = (escape(task.name()), escape(report.model), evaluation.answered.len());
    let examples = task.config().num_fewshot;
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; \
         style-src 'unsafe-inline'\"><title>{name}: {model}</title><style>{}</style></head><body><h1>{name}</h1>\
         <p>{model}, {number} {}, {examples} {}</p>",
        include_str!("page.css"),
        plural(number, "question"),
        plural(examples, "example"),
    );
    out.push_str("<table><tr><th>metric</th><th>value</th><th>standard error</th><th>95% interval</th></tr>");
    for figure in &evaluation.figures {
        let Figure { metric, filter, value, standard_error, interval, .. } = figure;
        let error = standard_error.map_or_else(String::new, |error| format!("{error:.4}"));
        let interval =
            interval.map_or_else(String::new, |(low, high)| format!("{} to {}", figure_text(low), figure_text(high)));
        let _ = write!(
            out,
            "<tr><td>{}</td><td class=\"number\">{}</td><td class=\"number\">{error}</td><td>{interval}</td></tr>",
            escape(&named(metric, filter)),
            figure_text(*value)
        );
    }
    out.push_str("</table>");
    for note in &evaluation.notes {
        let _ = write!(out, "<p>{}</p>", escape(note));
    }
    out
}

/// A question with its answers and scores.
fn question(
    out: &mut String,
    task: &Task,
    evaluation: &Evaluation,
    answered: &Answered,
    requests: &[Request],
    shared: usize,
    verdict: Option<bool>,
) -> Result<()> {
    let number = answered.document;
    let (class, word) = match verdict {
        Some(true) => ("right", "right"),
        Some(false) => ("wrong", "wrong"),
        None => ("open", ""),
    };
    let _ = write!(
        out,
        "<article class=\"{class}\" id=\"q{number}\"><h2>Question {number}<span class=\"verdict\">{word}</span></h2>"
    );
    let mut last = None;
    let mut choices = Vec::new();
    for (request, answers) in requests.iter().zip(&answered.answers) {
        let prompt = prompt(request);
        if last != Some(prompt) {
            flush(out, &mut choices);
            section(out, title(request), &prompt[shared..]);
            last = Some(prompt);
        }
        for (at, answer) in answers.iter().enumerate() {
            match (request, answer) {
                (Request::Likelihood { continuation, .. }, Answer::Likelihood { logprob, greedy }) => {
                    choices.push((continuation.as_str(), *logprob, *greedy));
                }
                (_, Answer::Text(text)) if answers.len() > 1 => section(out, &format!("Answer {}", at + 1), text),
                (_, Answer::Text(text)) => section(out, "Answer", text),
                (_, Answer::Likelihood { logprob, .. } | Answer::Rolling(logprob)) => {
                    section(out, "Log-likelihood", &format!("{logprob:.4}"));
                }
            }
        }
    }
    flush(out, &mut choices);
    if !matches!(requests.first(), Some(Request::Rolling { .. })) {
        section(out, "Right answer", &right_answer(&task.target(number)?, requests));
    }
    scores(out, evaluation.outcome.samples.iter().filter(|sample| sample.document == number));
    out.push_str("</article>");
    Ok(())
}

/// The right answer, with its continuation if it is the number of one.
fn right_answer(target: &Value, requests: &[Request]) -> String {
    let at = target.as_u64().and_then(|at| usize::try_from(at).ok());
    match at.and_then(|at| requests.get(at)) {
        Some(Request::Likelihood { continuation, .. }) => format!("{target}: {}", continuation.trim()),
        _ => shown(target),
    }
}

fn title(request: &Request) -> &'static str {
    match request {
        Request::Rolling { .. } => "Text",
        other if prompt(other).is_empty() => "Prompt (nothing)",
        _ => "Prompt",
    }
}

/// Continuations and their log-likelihoods. The most likely one stands out.
fn flush(out: &mut String, choices: &mut Vec<(&str, f64, bool)>) {
    if choices.is_empty() {
        return;
    }
    let most = choices.iter().map(|choice| choice.1).fold(f64::NEG_INFINITY, f64::max);
    out.push_str("<table><tr><th>continuation</th><th>log-likelihood</th><th>greedy</th></tr>");
    for (text, logprob, greedy) in choices.drain(..) {
        let class = if logprob == most { " class=\"chosen\"" } else { "" };
        let greedy = if greedy { "yes" } else { "no" };
        let _ = write!(
            out,
            "<tr{class}><td>{}</td><td class=\"number\">{logprob:.4}</td><td>{greedy}</td></tr>",
            block(text)
        );
    }
    out.push_str("</table>");
}

/// What filters left of the answers, and the scores.
fn scores<'a>(out: &mut String, samples: impl Iterator<Item = &'a Sample>) {
    let samples: Vec<&Sample> = samples.collect();
    let Some(first) = samples.first() else { return };
    let filtered = samples.iter().any(|sample| !sample.filtered.is_empty());
    out.push_str("<h3>Scores</h3><table><tr>");
    let names = first.scores.iter().map(|(name, _)| name.as_str());
    let before: &[&str] = if filtered { &["filter", "extracted"] } else { &[] };
    for name in before.iter().copied().chain(names) {
        let _ = write!(out, "<th>{}</th>", escape(name));
    }
    out.push_str("</tr>");
    for sample in samples {
        out.push_str("<tr>");
        if filtered {
            let _ = write!(out, "<td>{}</td><td>", escape(&sample.filter));
            sample.filtered.iter().for_each(|item| out.push_str(&block(&shown(item))));
            out.push_str("</td>");
        }
        for (_, score) in &sample.scores {
            let _ = match score {
                Score::Single(value) => write!(out, "<td class=\"number\">{}</td>", round(*value)),
                Score::Weighted(value, weight) => {
                    write!(out, "<td class=\"number\">{} / {}</td>", round(*value), round(*weight))
                }
            };
        }
        out.push_str("</tr>");
    }
    out.push_str("</table>");
}

/// Whether a question is answered right, by the figure that stands first among those that are means.
fn verdict(evaluation: &Evaluation, at: usize) -> Option<bool> {
    let figure = evaluation.figures.iter().find(|figure| !figure.values.is_empty() && figure.higher_is_better)?;
    let values = figure.values.get(at)?;
    (values.iter().all(|value| (0.0..=1.0).contains(value))).then(|| crate::stats::mean(values) >= 0.5)
}

fn prompt(request: &Request) -> &str {
    match request {
        Request::Generate { prompt, .. } => prompt,
        Request::Likelihood { context, .. } => context,
        Request::Rolling { text } => text,
    }
}

/// Bytes of the beginning that all prompts share, in whole lines. 0 if it is short.
fn shared(prompts: &[&str]) -> usize {
    let (Some((first, others)), true) = (prompts.split_first(), prompts.len() > 1) else { return 0 };
    let mut length = first.len();
    for other in others {
        length = first.bytes().zip(other.bytes()).take(length).take_while(|(a, b)| a == b).count();
    }
    let lines = first.as_bytes()[..length].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    // Something of each prompt is left, if only its last line.
    if lines >= SHARED && others.iter().any(|other| other != first) { lines } else { 0 }
}

fn section(out: &mut String, title: &str, text: &str) {
    let _ = write!(out, "<h3>{title}</h3>{}", block(text));
}

/// Text as it is. A line break behind `<pre>` would be left out by browsers, so there is always one.
fn block(text: &str) -> String {
    format!("<pre>\n{}</pre>", escape(text))
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn round(value: f64) -> String {
    if value.fract() == 0.0 { format!("{value}") } else { format!("{value:.4}") }
}

/// Text as HTML shows it.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // Browsers drop or change these, and two of them turn the direction of text.
            c if c.is_control() && c != '\n' && c != '\t' => {
                let _ = write!(out, "\\u{{{:x}}}", c as u32);
            }
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                let _ = write!(out, "\\u{{{:x}}}", c as u32);
            }
            c => out.push(c),
        }
    }
    out
}
