//! The watch on loss and gradient norm.
//!
//! The report had no loss spike from which it could not recover, but smaller runs with larger learning rates have some.
//! A step is compared with the last `window` accepted steps. The figures used are robust: a few outliers in the window
//! do not change them.
//!
//! ```text
//! gradient norm  >  grad_ratio * median(norms)
//! loss           >  median(losses) + loss_z * 1.4826 * median(|losses - median|)
//! ```
//!
//! The factor 1.4826 turns the median deviation of a normal distribution into its standard deviation. A value that is
//! NaN or infinite is always a spike. The watch decides before the weights change. It does not use a clock, and it is
//! saved with the checkpoint. So a resumed run decides alike.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use hadal_recipe::recipe::{Spike, SpikeAction};

/// Smallest spread of the loss that is used, relative to the loss. With a flat window, noise must not count as a spike.
const LEAST_SPREAD: f64 = 0.002;
/// Number of accepted steps that the watch needs before it judges.
const LEAST_STEPS: usize = 8;

/// What the trainer does with a step.
#[derive(Clone, Debug, PartialEq)]
pub enum Response {
    /// No spike.
    Normal,
    /// A spike that is only reported.
    Continue(String),
    /// Do not apply the gradients, and continue with the next batch.
    Skip(String),
    /// Go back to the last checkpoint and skip the data up to here.
    Rollback(String),
    /// Stop with this message: the recipe allows no further recovery, or none is possible.
    Stop(String),
}

/// The watch's state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SpikeWatch {
    losses: VecDeque<f64>,
    norms: VecDeque<f64>,
    /// Number of consecutive skipped steps.
    skips: u32,
    /// Number of rollbacks in the run.
    rollbacks: u32,
}

impl SpikeWatch {
    /// Judges a step before its gradients are applied to the weights.
    pub fn judge(&mut self, cfg: &Spike, step: u64, loss: f64, grad_norm: f64) -> Response {
        let finite = loss.is_finite() && grad_norm.is_finite();
        let judging = step > cfg.ignore_first && self.losses.len() >= LEAST_STEPS.min(cfg.window);
        let reason = if !finite {
            Some(format!("loss {loss}, gradient norm {grad_norm}"))
        } else if judging {
            self.reason(cfg, loss, grad_norm)
        } else {
            None
        };
        let Some(reason) = reason else {
            self.accept(cfg, loss, grad_norm);
            return Response::Normal;
        };
        let reason = format!("step {step}: {reason}");
        match cfg.action {
            SpikeAction::Continue if finite => {
                self.accept(cfg, loss, grad_norm);
                Response::Continue(reason)
            }
            // NaN or infinite gradients would ruin every weight, so the step can only be skipped.
            SpikeAction::Continue | SpikeAction::Skip => {
                self.skips += 1;
                if self.skips <= cfg.max_skips {
                    return Response::Skip(reason);
                }
                if finite {
                    self.skips = 0;
                    self.accept(cfg, loss, grad_norm);
                    return Response::Continue(format!("{reason}; used anyway after {} skipped steps", cfg.max_skips));
                }
                Response::Stop(format!("{reason}; {} steps before it were already skipped", cfg.max_skips))
            }
            SpikeAction::Rollback => {
                self.rollbacks += 1;
                if self.rollbacks <= cfg.max_rollbacks {
                    return Response::Rollback(reason);
                }
                Response::Stop(format!("{reason}; the run was already rolled back {} times", cfg.max_rollbacks))
            }
        }
    }

    /// Call this on the watch that was loaded with a rollback's checkpoint. `before` is the watch that asked for the
    /// rollback. Its count is kept; otherwise a run could roll back forever.
    pub fn after_rollback(&mut self, before: &Self) {
        self.rollbacks = before.rollbacks;
    }

    fn reason(&self, cfg: &Spike, loss: f64, grad_norm: f64) -> Option<String> {
        let norm = median(self.norms.iter().copied());
        if grad_norm > cfg.grad_ratio * norm {
            return Some(format!("gradient norm {grad_norm:.3} is {:.1} times the median", grad_norm / norm));
        }
        let middle = median(self.losses.iter().copied());
        let spread = 1.4826 * median(self.losses.iter().map(|l| (l - middle).abs()));
        let spread = spread.max(LEAST_SPREAD * middle.abs());
        let z = (loss - middle) / spread;
        (z > cfg.loss_z).then(|| format!("loss {loss:.4} is {z:.1} deviations above the median {middle:.4}"))
    }

    fn accept(&mut self, cfg: &Spike, loss: f64, grad_norm: f64) {
        self.skips = 0;
        for (window, value) in [(&mut self.losses, loss), (&mut self.norms, grad_norm)] {
            while window.len() >= cfg.window {
                window.pop_front();
            }
            window.push_back(value);
        }
    }
}

/// The middle value, or the mean of the two in the middle.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut v: Vec<f64> = values.collect();
    v.sort_by(f64::total_cmp);
    match v.len() {
        0 => 0.0,
        n if n % 2 == 1 => v[n / 2],
        n => f64::midpoint(v[n / 2 - 1], v[n / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cfg(action: SpikeAction) -> Spike {
        Spike { action, window: 32, ignore_first: 10, grad_ratio: 5.0, loss_z: 6.0, max_skips: 2, max_rollbacks: 1 }
    }

    /// A falling loss with some noise.
    fn calm(watch: &mut SpikeWatch, cfg: &Spike, steps: std::ops::RangeInclusive<u64>) {
        for s in steps {
            let noise = ((s * 7919) % 13) as f64 / 13.0 - 0.5;
            let v = watch.judge(cfg, s, 6.0 - 0.002 * s as f64 + 0.2 * noise, 1.0 + 0.3 * noise);
            assert_eq!(v, Response::Normal, "step {s}");
        }
    }

    #[test]
    fn a_calm_run_is_left_alone_and_a_jump_is_seen() {
        let c = cfg(SpikeAction::Continue);
        let mut w = SpikeWatch::default();
        calm(&mut w, &c, 1..=200);
        assert!(matches!(w.judge(&c, 201, 9.0, 1.0), Response::Continue(r) if r.contains("loss 9.0000")));
        assert!(matches!(w.judge(&c, 202, 5.6, 8.0), Response::Continue(r) if r.contains("gradient norm 8.000")));
        // A single outlier in the window does not hide the next one.
        assert!(matches!(w.judge(&c, 203, 9.0, 1.0), Response::Continue(_)));
    }

    #[test]
    fn the_first_steps_are_never_judged_unless_they_are_no_numbers() {
        let c = cfg(SpikeAction::Skip);
        let mut w = SpikeWatch::default();
        for s in 1..=10 {
            assert_eq!(w.judge(&c, s, 10f64.powi(s as i32 % 3), 1.0), Response::Normal);
        }
        assert!(matches!(w.judge(&c, 3, f64::NAN, 1.0), Response::Skip(_)));
    }

    #[test]
    fn skipping_has_a_limit_and_is_forgiven() {
        let c = cfg(SpikeAction::Skip);
        let mut w = SpikeWatch::default();
        calm(&mut w, &c, 1..=50);
        assert!(matches!(w.judge(&c, 51, 20.0, 1.0), Response::Skip(_)));
        assert_eq!(w.judge(&c, 52, 5.9, 1.0), Response::Normal);
        assert!(matches!(w.judge(&c, 53, 20.0, 1.0), Response::Skip(_)));
        assert!(matches!(w.judge(&c, 54, 20.0, 1.0), Response::Skip(_)));
        assert!(matches!(w.judge(&c, 55, 20.0, 1.0), Response::Continue(_)));
        assert!(matches!(w.judge(&c, 56, 5.9, f64::INFINITY), Response::Skip(_)));
        assert!(matches!(w.judge(&c, 57, 5.9, f64::INFINITY), Response::Skip(_)));
        assert!(matches!(w.judge(&c, 58, 5.9, f64::INFINITY), Response::Stop(_)));
    }

    #[test]
    fn rollbacks_are_counted_across_the_checkpoint() {
        let c = cfg(SpikeAction::Rollback);
        let mut w = SpikeWatch::default();
        calm(&mut w, &c, 1..=50);
        let mut saved: SpikeWatch = serde_json::from_str(&serde_json::to_string(&w).unwrap()).unwrap();
        assert_eq!(saved, w);
        assert!(matches!(w.judge(&c, 51, 20.0, 1.0), Response::Rollback(_)));
        saved.after_rollback(&w);
        assert!(matches!(saved.judge(&c, 51, 20.0, 1.0), Response::Stop(r) if r.contains("1 times")));
    }

    #[test]
    fn a_resumed_watch_decides_alike() {
        let c = cfg(SpikeAction::Skip);
        let mut a = SpikeWatch::default();
        calm(&mut a, &c, 1..=40);
        let mut b: SpikeWatch = serde_json::from_str(&serde_json::to_string(&a).unwrap()).unwrap();
        for s in 41..100 {
            let loss = 5.8 + ((s * 31) % 17) as f64 * 0.1;
            assert_eq!(a.judge(&c, s, loss, 1.0), b.judge(&c, s, loss, 1.0));
        }
    }
}
