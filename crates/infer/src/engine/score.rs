//! Log-probabilities of prompts, from the rows of the engine's passes.

use super::{Engine, Event, Planned};
use crate::score::score_rows;
use hadal_model::Model;
use hadal_ops::{Cx, Tensor};

impl Engine {
    /// Gives `each` the log-probabilities that follow from the rows of a pass. `h` has the head's inputs of the planned
    /// rows.
    pub(super) fn score(
        &mut self,
        cx: &Cx,
        model: &Model,
        h: &Tensor,
        planned: &[Planned],
        each: &mut dyn FnMut(Event),
    ) {
        let mut row = 0;
        for p in planned {
            let s = &mut self.running[p.place];
            let first = row;
            row += p.end - s.computed;
            let Some(scoring) = s.scoring.take() else { continue };
            let (wanted, top) = scoring.in_pass(s.computed, p.end, s.prompt);
            if wanted.is_empty() {
                s.scoring = Some(scoring);
                continue;
            }
            let (id, from) = (s.id, first + wanted.start - 1 - s.computed);
            score_rows(cx, model, h, from, &s.tokens[wanted.clone()], top, &mut |tokens| {
                each(Event::Scored { id, tokens });
            });
            s.scoring = scoring.until(wanted.end, s.prompt);
        }
    }
}
