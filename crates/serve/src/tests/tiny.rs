//! A small model of the whole architecture with a tokenizer of its own. Tests, the soak test and the fuzzer use it.

use hadal_data::tokenizer::TrainOptions;
use hadal_data::{Document, Tokenizer};
use hadal_model::{Fresh, Model};
use hadal_ops::{Cx, DType};
use hadal_weights::precision::Precision;
use hadal_weights::{ModelConfig, SaveOptions, WeightFormat};
use std::path::Path;

/// Tokens of the model: some more than its tokenizer has.
pub(crate) const VOCABULARY: usize = 320;

/// Writes it into a folder.
pub(crate) fn write(folder: &Path) {
    let text = r#"{"name": "Ada", "born": 1815, "tags": [true, false, null]}, { "é": [[1, 2], []] }"#.repeat(3);
    let document = Document { id: "a".into(), group: "a".into(), text };
    let options = TrainOptions { vocab_size: 310, ..TrainOptions::default() };
    Tokenizer::train(&[document], &options).unwrap().0.save(folder).unwrap();
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/../model/tests/fixtures/yarn/config.json");
    let config = ModelConfig { vocab_size: VOCABULARY, ..ModelConfig::from_file(fixture).unwrap() };
    let cx = Cx::cpu(1, DType::F32);
    let model = Model::fresh(&cx, &config, Precision::COMPUTE, Fresh { seed: 5, std: 0.3 });
    model.save_into(folder, WeightFormat::F32, &SaveOptions::default()).unwrap();
}
