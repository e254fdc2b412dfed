//! Shared by the tests: a small text, a small tokenizer, packed data.

use std::sync::{Arc, LazyLock};

use crate::source::Document;
use crate::tokenizer::{Tokenizer, TrainOptions};

/// This crate's own sources.
pub(crate) fn documents() -> Vec<Document> {
    let texts = [
        include_str!("boundary.rs"),
        include_str!("error.rs"),
        include_str!("filter.rs"),
        include_str!("hash.rs"),
        include_str!("minhash.rs"),
        include_str!("source/mod.rs"),
        include_str!("split.rs"),
        "D\u{e9}j\u{e0} vu \u{2014} \u{6df1}\u{5ea6}\u{6c42}\u{7d22} 12345 \u{1f600}\u{1f600}\n",
    ];
    let one =
        |(i, text): (usize, &&str)| Document { id: format!("d{i}"), group: format!("g{i}"), text: (*text).into() };
    texts.iter().enumerate().map(one).collect()
}

/// A tokenizer trained on these documents.
pub(crate) fn tokenizer() -> Arc<Tokenizer> {
    static TRAINED: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| {
        let options = TrainOptions { vocab_size: 700, ..TrainOptions::default() };
        Arc::new(Tokenizer::train(&documents(), &options).unwrap().0)
    });
    Arc::clone(&TRAINED)
}
