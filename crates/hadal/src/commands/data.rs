//! `hadal data pack`: converts text to packed token files.

use super::common::{grouped, read_text};
use crate::cli::{DataArgs, DataCommand, DataPackArgs, Filter};
use anyhow::{Result, bail, ensure};
use hadal_data::filter::{FilterOptions, filter};
use hadal_data::{Document, Tokenizer, pack, split};

/// Tokens of one packed file: a few hundred megabytes.
const SHARD_TOKENS: u64 = 128 << 20;

pub(crate) fn run(args: &DataArgs) -> Result<()> {
    match &args.command {
        DataCommand::Pack(args) => pack_text(args),
    }
}

fn pack_text(args: &DataPackArgs) -> Result<()> {
    for name in ["train", "validation"] {
        let there = args.out.join(format!("{name}.json"));
        ensure!(!there.exists(), "{} already exists: choose another --out or remove it", there.display());
    }
    if args.out.exists() && !args.out.is_dir() {
        bail!("--out {} is a file: name a folder", args.out.display());
    }
    let tokenizer = Tokenizer::load(&args.tokenizer)?;
    let texts = read_text(&args.text.text, &args.text.field)?;
    say!("{} documents, {:.1} MB", grouped(texts.documents.len() as u64), texts.bytes() as f64 / 1e6);
    let mut documents = texts.documents;
    if let Some(kind) = args.filter {
        let options = if kind == Filter::Code { FilterOptions::default() } else { FilterOptions::prose() };
        let (kept, report) = filter(documents, &options);
        report.check()?;
        say!("{report}");
        documents = kept;
    }
    let split = split::hold_out(documents, args.validation, 1)?;
    if !split.held_out.is_empty() {
        say!("held out: {}", split.held_out.join(", "));
    }
    write(args, &tokenizer, "train", &split.train)?;
    // It is empty if nothing is held out. Readers of the folder expect both files.
    write(args, &tokenizer, "validation", &split.validation)?;
    // Packed ids have no meaning without their tokenizer.
    tokenizer.save(&args.out)?;
    Ok(())
}

fn write(args: &DataPackArgs, tokenizer: &Tokenizer, name: &str, documents: &[Document]) -> Result<()> {
    let rate = pack::pack(&args.out, name, documents, tokenizer, SHARD_TOKENS)?;
    say!(
        "{}: {} documents, {} tokens ({:.2} bytes per token), {:.1} MB/s",
        args.out.join(format!("{name}.json")).display(),
        grouped(documents.len() as u64),
        grouped(rate.tokens),
        rate.bytes as f64 / rate.tokens.max(1) as f64,
        rate.mb_per_second()
    );
    Ok(())
}
