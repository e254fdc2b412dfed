//! After warm-up, a step of an engine whose sequences generate allocates nothing on the heap. This test is a separate
//! binary, because it replaces the allocator to count the requests of every thread.

#[path = "../../ops/tests/counting/mod.rs"]
mod counting;

use hadal_infer::{Engine, EngineOptions, Request, SampleParams, Speculation};
use hadal_model::{Fresh, Model};
use hadal_ops::{Cx, DType};
use hadal_weights::ModelConfig;
use hadal_weights::precision::Precision;

/// Steps before the count starts. They cross a page of 128 tokens.
const WARM: usize = 140;

#[test]
fn a_decode_step_allocates_nothing_once_warm() {
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/../model/tests/fixtures/mtp2/config.json");
    let config = ModelConfig { max_position_embeddings: 1024, ..ModelConfig::from_file(fixture).unwrap() };
    for dtype in [DType::F32, DType::Bf16] {
        for speculation in [Speculation::Off, Speculation::Always] {
            let cx = Cx::cpu(2, dtype);
            let model = Model::fresh(&cx, &config, Precision::COMPUTE, Fresh { seed: 5, std: 0.3 });
            let options = EngineOptions { cache_tokens: 4096, speculation, ..EngineOptions::default() };
            let mut engine = Engine::new(&cx, &model, options);
            for (seed, temperature) in [(1, 0.0), (2, 1.0), (3, 0.7)] {
                let prompt: Vec<u32> = (0..20 + seed as u32).collect();
                let params = SampleParams { temperature, top_p: 0.9, seed, ..SampleParams::default() };
                engine.submit(&model, &Request { prompt, params, max_new: 900, ..Request::default() }).unwrap();
            }
            let mut tokens = 0;
            (0..WARM).for_each(|_| engine.step(&cx, &model, &mut |_| tokens += 1));
            // Entering the threads' pool from outside may allocate in the thread library, so the steps run inside.
            let before = counting::calls();
            assert!(before > 0, "the counter counts");
            (0..200).for_each(|_| engine.step(&cx, &model, &mut |_| tokens += 1));
            assert_eq!(counting::calls() - before, 0, "{dtype:?}, {speculation:?}");
            assert!(tokens > 3 * (WARM + 150));
        }
    }
}
