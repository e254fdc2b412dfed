//! Python functions against their tests: HumanEval and tasks of its form.
//!
//! The function runs in one sandbox and the tests in another. They talk through pipes: the tests send arguments, the
//! function's side sends results, as Python literals. So an answer cannot forge a verdict. Whatever it prints, and however
//! it ends, only its results reach the tests, and only the tests' own end counts.

use std::io::pipe;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;

use super::{Case, Checker};
use crate::error::{Result, TaskError};
use crate::sandbox::{Limits, Sandbox};
use crate::task::keys::Keys;

/// The side of the function.
const FUNCTION: &str = include_str!("python/function.py");
/// The side of the tests.
const TESTS: &str = include_str!("python/tests.py");
/// The exit code of the tests' side if all is well. Python itself never exits with it.
const PASSED: i32 = 77;
/// The longest argument of a program, in bytes (Linux allows 128 KiB).
const LONGEST: usize = 120_000;

/// Runs a function of an answer against tests.
pub(super) struct PythonChecker {
    prompt: String,
    entry_point: String,
    test: String,
    limits: Limits,
}

impl PythonChecker {
    pub(super) fn read(keys: &mut Keys) -> Result<Self> {
        let mut field = |key: &'static str| Ok::<_, TaskError>(keys.text(key)?.unwrap_or_else(|| key.to_owned()));
        let (prompt, entry_point, test) = (field("prompt")?, field("entry_point")?, field("test")?);
        let seconds = keys.float("seconds")?.unwrap_or(3.0);
        if !(0.1..=3600.0).contains(&seconds) {
            return Err(keys.wrong("seconds", "give a number from 0.1 to 3600"));
        }
        let limits = Limits { time: Duration::from_secs_f64(seconds), ..Limits::default() };
        Ok(Self { prompt, entry_point, test, limits })
    }

    fn one(&self, function: &Sandbox, tests: &Sandbox, case: &Case) -> Result<bool> {
        let field = |name: &str| {
            case.document.get(name).and_then(|value| value.as_str()).ok_or_else(|| TaskError::Checker {
                command: "python".to_owned(),
                problem: format!("needs the field `{name}` of the document; name another one in `checker:`"),
            })
        };
        let (prompt, entry_point) = (field(&self.prompt)?, field(&self.entry_point)?);
        let program = program(prompt, entry_point, case.answer);
        let asked =
            json!({ "prompt": prompt, "program": program, "entry_point": entry_point, "test": field(&self.test)? });
        let asked = asked.to_string();
        if asked.len() > LONGEST {
            return Ok(false);
        }
        let failed = |error| TaskError::Sandbox(format!("a pipe cannot be made: {error}"));
        let ((calls_out, calls_in), (results_out, results_in)) = (pipe().map_err(failed)?, pipe().map_err(failed)?);
        let python = |driver| ["python3", "-I", "-S", "-c", driver];
        let side = function.start(&python(FUNCTION), Stdio::from(calls_out), Stdio::from(results_in))?;
        let words = [&python(TESTS)[..], &[asked.as_str()]].concat();
        let verdict = tests.start(&words, Stdio::from(results_out), Stdio::from(calls_in))?.wait()?;
        drop(side);
        Ok(verdict.status.and_then(|status| status.code()) == Some(PASSED))
    }
}

impl Checker for PythonChecker {
    fn check(&self, cases: &[Case]) -> Result<Vec<f64>> {
        if cases.is_empty() {
            return Ok(Vec::new());
        }
        let function = Sandbox::new(self.limits, None)?;
        let tests = Sandbox::new(Limits { time: self.limits.time + Duration::from_secs(1), ..self.limits }, None)?;
        if !function.run(&["python3", "-I", "-S", "-c", "pass"], b"")?.success() {
            let problem = "Python programs are checked with /usr/bin/python3, which does not run here; install the package \
                           `python3`";
            return Err(TaskError::Sandbox(problem.to_owned()));
        }
        let workers = std::thread::available_parallelism().map_or(1, usize::from).min(cases.len());
        let next = AtomicUsize::new(0);
        let work = || {
            let mut done = Vec::new();
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(case) = cases.get(at) else { return done };
                done.push((at, self.one(&function, &tests, case)));
            }
        };
        let mut verdicts: Vec<(usize, Result<bool>)> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap_or_default()).collect()
        });
        verdicts.sort_by_key(|(at, _)| *at);
        verdicts.into_iter().map(|(_, verdict)| verdict.map(|right| f64::from(u8::from(right)))).collect()
    }
}

/// The program of an answer. An answer that continues the prompt follows it. If the answer has a block of code between
/// fences, the block counts: alone if it defines the function, otherwise behind the prompt.
pub(super) fn program(prompt: &str, entry_point: &str, answer: &str) -> String {
    let Some((_, after)) = answer.split_once("```") else { return format!("{prompt}{answer}") };
    let opened = answer.trim_start().starts_with("```") || after.contains("```");
    if !opened {
        // A fence that only ends: what stands before it continues the prompt.
        let before = answer.split("```").next().unwrap_or_default();
        return format!("{prompt}{before}");
    }
    let code = after.split("```").next().unwrap_or_default();
    let code = code.strip_prefix("python").or_else(|| code.strip_prefix("py")).unwrap_or(code);
    let code = code.strip_prefix('\n').unwrap_or(code);
    let defines = code.lines().any(|line| line.starts_with(&format!("def {entry_point}(")));
    // Imports that stand before the function in the prompt stay in force.
    let head = prompt.split("\ndef ").next().unwrap_or_default();
    if defines { format!("{}\n{code}", if head == prompt { "" } else { head }) } else { format!("{prompt}{code}") }
}

#[cfg(test)]
mod tests;
