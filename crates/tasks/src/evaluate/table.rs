//! Figures for the terminal.

use std::fmt::Write;

use super::{Difference, Figure, Report};

/// A table of all figures, with a line for each task.
pub(super) fn table(report: &Report) -> String {
    let mut out = String::new();
    for (task, evaluation) in report.parts() {
        let (asked, all) = (evaluation.answered.len(), task.documents().len());
        let of = if asked < all { format!(" of {all}") } else { String::new() };
        let config = task.config();
        let _ = write!(out, "{}: {asked}{of} {}", task.name(), plural(asked, "question"));
        if config.num_fewshot > 0 {
            let _ = write!(out, ", {} {}", config.num_fewshot, plural(config.num_fewshot, "example"));
        }
        if config.repeats > 1 {
            let _ = write!(out, ", {} answers to each", config.repeats);
        }
        out.push('\n');
        let rows: Vec<[String; 3]> = evaluation.figures.iter().map(row).collect();
        write_rows(&mut out, &rows);
        let differences: Vec<[String; 3]> = report.differences(evaluation).iter().map(difference).collect();
        if let Some(against) = report.against.filter(|_| !differences.is_empty()) {
            let _ = writeln!(out, " difference from {}:", against.model);
            write_rows(&mut out, &differences);
        }
        for note in &evaluation.notes {
            let _ = writeln!(out, "  note: {note}");
        }
    }
    for (name, totals) in report.groups().into_iter().filter(|(_, totals)| !totals.is_empty()) {
        let _ = writeln!(
            out,
            "{name}: all {} tasks",
            report.suite.groups.iter().find(|g| g.name == name).map_or(0, |g| g.tasks.len())
        );
        let rows: Vec<[String; 3]> = totals
            .iter()
            .map(|total| {
                let error = total.standard_error.map_or_else(String::new, |error| format!("standard error {error:.4}"));
                [named(&total.metric, &total.filter), figure_text(total.value), error]
            })
            .collect();
        write_rows(&mut out, &rows);
    }
    out
}

fn write_rows(out: &mut String, rows: &[[String; 3]]) {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let (first, second) = (width(0), width(1));
    for [name, value, rest] in rows {
        let line = format!("  {name:<first$}  {value:>second$}  {rest}");
        let _ = writeln!(out, "{}", line.trim_end());
    }
}

fn row(figure: &Figure) -> [String; 3] {
    [named(&figure.metric, &figure.filter), figure_text(figure.value), range(figure.interval)]
}

fn difference(found: &Difference) -> [String; 3] {
    let sign = if found.difference > 0.0 { "+" } else { "" };
    let range =
        if found.standard_error == Some(0.0) { "no question differs".to_owned() } else { range(found.interval) };
    [named(&found.metric, &found.filter), format!("{sign}{}", figure_text(found.difference)), range]
}

/// A number for people. Perplexities can be huge.
pub(super) fn figure_text(value: f64) -> String {
    if value.abs() < 1e7 { format!("{value:.4}") } else { format!("{value:.4e}") }
}

/// An interval for people.
pub(super) fn range(interval: Option<(f64, f64)>) -> String {
    interval
        .map_or_else(String::new, |(low, high)| format!("95% interval {} to {}", figure_text(low), figure_text(high)))
}

/// A metric with its filter.
pub(super) fn named(metric: &str, filter: &str) -> String {
    if filter == "none" { metric.to_owned() } else { format!("{metric}, {filter}") }
}

/// A word in the number that it needs.
pub(super) fn plural(number: usize, word: &str) -> String {
    if number == 1 { word.to_owned() } else { format!("{word}s") }
}
