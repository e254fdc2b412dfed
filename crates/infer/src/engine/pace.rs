//! Decides when drafts pay.
//!
//! A draft costs a second row of the pass, which pulls other experts, and a row of the MTP module and the head. It wins
//! a token if it is accepted. Let a pass without drafts take 1, a pass with a draft for every sequence `1 + c`, and let
//! a share `p` of the drafts be accepted. The drafts give `1 + p` tokens in place of one, so they pay while `p > c`.
//! This holds for each sequence on its own: `p` is its acceptance, and `c` belongs to the number of sequences in the
//! pass.
//!
//! Both are estimated from measurements. `c` needs passes of both kinds, so one pass in [`REFRESH`] is without drafts.
//! The estimate for a new sequence is that of all sequences. Until enough drafts are verified, only one sequence per
//! pass has a draft.
//!
//! A sequence whose drafts do not pay tries one now and then. Such a trial is paid from a credit: [`SHARE`] of the time
//! of passes without drafts. An accepted trial gives its gain back, so good drafts are soon tried again. So trials cost
//! at most this share of the time. Drafts that were wrongly expected to pay cost a few passes at the start of a
//! sequence.
//!
//! The decision never changes what is generated, only how fast.

/// Number of passes with drafts after which one without drafts comes.
const REFRESH: u32 = 64;
/// Share of the time that trials may cost.
const SHARE: f64 = 0.01;
/// Most credit, in passes without drafts.
const MOST_CREDIT: f64 = 32.0;
/// Gain that a sequence must expect of drafts before it begins to draft.
const MARGIN: f64 = 0.05;
/// Acceptance before anything is known.
const PRIOR: f64 = 0.7;
/// In the acceptance of a sequence, that of all sequences counts as this many drafts. In the acceptance of all, the
/// prior does.
const WEIGHT: f64 = 4.0;
/// Drafts over which acceptance is averaged: of a sequence, and of all.
const MEMORY: (f64, f64) = (12.0, 64.0);
/// Relative cost of drafts before anything is known.
const GUESS: f64 = 0.5;
/// Until this many drafts of all sequences are verified, only one sequence per pass has a draft.
const LEARN: f64 = 16.0;
/// Passes over which times are averaged.
const PASSES: f64 = 8.0;
/// The time of fewer rows than this says nothing about the cost of a row.
const FEW_ROWS: usize = 16;
/// Cost of a latent of the module before it is measured, as a share of the cost of a row of a prompt. A latent needs
/// two of a row's products.
const LATENT: f64 = 0.02;

/// What is known about drafts for a sequence. Times are in seconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outlook {
    /// Expected share of accepted drafts.
    pub(crate) acceptance: f64,
    /// Relative cost of drafts, `c` above.
    pub(crate) extra: f64,
    /// Time of a pass without drafts, over its number of sequences.
    pub(crate) plain: f64,
    /// Time to compute the module's latents that are missing.
    pub(crate) behind: f64,
    /// Tokens that are expected to come.
    pub(crate) left: usize,
}

/// Whether to draft for a sequence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Choice {
    /// It pays.
    Draft,
    /// It is not expected to pay, but the credit covers this cost.
    Try(f64),
    /// No.
    Rest,
}

/// Chooses. A sequence that drafts already goes on with a smaller gain than one that begins.
pub(crate) fn choose(o: &Outlook, drafting: bool, credit: f64) -> Choice {
    let margin = if drafting { 0.0 } else { MARGIN };
    let drafts = o.left as f64 / (1.0 + o.acceptance);
    let cost = o.extra * o.plain + o.behind;
    if (o.acceptance - o.extra - margin) * o.plain * drafts > o.behind {
        Choice::Draft
    } else if credit > 0.0 && credit >= cost {
        Choice::Try(cost)
    } else {
        Choice::Rest
    }
}

/// Counts of drafts in which older ones count less.
#[derive(Clone, Copy, Debug, Default)]
struct Recent {
    accepted: f64,
    drafts: f64,
}

impl Recent {
    fn add(&mut self, accepted: bool, memory: f64) {
        let keep = 1.0 - 1.0 / memory;
        self.accepted = keep * self.accepted + f64::from(u8::from(accepted));
        self.drafts = keep * self.drafts + 1.0;
    }

    /// The share of accepted drafts, with a prior that counts as [`WEIGHT`] drafts.
    fn share(&self, prior: f64) -> f64 {
        (self.accepted + WEIGHT * prior) / (self.drafts + WEIGHT)
    }
}

/// The acceptance of a sequence's drafts.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rate {
    recent: Recent,
    drafting: bool,
    trying: bool,
}

/// Measured times of passes with one number of sequences.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    plain: f64,
    plain_passes: u32,
    extra: f64,
    /// Passes with drafts, each counted as the share of its sequences that had one.
    drafted: f64,
    /// Passes with drafts since the last one without.
    since: u32,
}

/// The measurements of a pass.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Measured {
    /// Its time in seconds, everything included.
    pub(crate) seconds: f64,
    /// Sequences for which it had a draft.
    pub(crate) drafts: usize,
    /// Number of the module's latents that were missing, and the time to compute them.
    pub(crate) behind: (usize, f64),
}

/// The estimates for all sequences.
pub(crate) struct Pace {
    costs: Vec<Cost>,
    /// Place in `costs` of the pass that is being planned.
    at: usize,
    sequences: usize,
    /// Drafts that this pass may still have.
    room: usize,
    /// Drafts of all sequences.
    recent: Recent,
    /// The last known relative cost of drafts.
    extra: f64,
    /// Time for a latent of the module, and whether it is measured.
    row: f64,
    measured: bool,
    credit: f64,
    /// The first pass with drafts says little: it touches weights for the first time.
    warm: bool,
}

impl Pace {
    pub(crate) fn new() -> Self {
        Self {
            costs: Vec::new(),
            at: 0,
            sequences: 1,
            room: 0,
            recent: Recent::default(),
            extra: GUESS,
            row: 0.0,
            measured: false,
            credit: 0.0,
            warm: false,
        }
    }

    /// Begins a pass in which `sequences` sequences generate.
    pub(crate) fn begin(&mut self, sequences: usize) {
        self.sequences = sequences.max(1);
        self.at = bucket(self.sequences);
        self.room = if self.recent.drafts < LEARN { 1 } else { sequences };
        if self.costs.len() <= self.at {
            self.costs.resize(self.at + 1, Cost::default());
        }
    }

    /// Whether this pass should have a draft for a sequence. `behind` of the module's latents are missing, and `left`
    /// tokens are expected to come.
    pub(crate) fn wants(&mut self, rate: &mut Rate, behind: usize, left: usize) -> bool {
        let cost = &self.costs[self.at];
        let unknown = cost.plain_passes < 2;
        if unknown || cost.since >= REFRESH || self.room == 0 {
            return false;
        }
        let outlook = Outlook {
            acceptance: rate.recent.share(self.recent.share(PRIOR)),
            extra: if cost.drafted > 0.0 { cost.extra } else { self.extra },
            plain: cost.plain / self.sequences as f64,
            behind: behind as f64 * self.row,
            left,
        };
        let choice = choose(&outlook, rate.drafting, self.credit);
        (rate.drafting, rate.trying) = (choice == Choice::Draft, matches!(choice, Choice::Try(_)));
        if let Choice::Try(price) = choice {
            self.credit -= price;
        }
        let wanted = choice != Choice::Rest;
        self.room -= usize::from(wanted);
        wanted
    }

    /// Counts a draft that was compared with the drawn token.
    pub(crate) fn verified(&mut self, rate: &mut Rate, accepted: bool) {
        rate.recent.add(accepted, MEMORY.0);
        self.recent.add(accepted, MEMORY.1);
        if rate.trying && accepted {
            self.add_credit(self.costs[self.at].plain / self.sequences as f64);
        }
    }

    /// Ends a pass of `seconds` seconds that read `rows` rows of prompts.
    pub(crate) fn read(&mut self, rows: usize, seconds: f64) {
        if !self.measured && rows >= FEW_ROWS {
            self.row = LATENT * seconds / rows as f64;
        }
    }

    /// Ends a pass that had only rows of generating sequences.
    pub(crate) fn end(&mut self, pass: Measured) {
        let Measured { mut seconds, drafts, behind: (rows, spent) } = pass;
        if rows >= FEW_ROWS {
            let row = spent / rows as f64;
            self.row += (row - self.row) / if self.measured { PASSES } else { 1.0 };
            self.measured = true;
        }
        // Latents of the tokens that were accepted last belong to the drafts. Those of a prompt come once.
        if rows > 2 * self.sequences {
            seconds -= spent;
        }
        let cost = &mut self.costs[self.at];
        if drafts == 0 {
            // The first passes may be slow for other reasons.
            cost.plain = match cost.plain_passes {
                0 => seconds,
                1 => cost.plain.min(seconds),
                _ => cost.plain + (seconds - cost.plain) / PASSES,
            };
            cost.plain_passes += 1;
            cost.since = 0;
            self.add_credit(SHARE * seconds);
            return;
        }
        cost.since += 1;
        if !std::mem::replace(&mut self.warm, true) || cost.plain <= 0.0 {
            return;
        }
        let share = drafts as f64 / self.sequences as f64;
        let extra = ((seconds / cost.plain - 1.0) / share).clamp(0.0, 4.0);
        if cost.drafted == 0.0 {
            cost.extra = self.extra;
        }
        // The earlier estimate counts as one pass.
        cost.drafted += share;
        cost.extra += (extra - cost.extra) * share / (1.0 + cost.drafted).min(PASSES);
        self.extra = cost.extra;
    }

    fn add_credit(&mut self, seconds: f64) {
        self.credit = (self.credit + seconds).min(MOST_CREDIT * self.costs[self.at].plain);
    }
}

/// Place in the list of costs. The numbers of sequences up to eight have a place each. After that, each doubling has
/// one.
fn bucket(sequences: usize) -> usize {
    match sequences {
        0..=8 => sequences.saturating_sub(1),
        more => 8 + ((more - 1) / 8).ilog2() as usize,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hadal_base::{Purpose, Rng};

    const EVEN: Outlook = Outlook { acceptance: 0.6, extra: 0.5, plain: 1.0, behind: 0.0, left: 100 };

    #[test]
    fn drafts_begin_later_than_they_end() {
        assert_eq!(choose(&EVEN, false, 0.0), Choice::Draft);
        let less = Outlook { acceptance: 0.53, ..EVEN };
        assert_eq!((choose(&less, true, 0.0), choose(&less, false, 0.0)), (Choice::Draft, Choice::Rest));
        assert_eq!(choose(&Outlook { acceptance: 0.49, ..EVEN }, true, 0.0), Choice::Rest);
        // A cost above one can never pay.
        assert_eq!(choose(&Outlook { acceptance: 1.0, extra: 1.1, ..EVEN }, true, 0.0), Choice::Rest);
    }

    #[test]
    fn missing_latents_must_be_worth_their_time() {
        // A gain of 0.05 for each of 100 / 1.6 drafts.
        assert_eq!(choose(&Outlook { behind: 3.0, ..EVEN }, false, 0.0), Choice::Draft);
        assert_eq!(choose(&Outlook { behind: 3.2, ..EVEN }, false, 0.0), Choice::Rest);
        assert_eq!(choose(&Outlook { behind: 3.0, left: 90, ..EVEN }, false, 0.0), Choice::Rest);
    }

    #[test]
    fn trials_cost_no_more_than_the_credit() {
        let bad = Outlook { acceptance: 0.1, behind: 0.25, ..EVEN };
        assert_eq!(choose(&bad, false, 0.75), Choice::Try(0.75));
        assert_eq!(choose(&bad, false, 0.74), Choice::Rest);
        assert_eq!(choose(&Outlook { extra: 0.0, behind: 0.0, ..bad }, false, 0.0), Choice::Draft);
    }

    #[test]
    fn buckets_grow() {
        assert_eq!([1, 2, 8, 9, 16, 17, 32, 33, 64, 65].map(bucket), [0, 1, 7, 8, 8, 9, 9, 10, 10, 11]);
    }

    /// Times of passes in a world where drafts cost `extra` and a share `p` of them is accepted. `p` may change on the
    /// way.
    struct World {
        pace: Pace,
        rates: Vec<Rate>,
        behind: Vec<usize>,
        rng: Rng,
        passes: u64,
    }

    impl World {
        /// Time for a latent of the module.
        const LATENT: f64 = 0.003;

        fn new(sequences: usize, seed: u64) -> Self {
            let rates = vec![Rate::default(); sequences];
            let mut pace = Pace::new();
            pace.read(300, 300.0 * Self::LATENT / LATENT);
            Self { pace, rates, behind: vec![300; sequences], rng: Rng::new(seed, Purpose::Test, 1), passes: 0 }
        }

        /// The time in which each sequence has generated `tokens` more tokens on average.
        fn run(&mut self, tokens: usize, extra: f64, p: f64) -> f64 {
            let n = self.rates.len();
            let (mut time, mut made) = (0.0, 0);
            while made < tokens * n {
                self.pace.begin(n);
                let (mut drafts, mut rows) = (Vec::new(), 0);
                for (i, (rate, behind)) in self.rates.iter_mut().zip(&mut self.behind).enumerate() {
                    if self.pace.wants(rate, *behind, made / n + 64) {
                        rows += *behind;
                        *behind = 0;
                        drafts.push(i);
                    }
                }
                // Every measurement is off by up to five percent.
                let noise = 0.95 + 0.1 * self.rng.uniform(1000 * self.passes);
                let spent = Self::LATENT * rows as f64;
                let seconds = (1.0 + extra * drafts.len() as f64 / n as f64) * noise + spent;
                time += seconds;
                for i in 0..n {
                    let accepted = drafts.contains(&i) && self.rng.uniform(1000 * self.passes + 1 + i as u64) < p;
                    if drafts.contains(&i) {
                        self.pace.verified(&mut self.rates[i], accepted);
                    }
                    let new = 1 + usize::from(accepted);
                    made += new;
                    self.behind[i] += new - usize::from(drafts.contains(&i));
                }
                self.pace.end(Measured { seconds, drafts: drafts.len(), behind: (rows, spent) });
                self.passes += 1;
            }
            time
        }
    }

    /// Over a thousand tokens, drafts that do not pay cost less than two percent, and those that do pay are used.
    #[test]
    fn never_much_slower_than_without_drafts_and_fast_where_they_pay() {
        for sequences in [1, 3] {
            for (extra, p) in
                [0.1, 0.3, 0.5, 0.8, 1.3].iter().flat_map(|c| (0..=10).map(move |p| (*c, f64::from(p) / 10.0)))
            {
                let seeds = 8;
                let time: f64 = (0..seeds).map(|seed| World::new(sequences, seed).run(1000, extra, p)).sum();
                let time = time / (1000 * seeds) as f64;
                assert!(time <= 1.0 / 0.98, "{sequences} sequences, cost {extra}, acceptance {p}: {time}");
                let best = (1.0 + extra) / (1.0 + p);
                if p >= extra + 0.25 {
                    assert!(
                        time <= 1.06 * best,
                        "{sequences} sequences, cost {extra}, acceptance {p}: {time}, not {best}"
                    );
                }
            }
        }
    }

    #[test]
    fn drafts_stop_and_begin_again_as_acceptance_and_costs_change() {
        let mut world = World::new(1, 3);
        assert!(world.run(1000, 0.4, 0.9) < 820.0);
        // The text becomes hard to predict, and easy again.
        assert!(world.run(1000, 0.4, 0.1) < 1000.0 / 0.97);
        let again = world.run(3000, 0.4, 0.9);
        assert!(again < 3000.0 * 0.85, "{again}");
        // Drafts become expensive, and cheap again.
        assert!(world.run(1000, 1.4, 0.9) < 1000.0 / 0.97);
        let again = world.run(4000, 0.4, 0.9);
        assert!(again < 4000.0 * 0.9, "{again}");
    }
}
