//! Perplexity of a model on a file: `cargo run --release --example evaluate -- MODEL FILE`.

use hadal_data::{EvalOptions, EvalSet};
use hadal_infer::Loaded;
use hadal_ops::{Cx, DType};
use hadal_train::evaluate::evaluate;
use hadal_weights::folder::model_folder;
use hadal_weights::precision::RunFormats;

fn main() -> anyhow::Result<()> {
    let [model, file] = std::env::args().skip(1).collect::<Vec<_>>().try_into().expect("MODEL FILE");
    let loaded = Loaded::open(&model_folder(model.as_ref())?, None, RunFormats::COMPUTE, Cx::cpu(0, DType::Bf16))?;
    let text = std::fs::read_to_string(file)?;
    let seq_len = loaded.model.config.max_position_embeddings.min(2048);
    let options = EvalOptions { seq_len, overlap: 0, bos: true };
    let set = EvalSet::of_texts(&[text], &loaded.tokenizer, options)?;
    let found = evaluate(&loaded.cx, &loaded.model, &set, &mut |_, _| true);
    println!("perplexity {:.2}, {:.3} bits per byte", found.loss.exp(), found.bits_per_byte);
    Ok(())
}
