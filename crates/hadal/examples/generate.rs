//! Continues a prompt: `cargo run --release --example generate -- MODEL PROMPT`.

use hadal_infer::{Engine, EngineOptions, Event, Loaded, Request, SampleParams, run};
use hadal_ops::{Cx, DType};
use hadal_weights::folder::model_folder;
use hadal_weights::precision::RunFormats;

fn main() -> anyhow::Result<()> {
    let [model, prompt] = std::env::args().skip(1).collect::<Vec<_>>().try_into().expect("MODEL PROMPT");
    let loaded = Loaded::open(&model_folder(model.as_ref())?, None, RunFormats::COMPUTE, Cx::cpu(0, DType::Bf16))?;
    let ids = loaded.prompt(&prompt, false);
    loaded.check_prompt(&ids)?;
    let mut engine = Engine::new(&loaded.cx, &loaded.model, EngineOptions::default());
    let request = Request {
        prompt: ids,
        params: SampleParams { temperature: 0.8, top_p: 0.95, ..SampleParams::default() },
        max_new: 128,
        stop: loaded.stop_tokens(),
        text: Some(loaded.text()),
        ..Request::default()
    };
    run(&loaded.cx, &loaded.model, &mut engine, &request, &mut |event| {
        if let Event::Text { piece, .. } = event {
            print!("{}", piece.text);
        }
        true
    })?;
    println!();
    Ok(())
}
