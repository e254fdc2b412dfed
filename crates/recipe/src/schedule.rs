//! Everything that changes during a run, as pure functions of the tokens seen (report section 4.2).
//!
//! Nothing here has state, so a run that stops and resumes gets the same values. A step that begins at `t` tokens takes
//! its batch size, bias-update step and MTP weight at `t`. It takes its learning rate at the end of its batch. So the
//! rate of the first step is not zero, and a warm-up of n steps reaches the peak in step n.
//!
//! ```text
//! lr(t)    = peak * min(1, t / warmup) while warming up, then the phase t lies in
//! cosine   = end + (start - end) * (1 + cos(pi * x)) / 2,   x in [0, 1] through the phase
//! batch(t) = from + (to - from) * t / over, in whole micro-batches
//! ```

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use crate::recipe::Shape;

/// One phase of the learning rate, in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// Tokens seen at the end of the phase.
    pub end: u64,
    pub shape: Shape,
    /// Learning rate at the end of the phase.
    pub lr: f64,
}

/// The batch size over the run, in sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchRamp {
    pub from: u64,
    pub to: u64,
    /// Tokens after which `to` is reached; 0 without a ramp.
    pub over: u64,
    /// The size is a multiple of this.
    pub micro_batch: u64,
    /// Tokens per sequence.
    pub seq_len: u64,
}

impl BatchRamp {
    /// Sequences in the step that begins after `tokens`.
    pub fn sequences(&self, tokens: u64) -> u64 {
        if tokens >= self.over {
            return self.to;
        }
        // Computed in u128: for larger runs, sequences times tokens would exceed u64.
        let grown = u128::from(self.to - self.from) * u128::from(tokens) / u128::from(self.over);
        let n = self.from + grown as u64;
        (n - n % self.micro_batch).max(self.micro_batch)
    }

    /// Tokens in the step that begins after `tokens`.
    pub fn step_tokens(&self, tokens: u64) -> u64 {
        self.sequences(tokens) * self.seq_len
    }

    /// Tokens seen after `steps` steps.
    pub fn tokens_after(&self, steps: u64) -> u64 {
        let (mut t, mut left) = (0, steps);
        while left > 0 && t < self.over {
            t += self.step_tokens(t);
            left -= 1;
        }
        t + left * self.to * self.seq_len
    }

    /// Number of steps needed to see at least `tokens`.
    pub fn steps_for(&self, tokens: u64) -> u64 {
        let (mut t, mut steps) = (0, 0);
        while t < tokens && t < self.over {
            t += self.step_tokens(t);
            steps += 1;
        }
        steps + tokens.saturating_sub(t).div_ceil(self.to * self.seq_len)
    }
}

/// A constant that changes once: `early` until `until` tokens, then `late`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Switch {
    pub early: f64,
    pub until: u64,
    pub late: f64,
}

impl Switch {
    /// The value for a step that begins after `tokens`.
    pub fn at(&self, tokens: u64) -> f64 {
        if tokens < self.until { self.early } else { self.late }
    }
}

/// A run's schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// The run ends with the first step that reaches this number.
    pub total_tokens: u64,
    pub peak_lr: f64,
    pub warmup_tokens: u64,
    pub phases: Vec<Phase>,
    pub batch: BatchRamp,
    /// Step size of the router's bias update.
    pub gamma: Switch,
    /// Weight of the MTP losses. It multiplies their mean over the depths.
    pub mtp_weight: Switch,
}

/// The values that one step uses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepPlan {
    pub sequences: u64,
    /// Tokens in the step.
    pub tokens: u64,
    pub lr: f64,
    pub gamma: f64,
    pub mtp_weight: f64,
}

impl Schedule {
    /// Learning rate after `tokens`.
    pub fn lr(&self, tokens: u64) -> f64 {
        let warm = if tokens < self.warmup_tokens { tokens as f64 / self.warmup_tokens as f64 } else { 1.0 };
        warm * self.phase_lr(tokens)
    }

    fn phase_lr(&self, tokens: u64) -> f64 {
        let (mut begin, mut from) = (0, self.peak_lr);
        for p in &self.phases {
            // The end of a phase belongs to the phase: the last step of a cosine reaches its end.
            if tokens <= p.end {
                let x = (tokens - begin) as f64 / (p.end - begin).max(1) as f64;
                return match p.shape {
                    Shape::Constant => p.lr,
                    Shape::Linear => from + (p.lr - from) * x,
                    Shape::Cosine => p.lr + (from - p.lr) * 0.5 * (1.0 + (PI * x).cos()),
                };
            }
            (begin, from) = (p.end, p.lr);
        }
        from
    }

    /// The step that begins after `tokens`; `None` when the run is over.
    pub fn step(&self, tokens: u64) -> Option<StepPlan> {
        (tokens < self.total_tokens).then(|| {
            let step_tokens = self.batch.step_tokens(tokens);
            StepPlan {
                sequences: self.batch.sequences(tokens),
                tokens: step_tokens,
                lr: self.lr(tokens + step_tokens),
                gamma: self.gamma.at(tokens),
                mtp_weight: self.mtp_weight.at(tokens),
            }
        })
    }

    /// Number of steps of the whole run.
    pub fn total_steps(&self) -> u64 {
        self.batch.steps_for(self.total_tokens)
    }
}

/// How often something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Every {
    Steps(u64),
    Tokens(u64),
}

impl Every {
    /// True if a step crossed a multiple. The step went from `before` to `after` tokens and has the number `step`,
    /// counted from 1.
    pub fn is_due(self, step: u64, before: u64, after: u64) -> bool {
        match self {
            Self::Steps(n) => step.is_multiple_of(n.max(1)),
            Self::Tokens(n) => after / n.max(1) > before / n.max(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Plan;
    use crate::recipe::Recipe;

    const T: f64 = 1e12;

    fn report() -> Schedule {
        Plan::new(&Recipe::load("deepseek-v3", &[]).unwrap(), None).unwrap().schedule
    }

    fn close(got: f64, want: f64) {
        assert!((got - want).abs() <= 1e-12 + 1e-9 * want.abs(), "{got} instead of {want}");
    }

    #[test]
    fn the_reports_learning_rates() {
        let s = report();
        let lr = |t: f64| s.lr(t.round() as u64);
        assert_eq!(s.total_tokens, 14_800_000_000_000);
        close(lr(0.0), 0.0);
        close(s.lr(s.warmup_tokens / 2), 2.2e-4 * (s.warmup_tokens / 2) as f64 / s.warmup_tokens as f64);
        close(s.lr(s.warmup_tokens), 2.2e-4);
        close(lr(T), 2.2e-4);
        close(lr(10.0 * T), 2.2e-4);
        // Half way through the cosine: the mean of its ends.
        close(lr(12.15 * T), f64::midpoint(2.2e-4, 2.2e-5));
        close(lr(14.3 * T), 2.2e-5);
        close(lr(14.5 * T), 2.2e-5);
        close(lr(14.633 * T), 2.2e-5);
        close(lr(14.7 * T), 7.3e-6);
        close(lr(14.8 * T), 7.3e-6);
        close(lr(20.0 * T), 7.3e-6);
    }

    #[test]
    fn the_reports_warm_up_is_2000_steps_of_about_28b_tokens() {
        let s = report();
        assert_eq!(s.batch.tokens_after(2000), s.warmup_tokens);
        assert!((27.0e9..29.0e9).contains(&(s.warmup_tokens as f64)), "{}", s.warmup_tokens);
    }

    #[test]
    fn the_reports_batches() {
        let b = report().batch;
        assert_eq!(b.sequences(0), 3072);
        assert_eq!(b.sequences(469_000_000_000 / 2), 9216);
        assert_eq!(b.sequences(468_999_999_999), 15_359);
        assert_eq!(b.sequences(469_000_000_000), 15_360);
        assert_eq!(b.sequences(14_000_000_000_000), 15_360);
        assert_eq!(b.step_tokens(0), 3072 * 4096);
    }

    #[test]
    fn the_reports_switches() {
        let s = report();
        let at = |t: f64| s.step(t as u64).unwrap();
        close(at(9.9 * T).mtp_weight, 0.3);
        close(at(10.1 * T).mtp_weight, 0.1);
        close(at(14.2 * T).gamma, 0.001);
        close(at(14.4 * T).gamma, 0.0);
        let off = 1.0 - s.gamma.until as f64 / s.total_tokens as f64;
        assert!((off - 0.034).abs() < 0.001, "the bias update is off for {off} of the run");
    }

    #[test]
    fn steps_and_tokens_agree() {
        let s = report();
        for steps in [0, 1, 2, 2000, 12_000, 13_000, 200_000] {
            let t = s.batch.tokens_after(steps);
            assert_eq!(s.batch.steps_for(t), steps);
            assert_eq!(s.batch.steps_for(t + 1), steps + 1);
        }
        let mut t = 0;
        let mut n = 0;
        while let Some(step) = s.step(t) {
            t += step.tokens;
            n += 1;
        }
        assert_eq!(n, s.total_steps());
        assert!(t >= s.total_tokens && t - s.total_tokens < 15_360 * 4096);
    }

    #[test]
    fn the_first_step_moves_and_the_warm_up_ends_at_the_peak() {
        let s = report();
        assert!(s.step(0).unwrap().lr > 0.0);
        let before = s.batch.tokens_after(1999);
        close(s.step(before).unwrap().lr, 2.2e-4);
        assert!(s.step(s.batch.tokens_after(1998)).unwrap().lr < 2.2e-4);
    }

    #[test]
    fn any_length_has_the_same_shape() {
        let small = Plan::new(
            &Recipe::load("deepseek-v3", &["schedule.total_tokens=148M".into(), "schedule.warmup=0".into()]).unwrap(),
            None,
        )
        .unwrap()
        .schedule;
        let full = report();
        for i in 20..=148 {
            close(small.lr(i * 1_000_000), full.lr(i * 100_000_000_000));
        }
    }

    #[test]
    fn events_fall_on_multiples() {
        assert!(Every::Tokens(100).is_due(3, 90, 100));
        assert!(Every::Tokens(100).is_due(3, 90, 310));
        assert!(!Every::Tokens(100).is_due(3, 100, 199));
        assert!(Every::Steps(4).is_due(8, 0, 0));
        assert!(!Every::Steps(4).is_due(9, 0, 0));
    }
}
