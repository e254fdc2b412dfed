//! Needle in a haystack over lengths and depths (report 4.3, figure 8).

use crate::error::Result;
use hadal_base::{IoContext, Purpose, Rng};
use hadal_data::needle::{Needles, Place, haystack};
use hadal_data::{Packed, Tokenizer};
use hadal_infer::{Engine, EngineOptions, Loaded, Speculation, retrieve};
use hadal_recipe::plan::Plan;
use hadal_watch::plot::{self, NeedleCell};
use indicatif::{ProgressBar, ProgressStyle};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Tokens of a text that are read together. Keys and values of all tokens before are made again for each piece, so pieces
/// are long.
const ROWS: usize = 4096;

/// Questions over lengths and depths.
pub struct Questions<'a> {
    /// Lengths of the texts, in tokens.
    pub lengths: &'a [usize],
    /// Number of depths, evenly spaced from the start to the end.
    pub depths: usize,
    /// Number of questions for each length and depth.
    pub samples: usize,
    /// Number of other facts in the same text.
    pub distractors: usize,
    /// Seed of texts and facts.
    pub seed: u64,
}

impl Questions<'_> {
    /// Asks `loaded` about needles in `documents` and calls `answer` for each answer. `who` is shown before the
    /// progress bar.
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
        let (cx, model) = (&loaded.cx, &loaded.model);
        let longest = self.lengths.iter().copied().max().unwrap_or(0);
        let options = EngineOptions { cache_tokens: longest, rows: ROWS, sequences: 1, speculation: Speculation::Off };
        let mut engine = Engine::new(cx, model, options);
        let mut all = Vec::with_capacity(self.lengths.len() * self.depths);
        for &length in self.lengths {
            for d in 0..self.depths {
                // A single depth means the middle.
                let depth = if self.depths == 1 { 0.5 } else { d as f64 / (self.depths - 1) as f64 };
                let mut cell = NeedleCell { length, depth, found: 0, asked: 0 };
                for n in 0..self.samples {
                    let rng = Rng::new(self.seed, Purpose::NeedleTest, n as u64).substream((length * 1000 + d) as u64);
                    let text = haystack(documents, length, rng.substream(0));
                    let place = Place { length, depth, distractors: self.distractors };
                    let sample = needles.sample(&text, place, rng.substream(1))?;
                    let got = retrieve(cx, model, &mut engine, &sample.ids, sample.answer.clone())?;
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

/// Like [`Questions::ask`], but also writes `niah.jsonl`, with one line per answer, and `niah.svg` to `out`.
pub fn ask_into(
    out: &Path,
    title: &str,
    questions: &Questions<'_>,
    loaded: &Loaded,
    documents: &[Vec<u32>],
) -> Result<Vec<NeedleCell>> {
    std::fs::create_dir_all(out).at("create", out)?;
    let path = out.join("niah.jsonl");
    let mut lines = BufWriter::new(File::create(&path).at("create", &path)?);
    let all =
        questions.ask(loaded, documents, "", &mut |answer| Ok(writeln!(lines, "{answer}").at("write", &path)?))?;
    lines.flush().at("write", &path)?;
    plot::needles(&out.join("niah.svg"), title, &all)?;
    Ok(all)
}

/// The shares found as a table for people, with one row per depth and one column per length.
pub fn table(cells: &[NeedleCell], lengths: &[usize], depths: usize) -> String {
    let line = |head: String, columns: Vec<String>| head + &columns.concat();
    let mut lines = vec![line("depth ".into(), lengths.iter().map(|l| format!("{l:>8}")).collect())];
    for d in 0..depths {
        let row: Vec<&NeedleCell> = cells.iter().skip(d).step_by(depths).collect();
        let depth = row.first().map_or(0.0, |c| c.depth);
        let shares = row.iter().map(|c| format!("{:>7.0}%", 100.0 * c.share()));
        lines.push(line(format!("{:>4.0}% ", 100.0 * depth), shares.collect()));
    }
    let totals = cells.chunks(depths).map(|c| format!("{:>7.1}%", 100.0 * NeedleCell::share_of(c)));
    lines.push(line("all   ".into(), totals.collect()));
    lines.join("\n")
}

/// Number of folders above a model in which a run's held-out text is searched: step, checkpoints, extension, run.
const ABOVE: usize = 4;

/// The held-out text of the run that made `model`, if the model lies in that run's folder.
pub fn held_out(model: &Path, tokenizer: &Tokenizer) -> Result<Option<Vec<Vec<u32>>>> {
    let folder = model.canonicalize().ok().and_then(|p| p.ancestors().take(ABOVE).find_map(packed_text));
    folder.map(|folder| documents_of(&Packed::open(&folder, "validation", tokenizer)?)).transpose()
}

/// The folder with the packed text of the run in `folder`, if it is a run: beside the plan, or where the plan says.
fn packed_text(folder: &Path) -> Option<PathBuf> {
    let packed = |folder: PathBuf| folder.join("validation.json").is_file().then_some(folder);
    let elsewhere = || match Plan::load(folder).ok()?.text.as_deref()? {
        [path] => packed(PathBuf::from(path)),
        _ => None,
    };
    packed(folder.join("data")).or_else(elsewhere)
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
