//! Loss and bits per byte on windows of held-out text.

use crate::metrics::Validation;
use hadal_data::EvalSet;
use hadal_model::{Input, Model};
use hadal_ops::Cx;

/// Windows run together.
const WINDOWS: usize = 8;

/// Mean loss of the scored tokens and bits per byte of the text. `each` hears (windows done, windows) and ends the
/// evaluation early by returning false; the numbers are then NaN.
pub fn evaluate(cx: &Cx, model: &Model, set: &EvalSet, each: &mut dyn FnMut(usize, usize) -> bool) -> Validation {
    let seq = set.seq_len();
    let mut input = Input::new(cx, &[seq; WINDOWS], 0);
    let (mut total, mut from) = (0.0, 0);
    while from < set.windows.len() {
        from += set.fill(from, input.ids.i32_mut(), input.targets.i32_mut());
        let (losses, _) = model.losses(cx, &input, None, false, None);
        total += losses.f32().iter().map(|l| f64::from(*l)).sum::<f64>();
        if !each(from, set.windows.len()) {
            total = f64::NAN;
            break;
        }
    }
    Validation {
        loss: total / set.scored.max(1) as f64,
        bits_per_byte: set.bits_per_byte(total),
        ..Validation::default()
    }
}
