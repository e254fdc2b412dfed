//! Random task files and data files: `fuzz_tasks [SECONDS] [SEED]`.
//!
//! Files are those of the tests and of the built-in benchmarks, with lines cut, doubled and exchanged, values replaced, and
//! bytes changed. Each must open, or be refused by an error that names it. What opens is asked and scored. A panic, an error
//! without a name, or one file that takes long ends the program with an error.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hadal_base::mix;
use hadal_tasks::suite::{BUILT_IN, Suite};
use hadal_tasks::{Answer, Answered, Options, Request, Task};

/// The longest that one file may take.
const LONGEST: Duration = Duration::from_secs(20);
/// Questions of a task that are asked.
const MOST: usize = 4;

/// Lines and values that are often wrong.
const PIECES: [&str; 36] = [
    "task: [a, b]",
    "group: g",
    "include: task.yaml",
    "include: [task.yaml, missing.yaml]",
    "num_fewshot: 2",
    "fewshot_config: {sampler: first_n, samples: [{question: a, answer: b}]}",
    "repeats: 3",
    "output_type: multiple_choice",
    "output_type: loglikelihood_rolling",
    "output_type: generate_until",
    "doc_to_choice: \"{{choices}}\"",
    "doc_to_choice: {a: b}",
    "doc_to_text: \"{{ question",
    "doc_to_text: \"{% for i in range(9999) %}{{ question }}{% endfor %}\"",
    "doc_to_text: 3",
    "doc_to_target: \"[1, 2]\"",
    "doc_to_target: !function utils.f",
    "generator: {family: sums, difficulty: 11}",
    "generator: {family: countdown, count: 3}",
    "checker: maths",
    "checker: {command: [\"true\"]}",
    "filter_list: [{name: a, filter: [{function: regex, regex_pattern: \"(a*)*b\"}]}]",
    "filter_list: [{name: a, filter: [{function: take_first_k, k: 9}, {function: majority_vote}]}]",
    "metric_list: [{metric: acc}, {metric: acc}]",
    "generation_kwargs: {until: [\"\"], max_gen_toks: 0, temperature: .nan}",
    "x: &a [*a]",
    "x: &a {b: &c [1, 2], d: *c}",
    "<<: {a: 1}",
    "? [a]",
    "--- ",
    "\t",
    ": ",
    "- - - -",
    "a: |\n  text",
    "\u{feff}",
    "a: \"\\ud800\"",
];

/// Random numbers.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(self.0)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

/// Changes a file.
fn change(numbers: &mut Numbers, text: &str) -> Vec<u8> {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for _ in 0..=numbers.below(4) {
        let at = numbers.below(lines.len());
        let piece = PIECES[numbers.below(PIECES.len())];
        match numbers.below(8) {
            0 if lines.len() > 1 => drop(lines.remove(at)),
            1 => lines.insert(at, lines[at].clone()),
            2 => {
                let other = numbers.below(lines.len());
                lines.swap(at, other);
            }
            3 => lines.insert(at, piece.to_owned()),
            4 => lines[at] = format!("{}{}", " ".repeat(numbers.below(6)), lines[at].trim_start()),
            5 => {
                let value = piece.split_once(": ").map_or(piece, |(_, value)| value);
                let key = lines[at].split_once(':').map_or("a", |(key, _)| key).to_owned();
                lines[at] = format!("{key}: {value}");
            }
            6 => lines[at] = lines[at].chars().rev().collect(),
            _ => lines[at].push_str(piece),
        }
    }
    let mut bytes = (lines.join("\n") + "\n").into_bytes();
    if numbers.below(4) == 0 {
        for _ in 0..=numbers.below(4) {
            let at = numbers.below(bytes.len());
            bytes[at] = numbers.next() as u8;
        }
    }
    if numbers.below(10) == 0 {
        bytes.truncate(numbers.below(bytes.len()));
    }
    bytes
}

/// The task files to begin with, with the data files beside them.
fn seeds(folder: &Path) -> Vec<String> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/harness");
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(fixtures).expect("the tests' files").map(|entry| entry.expect("a file").path()).collect();
    files.sort();
    let mut seeds: Vec<String> = BUILT_IN.iter().map(|(_, text)| (*text).to_owned()).collect();
    for file in files {
        let text = std::fs::read_to_string(&file).expect("text");
        if file.extension().is_some_and(|ending| ending == "yaml") {
            seeds.push(text.clone());
        }
        std::fs::write(folder.join(file.file_name().expect("a name")), text).expect("a file to write");
    }
    seeds
}

/// Asks the first questions of a task, and scores some answers.
fn ask(task: &Task) -> Result<(), String> {
    let mut answered = Vec::new();
    for document in 0..task.documents().len().min(MOST) {
        let requests = task.requests(document).map_err(|error| error.to_string())?;
        let answer = |request: &Request| match request {
            Request::Generate { .. } => Answer::Text("#### 5\n\\boxed{5} B".to_owned()),
            Request::Likelihood { .. } => Answer::Likelihood { logprob: -1.5, greedy: false },
            Request::Rolling { .. } => Answer::Rolling(-9.0),
        };
        let answers = requests.iter().map(|request| vec![answer(request); task.config().repeats.min(9)]).collect();
        answered.push(Answered { document, answers });
    }
    task.score(&answered).map(|_| ()).map_err(|error| error.to_string())
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let seconds = arguments.next().map_or(10, |text| text.parse().expect("a number of seconds"));
    let seed = arguments.next().map_or(1, |text| text.parse().expect("a seed"));
    let folder = std::env::temp_dir().join(format!("hadal-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let seeds = seeds(&folder);
    let data = std::fs::read_to_string(folder.join("arc.jsonl")).expect("data");
    let (mut numbers, end) = (Numbers(mix(seed)), Instant::now() + Duration::from_secs(seconds));
    let (mut files, mut opened, mut scored) = (0u64, 0u64, 0u64);
    let path = folder.join("task.yaml");
    while Instant::now() < end {
        let seed = numbers.below(seeds.len());
        let text = change(&mut numbers, &seeds[seed]);
        std::fs::write(&path, &text).expect("a file to write");
        let rows = change(&mut numbers, &data);
        std::fs::write(folder.join("arc.jsonl"), if numbers.below(2) == 0 { data.as_bytes() } else { &rows })
            .expect("a file to write");
        let start = Instant::now();
        let options = Options { data: Some(folder.clone()), ..Options::default() };
        match Suite::open(&path, &options) {
            Ok(suite) => {
                opened += 1;
                scored += suite.tasks.iter().flat_map(ask).count() as u64;
            }
            Err(error) => {
                let error = error.to_string();
                let named =
                    error.contains(&*folder.to_string_lossy()) || error.contains("built-in") || error.contains("task");
                assert!(named, "an error that names nothing: {error}\n{}", String::from_utf8_lossy(&text));
            }
        }
        files += 1;
        let took = start.elapsed();
        assert!(took < LONGEST, "{took:?} for\n{}", String::from_utf8_lossy(&text));
    }
    let _ = std::fs::remove_dir_all(&folder);
    println!("{files} task files, of which {opened} could be opened; {scored} tasks were scored");
}
