//! Loss and bits per byte on windows of held-out text.

use hadal_base::{IoContext, atomic};
use hadal_data::{EvalSet, EvalWindow};
use hadal_model::{Input, Model, Segment};
use hadal_ops::Cx;
use hadal_watch::metrics::Validation;
use hadal_watch::plot::{self, PlotError};
use std::path::Path;

/// Number of full windows whose tokens are processed together ...
const WINDOWS: usize = 8;
/// ... and the limit in tokens, so that memory does not grow with the window. A longer window is processed alone.
const TOKENS: usize = 2048;

/// Summed loss and number of targets at one place of the window.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct AtPosition {
    /// Sum of the losses in nats.
    pub loss: f64,
    /// Number of targets.
    pub targets: u64,
}

/// Mean loss of the scored tokens, and bits per byte of the text. `each` receives (windows done, number of windows). If
/// it returns false, the evaluation ends and the numbers are NaN.
pub fn evaluate(cx: &Cx, model: &Model, set: &EvalSet, each: &mut dyn FnMut(usize, usize) -> bool) -> Validation {
    evaluate_by_position(cx, model, set, each).0
}

/// Like [`evaluate`], but also returns the losses by the target's place in its window, which shows the value of a
/// longer context.
pub fn evaluate_by_position(
    cx: &Cx,
    model: &Model,
    set: &EvalSet,
    each: &mut dyn FnMut(usize, usize) -> bool,
) -> (Validation, Vec<AtPosition>) {
    let mut places = vec![AtPosition::default(); set.seq_len()];
    let mut total = 0.0;
    let whole = each_input(cx, set, &mut |input, done| {
        let (losses, _) = model.losses(cx, input, None, false, None);
        let targets = input.targets.ids.i32().iter().zip(input.positions.i32());
        for (loss, (target, at)) in losses.f32().iter().zip(targets) {
            total += f64::from(*loss);
            let place = &mut places[*at as usize];
            place.loss += f64::from(*loss);
            place.targets += u64::from(*target >= 0);
        }
        each(done, set.windows.len())
    });
    if !whole {
        total = f64::NAN;
    }
    let mean = Validation {
        loss: total / set.scored.max(1) as f64,
        bits_per_byte: set.bits_per_byte(total),
        ..Validation::default()
    };
    (mean, places)
}

/// Number of stretches of a window for which mean losses are reported.
const STRETCHES: usize = 32;

/// Mean loss in a stretch of the window.
pub struct Stretch {
    /// First place.
    pub from: usize,
    /// The place after the last.
    pub to: usize,
    /// Mean loss, in nats per token.
    pub loss: f64,
    /// Number of targets in it.
    pub targets: u64,
}

impl Stretch {
    /// The middle of the stretch.
    pub fn middle(&self) -> f64 {
        (self.from + self.to) as f64 / 2.0
    }
}

/// Divides the window into `STRETCHES` parts. Those for which no document is long enough are left out.
pub fn by_place(places: &[AtPosition]) -> Vec<Stretch> {
    let size = places.len().div_ceil(STRETCHES);
    let stretch = |(i, part): (usize, &[AtPosition])| {
        let (loss, targets) = part.iter().fold((0.0, 0), |(l, t), p| (l + p.loss, t + p.targets));
        let (from, loss) = (i * size, loss / targets as f64);
        (targets > 0).then_some(Stretch { from, to: from + part.len(), loss, targets })
    };
    places.chunks(size).enumerate().filter_map(stretch).collect()
}

/// Writes the mean loss by place in the window to `by_position.jsonl` and `by_position.svg` in `folder`.
pub fn write_by_place(folder: &Path, title: &str, places: &[AtPosition]) -> Result<(), PlotError> {
    std::fs::create_dir_all(folder).at("create", folder)?;
    let stretches = by_place(places);
    let line = |s: &Stretch| {
        let perplexity = s.loss.exp();
        serde_json::json!({"from": s.from, "to": s.to, "loss": s.loss, "perplexity": perplexity, "tokens": s.targets})
            .to_string()
            + "\n"
    };
    let lines: String = stretches.iter().map(line).collect();
    atomic::write_file(&folder.join("by_position.jsonl"), lines.as_bytes())?;
    let points = stretches.iter().map(|s| (s.middle(), s.loss)).collect();
    plot::by_position(&folder.join("by_position.svg"), title, &[("", points)])
}

/// Passes the windows of `set` to `run`, as many at a time as fit, each as a segment of its own length. `run` also
/// receives the number of windows done after them. It stops if `run` returns false, and then returns false itself.
pub fn each_input(cx: &Cx, set: &EvalSet, run: &mut dyn FnMut(&Input, usize) -> bool) -> bool {
    let room = (WINDOWS * set.seq_len()).min(TOKENS);
    let (mut input, mut done) = (Input::new(cx, 0), 0);
    while let Some(first) = set.windows.get(done) {
        let mut tokens = first.inputs();
        let more = set.windows[done + 1..].iter().map(EvalWindow::inputs).take_while(|len| {
            tokens += len;
            tokens <= room
        });
        let windows = &set.windows[done..=done + more.count()];
        // Tokens before the first scored target have no weight.
        let weights: Vec<Option<Vec<f32>>> = windows.iter().map(unscored).collect();
        input.set(windows.iter().zip(&weights).map(|(window, weights)| {
            let weights = weights.as_deref();
            Segment { weights, ..Segment::to_predict(set.tokens(window)) }
        }));
        done += windows.len();
        if !run(&input, done) {
            return false;
        }
    }
    true
}

/// Weights of a window's tokens as targets. `None` if all count.
fn unscored(window: &EvalWindow) -> Option<Vec<f32>> {
    let first = window.first_scored();
    (first > 0).then(|| (0..=window.inputs()).map(|token| if token <= first { 0.0 } else { 1.0 }).collect())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use hadal_data::tokenizer::TrainOptions;
    use hadal_data::{Document, EvalOptions, Tokenizer};
    use hadal_model::Fresh;
    use hadal_ops::DType;
    use hadal_weights::ModelConfig;
    use hadal_weights::precision::Precision;

    /// A small configuration, and windows of at most `seq_len` tokens over texts. The tokenizer has the configuration's
    /// size and is trained on the texts.
    pub(crate) fn windows(texts: &[&str], seq_len: usize, overlap: usize) -> (ModelConfig, EvalSet) {
        let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/../model/tests/fixtures/mtp2/config.json");
        let mut config = ModelConfig::from_file(fixture).unwrap();
        let document = Document { id: "a".into(), group: "a".into(), text: texts.join("\n") };
        let options = TrainOptions { vocab_size: 300, ..TrainOptions::default() };
        let (tokenizer, _) = Tokenizer::train(&[document], &options).unwrap();
        config.vocab_size = config.vocab_size.max(tokenizer.vocab_size());
        (config, EvalSet::of_texts(texts, &tokenizer, EvalOptions { seq_len, overlap, bos: true }).unwrap())
    }

    /// Windows of different lengths are processed together. Each has exactly the same losses and places as when it is
    /// processed alone.
    #[test]
    fn windows_together_are_as_windows_alone() {
        let texts =
            ["a text of some forty bytes, more or less, and then some more of it", "short", "", "and a third one", "x"];
        let (config, set) = windows(&texts.repeat(9), 24, 5);
        let cx = Cx::cpu(2, DType::Bf16);
        let model = Model::fresh(&cx, &config, Precision::COMPUTE, Fresh { seed: 1, std: 0.1 });
        let mut done = Vec::new();
        let (found, places) = evaluate_by_position(&cx, &model, &set, &mut |n, all| {
            assert_eq!(all, set.windows.len());
            done.push(n);
            true
        });
        assert!(done.len() > 1 && done.is_sorted() && done.last() == Some(&set.windows.len()), "{done:?}");
        let (mut total, mut alone) = (0.0, vec![AtPosition::default(); 24]);
        for window in &set.windows {
            let weights = unscored(window);
            let mut input = Input::new(&cx, 0);
            let weights = weights.as_deref();
            input.set([Segment { weights, ..Segment::to_predict(set.tokens(window)) }].into_iter());
            let (losses, _) = model.losses(&cx, &input, None, false, None);
            for ((loss, target), place) in losses.f32().iter().zip(input.targets.ids.i32()).zip(&mut alone) {
                total += f64::from(*loss);
                place.loss += f64::from(*loss);
                place.targets += u64::from(*target >= 0);
            }
        }
        assert_eq!(found.loss, total / set.scored as f64);
        assert_eq!(places, alone);
        assert_eq!(places.iter().map(|p| p.targets).sum::<u64>(), set.scored);
        let stopped = evaluate(&cx, &model, &set, &mut |_, _| false);
        assert!(stopped.loss.is_nan());
    }
}
