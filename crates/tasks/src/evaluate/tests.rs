//! Evaluations of a small model: against requests one at a time, stopped and continued, repeated, compared, and as a page.

#[path = "../../../serve/src/tests/tiny.rs"]
pub(super) mod model;

use std::path::PathBuf;

use hadal_infer::{Engine, EngineOptions, Loaded, Score};
use hadal_weights::precision::RunFormats;

use super::*;
use crate::{Answer, Options};

/// The small model in a folder.
pub(super) mod tiny {
    pub(in crate::evaluate) use super::model::write;
    use super::{Loaded, RunFormats};
    use hadal_ops::{Cx, DType};
    use std::path::Path;

    pub(in crate::evaluate) fn open(folder: &Path) -> Loaded {
        Loaded::open(folder, None, RunFormats::default(), Cx::cpu(2, DType::F32)).unwrap()
    }
}

const SETTINGS: Settings = Settings { limit: None, begin: true, seed: 0, sequences: 4 };

/// A report, with a comparison if there is one.
fn report<'a>(
    model: &'a Model<'a>,
    suite: &'a Suite,
    evaluations: &'a [Evaluation],
    against: Option<Against<'a>>,
) -> Report<'a> {
    Report { model: &model.name, hash: model.hash(), suite, settings: &SETTINGS, evaluations, against }
}

/// A model and a folder for everything.
struct Bench {
    folder: tempfile::TempDir,
    loaded: Loaded,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("model")).unwrap();
        tiny::write(&folder.path().join("model"));
        let loaded = tiny::open(&folder.path().join("model"));
        Self { folder, loaded }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn model(&self) -> Model<'_> {
        Model::new(&self.loaded, "tiny", &self.path("model"), RunFormats::default()).unwrap()
    }

    /// A task with six questions.
    fn suite(&self, keys: &str, options: &Options) -> Suite {
        let rows = ["Ada", "[1, 2]", "<b>&amp;</b> <script>alert(1)</script>", "true", "é\u{202e}", "born"];
        let row = |(at, text): (usize, &&str)| {
            serde_json::json!({"q": text, "a": at % 2, "texts": [" null", " \"true\", [2]"]}).to_string() + "\n"
        };
        std::fs::write(self.path("data.jsonl"), rows.iter().enumerate().map(row).collect::<String>()).unwrap();
        let head =
            "task: small\ndataset_path: json\ndataset_kwargs: {data_files: {test: data.jsonl}}\ntest_split: test\n";
        std::fs::write(self.path("small.yaml"), format!("{head}{keys}")).unwrap();
        Suite::open(&self.path("small.yaml"), options).unwrap_or_else(|error| panic!("{error}"))
    }

    fn evaluate(&self, suite: &Suite, settings: &Settings, out: &str) -> Evaluation {
        let found = evaluate(&suite.tasks[0], &self.model(), settings, &self.path(out), &mut |_| {});
        found.unwrap_or_else(|error| panic!("{error}"))
    }

    /// The log-probabilities and ranks of some tokens behind others, alone in an engine.
    fn score(&self, ids: &[u32], from: usize) -> (f64, bool) {
        let (cx, model) = (&self.loaded.cx, &self.loaded.model);
        let mut engine = Engine::new(cx, model, EngineOptions::default());
        let scored = hadal_infer::score(cx, model, &mut engine, ids, Score { from, top: 0 }).unwrap();
        (scored.iter().map(|t| f64::from(t.logprob)).sum(), scored.iter().all(|t| t.rank == 0))
    }
}

const CHOICES: &str = "output_type: multiple_choice\ndoc_to_text: \"{{q}}:\"\ndoc_to_target: a\ndoc_to_choice: texts\n\
                       target_delimiter: \"\"\nmetric_list: [{metric: acc}, {metric: acc_norm}]\n";
const TEXTS: &str = "doc_to_text: \"{{q}}:\"\ndoc_to_target: \"{{texts[a]}}\"\ngeneration_kwargs: {until: [\"}\"], \
                     max_gen_toks: 12}\n";
const PAGES: &str = "output_type: loglikelihood_rolling\ndoc_to_text: \"\"\ndoc_to_target: q\n";

#[test]
fn choices_have_the_bits_of_scores_alone() {
    let bench = Bench::new();
    let suite = bench.suite(CHOICES, &Options::default());
    let found = bench.evaluate(&suite, &SETTINGS, "out");
    assert_eq!((found.asked, found.reused, found.answered.len()), (12, 0, 6));
    for (one, row) in found.answered.iter().zip(suite.tasks[0].documents()) {
        for (answer, text) in one.answers.iter().zip(["null", "\"true\", [2]"]) {
            let context = bench.loaded.prompt(&format!("{}:", row.fields["q"].as_str().unwrap()), false);
            let whole = bench.loaded.prompt(&format!("{}: {text}", row.fields["q"].as_str().unwrap()), false);
            let (logprob, greedy) = bench.score(&whole, context.len());
            assert_eq!(answer[0], Answer::Likelihood { logprob, greedy });
        }
    }
    let pages = bench.suite(PAGES, &Options::default());
    let found = bench.evaluate(&pages, &SETTINGS, "out");
    for (one, row) in found.answered.iter().zip(pages.tasks[0].documents()) {
        let ids = bench.loaded.prompt(row.fields["q"].as_str().unwrap(), false);
        assert_eq!(one.answers[0][0], Answer::Rolling(bench.score(&ids, 1).0));
    }
}

#[test]
fn texts_do_not_depend_on_company_and_end_at_stop_strings() {
    let bench = Bench::new();
    let suite = bench.suite(TEXTS, &Options::default());
    let found = bench.evaluate(&suite, &SETTINGS, "out");
    let one = bench.evaluate(&suite, &Settings { sequences: 1, ..SETTINGS }, "alone");
    for (a, b) in found.answered.iter().zip(&one.answered) {
        assert_eq!(a.answers, b.answers);
        assert!(!a.answers[0][0].text().contains('}'));
    }
    let texts: std::collections::HashSet<&str> = found.answered.iter().map(|a| a.answers[0][0].text()).collect();
    assert!(texts.len() > 3, "{texts:?}");
}

#[test]
fn an_evaluation_that_was_killed_goes_on_where_it_was() {
    let bench = Bench::new();
    let suite = bench.suite(CHOICES, &Options::default());
    let whole = bench.evaluate(&suite, &SETTINGS, "whole");
    let model = bench.model();
    let stop = std::panic::AssertUnwindSafe(|| {
        evaluate(&suite.tasks[0], &model, &SETTINGS, &bench.path("out"), &mut |at| {
            assert!(at.done < 5, "killed");
        })
    });
    assert!(std::panic::catch_unwind(stop).is_err());
    // The last line is cut short as well.
    let file = std::fs::read_dir(bench.path("out")).unwrap().next().unwrap().unwrap().path();
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() - 9]).unwrap();
    let mut seen = Vec::new();
    let found = evaluate(&suite.tasks[0], &model, &SETTINGS, &bench.path("out"), &mut |at| seen.push(at)).unwrap();
    assert_eq!((found.reused, found.asked), (4, 8));
    assert_eq!(seen.first(), Some(&Progress { done: 5, all: 12 }));
    assert_eq!(seen.last(), Some(&Progress { done: 12, all: 12 }));
    assert!(found.notes[0].contains("1 damaged"), "{:?}", found.notes);
    assert_eq!(found.outcome.totals, whole.outcome.totals);
    let again = bench.evaluate(&suite, &SETTINGS, "out");
    assert_eq!((again.reused, again.asked), (12, 0));
    for (a, b) in again.answered.iter().zip(&whole.answered) {
        assert_eq!(a.answers, b.answers);
    }
    // A shorter evaluation needs nothing new. Other settings, another task and another model do.
    let limited = Settings { limit: Some(2), ..SETTINGS };
    assert_eq!((bench.evaluate(&suite, &limited, "out").asked, bench.evaluate(&suite, &limited, "out").reused), (0, 4));
    assert_eq!(bench.evaluate(&suite, &Settings { begin: false, ..limited }, "out").asked, 4);
    let other = bench.suite(&CHOICES.replace("{{q}}:", "{{q}}?"), &Options::default());
    assert_eq!(bench.evaluate(&other, &limited, "out").asked, 4);
    std::fs::write(bench.path("model/generation_config.json"), "{}").unwrap();
    assert_eq!(bench.evaluate(&suite, &limited, "out").asked, 4);
}

#[test]
fn repeats_give_shares_of_the_answers() {
    let bench = Bench::new();
    let options = Options { repeats: Some(4), temperature: Some(1.0), ..Options::default() };
    let keys = format!("{TEXTS}checker: {{name: contains}}\n").replace("\"{{texts[a]}}\"", "\"1\"");
    let suite = bench.suite(&keys, &options);
    let found = bench.evaluate(&suite, &SETTINGS, "out");
    let texts: Vec<Vec<&str>> =
        found.answered.iter().map(|one| one.answers[0].iter().map(Answer::text).collect()).collect();
    assert!(texts.iter().all(|texts| texts.len() == 4) && texts.iter().any(|texts| texts[0] != texts[1]), "{texts:?}");
    let right: Vec<Vec<bool>> = texts
        .iter()
        .map(|t| t.iter().map(|t| suite.tasks[0].rewards(&[(0, (*t).to_owned())]).unwrap()[0] == 1.0).collect())
        .collect();
    let figure = |name: &str| found.figures.iter().find(|f| f.metric == name).unwrap_or_else(|| panic!("{name}"));
    let share = |f: &dyn Fn(&Vec<bool>) -> f64| right.iter().map(f).sum::<f64>() / 6.0;
    let count = |verdicts: &Vec<bool>| verdicts.iter().filter(|right| **right).count() as f64;
    assert!((figure("avg@4").value - share(&|v| count(v) / 4.0)).abs() < 1e-12);
    assert!((figure("correct").value - figure("avg@4").value).abs() < 1e-12);
    // Of the 6 pairs of 4 answers, those without a right one.
    let pairs = |v: &Vec<bool>| 1.0 - (4.0 - count(v)) * (3.0 - count(v)) / 12.0;
    assert!((figure("pass@2").value - share(&pairs)).abs() < 1e-12);
    assert!((figure("pass@4").value - share(&|v| f64::from(u8::from(count(v) > 0.0)))).abs() < 1e-12);
    assert!((0.0..=1.0).contains(&figure("maj@4").value));
    // The seed decides.
    let texts = |seed, out: &str| {
        let found = bench.evaluate(&suite, &Settings { seed, ..SETTINGS }, out);
        found.answered.into_iter().map(|one| one.answers).collect::<Vec<_>>()
    };
    assert_eq!(texts(0, "again"), texts(0, "out"));
    assert_ne!(texts(0, "again"), texts(1, "again"));
    // Without sampling all answers are the same.
    let greedy = Options { repeats: Some(3), ..Options::default() };
    let found = bench.evaluate(&bench.suite(TEXTS, &greedy), &SETTINGS, "out");
    assert!(found.answered.iter().all(|one| one.answers[0].len() == 3 && one.answers[0][0] == one.answers[0][2]));
    // Kept answers do for another number of repeats.
    for repeats in [2, 5] {
        let options = Options { repeats: Some(repeats), ..Options::default() };
        let again = bench.evaluate(&bench.suite(TEXTS, &options), &SETTINGS, "out");
        assert_eq!((again.asked, again.answered.len()), (0, 6));
        for (one, before) in again.answered.iter().zip(&found.answered) {
            assert_eq!(one.answers, [vec![before.answers[0][0].clone(); repeats]]);
        }
    }
}

/// The majority counts by what is left of answers, whether a checker has judged them or a comparison.
#[test]
fn the_most_frequent_answer_decides() {
    let bench = Bench::new();
    let regex = "filter_list: [{name: word, filter: [{function: regex, regex_pattern: '(null|true)'}]}]\n";
    for more in ["", "checker: {name: contains}\n"] {
        let options = Options { repeats: Some(3), ..Options::default() };
        let suite = bench.suite(&format!("{TEXTS}{regex}{more}").replace("{{texts[a]}}", "null"), &options);
        let task = &suite.tasks[0];
        let answers = |texts: [&str; 3]| texts.map(|text| Answer::Text(text.to_owned())).to_vec();
        let all = [["true", "x null", "null y"], ["null", "true 1", "true 2"]];
        let answered: Vec<Answered> = all
            .iter()
            .enumerate()
            .map(|(document, texts)| Answered { document, answers: vec![answers(*texts)] })
            .collect();
        let outcome = task.score(&answered).unwrap();
        let figures = score::figures(task, &answered, &outcome).unwrap();
        let value = |name: &str| figures.iter().find(|figure| figure.metric == name).unwrap().value;
        assert_eq!((value("avg@3"), value("pass@3"), value("maj@3")), (0.5, 1.0, 0.5), "{more}");
        let verdicts = figures.iter().find(|figure| figure.metric == "maj@3").unwrap();
        assert_eq!(verdicts.values, [[1.0], [0.0]], "{more}");
    }
}

#[test]
fn a_model_compared_with_itself_differs_in_nothing() {
    let bench = Bench::new();
    let suite = bench.suite(CHOICES, &Options::default());
    let a = bench.evaluate(&suite, &SETTINGS, "out");
    for same in compare(&a, &a) {
        assert_eq!((same.difference, same.standard_error, same.interval), (0.0, Some(0.0), None));
    }
}

#[test]
fn a_difference_is_that_of_each_question() {
    let bench = Bench::new();
    let suite = bench.suite(CHOICES, &Options::default());
    let evaluation = |right: [bool; 6]| {
        let mut evaluation = bench.evaluate(&suite, &SETTINGS, "out");
        let values = right.map(|right| f64::from(u8::from(right)));
        evaluation.figures[0].values = values.map(|value| vec![value]).to_vec();
        evaluation.figures[0].value = values.iter().sum::<f64>() / 6.0;
        evaluation
    };
    let (good, bad) =
        (evaluation([true, true, true, true, false, true]), evaluation([true, false, true, false, true, false]));
    let found = &compare(&good, &bad)[0];
    // The differences are 0, 1, 0, 1, -1, 1.
    assert!((found.difference - 2.0 / 6.0).abs() < 1e-12 && (found.other - 0.5).abs() < 1e-12);
    let squares = 2.0 * (1.0f64 / 3.0).powi(2) + 3.0 * (2.0f64 / 3.0).powi(2) + (4.0f64 / 3.0).powi(2);
    assert!((found.standard_error.unwrap() - (squares / 5.0 / 6.0).sqrt()).abs() < 1e-12);
    let (low, high) = found.interval.unwrap();
    // Student's t with five degrees of freedom.
    assert!(((high - low) / 2.0 / found.standard_error.unwrap() - 2.5706).abs() < 1e-3);
}

#[test]
fn the_report_has_every_prompt_answer_and_score() {
    let bench = Bench::new();
    let suite = bench.suite(CHOICES, &Options::default());
    let evaluations = vec![bench.evaluate(&suite, &SETTINGS, "out")];
    let model = bench.model();
    let against = Some(Against { model: "other <model>", evaluations: &evaluations });
    let report = report(&model, &suite, &evaluations, against);
    let written = report.write(&bench.path("out"), true).unwrap();
    let page = std::fs::read_to_string(&written.pages[0]).unwrap();
    assert!(!page.contains("<script") && !page.contains("<b>") && !page.contains('\u{202e}'), "{page}");
    assert!(page.contains("\n&lt;b&gt;&amp;amp;&lt;/b&gt; &lt;script&gt;alert(1)&lt;/script&gt;:</pre>"), "{page}");
    assert!(page.contains("é\\u{202e}:"), "{page}");
    for one in &evaluations[0].answered {
        for answers in &one.answers {
            let Answer::Likelihood { logprob, .. } = answers[0] else { panic!() };
            assert!(page.contains(&format!("{logprob:.4}")), "{logprob}");
        }
    }
    assert_eq!(page.matches("<article").count(), 6);
    let results: serde_json::Value = serde_json::from_slice(&std::fs::read(&written.results).unwrap()).unwrap();
    let total = &evaluations[0].outcome.totals[0];
    assert_eq!(results["results"]["small"]["acc,none"], total.value);
    assert_eq!(results["results"]["small"]["acc_stderr,none"], total.standard_error.unwrap());
    assert_eq!(results["n-samples"]["small"], serde_json::json!({"original": 6, "effective": 6}));
    assert_eq!(results["against"]["differences"]["small"][0]["difference"], 0.0);
    for key in ["configs", "versions", "n-shot", "higher_is_better", "config", "group_subtasks"] {
        assert!(results[key].is_object(), "{key}");
    }
    let samples = std::fs::read_to_string(&written.samples[0]).unwrap();
    let lines: Vec<serde_json::Value> = samples.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 6);
    assert_eq!(lines[0]["arguments"]["gen_args_1"]["arg_1"], " \"true\", [2]");
    assert!(lines[3]["resps"][1][0][0].is_f64() && lines[3]["acc"].is_f64());
    let table = report.table();
    assert!(table.contains("small: 6 questions\n") && table.contains("difference from other <model>:"), "{table}");
}

#[test]
fn the_beginning_that_all_prompts_share_stands_on_the_page_once() {
    let bench = Bench::new();
    let long = "A word of welcome.".repeat(20);
    let keys = format!("{TEXTS}description: \"{long}\\n\"\n");
    let suite = bench.suite(&keys, &Options { max_tokens: Some(2), ..Options::default() });
    let evaluations = vec![bench.evaluate(&suite, &SETTINGS, "out")];
    let model = bench.model();
    let report = report(&model, &suite, &evaluations, None);
    let page = std::fs::read_to_string(&report.write(&bench.path("out"), false).unwrap().pages[0]).unwrap();
    assert_eq!(page.matches(&long).count(), 1);
    assert!(page.contains("<pre>\nAda:</pre>") && page.contains("<pre>\nborn:</pre>"));
}

#[test]
fn a_question_that_cannot_be_asked_is_named() {
    let bench = Bench::new();
    let suite = bench.suite(TEXTS, &Options { max_tokens: Some(100_000), ..Options::default() });
    let error = evaluate(&suite.tasks[0], &bench.model(), &SETTINGS, &bench.path("out"), &mut |_| {}).err().unwrap();
    let error = error.to_string();
    assert!(error.contains("task `small`, document 0") && error.contains("--max-new"), "{error}");
}
