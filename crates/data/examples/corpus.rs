//! Measures the data path on the Rust sources of this workspace's own dependencies: reading, filtering, splitting,
//! training a tokenizer, encoding.
//!
//! `cargo run --release -p hadal-data --example corpus [PATH...]`

use std::collections::BTreeMap;
use std::time::Instant;

use hadal_data::filter::{FilterOptions, filter};
use hadal_data::tokenizer::{Throughput, TrainOptions};
use hadal_data::{SourceOptions, Tokenizer, cargo_sources, read_paths, split};

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
        println!("  encoding {:.1} MB/s, {:.3} bytes a token", rate.mb_per_second(), bytes as f64 / tokens as f64);
        if vocab_size == 8192 {
            tokenizer.save(std::path::Path::new("target/tokenizer-8192"))?;
        }
    }
    Ok(())
}
