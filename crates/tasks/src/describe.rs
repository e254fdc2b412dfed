//! Tasks as text for people: a list of the built-in ones, and what a task asks first.

use std::fmt::Write;

use crate::error::Result;
use crate::file::{Node, Yaml};
use crate::metric::Metric;
use crate::suite::{BUILT_IN, Suite, built_in};
use crate::task::{OutputType, Request, Task};

/// The built-in tasks, one in a line: the name, what it is, and which data files it needs.
pub fn list() -> String {
    let width = BUILT_IN.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut out = String::new();
    for (name, text) in BUILT_IN {
        let needs = match built_in(name) {
            Ok(Some(node)) => data_files(&node).join(", "),
            _ => String::new(),
        };
        let needs = if needs.is_empty() { "makes its own questions".to_owned() } else { format!("reads {needs}") };
        let _ = writeln!(out, "{name:<width$}  {}\n{:<width$}  {needs}", about(text), "");
    }
    out.push_str("\nData files are looked for in the folder that --data names, and in the current folder.");
    out
}

/// The first sentence of the remark that a file begins with.
fn about(text: &str) -> String {
    let remark: Vec<&str> = text.lines().map_while(|line| line.strip_prefix("# ")).collect();
    let remark = remark.join(" ");
    let end = remark.find(". ").map_or(remark.len(), |at| at + 1);
    remark[..end].to_owned()
}

fn data_files(node: &Node) -> Vec<String> {
    let files = node.get("dataset_kwargs").and_then(|kwargs| kwargs.get("data_files"));
    let name = |node: &Node| if let Yaml::Text(name) = &node.yaml { Some(name.clone()) } else { None };
    files.map_or_else(Vec::new, |files| files.entries().iter().filter_map(|entry| name(&entry.value)).collect())
}

impl Suite {
    /// What the tasks are, and what a model would be asked first.
    pub fn describe(&self) -> Result<String> {
        let mut out = String::new();
        for group in &self.groups {
            let _ = writeln!(out, "group {}: {}", group.name, group.tasks.join(", "));
        }
        for task in &self.tasks {
            describe(&mut out, task)?;
        }
        Ok(out.trim_end().to_owned())
    }
}

fn describe(out: &mut String, task: &Task) -> Result<()> {
    let config = task.config();
    let kind = match config.output {
        OutputType::Loglikelihood => "the log-likelihood of a continuation",
        OutputType::LoglikelihoodRolling => "the log-likelihood of a text",
        OutputType::MultipleChoice => "the log-likelihoods of choices",
        OutputType::GenerateUntil => "text",
    };
    let metrics: Vec<&str> = config.metrics.iter().map(|metric: &Metric| metric.name.as_str()).collect();
    let filters: Vec<&str> = config.filters.iter().map(|filter| filter.name.as_str()).collect();
    let _ = writeln!(out, "task {}: {} questions, asks for {kind}", task.name(), task.documents().len());
    let _ = writeln!(out, "examples: {}; answers to each question: {}", config.num_fewshot, config.repeats);
    let _ = writeln!(out, "metrics: {}; filters: {}", metrics.join(", "), filters.join(", "));
    if config.output == OutputType::GenerateUntil {
        let stops: Vec<String> = config.generation.until.iter().map(|stop| format!("{stop:?}")).collect();
        let (most, stops) = (config.generation.max_tokens, stops.join(", "));
        let _ = writeln!(out, "an answer ends after {most} tokens, or at one of: {stops}");
    }
    let mut last = None;
    for request in task.requests(0)? {
        let (title, text, continuation) = match request {
            Request::Generate { prompt, .. } => ("the first prompt", prompt, None),
            Request::Likelihood { context, continuation } => ("the first context", context, Some(continuation)),
            Request::Rolling { text } => ("the first text", text, None),
        };
        if last.as_ref() != Some(&text) {
            let _ = writeln!(out, "--- {title}\n{text}\n--- its end");
            last = Some(text);
        }
        if let Some(continuation) = continuation {
            let _ = writeln!(out, "continuation: {continuation:?}");
        }
    }
    if config.output != OutputType::LoglikelihoodRolling {
        let _ = writeln!(out, "right answer: {}", task.target(0)?);
    }
    out.push('\n');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Options;
    use std::path::Path;

    #[test]
    fn the_list_names_every_task_and_its_files() {
        let list = list();
        for (name, _) in BUILT_IN {
            assert!(list.lines().any(|line| line.split(' ').next() == Some(name)), "{name}: {list}");
        }
        assert!(list.contains("reads gsm8k_train.jsonl, gsm8k_test.jsonl\n"), "{list}");
        assert!(list.contains("grade school maths.\n"), "{list}");
    }

    #[test]
    fn the_first_question_is_shown_whole() {
        let suite = Suite::open(Path::new("sums"), &Options::default()).unwrap();
        let Request::Generate { prompt, .. } = &suite.tasks[0].requests(0).unwrap()[0] else { panic!() };
        let text = suite.describe().unwrap();
        assert!(text.contains(&format!("--- the first prompt\n{prompt}\n---")), "{text}");
        assert!(text.contains("512 questions") && text.contains("examples: 2"), "{text}");
        let answer = suite.tasks[0].documents()[0].fields["answer"].to_string();
        assert!(text.contains(&format!("right answer: {answer}")), "{text}");
    }
}
