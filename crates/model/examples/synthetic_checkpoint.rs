//! Writes a sharded checkpoint of random weights, of any size in a few megabytes of memory. It is for trying out
//! conversions (docs/checkpoint.md).
//!
//! `cargo run --release -p hadal-model --example synthetic_checkpoint -- OUT [CONFIG [LAYERS [EXPERTS]]]`: CONFIG is a
//! built-in name or a config.json. LAYERS and EXPERTS override its numbers.

use hadal_weights::ModelConfig;
use hadal_weights::{Error, SHARD_BYTES, SaveOptions, SaveTensor, WeightFormat, expected, save};
use std::path::Path;

/// A number in -0.05..0.05, computed from the length of a tensor's name and an element's index.
fn value(key: u32, i: usize) -> f32 {
    let mix = (i as u32 ^ key).wrapping_mul(0x9e37_79b9);
    ((mix ^ mix >> 15).wrapping_mul(0x85eb_ca6b) as f32 / 2f32.powi(31) - 1.0) * 0.05
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [out, rest @ ..] = args.as_slice() else { return Err("which folder to write?".into()) };
    let name = rest.first().map_or("deepseek-v3", String::as_str);
    let mut config = ModelConfig::named(name).map_or_else(|| ModelConfig::from_file(name), Ok)?;
    if let Some(layers) = rest.get(1) {
        config.num_hidden_layers = layers.parse()?;
    }
    if let Some(experts) = rest.get(2) {
        config.n_routed_experts = experts.parse()?;
    }
    config.validate()?;
    let mut tensors = Vec::new();
    for t in expected(&config) {
        let dtype = WeightFormat::Bf16.of(&t.name);
        tensors.push(SaveTensor { name: t.name, shape: t.shape, dtype });
    }
    let bytes: usize = tensors.iter().map(SaveTensor::bytes).sum();
    println!("{} tensors, {:.2} GB in BF16", tensors.len(), bytes as f64 * 1e-9);
    let options = SaveOptions { shard_bytes: SHARD_BYTES.min(bytes / 4 + 1), ..SaveOptions::default() };
    let fill = |t: &SaveTensor, start: usize, out: &mut [f32]| -> Result<(), Error> {
        let key = t.name.bytes().fold(0u32, |h, b| h.wrapping_mul(31).wrapping_add(u32::from(b)));
        out.iter_mut().enumerate().for_each(|(i, v)| *v = value(key, start + i));
        Ok(())
    };
    save(Path::new(out), &config, &tensors, &options, |_| Ok(()), fill)?;
    Ok(())
}
