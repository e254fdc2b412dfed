//! The plan of a context extension, which follows the main run (report section 4.3).
//!
//! An extension is a run of its own, with its own plan, folder, checkpoints and metrics. So stopping, resuming and
//! inspecting it need no extra code. It takes over from the previous run: weights, averaged weights, AdamW's moments
//! and update count, and the position in the data.
//!
//! The report does not say whether the moments are kept. They are kept here, because an extension begins at the small
//! learning rate at which the previous run ended. With fresh moments, AdamW's first steps would change every weight by
//! the learning rate, whatever the gradient.
//!
//! These things change: sequences are longer, positions use YaRN, and the learning rate is constant or falls once.
//! Balance and MTP weight stay as they are at the end of the main run. If the main run counts checkpoints and
//! validations in tokens, an extension has as many of them in proportion to its length.

use hadal_weights::yarn::Yarn;

use crate::plan::Plan;
use crate::recipe::{Amount, Extension, Lr, Shape};
use crate::schedule::{BatchRamp, Every, Phase, Schedule, Switch};

/// What is wrong with an extension: the key and the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtensionError {
    /// Key in the `[[extension]]` table.
    pub key: &'static str,
    /// What the value must be.
    pub message: String,
}

fn bad<T>(key: &'static str, message: impl Into<String>) -> Result<T, ExtensionError> {
    Err(ExtensionError { key, message: message.into() })
}

impl Plan {
    /// The plan of an extension after this main run. `number` counts its extensions from 1.
    pub fn extension(&self, number: usize, wanted: &Extension) -> Result<Self, ExtensionError> {
        let seq_len = wanted.seq_len;
        if seq_len < 2 {
            return bad("seq_len", "must be at least 2");
        }
        let mut model = self.model.clone();
        let before = model.rope_scaling.take();
        let known = before.as_ref().map(|y| y.original_max_position_embeddings);
        let original = wanted.original_len.or(known).unwrap_or(self.data.seq_len);
        if original < 1 {
            return bad("original_len", "must be at least 1");
        }
        let factor = wanted.factor.unwrap_or((seq_len as f64 / original as f64).max(1.0));
        if !(factor >= 1.0 && factor.is_finite()) {
            return bad("factor", "must be at least 1");
        }
        let reached = (factor * original as f64).round() as usize;
        if reached < seq_len {
            let why =
                format!("{factor} times {original} tokens is {reached} tokens, fewer than the seq_len of {seq_len}");
            return bad("factor", why);
        }
        // If the model has no YaRN yet, V3's own values: the softmax is scaled by (0.1 ln factor + 1)^2.
        let yarn = before.unwrap_or(Yarn { mscale_all_dim: 1.0, ..Yarn::default() });
        // The first extension may also only lengthen the sequences, without YaRN.
        let scaled = factor > 1.0 || known.is_some();
        model.rope_scaling = scaled.then_some(Yarn { factor, original_max_position_embeddings: original, ..yarn });
        model.max_position_embeddings = reached;
        if let Err(e) = model.validate() {
            return bad("factor", e.to_string());
        }

        let main = &self.schedule;
        let (micro_batch, step) = (wanted.micro_batch, main.batch.to * main.batch.seq_len);
        if micro_batch == 0 {
            return bad("micro_batch", "must be at least 1");
        }
        let even = (step / seq_len as u64 / micro_batch).max(1) * micro_batch;
        let sequences = wanted.sequences.unwrap_or(even);
        if sequences == 0 || !sequences.is_multiple_of(micro_batch) {
            let why = format!("{sequences} sequences are not a whole number of micro-batches of {micro_batch}");
            return bad("sequences", why);
        }
        if let Some(why) = self.balance.method.cut(sequences, micro_batch) {
            return bad("micro_batch", format!("{why}: set micro_batch = {sequences}"));
        }
        let total = match wanted.total_tokens {
            Amount::Tokens(n) => Some(n),
            Amount::Steps(n) => n.checked_mul(sequences * seq_len as u64),
            Amount::Share { .. } => None,
        };
        let Some(total) = total.filter(|n| *n > 0) else {
            return bad("total_tokens", "write tokens (\"2M\") or steps (\"1000 steps\"), more than 0");
        };
        let end = main.phases.last().map_or(main.peak_lr, |p| p.lr);
        let rate = |key, written: Option<Lr>, default| {
            let lr = written.map_or(Ok(default), |lr| lr.of(main.peak_lr)).or_else(|why| bad(key, why))?;
            if lr > 0.0 && lr.is_finite() { Ok(lr) } else { bad(key, "must be above 0") }
        };
        let lr = rate("lr", wanted.lr, end)?;
        let lr_end = rate("lr_end", wanted.lr_end, lr)?;
        let shape = if wanted.lr_end.is_some() { Shape::Cosine } else { Shape::Constant };

        let constant = |s: Switch| Switch { early: s.late, until: 0, late: s.late };
        let scaled = |every: Every| match every {
            Every::Steps(n) => Every::Steps(n),
            Every::Tokens(n) => {
                Every::Tokens((u128::from(n) * u128::from(total) / u128::from(main.total_tokens.max(1))).max(1) as u64)
            }
        };
        let batch = BatchRamp { from: sequences, to: sequences, over: 0, micro_batch, seq_len: seq_len as u64 };
        let mut data = self.data.clone();
        data.seq_len = seq_len;
        Ok(Self {
            name: format!("{}, extension {number}: {seq_len} tokens", self.name),
            model,
            data,
            shuffle_len: self.data.seq_len,
            schedule: Schedule {
                total_tokens: total,
                peak_lr: lr,
                warmup_tokens: 0,
                phases: vec![Phase { end: total, shape, lr: lr_end }],
                batch,
                gamma: constant(main.gamma),
                mtp_weight: constant(main.mtp_weight),
            },
            checkpoint_every: scaled(self.checkpoint_every),
            eval_every: scaled(self.eval_every),
            extensions: Vec::new(),
            ..self.clone()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Recipe;

    const RECIPE: &str = "[model]\nconfig = \"small\"\n\n[schedule]\ntotal_tokens = \"20M\"\npeak_lr = 1e-3\n\n[data]\n\
        seq_len = 512\n\n[[extension]]\nseq_len = 4096\nfactor = 32\ntotal_tokens = \"2M\"\nsequences = 4\n\n[[extension]]\n\
        seq_len = 16384\ntotal_tokens = \"100 steps\"\nlr = \"2%\"\n";

    fn plan(text: &str) -> Result<Plan, String> {
        Recipe::parse("r.toml", text, &[]).and_then(|r| Plan::new(&r, None)).map_err(|e| e.to_string())
    }

    #[test]
    fn extensions_change_what_they_say_and_keep_the_rest() {
        let p = plan(RECIPE).unwrap();
        let [a, b] = p.extensions.as_slice() else { panic!("{} extensions", p.extensions.len()) };
        let yarn = a.model.rope_scaling.as_ref().unwrap();
        assert_eq!((yarn.factor, yarn.original_max_position_embeddings, yarn.mscale_all_dim), (32.0, 512, 1.0));
        assert_eq!((a.model.max_position_embeddings, a.data.seq_len), (16384, 4096));
        assert_eq!((a.schedule.total_tokens, a.schedule.batch.to), (2_000_000, 4));
        // The default learning rate is the main run's last. Balance and MTP weight are those at its end.
        assert!((a.schedule.lr(1) - 1e-3 * 7.3 / 220.0).abs() < 1e-12);
        assert_eq!((a.schedule.gamma.at(0), a.schedule.mtp_weight.at(0)), (0.0, 0.1));
        // Defaults: the factor that is needed, and at least one sequence per step.
        let yarn = b.model.rope_scaling.as_ref().unwrap();
        assert_eq!((yarn.factor, yarn.original_max_position_embeddings), (32.0, 512));
        assert_eq!((b.schedule.total_tokens, b.schedule.batch.to), (1_638_400, 1));
        assert!((b.schedule.lr(5) - 2e-5).abs() < 1e-12);
        assert_eq!(b.schedule.step(0).unwrap().sequences, 1);
        // An extension may cool down.
        let p = plan(&RECIPE.replace("lr = \"2%\"", "lr = \"2%\"\nlr_end = \"1%\"")).unwrap();
        let rates = [0, 819_200, 1_638_400].map(|t| p.extensions[1].schedule.lr(t));
        assert!(rates.iter().zip([2e-5, 1.5e-5, 1e-5]).all(|(a, b)| (a - b).abs() < 1e-10), "{rates:?}");
        // A checkpoint after each tenth of the run means one after each tenth of the extension.
        assert_eq!((p.checkpoint_every, a.checkpoint_every), (Every::Tokens(2_000_000), Every::Tokens(200_000)));
        // The window of shuffled rows has the same size in tokens.
        assert_eq!(a.shuffle_len, 512);
        assert_eq!((&a.run, &a.optimizer, a.version), (&p.run, &p.optimizer, p.version));
    }

    #[test]
    fn mistakes_are_told_by_key() {
        for (from, to, key, word) in [
            ("factor = 32", "factor = 4", "extension.0.factor", "2048"),
            ("factor = 32", "factor = 0.5", "extension.0.factor", "at least 1"),
            ("seq_len = 4096", "seq_len = 1", "extension.0.seq_len", "at least 2"),
            ("total_tokens = \"2M\"", "total_tokens = \"5%\"", "extension.0.total_tokens", "steps"),
            ("total_tokens = \"2M\"", "total_tokens = 0", "extension.0.total_tokens", "more than 0"),
            ("sequences = 4", "sequences = 4\nmicro_batch = 3", "extension.0.sequences", "micro-batches of 3"),
            ("sequences = 4", "micro_batch = 0", "extension.0.micro_batch", "at least 1"),
            ("lr = \"2%\"", "lr = \"3 steps\"", "extension.1.lr", "peak_lr"),
            ("lr = \"2%\"", "lr = 0.0", "extension.1.lr", "above 0"),
            ("lr = \"2%\"", "lr_end = 0.0", "extension.1.lr_end", "above 0"),
            ("lr = \"2%\"", "original_len = 0", "extension.1.original_len", "at least 1"),
            ("lr = \"2%\"", "learning_rate = 1", "extension", "learning_rate"),
        ] {
            let e = plan(&RECIPE.replace(from, to)).unwrap_err();
            assert!(e.starts_with("r.toml, line ") && e.contains(&format!("`{key}")) && e.contains(word), "{to}: {e}");
        }
    }

    #[test]
    fn the_reports_two_phases() {
        let p = Plan::new(&Recipe::load("deepseek-v3", &[]).unwrap(), None).unwrap();
        let steps: Vec<u64> = p.extensions.iter().map(|s| s.schedule.total_steps()).collect();
        assert_eq!(steps, [1000, 1000]);
        for (extension, (len, sequences)) in p.extensions.iter().zip([(32_768, 1920), (131_072, 480)]) {
            assert_eq!((extension.data.seq_len, extension.schedule.batch.to), (len, sequences));
            assert!((extension.schedule.lr(1) - 7.3e-6).abs() < 1e-12);
            // The released configuration: factor 40 over 4096, 163,840 positions.
            let released = hadal_weights::ModelConfig::named("deepseek-v3").unwrap();
            assert_eq!(extension.model.rope_scaling, released.rope_scaling);
            assert_eq!(extension.model.max_position_embeddings, released.max_position_embeddings);
        }
    }
}
