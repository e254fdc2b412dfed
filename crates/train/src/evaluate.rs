//! Loss and bits per byte on windows of held-out text.

use crate::metrics::Validation;
use hadal_data::EvalSet;
use hadal_model::{Input, Model};
use hadal_ops::Cx;

/// Most windows run together ...
const WINDOWS: usize = 8;
/// ... and most tokens, so that memory does not grow with the window.
const TOKENS: usize = 16_384;

/// Summed loss and number of the targets at one place of the window.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct AtPosition {
    /// Sum of the losses in nats.
    pub loss: f64,
    /// Targets.
    pub targets: u64,
}

/// Mean loss of the scored tokens and bits per byte of the text. `each` hears (windows done, windows) and ends the
/// evaluation early by returning false; the numbers are then NaN.
pub fn evaluate(cx: &Cx, model: &Model, set: &EvalSet, each: &mut dyn FnMut(usize, usize) -> bool) -> Validation {
    evaluate_by_position(cx, model, set, each).0
}

/// As [`evaluate`], and the losses by the target's place in its window: what a longer context is worth.
pub fn evaluate_by_position(
    cx: &Cx,
    model: &Model,
    set: &EvalSet,
    each: &mut dyn FnMut(usize, usize) -> bool,
) -> (Validation, Vec<AtPosition>) {
    let seq = set.seq_len();
    let mut places = vec![AtPosition::default(); seq];
    let mut total = 0.0;
    let whole = each_input(cx, set, &mut |input, done| {
        let (losses, _) = model.losses(cx, input, None, false, None);
        for (i, (loss, target)) in losses.f32().iter().zip(input.targets.i32()).enumerate() {
            total += f64::from(*loss);
            let place = &mut places[i % seq];
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

/// Hands the windows of `set` to `run`, some at a time, with the number of windows done after them, until it returns false;
/// says whether it never did. Rows without a target (-1) are padding.
pub(crate) fn each_input(cx: &Cx, set: &EvalSet, run: &mut dyn FnMut(&Input, usize) -> bool) -> bool {
    let seq = set.seq_len();
    let mut input = Input::new(cx, &vec![seq; (TOKENS / seq).clamp(1, WINDOWS)], 0);
    let mut done = 0;
    while done < set.windows.len() {
        done += set.fill(done, input.ids.i32_mut(), input.targets.i32_mut());
        if !run(&input, done) {
            return false;
        }
    }
    true
}
