//! What the view knows about a run, and how it formats figures.

use std::collections::VecDeque;

use crate::metrics::{StepMetrics, Validation};

/// Largest number of points of the loss curve. When it is reached, every second point is dropped.
const MOST_POINTS: usize = 4096;
/// Number of messages kept.
const MOST_MESSAGES: usize = 500;

/// The known state of the run.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) title: String,
    pub(super) total_tokens: u64,
    pub(super) last: Option<StepMetrics>,
    pub(super) validation: Option<Validation>,
    /// Tokens seen and loss.
    pub(super) losses: Vec<(f64, f64)>,
    pub(super) validations: Vec<(f64, f64)>,
    /// The newest step that logged the loads of the experts.
    pub(super) loads: Option<StepMetrics>,
    messages: VecDeque<String>,
    /// Tokens and seconds at the first step that this view saw. Earlier steps ran at another session's speed.
    begin: Option<(u64, f64)>,
    stride: u64,
    seen: u64,
}

impl State {
    pub(super) fn new(title: &str, total_tokens: u64) -> Self {
        Self {
            title: title.into(),
            total_tokens,
            last: None,
            validation: None,
            losses: Vec::new(),
            validations: Vec::new(),
            loads: None,
            messages: VecDeque::new(),
            begin: None,
            stride: 1,
            seen: 0,
        }
    }

    pub(super) fn push(&mut self, m: &StepMetrics) {
        self.begin.get_or_insert((m.tokens, m.elapsed));
        if m.loss.is_finite() && self.seen.is_multiple_of(self.stride) {
            self.losses.push((m.tokens as f64, m.loss));
        }
        self.seen += 1;
        if self.losses.len() >= MOST_POINTS {
            let mut index = 0;
            self.losses.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            self.stride *= 2;
        }
        if let Some(v) = &m.validation {
            self.validations.push((m.tokens as f64, v.loss));
            self.validation = Some(v.clone());
        }
        if m.layers.iter().any(|l| !l.load.is_empty()) {
            self.loads = Some(m.clone());
        }
        self.last = Some(m.clone());
    }

    pub(super) fn say(&mut self, text: &str) {
        for line in text.lines() {
            if self.messages.len() == MOST_MESSAGES {
                self.messages.pop_front();
            }
            self.messages.push_back(line.into());
        }
    }

    pub(super) fn messages(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.messages.iter().map(String::as_str)
    }

    /// Share of the run that is done.
    pub(super) fn progress(&self) -> f64 {
        let tokens = self.last.as_ref().map_or(0, |m| m.tokens);
        (tokens as f64 / self.total_tokens.max(1) as f64).min(1.0)
    }

    /// Seconds to go, at this session's speed so far.
    pub(super) fn eta(&self) -> Option<f64> {
        let m = self.last.as_ref()?;
        let (tokens, elapsed) = self.begin?;
        let (done, took) = ((m.tokens - tokens) as f64, m.elapsed - elapsed);
        let rate = if done > 0.0 && took > 0.0 { done / took } else { m.tokens_per_second };
        (rate > 0.0).then(|| self.total_tokens.saturating_sub(m.tokens) as f64 / rate)
    }

    /// The last step as a line. Empty before the first step.
    pub(super) fn line(&self) -> String {
        let Some(m) = &self.last else { return String::new() };
        let mut out = format!(
            "step {}  {}/{} tokens ({:.0}%)  loss {:.3}",
            m.step,
            count(m.tokens as f64),
            count(self.total_tokens as f64),
            100.0 * self.progress(),
            m.loss
        );
        let mut add = |text: String| {
            out.push_str("  ");
            out.push_str(&text);
        };
        if let Some(mtp) = m.mtp_loss.first() {
            add(format!("mtp {mtp:.3}"));
        }
        if let Some(v) = &m.validation {
            add(format!("validation {:.3} ({:.3} bits/byte)", v.loss, v.bits_per_byte));
        }
        add(format!("lr {:.1e}", m.lr));
        add(format!("grad {:.2}", m.grad_norm));
        if let Some(vio) = m.mean_max_vio() {
            add(format!("max_vio {vio:.2}"));
        }
        for (name, value) in &m.figures {
            add(format!("{name} {value:.3}"));
        }
        add(format!("{} tok/s", count(m.tokens_per_second)));
        add(format!("mfu {:.0}%", 100.0 * m.mfu));
        if let Some(eta) = self.eta() {
            add(format!("eta {}", duration(eta)));
        }
        out
    }
}

/// 1234567 as "1.23M".
pub(super) fn count(n: f64) -> String {
    let (value, unit) = match n {
        n if n >= 1e12 => (n / 1e12, "T"),
        n if n >= 1e9 => (n / 1e9, "B"),
        n if n >= 1e6 => (n / 1e6, "M"),
        n if n >= 1e4 => (n / 1e3, "k"),
        n => return format!("{n:.0}"),
    };
    match value {
        v if v >= 100.0 => format!("{v:.0}{unit}"),
        v if v >= 10.0 => format!("{v:.1}{unit}"),
        v => format!("{v:.2}{unit}"),
    }
}

/// 4000 seconds as "1h06m".
pub(super) fn duration(seconds: f64) -> String {
    let s = seconds.round().max(0.0) as u64;
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        3600..172_800 => format!("{}h{:02}m", s / 3600, s / 60 % 60),
        _ => format!("{}d{:02}h", s / 86_400, s / 3600 % 24),
    }
}
