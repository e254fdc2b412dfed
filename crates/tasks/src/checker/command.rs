//! The user's own checker: a program in a sandbox that speaks JSON lines.
//!
//! It gets a line for each answer: `{"id": …, "answer": …, "target": …, "document": {…}}`. It answers each with
//! `{"id": …, "reward": NUMBER}`, in any order. The folder of the task file can be read inside, as `/task`, and is the
//! current folder.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Case, Checker};
use crate::error::{Result, TaskError};
use crate::sandbox::{Limits, Sandbox};
use crate::task::keys::Keys;

#[derive(Serialize)]
struct Line<'a> {
    id: &'a str,
    answer: &'a str,
    target: &'a str,
    document: &'a Value,
}

#[derive(Deserialize)]
struct Reply {
    id: String,
    reward: f64,
}

/// A checker that is a program.
pub(super) struct CommandChecker {
    words: Vec<String>,
    folder: PathBuf,
    limits: Limits,
}

impl CommandChecker {
    pub(super) fn read(keys: &mut Keys, words: Vec<String>) -> Result<Self> {
        if words.is_empty() {
            return Err(keys.wrong("command", "is empty; give the program and its arguments"));
        }
        let mut limits = Limits { output: 64 << 20, ..Limits::default() };
        if let Some(seconds) = keys.float("seconds")? {
            if !(0.1..=86_400.0).contains(&seconds) {
                return Err(keys.wrong("seconds", "give a number from 0.1 to 86400"));
            }
            limits.time = Duration::from_secs_f64(seconds);
        }
        if let Some(megabytes) = keys.count("megabytes")? {
            if !(16..=1 << 20).contains(&megabytes) {
                return Err(keys.wrong("megabytes", "give a number from 16 to 1048576"));
            }
            limits.memory = (megabytes as u64) << 20;
        }
        let folder = keys.place().file.parent().filter(|folder| !folder.as_os_str().is_empty());
        Ok(Self { words, folder: folder.map_or_else(|| PathBuf::from("."), PathBuf::from), limits })
    }

    fn wrong(&self, problem: String) -> TaskError {
        TaskError::Checker { command: self.words.join(" "), problem }
    }
}

impl Checker for CommandChecker {
    fn check(&self, cases: &[Case]) -> Result<Vec<f64>> {
        if cases.is_empty() {
            return Ok(Vec::new());
        }
        let sandbox = Sandbox::new(self.limits, Some(&self.folder))?;
        let mut input = Vec::new();
        for case in cases {
            let line = Line { id: &case.id, answer: case.answer, target: &case.target, document: case.document };
            serde_json::to_writer(&mut input, &line).map_err(|e| self.wrong(format!("cannot be asked: {e}")))?;
            input.push(b'\n');
        }
        let words: Vec<&str> = self.words.iter().map(String::as_str).collect();
        let ran = sandbox.run(&words, &input)?;
        let said = || {
            let text = String::from_utf8_lossy(&ran.stderr);
            let text = text.trim();
            if text.is_empty() { String::new() } else { format!("; it said: {}", hadal_base::short(text)) }
        };
        if ran.status.is_none() {
            let seconds = self.limits.time.as_secs_f64();
            return Err(self
                .wrong(format!("needs more than {seconds} seconds; give `seconds:` more, or speed it up{}", said())));
        }
        if !ran.success() {
            return Err(self.wrong(format!("ended with an error; run it by hand on one line{}", said())));
        }
        self.rewards(cases, &ran.stdout)
    }
}

impl CommandChecker {
    fn rewards(&self, cases: &[Case], output: &[u8]) -> Result<Vec<f64>> {
        let asked: HashMap<&str, usize> = cases.iter().enumerate().map(|(at, case)| (case.id.as_str(), at)).collect();
        let mut rewards: Vec<Option<f64>> = vec![None; cases.len()];
        for (number, line) in output.split(|b| *b == b'\n').enumerate() {
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let wrong = |problem: String| self.wrong(format!("wrote on line {}: {problem}", number + 1));
            let reply: Reply = serde_json::from_slice(line).map_err(|e| {
                wrong(format!(
                    "`{}`, but a line is {{\"id\": …, \"reward\": …}} ({e})",
                    hadal_base::short(&String::from_utf8_lossy(line))
                ))
            })?;
            let Some(at) = asked.get(reply.id.as_str()) else {
                return Err(wrong(format!("an id that was not asked for: `{}`", hadal_base::short(&reply.id))));
            };
            if rewards[*at].replace(reply.reward).is_some() {
                return Err(wrong(format!("a second reward for `{}`", reply.id)));
            }
        }
        let missing = |at: usize| self.wrong(format!("gave no reward for `{}`; answer every line", cases[at].id));
        rewards.into_iter().enumerate().map(|(at, reward)| reward.ok_or_else(|| missing(at))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(script: &str, answers: &[&str]) -> Option<std::result::Result<Vec<f64>, String>> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("check.sh"), script).unwrap();
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let words = vec!["sh".to_owned(), "check.sh".to_owned()];
        let limits = Limits { time: Duration::from_secs(3), ..Limits::default() };
        let checker = CommandChecker { words, folder: folder.path().to_owned(), limits };
        let document = Value::Null;
        let cases: Vec<Case> = answers
            .iter()
            .enumerate()
            .map(|(at, answer)| Case { id: at.to_string(), document: &document, target: "x".to_owned(), answer })
            .collect();
        match checker.check(&cases) {
            Err(TaskError::Sandbox(problem)) => {
                eprintln!("skipped: {problem}");
                None
            }
            other => Some(other.map_err(|error| error.to_string())),
        }
    }

    /// Answers each line with its id and 1 if the answer is `x`.
    const FAIR: &str = r#"while read -r line; do
        id=$(echo "$line" | sed 's/^{"id":"\([0-9]*\)".*/\1/')
        case "$line" in *'"answer":"x"'*) r=1;; *) r=0.25;; esac
        echo "{\"id\": \"$id\", \"reward\": $r}"
    done"#;

    #[test]
    fn each_answer_gets_its_reward() {
        let Some(rewards) = checked(FAIR, &["x", "y", "x"]) else { return };
        assert_eq!(rewards.unwrap(), [1.0, 0.25, 1.0]);
    }

    #[test]
    fn what_breaks_the_protocol_is_named() {
        for (script, problem) in [
            ("cat > /dev/null", "no reward for `0`"),
            ("echo '{\"id\": \"0\", \"reward\": 1}'; echo '{\"id\": \"0\", \"reward\": 1}'", "a second reward"),
            ("echo '{\"id\": \"7\", \"reward\": 1}'", "was not asked"),
            ("echo '{\"id\": \"0\", \"reward\": NaN}'", "line 1"),
            ("echo passed", "line 1"),
            ("echo oh no >&2; exit 4", "oh no"),
            ("sleep 60", "more than 3 seconds"),
        ] {
            let Some(result) = checked(script, &["x"]) else { return };
            let error = result.unwrap_err();
            assert!(error.contains(problem), "{script}: {error}");
        }
    }
}
