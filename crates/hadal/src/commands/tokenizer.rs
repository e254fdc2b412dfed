//! `hadal tokenizer train`: trains a byte-level BPE tokenizer on text.

use super::common::{grouped, read_text};
use crate::cli::{TokenizerArgs, TokenizerCommand, TokenizerTrainArgs};
use anyhow::Result;
use hadal_data::Tokenizer;
use hadal_data::tokenizer::TrainOptions;

pub(crate) fn run(args: &TokenizerArgs) -> Result<()> {
    match &args.command {
        TokenizerCommand::Train(args) => train(args),
    }
}

fn train(args: &TokenizerTrainArgs) -> Result<()> {
    let texts = read_text(&args.text.text, &args.text.field)?;
    say!("{} documents, {:.1} MB", grouped(texts.documents.len() as u64), texts.bytes() as f64 / 1e6);
    let max_bytes = (args.megabytes as u64).saturating_mul(1_000_000);
    let options = TrainOptions { vocab_size: args.vocab, max_bytes, ..TrainOptions::default() };
    let (tokenizer, report) = Tokenizer::train(&texts.documents, &options)?;
    say!(
        "trained on {:.1} MB in {:.1} s ({:.1} MB/s)",
        report.bytes as f64 / 1e6,
        report.count_seconds + report.merge_seconds,
        report.mb_per_second()
    );
    if tokenizer.vocab_size() < args.vocab {
        say!(
            "the text has enough pairs to merge for only {} tokens instead of {}: give more text to get more tokens",
            tokenizer.vocab_size(),
            args.vocab
        );
    }
    tokenizer.save(&args.out)?;
    // Enough text to measure a rate and a mean length.
    let mut sample = 0;
    let some = texts.documents.iter().map(|d| d.text.as_str()).take_while(|t| {
        let more = sample < 16_000_000;
        sample += t.len();
        more
    });
    let (_, rate) = tokenizer.encode_all(&some.collect::<Vec<_>>());
    say!(
        "{} tokens in {}; {:.2} bytes per token; encodes {:.1} MB/s",
        grouped(tokenizer.vocab_size() as u64),
        args.out.join("tokenizer.json").display(),
        rate.bytes as f64 / rate.tokens.max(1) as f64,
        rate.mb_per_second()
    );
    Ok(())
}
