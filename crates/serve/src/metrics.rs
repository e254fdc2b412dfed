//! What the server counts, and its text for Prometheus.

use hadal_infer::{ExpertLoads, Load, Usage};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// Upper bounds of the buckets of times, in seconds.
const BOUNDS: [f64; 16] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

/// How many times fell into which bucket.
#[derive(Default)]
pub(crate) struct Times {
    buckets: [AtomicU64; BOUNDS.len()],
    count: AtomicU64,
    microseconds: AtomicU64,
}

impl Times {
    pub(crate) fn add(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        if let Some(bucket) = BOUNDS.iter().position(|bound| seconds <= *bound) {
            self.buckets[bucket].fetch_add(1, Relaxed);
        }
        self.count.fetch_add(1, Relaxed);
        self.microseconds.fetch_add(time.as_micros() as u64, Relaxed);
    }

    /// The mean in seconds, if there were any.
    pub(crate) fn mean(&self) -> Option<f64> {
        let count = self.count.load(Relaxed);
        (count > 0).then(|| self.microseconds.load(Relaxed) as f64 / 1e6 / count as f64)
    }

    fn write(&self, out: &mut String, name: &str, help: &str) {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram");
        let mut sum = 0;
        for (bound, bucket) in BOUNDS.iter().zip(&self.buckets) {
            sum += bucket.load(Relaxed);
            let _ = writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {sum}");
        }
        let count = self.count.load(Relaxed);
        let _ = writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {count}");
        let _ = writeln!(out, "{name}_sum {}\n{name}_count {count}", self.microseconds.load(Relaxed) as f64 / 1e6);
    }
}

/// All that is counted.
#[derive(Default)]
pub(crate) struct Metrics {
    /// From a request's acceptance to its first token.
    pub(crate) first_token: Times,
    /// Between two tokens of a sequence.
    pub(crate) per_token: Times,
    /// From a request's acceptance to its end.
    pub(crate) whole: Times,
    prompt: AtomicU64,
    cached: AtomicU64,
    generated: AtomicU64,
    cancelled: AtomicU64,
    slow: AtomicU64,
    /// Answers by path and status.
    answers: Mutex<BTreeMap<(&'static str, u16), u64>>,
    load: Mutex<Load>,
    expert_loads: OnceLock<Arc<ExpertLoads>>,
}

impl Metrics {
    pub(crate) fn answered(&self, path: &'static str, status: u16) {
        *self.answers.lock().unwrap_or_else(PoisonError::into_inner).entry((path, status)).or_default() += 1;
    }

    /// Counts the tokens of a sequence that has ended. The prompt is counted with its first sample.
    pub(crate) fn ended(&self, sample: usize, usage: &Usage) {
        if sample == 0 {
            self.prompt.fetch_add(usage.prompt as u64, Relaxed);
            self.cached.fetch_add(usage.cached as u64, Relaxed);
        }
        self.generated.fetch_add(usage.generated as u64, Relaxed);
    }

    pub(crate) fn cancelled(&self) {
        self.cancelled.fetch_add(1, Relaxed);
    }

    pub(crate) fn slow(&self) {
        self.slow.fetch_add(1, Relaxed);
    }

    pub(crate) fn set_load(&self, load: Load) {
        *self.load.lock().unwrap_or_else(PoisonError::into_inner) = load;
    }

    pub(crate) fn load(&self) -> Load {
        *self.load.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_expert_loads(&self, loads: Arc<ExpertLoads>) {
        // There is one engine.
        let _ = self.expert_loads.set(loads);
    }

    /// Tokens of each expert, once the engine has begun.
    pub(crate) fn expert_loads(&self) -> Option<&ExpertLoads> {
        self.expert_loads.get().map(|loads| &**loads)
    }

    /// The text that Prometheus reads. `slots` are the sequences that could still be taken.
    pub(crate) fn text(&self, slots: usize, draining: bool) -> String {
        let load = self.load();
        let mut out = String::new();
        let mut one = |kind: &str, name: &str, help: &str, value: u64| {
            let _ = writeln!(out, "# HELP hadal_{name} {help}\n# TYPE hadal_{name} {kind}\nhadal_{name} {value}");
        };
        one("gauge", "sequences_running", "Sequences that are worked on.", load.running as u64);
        one("gauge", "sequences_waiting", "Sequences that wait.", load.waiting as u64);
        one("gauge", "queue_free", "Sequences that could be taken before clients are turned away.", slots as u64);
        one("gauge", "draining", "Whether the server is shutting down.", u64::from(draining));
        one("gauge", "cache_pages", "Pages of the cache.", load.pages as u64);
        one("gauge", "cache_pages_free", "Pages that nobody has.", load.free_pages as u64);
        one("gauge", "cache_pages_prefix", "Pages kept for sequences that begin alike.", load.prefix_pages as u64);
        one("counter", "prompt_tokens_total", "Prompt tokens of ended requests.", self.prompt.load(Relaxed));
        one("counter", "cached_tokens_total", "Prompt tokens found in the cache.", self.cached.load(Relaxed));
        one("counter", "generated_tokens_total", "New tokens of ended requests.", self.generated.load(Relaxed));
        one("counter", "cancelled_total", "Requests that ended early.", self.cancelled.load(Relaxed));
        one("counter", "slow_clients_total", "Requests ended because their client was slow.", self.slow.load(Relaxed));
        one("counter", "read_tokens_total", "Prompt tokens that passes have read.", load.read);
        one("counter", "drawn_tokens_total", "New tokens so far.", load.generated);
        one("counter", "preemptions_total", "Sequences that gave way for lack of pages.", load.preemptions);
        one("counter", "passes_total", "Passes of the model.", load.passes);
        one("counter", "experts_total", "Distinct experts of all passes, summed over layers.", load.experts);
        one("counter", "drafts_total", "Drafts that were verified.", load.drafts.drafts as u64);
        one("counter", "drafts_accepted_total", "Drafts that were accepted.", load.drafts.accepted as u64);
        let name = "hadal_http_answers_total";
        let _ = writeln!(out, "# HELP {name} Answers by path and status.\n# TYPE {name} counter");
        for ((path, status), count) in &*self.answers.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = writeln!(out, "{name}{{path=\"{path}\",status=\"{status}\"}} {count}");
        }
        self.write_expert_loads(&mut out);
        self.first_token.write(&mut out, "hadal_time_to_first_token_seconds", "From acceptance to the first token.");
        self.per_token.write(&mut out, "hadal_time_per_token_seconds", "Between two tokens of a sequence.");
        self.whole.write(&mut out, "hadal_request_seconds", "From acceptance to the end.");
        out
    }

    fn write_expert_loads(&self, out: &mut String) {
        let name = "hadal_expert_tokens_total";
        let _ = writeln!(out, "# HELP {name} Tokens of each routed expert.\n# TYPE {name} counter");
        for (layer, _, tokens) in self.expert_loads().into_iter().flat_map(ExpertLoads::layers) {
            for (expert, tokens) in tokens.enumerate() {
                let _ = writeln!(out, "{name}{{layer=\"{layer}\",expert=\"{expert}\"}} {tokens}");
            }
        }
    }
}
