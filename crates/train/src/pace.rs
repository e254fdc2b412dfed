//! Detects whether a machine trains more slowly than when its run was planned.

/// Seconds of training over which a rate is measured.
const SECONDS: f64 = 30.0;
/// A rate below this share of the expected one is reported.
const SLOWER: f64 = 0.8;

/// Compares the training rate with the rate that the length of the run was computed from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Tokens per second, as planned or as last reported.
    expected: f64,
    tokens: u64,
    seconds: f64,
}

impl Pace {
    /// Expects `rate` tokens per second.
    pub(crate) fn new(rate: f64) -> Self {
        Self { expected: rate, tokens: 0, seconds: 0.0 }
    }

    /// Records a step. Returns a message once when the machine has become slower, and again when it has become even
    /// slower. `left` is the number of tokens to the end of the run.
    pub(crate) fn step(&mut self, tokens: u64, seconds: f64, left: u64) -> Option<String> {
        self.tokens += tokens;
        self.seconds += seconds;
        if self.seconds < SECONDS {
            return None;
        }
        let (rate, expected) = (self.tokens as f64 / self.seconds, self.expected);
        (self.tokens, self.seconds) = (0, 0.0);
        if rate >= SLOWER * expected {
            return None;
        }
        self.expected = rate;
        let minutes = |rate: f64| left as f64 / rate / 60.0;
        Some(format!(
            "slower than planned: {rate:.0} tokens/s instead of {expected:.0}; the rest takes about {:.1} min instead of {:.1}",
            minutes(rate),
            minutes(expected)
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slower_machine_is_told_once_and_a_still_slower_one_again() {
        let mut pace = Pace::new(1000.0);
        let mut steps = |rate: u64| (0..60).filter_map(|_| pace.step(rate, 1.0, 60_000)).collect::<Vec<_>>();
        assert!(steps(1100).is_empty());
        assert!(steps(850).is_empty());
        let said = steps(500);
        assert_eq!(
            said,
            ["slower than planned: 500 tokens/s instead of 1000; the rest takes about 2.0 min instead of 1.0"]
        );
        assert!(steps(450).is_empty());
        assert_eq!(steps(100).len(), 1);
    }
}
