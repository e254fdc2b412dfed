//! A model and text for the tests.

use hadal_data::tokenizer::TrainOptions;
use hadal_data::{Document, EvalOptions, EvalSet, Tokenizer};
use hadal_weights::ModelConfig;

/// A small configuration, and windows of at most `seq_len` tokens over texts. The tokenizer has the configuration's
/// size and is trained on the texts.
pub(crate) fn windows(texts: &[&str], seq_len: usize, overlap: usize) -> (ModelConfig, EvalSet) {
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/../model/tests/fixtures/mtp2/config.json");
    let mut config = ModelConfig::from_file(fixture).unwrap();
    let document = Document { id: "a".into(), group: "a".into(), text: texts.join("\n") };
    let options = TrainOptions { vocab_size: 300, ..TrainOptions::default() };
    let (tokenizer, _) = Tokenizer::train(&[document], &options).unwrap();
    config.vocab_size = config.vocab_size.max(tokenizer.vocab_size());
    (config, EvalSet::of_texts(texts, &tokenizer, EvalOptions { seq_len, overlap, bos: true }).unwrap())
}
