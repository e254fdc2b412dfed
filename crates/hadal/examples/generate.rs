//! Continues a prompt: `cargo run --release --example generate -- MODEL PROMPT`.

use hadal_infer::{Engine, EngineOptions, Loaded, SampleParams, generate};
use hadal_ops::{Cx, DType};
use hadal_weights::folder::model_folder;
use hadal_weights::precision::RunFormats;

fn main() -> anyhow::Result<()> {
    let [model, prompt] = std::env::args().skip(1).collect::<Vec<_>>().try_into().expect("MODEL PROMPT");
    let loaded = Loaded::open(&model_folder(model.as_ref())?, None, RunFormats::COMPUTE, Cx::cpu(0, DType::Bf16))?;
    let ids = loaded.prompt(&prompt, false);
    loaded.check_prompt(&ids)?;
    let mut engine = Engine::new(&loaded.cx, &loaded.model, EngineOptions::default());
    let params = SampleParams { temperature: 0.8, top_p: 0.95, ..SampleParams::default() };
    let mut text = loaded.tokenizer.stream();
    generate(&loaded.cx, &loaded.model, &mut engine, &ids, params, &loaded.stop_tokens(), 128, &mut |token| {
        print!("{}", text.push(token));
        true
    })?;
    println!("{}", text.finish());
    Ok(())
}
