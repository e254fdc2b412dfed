//! Answers of a model, kept in a file that grows line by line. So an evaluation that was stopped goes on where it was, and
//! one that is repeated asks nothing.
//!
//! A line is a JSON object: the numbers of document and request, a key, and the answer. The key stands for everything
//! that the answer depends on, except for the model, which the name of the file stands for. Each line begins with a
//! checksum of the rest. A line that is damaged or cut short is left out, and its question is asked again.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::task::Answer;
use hadal_base::IoContext;

/// The longest line. Longer ones are damaged.
const LONGEST: usize = 64 << 20;
/// What a line begins with. The checksum follows, in 16 digits.
const BEGIN: &[u8] = b"{\"sum\":\"";
/// What follows the checksum.
const AFTER: &[u8] = b"\",";

/// The answers in a file.
pub(super) struct Store {
    path: PathBuf,
    file: File,
    kept: HashMap<(usize, usize), (String, Vec<Answer>)>,
    /// Lines that could not be used.
    damaged: usize,
}

#[derive(Serialize, Deserialize)]
struct Line {
    document: usize,
    request: usize,
    key: String,
    answer: Kept,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kept {
    Texts(Vec<String>),
    Likelihood { logprob: f64, greedy: bool },
    Rolling(f64),
}

impl Store {
    /// Opens a file, or makes it.
    pub(super) fn open(path: &Path) -> Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).at("create", folder)?;
        }
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path).at("open", path)?;
        let (mut kept, mut damaged, mut whole) = (HashMap::new(), 0, true);
        let mut reader = BufReader::new(&file);
        let mut line = Vec::new();
        loop {
            line.clear();
            if read_line(&mut reader, &mut line).at("read", path)? == 0 {
                break;
            }
            whole = line.last() == Some(&b'\n');
            match parse(line.trim_ascii_end()) {
                Some(line) => drop(kept.insert((line.document, line.request), (line.key, answers(line.answer)))),
                None => damaged += 1,
            }
        }
        drop(reader);
        // What is written next begins a line of its own.
        if !whole {
            file.write_all(b"\n").at("write", path)?;
        }
        Ok(Self { path: path.to_owned(), file, kept, damaged })
    }

    /// The number of lines that could not be used.
    pub(super) fn damaged(&self) -> usize {
        self.damaged
    }

    /// The answer to a request, if the file has it under this key.
    pub(super) fn find(&self, document: usize, request: usize, key: u64) -> Option<&[Answer]> {
        let (kept, answers) = self.kept.get(&(document, request))?;
        (*kept == hex(key)).then_some(answers)
    }

    /// Adds an answer.
    pub(super) fn add(&mut self, document: usize, request: usize, key: u64, answers: &[Answer]) -> Result<()> {
        let answer = match answers {
            [Answer::Likelihood { logprob, greedy }] => Kept::Likelihood { logprob: *logprob, greedy: *greedy },
            [Answer::Rolling(logprob)] => Kept::Rolling(*logprob),
            texts => Kept::Texts(texts.iter().map(|text| text.text().to_owned()).collect()),
        };
        let line = Line { document, request, key: hex(key), answer };
        let body = serde_json::to_vec(&line).expect("a line has texts and numbers");
        let sum = hex(hadal_base::checksum(&body));
        // One write, so that other processes write whole lines before or behind it.
        let line = [BEGIN, sum.as_bytes(), AFTER, &body[1..], b"\n"].concat();
        Ok(self.file.write_all(&line).at("write", &self.path)?)
    }
}

/// Reads up to the end of a line. The rest of a line that is too long becomes a line of its own.
fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> std::io::Result<usize> {
    std::io::Read::take(&mut *reader, LONGEST as u64).read_until(b'\n', line)
}

fn parse(line: &[u8]) -> Option<Line> {
    let rest = line.strip_prefix(BEGIN)?;
    let (sum, rest) = rest.split_at_checked(16)?;
    let body = [b"{", rest.strip_prefix(AFTER)?].concat();
    if hex(hadal_base::checksum(&body)).as_bytes() != sum {
        return None;
    }
    serde_json::from_slice(&body).ok()
}

fn answers(kept: Kept) -> Vec<Answer> {
    match kept {
        Kept::Texts(texts) => texts.into_iter().map(Answer::Text).collect(),
        Kept::Likelihood { logprob, greedy } => vec![Answer::Likelihood { logprob, greedy }],
        Kept::Rolling(logprob) => vec![Answer::Rolling(logprob)],
    }
}

/// A number in 16 digits.
pub(super) fn hex(number: u64) -> String {
    format!("{number:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn texts(text: &str) -> Vec<Answer> {
        vec![Answer::Text(text.to_owned()), Answer::Text("b\n\"é\u{2028}".to_owned())]
    }

    fn filled(path: &Path) {
        let mut store = Store::open(path).unwrap();
        store.add(0, 0, 7, &texts("a")).unwrap();
        store.add(0, 1, 8, &[Answer::Likelihood { logprob: -0.1 - 1e-17, greedy: true }]).unwrap();
        store.add(3, 0, u64::MAX, &[Answer::Rolling(-1_234.567_890_123_456_7)]).unwrap();
    }

    #[test]
    fn answers_come_back_under_their_key_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/answers.jsonl");
        filled(&path);
        let store = Store::open(&path).unwrap();
        assert_eq!(store.find(0, 0, 7).unwrap(), texts("a"));
        assert_eq!(store.find(0, 1, 8).unwrap(), [Answer::Likelihood { logprob: -0.1 - 1e-17, greedy: true }]);
        assert_eq!(store.find(3, 0, u64::MAX).unwrap(), [Answer::Rolling(-1_234.567_890_123_456_7)]);
        assert_eq!((store.find(0, 0, 8), store.find(1, 0, 7), store.damaged()), (None, None, 0));
        // Every line can be read by any reader of JSON.
        for line in std::fs::read_to_string(&path).unwrap().lines() {
            assert!(serde_json::from_str::<serde_json::Value>(line).unwrap()["answer"].is_object());
        }
    }

    proptest! {
        #[test]
        fn what_is_damaged_is_never_an_answer(at in 0usize..10_000, bit in 0u32..8, cut in any::<bool>()) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("answers.jsonl");
            filled(&path);
            let mut bytes = std::fs::read(&path).unwrap();
            let at = at % bytes.len();
            if cut { bytes.truncate(at) } else { bytes[at] ^= 1 << bit }
            std::fs::write(&path, &bytes).unwrap();
            let mut store = Store::open(&path).unwrap();
            let all = [(0, 0, 7, texts("a")), (0, 1, 8, vec![Answer::Likelihood { logprob: -0.1 - 1e-17, greedy: true }]),
                (3, 0, u64::MAX, vec![Answer::Rolling(-1_234.567_890_123_456_7)])];
            let mut left = 0;
            for (document, request, key, answer) in &all {
                if let Some(found) = store.find(*document, *request, *key) {
                    prop_assert_eq!(found, &answer[..]);
                    left += 1;
                }
            }
            // A change hits one line. Where it makes or removes an end of line, it hits two of them.
            prop_assert!(cut || left >= 1);
            // What is added later is whole.
            store.add(9, 9, 1, &texts("z")).unwrap();
            let store = Store::open(&path).unwrap();
            prop_assert_eq!(store.find(9, 9, 1).unwrap(), texts("z"));
        }
    }
}
