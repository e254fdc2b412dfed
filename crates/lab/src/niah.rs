//! Needle in a haystack over lengths and depths (report 4.3, figure 8).

use anyhow::Result;
use hadal_base::{Purpose, Rng};
use hadal_data::Packed;
use hadal_data::needle::{Needles, Place, haystack};
use hadal_infer::{Loaded, retrieve};
use hadal_model::Decoder;
use hadal_watch::plot::NeedleCell;
use indicatif::{ProgressBar, ProgressStyle};

/// Questions over lengths and depths.
pub struct Questions<'a> {
    /// Lengths of the texts, in tokens.
    pub lengths: &'a [usize],
    /// Depths, evenly from the start to the end.
    pub depths: usize,
    /// Questions for each length and depth.
    pub samples: usize,
    /// Other facts in the same text.
    pub distractors: usize,
    /// Seed of texts and facts.
    pub seed: u64,
}

impl Questions<'_> {
    /// Asks `loaded` about needles in `documents`; `answer` hears of each. `who` stands before the bar.
    pub fn ask(
        &self,
        loaded: &Loaded,
        documents: &[Vec<u32>],
        who: &str,
        answer: &mut dyn FnMut(serde_json::Value) -> Result<()>,
    ) -> Result<Vec<NeedleCell>> {
        let bar = ProgressBar::new((self.lengths.iter().sum::<usize>() * self.depths * self.samples) as u64);
        if let Ok(style) = ProgressStyle::with_template("{msg}{bar:40} {percent}% of the tokens, {eta} left") {
            bar.set_style(style);
        }
        bar.set_message(if who.is_empty() { String::new() } else { format!("{who}: ") });
        let needles = Needles::new(&loaded.tokenizer, loaded.tokenizer.special().bos.is_some())?;
        let (cx, decoder) = (&loaded.cx, Decoder::new(&loaded.cx, &loaded.model));
        let mut all = Vec::with_capacity(self.lengths.len() * self.depths);
        for &length in self.lengths {
            for d in 0..self.depths {
                // A single depth is the middle.
                let depth = if self.depths == 1 { 0.5 } else { d as f64 / (self.depths - 1) as f64 };
                let mut cell = NeedleCell { length, depth, found: 0, asked: 0 };
                for n in 0..self.samples {
                    let rng = Rng::new(self.seed, Purpose::NeedleTest, n as u64).substream((length * 1000 + d) as u64);
                    let text = haystack(documents, length, rng.substream(0));
                    let place = Place { length, depth, distractors: self.distractors };
                    let sample = needles.sample(&text, place, rng.substream(1))?;
                    let got = cx.threads().run(|| retrieve(cx, &decoder, &sample.ids, sample.answer.clone()));
                    cell.asked += 1;
                    cell.found += usize::from(got.found());
                    answer(serde_json::json!({
                        "length": length, "depth": depth, "sample": n, "needle_at": sample.needle,
                        "answer": loaded.tokenizer.decode(&sample.ids[sample.answer]),
                        "tokens_right": got.right, "tokens": got.tokens, "found": got.found(),
                    }))?;
                    bar.inc(length as u64);
                }
                all.push(cell);
            }
        }
        bar.finish_and_clear();
        Ok(all)
    }
}

/// All packed documents.
pub fn documents_of(packed: &Packed) -> Result<Vec<Vec<u32>>> {
    let read = |document| {
        let mut ids = Vec::new();
        packed.read(document, &mut ids)?;
        Ok(ids)
    };
    (0..packed.documents()).map(read).collect()
}
