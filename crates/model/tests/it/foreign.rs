//! Checkpoints of other programs: what their files say about a family, and modules that they lack.

use crate::checkpoints::{raw, serialize};
use crate::fixtures::{Fixture, folders};
use hadal_model::dump::dump;
use hadal_model::{Input, Model};
use hadal_ops::{Cx, DType};
use hadal_weights::precision::Precision;
use hadal_weights::{Checkpoint, ModelConfig, ModelType, TopkMethod};
use std::fs;

/// The fixtures' checkpoints declared as the other family, with every key written out. For example, DeepSeek-VL2's
/// language model is a V2 with V3's keys. All results are the same bits. `f32_agrees_on_...` compares those of the
/// original family with transformers.
#[test]
fn a_model_is_what_its_keys_say_and_not_its_family() {
    let mut compared = 0;
    for folder in folders() {
        let f = Fixture::open(&folder);
        let cx = Cx::cpu(1, DType::F32);
        let ids = f.ids();
        let ids: Vec<&[i32]> = ids.iter().map(Vec::as_slice).collect();
        let whole = |model_type: ModelType| {
            let own = ModelConfig::from_file(folder.join("config.json")).unwrap();
            // Only one thing depends on the family: whether V2's own methods scale normalised values.
            if own.topk_method != TopkMethod::NoauxTc && own.norm_topk_prob {
                return None;
            }
            let mut config = own.to_value();
            config["model_type"] = serde_json::to_value(model_type).unwrap();
            let checkpoint = Checkpoint::open_with(&folder, ModelConfig::from_value(config).unwrap()).unwrap();
            let model = Model::load_to_train(&cx, &checkpoint, Precision::COMPUTE).unwrap();
            Some(dump(&cx, &model, &ids, true, None))
        };
        let (v2, v3) = (whole(ModelType::DeepseekV2), whole(ModelType::DeepseekV3));
        assert!(v2 == v3, "{}", f.name);
        compared += usize::from(v2.is_some());
    }
    assert!(compared > 4, "{compared}");
}

/// The main model of a checkpoint gives the same results without its MTP modules, and reports none.
#[test]
fn modules_that_are_not_stored_leave_the_main_model_as_it_is() {
    let f = Fixture::named("mtp2");
    let cx = Cx::cpu(1, DType::F32);
    let bytes = fs::read(f.path.join("model.safetensors")).unwrap();
    let config = ModelConfig::from_file(f.path.join("config.json")).unwrap();
    let layers = config.num_hidden_layers;
    assert_eq!(config.num_nextn_predict_layers, 2);
    let stored = |modules: usize| {
        let dir = tempfile::tempdir().unwrap();
        fs::copy(f.path.join("config.json"), dir.path().join("config.json")).unwrap();
        let mut tensors = raw(&bytes);
        let left_out = |name: &str, l: usize| name.starts_with(&format!("model.layers.{l}."));
        tensors.retain(|name, _| (layers + modules..layers + 2).all(|l| !left_out(name, l)));
        fs::write(dir.path().join("model.safetensors"), serialize(&tensors)).unwrap();
        dir
    };
    let ids = f.ids();
    let logits = |model: &Model| {
        let ids: Vec<&[i32]> = ids.iter().map(Vec::as_slice).collect();
        let (main, mtp) = model.logits(&cx, &Input::of(&cx, &ids, 2), None, None);
        (main.f32().iter().map(|v| v.to_bits()).collect::<Vec<_>>(), mtp.len())
    };
    let load = |dir: &std::path::Path| Model::load(&cx, &Checkpoint::open(dir).unwrap());
    let (all, none) = (stored(2), stored(0));
    assert_eq!(Checkpoint::open(all.path()).unwrap().notice(), None);
    assert!(Checkpoint::open(none.path()).unwrap().notice().unwrap().contains("no MTP module is stored"));
    let (all, none) = (logits(&load(all.path()).unwrap()), logits(&load(none.path()).unwrap()));
    assert!(all.0 == none.0);
    assert_eq!((all.1, none.1), (2, 0));
    let error = load(stored(1).path()).err().expect("loaded").to_string();
    let says = "1 MTP module is stored, but `num_nextn_predict_layers` is 2: set it to 1";
    assert!(error.contains(&format!("missing: model.layers.{}.", layers + 1)) && error.contains(says), "{error}");
}
