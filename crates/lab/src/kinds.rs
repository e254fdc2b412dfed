//! Kinds of text to train on in equal parts. A part of each is held out to measure the routing on it.

use crate::checks::REMEDY;
use crate::error::{LabError, Result, refuse};
use hadal_base::atomic;
use hadal_data::filter::{FilterOptions, filter};
use hadal_data::hash::hash_bytes;
use hadal_data::split::{hold_out, subset};
use hadal_data::{Document, SourceOptions, Texts, read_paths};
use hadal_recipe::plan::Plan;
use hadal_train::corpus;
use hadal_train::session::Say;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Subfolder of the experiment for the packed text, and the file that describes it.
const FOLDER: &str = "kinds";
const CONTENTS: &str = "kinds.json";
/// Share of each kind that is held out. It is large enough to measure routing.
const HELD_OUT: f64 = 0.1;
/// A file that is a single text is cut at blank lines into pieces of at least this many bytes.
const PIECE: usize = 4096;

/// Packs the kinds of text into a folder from which the runs are trained. Of each kind it takes as many bytes as the
/// smallest kind has. The held-out parts become the validation text. The group of a packed document is its kind.
pub(crate) fn prepare(kinds: &[(String, PathBuf)], plan: &Plan, out: &Path, say: Say<'_>) -> Result<PathBuf> {
    let folder = out.join(FOLDER);
    let seed = plan.run.seed;
    let contents =
        json!({"kinds": kinds, "vocab_size": plan.data.vocab_size, "tokenizer": plan.data.tokenizer, "seed": seed});
    let written = folder.join(CONTENTS);
    if let Ok(text) = std::fs::read_to_string(&written) {
        let stored: Value = serde_json::from_str(&text).map_err(|error| LabError::Damaged { path: written, error })?;
        if stored != contents {
            refuse!("--domain: {} holds the text of {stored}, not of {contents}: {REMEDY}", folder.display());
        }
        return Ok(folder);
    }
    let read: Vec<Vec<Document>> =
        kinds.iter().map(|(name, path)| documents(name, path, say)).collect::<Result<_>>()?;
    let bytes = |documents: &[Document]| documents.iter().map(|d| d.text.len() as u64).sum::<u64>();
    let smallest = read.iter().map(|d| bytes(d)).min().unwrap_or(0);
    let (mut train, mut held_out) = (Vec::new(), Vec::new());
    for ((name, path), documents) in kinds.iter().zip(read) {
        let whole = bytes(&documents);
        let split = hold_out(subset(&documents, smallest, seed), HELD_OUT, seed).map_err(|error| LabError::Kind {
            name: name.clone(),
            path: path.clone(),
            error,
        })?;
        let [kept, held] = [&split.train, &split.validation].map(|d| bytes(d) as f64 / 1e6);
        say(&format!("{name}: {kept:.2} MB of {:.1} MB to train on, {held:.2} MB held out", whole as f64 / 1e6));
        let of_kind = |d: Document| Document { group: name.clone(), ..d };
        train.extend(split.train.into_iter().map(of_kind));
        held_out.extend(split.validation.into_iter().map(of_kind));
    }
    // The documents of the kinds are mixed.
    train.sort_by_key(|d| hash_bytes(d.id.as_bytes()));
    corpus::pack_split(&train, &held_out, &plan.data, plan.data.vocab_size, seed, [&folder, &folder], &mut |line| {
        say(line);
    })?;
    atomic::write_file(&written, contents.to_string().as_bytes())?;
    Ok(folder)
}

/// The documents of one kind, without copies and without anything that is not text.
fn documents(name: &str, path: &Path, say: Say<'_>) -> Result<Vec<Document>> {
    let Texts { mut documents, left_out } = read_paths(&[path], &SourceOptions::default())?;
    if !left_out.is_empty() {
        say(&format!("{name}: not read: {left_out}"));
    }
    if let [whole] = documents.as_slice() {
        documents = pieces(whole);
    }
    let (documents, report) = filter(documents, &FilterOptions::prose());
    say(&format!("{name}: {report}"));
    Ok(documents)
}

/// Splits a text into pieces that end with a blank line.
fn pieces(whole: &Document) -> Vec<Document> {
    let (mut pieces, mut text) = (Vec::new(), String::new());
    for line in whole.text.split_inclusive('\n') {
        text += line;
        if line.trim().is_empty() && text.len() >= PIECE {
            pieces.push(std::mem::take(&mut text));
        }
    }
    pieces.push(text);
    let piece = |(i, text)| {
        let id = format!("{}:{}", whole.id, i + 1);
        Document { group: id.clone(), id, text }
    };
    pieces.into_iter().enumerate().map(piece).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_the_text_cut_at_blank_lines() {
        let paragraph = format!("{}\n \n", "A line of some text.\n".repeat(60));
        let text = paragraph.repeat(10) + "the end";
        let whole = Document { id: "a".into(), group: "a".into(), text: text.clone() };
        let cut = pieces(&whole);
        assert_eq!(cut.iter().map(|d| d.text.as_str()).collect::<String>(), text);
        assert!(cut.len() == 3 && cut[..2].iter().all(|d| d.text.len() >= PIECE && d.text.ends_with(".\n\n")));
        assert_eq!((cut[1].id.as_str(), cut[1].group.as_str()), ("a:2", "a:2"));
    }
}
