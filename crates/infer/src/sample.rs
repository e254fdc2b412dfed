//! Chooses the next token from logits: penalties and biases, temperature, top-k, top-p, min-p.

use hadal_base::{Purpose, Rng};
use hadal_ops::reduce::argmax;
use std::collections::{BTreeMap, BTreeSet};

/// How tokens are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SampleParams {
    /// The logits are divided by this; 0 takes the most likely token.
    pub temperature: f32,
    /// Keep only the `top_k` most likely tokens (0: all).
    pub top_k: usize,
    /// Keep the smallest set of most likely tokens with at least this share of the probability (1: all).
    pub top_p: f32,
    /// Drop tokens less likely than this share of the most likely token's probability (0: none).
    pub min_p: f32,
    /// The same seed, prompt and settings give the same text.
    pub seed: u64,
    /// Number of the request. Different requests with the same seed draw from different streams.
    pub request: u64,
    /// Number of the sample. Different samples of the same prompt draw from different streams.
    pub sample: u64,
}

impl Default for SampleParams {
    fn default() -> Self {
        Self { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0, request: 0, sample: 0 }
    }
}

/// A setting that cannot be used: its name, its value, and what it must be.
pub(crate) type WrongSetting = (&'static str, f32, &'static str);

/// Largest penalty or bias. No sum of them overflows.
const LARGEST: f32 = 1e6;

impl SampleParams {
    /// A setting that cannot be used, if there is one.
    pub(crate) fn wrong(&self) -> Option<WrongSetting> {
        let Self { temperature, top_p, min_p, .. } = *self;
        let share = "from 0 to 1";
        let all = [
            ("temperature", temperature, (0.0..=f32::MAX).contains(&temperature), "0 or a positive number"),
            ("top-p", top_p, (0.0..=1.0).contains(&top_p), share),
            ("min-p", min_p, (0.0..=1.0).contains(&min_p), share),
        ];
        all.into_iter().find(|(.., fits, _)| !fits).map(|(name, value, _, wanted)| (name, value, wanted))
    }
}

/// Penalties and biases: changes of the logits before a token is drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Adjust {
    /// For tokens of the prompt or the continuation, positive logits are divided by this and negative ones multiplied
    /// (1: no penalty).
    pub repetition: f32,
    /// Subtracted from the logits of tokens of the continuation.
    pub presence: f32,
    /// Subtracted once for each time that the continuation has the token.
    pub frequency: f32,
    /// Added to the logits of single tokens. Minus infinity forbids one.
    pub bias: Vec<(u32, f32)>,
}

impl Default for Adjust {
    fn default() -> Self {
        Self { repetition: 1.0, presence: 0.0, frequency: 0.0, bias: Vec::new() }
    }
}

impl Adjust {
    /// A setting that cannot be used, if there is one.
    pub(crate) fn wrong(&self) -> Option<WrongSetting> {
        let Self { repetition, presence, frequency, bias } = self;
        let fits = |value: f32| value.abs() <= LARGEST;
        let penalty = "from -1e6 to 1e6";
        if !(LARGEST.recip()..=LARGEST).contains(repetition) {
            return Some(("repetition penalty", *repetition, "from 1e-6 to 1e6"));
        }
        if let Some((name, value)) =
            [("presence penalty", *presence), ("frequency penalty", *frequency)].into_iter().find(|(_, v)| !fits(*v))
        {
            return Some((name, value, penalty));
        }
        let bias = bias.iter().map(|(_, bias)| *bias).find(|bias| *bias != f32::NEG_INFINITY && !fits(*bias));
        bias.map(|bias| ("bias", bias, "from -1e6 to 1e6, or minus infinity"))
    }

    /// Whether the biases forbid every token of a vocabulary.
    pub(crate) fn forbids_all(&self, vocabulary: usize) -> bool {
        let forbidden = self.bias.iter().filter(|(_, bias)| *bias == f32::NEG_INFINITY);
        let forbidden: BTreeSet<u32> = forbidden.map(|(token, _)| *token).collect();
        forbidden.len() >= vocabulary
    }
}

/// Penalties and biases, with the tokens that are counted so far.
pub(crate) struct Adjusted {
    adjust: Adjust,
    /// Tokens of prompt and continuation, with their number in the continuation. Ordered, so that runs repeat.
    seen: BTreeMap<u32, u32>,
}

impl Adjusted {
    pub(crate) fn new(adjust: &Adjust, prompt: &[u32]) -> Self {
        let mut adjusted = Self { adjust: adjust.clone(), seen: BTreeMap::new() };
        if adjusted.counts() {
            adjusted.seen.extend(prompt.iter().map(|token| (*token, 0)));
        }
        adjusted
    }

    /// Whether there are penalties, which depend on earlier tokens.
    fn counts(&self) -> bool {
        (self.adjust.repetition, self.adjust.presence, self.adjust.frequency) != (1.0, 0.0, 0.0)
    }

    pub(crate) fn apply(&self, logits: &mut [f32]) {
        let Adjust { repetition, presence, frequency, bias } = &self.adjust;
        for (token, times) in &self.seen {
            let Some(logit) = logits.get_mut(*token as usize) else { continue };
            if *repetition != 1.0 {
                *logit = if *logit > 0.0 { *logit / repetition } else { *logit * repetition };
            }
            if *times > 0 {
                *logit -= presence + frequency * *times as f32;
            }
        }
        for (token, bias) in bias {
            if let Some(logit) = logits.get_mut(*token as usize) {
                *logit += bias;
            }
        }
    }

    /// Counts a new token.
    pub(crate) fn count(&mut self, token: u32) {
        if self.counts() {
            *self.seen.entry(token).or_default() += 1;
        }
    }
}

/// Draws tokens. It reuses its lists between calls.
pub struct Sampler {
    params: SampleParams,
    rng: Rng,
    /// Candidates: (probability, token), most likely first.
    kept: Vec<(f32, u32)>,
}

impl Sampler {
    /// A sampler for one sequence.
    pub fn new(params: SampleParams) -> Self {
        let SampleParams { seed, request, sample, .. } = params;
        Self { params, rng: Rng::new(seed, Purpose::Sample, request).substream(sample), kept: Vec::new() }
    }

    /// The token at `position`. It is a function of the logits, the settings, and (seed, request, sample, position).
    pub fn next(&mut self, logits: &[f32], position: usize) -> u32 {
        let SampleParams { temperature, top_k, top_p, min_p, .. } = self.params;
        let best = argmax(logits);
        if temperature <= 0.0 {
            return best as u32;
        }
        // Probabilities relative to the best. The temperature applies before all other limits.
        let top = logits[best];
        self.kept.clear();
        let floor = if min_p > 0.0 { min_p } else { 0.0 };
        self.kept.extend(logits.iter().enumerate().filter_map(|(i, l)| {
            let p = ((l - top) / temperature).exp();
            (p > 0.0 && p >= floor).then_some((p, i as u32))
        }));
        self.kept.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        if top_k > 0 {
            self.kept.truncate(top_k);
        }
        let total: f64 = self.kept.iter().map(|(p, _)| f64::from(*p)).sum();
        if top_p < 1.0 {
            let (mut sum, mut n) = (0.0, 0);
            while n < self.kept.len() && (n == 0 || sum < f64::from(top_p) * total) {
                sum += f64::from(self.kept[n].0);
                n += 1;
            }
            self.kept.truncate(n);
        }
        let total: f64 = self.kept.iter().map(|(p, _)| f64::from(*p)).sum();
        let mut left = self.rng.uniform(position as u64) * total;
        for (p, token) in &self.kept {
            left -= f64::from(*p);
            if left < 0.0 {
                return *token;
            }
        }
        self.kept.last().map_or(best as u32, |(_, t)| *t)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(params: SampleParams, logits: &[f32], n: usize) -> Vec<usize> {
        let mut sampler = Sampler::new(params);
        let mut seen = vec![0; logits.len()];
        (0..n).for_each(|i| seen[sampler.next(logits, i) as usize] += 1);
        seen
    }

    #[test]
    fn greedy_takes_the_first_of_the_best() {
        assert_eq!(Sampler::new(SampleParams::default()).next(&[0.0, 2.0, 2.0, 1.0], 0), 1);
        assert_eq!(argmax(&[f32::NAN, 1.0]), 0);
    }

    #[test]
    fn frequencies_follow_the_softmax_at_the_temperature() {
        let (logits, n) = ([0.0f32, 1.0, 2.0], 60_000);
        let params = SampleParams { temperature: 2.0, seed: 5, ..SampleParams::default() };
        let weights: Vec<f64> = logits.iter().map(|l| (f64::from(*l) / 2.0).exp()).collect();
        let total: f64 = weights.iter().sum();
        for (seen, w) in counts(params, &logits, n).iter().zip(&weights) {
            let (p, f) = (w / total, *seen as f64 / n as f64);
            // Five standard errors of a binomial share.
            assert!((f - p).abs() < 5.0 * (p * (1.0 - p) / n as f64).sqrt(), "{f} instead of {p}");
        }
    }

    #[test]
    fn cuts_keep_what_they_say() {
        let logits = [0.5f32.ln(), 0.3f32.ln(), 0.15f32.ln(), 0.05f32.ln()];
        let base = SampleParams { temperature: 1.0, ..SampleParams::default() };
        let kept = |p| counts(p, &logits, 4000).iter().filter(|c| **c > 0).count();
        assert_eq!(kept(base), 4);
        assert_eq!(kept(SampleParams { top_k: 2, ..base }), 2);
        assert_eq!(kept(SampleParams { top_p: 0.79, ..base }), 2);
        assert_eq!(kept(SampleParams { top_p: 0.81, ..base }), 3);
        assert_eq!(kept(SampleParams { min_p: 0.29, ..base }), 3);
        assert_eq!(kept(SampleParams { top_p: 0.0, ..base }), 1);
    }

    #[test]
    fn the_same_seed_draws_the_same_tokens() {
        let logits: Vec<f32> = (0..50).map(|i| (i as f32 * 0.7).sin()).collect();
        let draw = |seed, request, sample| {
            let params = SampleParams { temperature: 1.0, seed, request, sample, ..SampleParams::default() };
            let mut s = Sampler::new(params);
            (0..40).map(|i| s.next(&logits, i)).collect::<Vec<_>>()
        };
        assert_eq!(draw(1, 0, 0), draw(1, 0, 0));
        // Each seed, request and sample has its own stream.
        let all = [draw(1, 0, 0), draw(2, 0, 0), draw(1, 1, 0), draw(1, 0, 1), draw(1, 1, 1)];
        for (i, one) in all.iter().enumerate() {
            assert!(all[..i].iter().all(|other| other != one), "{i}");
        }
    }
}
