//! Conversations to stored sequences: reading, writing with the template, the length limit, what is held out.
//!
//! It happens once, before the first step. The run's folder then has everything that training reads, so a resume sees
//! the same tokens even if files, template or clock have changed.

use crate::error::{Result, SftError};
use crate::store::StoreWriter;
use hadal_base::{IoContext, Purpose, Rng};
use hadal_data::chat::samples::{Sample, Seen, read_samples};
use hadal_data::chat::{ChatTemplate, Learned, Turns};
use hadal_data::{DataError, Tokenizer};
use hadal_recipe::sft::{HeldOut, Longer, SftData};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Name of the sequences to train on.
pub const TRAIN: &str = "train";
/// Name of the held-out sequences.
pub const VALIDATION: &str = "validation";

/// Number of conversations that are written at the same time.
const AT_ONCE: usize = 512;

/// What became of the conversations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Number of conversations.
    pub samples: usize,
    /// Conversations that take several sequences, because the template writes earlier turns in another way later.
    pub in_parts: usize,
    /// Sequences to train on, and held-out ones.
    pub sequences: [usize; 2],
    /// Trained tokens in them.
    pub targets: [usize; 2],
    /// All tokens in them.
    pub tokens: [usize; 2],
    /// Sequences that were left out because they are too long.
    pub skipped: usize,
    /// Sequences whose end was cut off.
    pub cut: usize,
    /// Messages after the last one of the assistant.
    pub after: usize,
    /// Keys that are not used, and in how many conversations they are.
    pub unused: BTreeMap<String, usize>,
    /// Tokens that end the assistant's messages.
    pub ends: BTreeSet<u32>,
}

/// Reads, writes and stores conversations.
pub struct Preparation<'a> {
    /// What to read.
    pub data: &'a SftData,
    /// Seed of the run.
    pub seed: u64,
    /// The tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// The template.
    pub template: &'a ChatTemplate,
}

impl Preparation<'_> {
    /// Stores all sequences in `folder`.
    pub fn run(&self, folder: &Path) -> Result<Report> {
        std::fs::create_dir_all(folder).at("create", folder)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        let turns = Turns { template: self.template, tokenizer: self.tokenizer, now };
        let create = |name| StoreWriter::create(folder, name, self.tokenizer);
        let mut writers = [create(TRAIN)?, create(VALIDATION)?];
        let mut report = Report::default();
        let share = match &self.data.validation {
            HeldOut::Share(share) => *share,
            HeldOut::Files(_) => 0.0,
        };
        for (set, data) in self.data.train.iter().enumerate() {
            let rng = Rng::new(self.seed, Purpose::Subset, u64::MAX - set as u64);
            let held_out = |sample: &Sample| rng.uniform(sample.line as u64) < share;
            self.file(Path::new(data.path()), set, &turns, &held_out, &mut writers, &mut report)?;
        }
        if let HeldOut::Files(files) = &self.data.validation {
            for file in files {
                self.file(Path::new(file), 0, &turns, &|_| true, &mut writers, &mut report)?;
            }
        }
        if report.sequences[0] == 0 {
            return Err(SftError::Nothing(format!(
                "no conversation is left to train on ({} were read, {} are too long, {} are held out): raise \
                 `data.seq_len`, or give more conversations",
                report.samples, report.skipped, report.sequences[1]
            )));
        }
        for writer in writers {
            writer.finish()?;
        }
        Ok(report)
    }

    fn file(
        &self,
        path: &Path,
        set: usize,
        turns: &Turns<'_>,
        held_out: &dyn Fn(&Sample) -> bool,
        writers: &mut [StoreWriter; 2],
        report: &mut Report,
    ) -> Result<()> {
        let mut waiting: Vec<Sample> = Vec::with_capacity(AT_ONCE);
        let mut failed: Result<()> = Ok(());
        let mut write = |waiting: &mut Vec<Sample>, report: &mut Report| -> Result<()> {
            let learned: Vec<Result<Vec<Learned>, DataError>> =
                waiting.par_iter().with_max_len(8).map(|sample| turns.learn(path, sample)).collect();
            for (sample, learned) in waiting.drain(..).zip(learned) {
                let side = usize::from(held_out(&sample));
                let learned = learned?;
                report.samples += 1;
                report.in_parts += usize::from(learned.len() > 1);
                for one in learned {
                    let Some(one) = self.fitting(path, &sample, one, report)? else { continue };
                    report.sequences[side] += 1;
                    report.targets[side] += one.targets();
                    report.tokens[side] += one.ids.len();
                    let id = format!("{}:{}", path.display(), sample.line);
                    writers[side].push(&one, self.trained_bytes(&one), set, &id)?;
                }
            }
            Ok(())
        };
        let seen = read_samples(path, |sample| {
            waiting.push(sample);
            if failed.is_ok() && waiting.len() == AT_ONCE {
                failed = write(&mut waiting, report);
            }
            if failed.is_err() {
                waiting.clear();
            }
            Ok(())
        });
        // An error in an earlier line comes first.
        failed?;
        write(&mut waiting, report)?;
        let Seen { after, unused, .. } = seen?;
        report.after += after;
        unused.into_iter().for_each(|(key, n)| *report.unused.entry(key).or_default() += n);
        Ok(())
    }

    /// A sequence as it is stored: with at most `seq_len` inputs. `None` if it is left out.
    fn fitting(
        &self,
        path: &Path,
        sample: &Sample,
        mut learned: Learned,
        report: &mut Report,
    ) -> Result<Option<Learned>> {
        let (tokens, most) = (learned.ids.len(), self.data.seq_len + 1);
        if tokens <= most {
            report.ends.extend(learned.trained.iter().map(|of| learned.ids[of.end - 1]));
            return Ok(Some(learned));
        }
        match self.data.longer {
            Longer::Error => {
                let what = format!(
                    "it has {tokens} tokens, and a sequence has room for {most} (`data.seq_len` + 1): raise `data.seq_len`, \
                     or set `data.longer` to \"skip\" or \"cut\""
                );
                return Err(DataError::sample(path, sample.line, "", what).into());
            }
            Longer::Skip => report.skipped += 1,
            Longer::Cut => {
                learned.cut(most);
                if learned.targets() > 0 {
                    report.cut += 1;
                    return Ok(Some(learned));
                }
                report.skipped += 1;
            }
        }
        Ok(None)
    }

    /// Bytes of the trained text of a sequence. Special tokens are not text.
    fn trained_bytes(&self, learned: &Learned) -> usize {
        let ids = learned.trained.iter().flat_map(|of| &learned.ids[of.clone()]);
        ids.filter(|id| !self.tokenizer.is_special(**id)).map(|id| self.tokenizer.token_bytes(*id).len()).sum()
    }
}

impl Report {
    /// What became of the conversations, in lines for people.
    pub fn lines(&self) -> Vec<String> {
        let [train, validation] = self.sequences;
        let mut lines = vec![format!(
            "{} conversations: {train} sequences to train on, with {} tokens, of which {} are trained",
            self.samples, self.tokens[0], self.targets[0]
        )];
        lines.push(match validation {
            0 => "nothing is held out, so there will be no validation".into(),
            n => format!("held out for validation: {n} sequences with {} trained tokens", self.targets[1]),
        });
        let mut more = |n: usize, what: &str| {
            if n > 0 {
                lines.push(format!("{n} {what}"));
            }
        };
        more(
            self.in_parts,
            "conversations take several sequences: the template writes a turn in another way when others follow it",
        );
        more(self.skipped, "sequences are longer than `data.seq_len` allows and are left out (`data.longer`)");
        more(self.cut, "sequences are longer than `data.seq_len` allows and are cut (`data.longer`)");
        more(self.after, "messages come after the assistant's last one and are not used");
        if !self.unused.is_empty() {
            let keys: Vec<String> = self.unused.iter().map(|(key, n)| format!("`{key}` ({n})")).collect();
            lines.push(format!("keys that are not used: {}", keys.join(", ")));
        }
        lines
    }
}
