//! Measures the data path on the Rust sources of this workspace's own dependencies: reading, filtering, splitting,
//! training a tokenizer, encoding, packing, loading, and the baselines a model must beat.
//!
//! `cargo run --release -p hadal-data --example corpus [PATH...]`

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use hadal_data::baseline::{Compressor, Unigram};
use hadal_data::filter::{FilterOptions, filter};
use hadal_data::split::Split;
use hadal_data::tokenizer::{Throughput, TrainOptions};
use hadal_data::{
    Batch, EvalOptions, EvalSet, Loader, Packed, Share, SourceOptions, StreamOptions, Tokenizer, cargo_sources, pack,
    read_paths, split,
};

fn main() -> hadal_data::Result<()> {
    let paths: Vec<String> = std::env::args().skip(1).collect();
    let start = Instant::now();
    let texts = if paths.is_empty() {
        let sources = cargo_sources::read(include_str!("../../../Cargo.lock"), &cargo_sources::cargo_home()?)?;
        println!("{} packages found, {} not there", sources.found.len(), sources.missing.len());
        sources.texts
    } else {
        read_paths(&paths, &SourceOptions::default())?
    };
    let mb = texts.bytes() as f64 / 1e6;
    println!("read {} documents, {mb:.1} MB, in {:.2} s", texts.documents.len(), start.elapsed().as_secs_f64());

    let start = Instant::now();
    let (documents, report) = filter(texts.documents, &FilterOptions::default());
    let seconds = start.elapsed().as_secs_f64();
    println!("{report}\nfiltered in {seconds:.2} s, {:.1} MB/s", mb / seconds);

    let mut packages: BTreeMap<&str, u64> = BTreeMap::new();
    for document in &documents {
        *packages.entry(&document.group).or_default() += document.text.len() as u64;
    }
    let mut largest: Vec<_> = packages.iter().collect();
    largest.sort_by_key(|(_, bytes)| std::cmp::Reverse(**bytes));
    for (name, bytes) in largest.iter().take(12) {
        println!("  {name}: {:.2} MB", **bytes as f64 / 1e6);
    }
    let split = split::hold_out(documents, 0.04, 1)?;
    let bytes = |d: &[hadal_data::Document]| d.iter().map(|d| d.text.len()).sum::<usize>() as f64 / 1e6;
    println!("train {:.1} MB, held out {:.2} MB: {:?}", bytes(&split.train), bytes(&split.validation), split.held_out);

    for vocab_size in [4096, 8192, 32768] {
        let options = TrainOptions { vocab_size, ..TrainOptions::default() };
        let (tokenizer, report) = Tokenizer::train(&split.train, &options)?;
        println!(
            "tokenizer of {vocab_size}: {:.1} MB in {:.2} + {:.2} s (counting + merging), {:.1} MB/s",
            report.bytes as f64 / 1e6,
            report.count_seconds,
            report.merge_seconds,
            report.mb_per_second()
        );
        let texts: Vec<&str> = split.train.iter().map(|d| d.text.as_str()).collect();
        let (_, Throughput { bytes, tokens, .. }) = tokenizer.encode_all(&texts);
        let (_, rate) = tokenizer.encode_all(&texts);
        println!("  encoding {:.1} MB/s, {:.3} bytes per token", rate.mb_per_second(), bytes as f64 / tokens as f64);
        if vocab_size == 8192 {
            load(tokenizer, &split)?;
        }
    }
    Ok(())
}

fn load(tokenizer: Tokenizer, split: &Split) -> hadal_data::Result<()> {
    let folder = Path::new("target/corpus");
    tokenizer.save(folder)?;
    let rate = pack::pack(folder, "train", &split.train, &tokenizer, 1 << 30)?;
    pack::pack(folder, "validation", &split.validation, &tokenizer, 1 << 30)?;
    println!("packed {} tokens, {:.1} MB/s", rate.tokens, rate.mb_per_second());
    let train = Arc::new(Packed::open(folder, "train", &tokenizer)?);
    let validation = Packed::open(folder, "validation", &tokenizer)?;

    let start = Instant::now();
    let unigram = Unigram::fit(&train, &tokenizer)?;
    let set = EvalSet::of_packed(&validation, &tokenizer, EvalOptions { seq_len: 512, overlap: 0, bos: true })?;
    let texts: Vec<&str> = split.validation.iter().map(|d| d.text.as_str()).collect();
    println!(
        "held out: {} windows of 512; bits per byte: unigram {:.3}, zstd -19 {:.3}, xz -9 {:.3} ({:.1} s)",
        set.windows.len(),
        unigram.bits_per_byte(&set),
        Compressor::Zstd19.bits_per_byte(&texts),
        Compressor::Xz9.bits_per_byte(&texts),
        start.elapsed().as_secs_f64()
    );

    let tokenizer = Arc::new(tokenizer);
    let options = StreamOptions { seq_len: 512, fim_span: Some(384), ..StreamOptions::default() };
    let mut loader = Loader::new(train, tokenizer, options, Share::ALL, None, 64)?;
    let (start, rows) = (Instant::now(), 20_000);
    let mut batch = Batch::default();
    for _ in 0..rows / 8 {
        loader.next_batch_into(8, &mut batch)?;
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("loader: {:.2} M tokens/s from one thread", f64::from(rows) * 512.0 / 1e6 / seconds);
    Ok(())
}
