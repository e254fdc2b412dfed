//! Folders of checkpoints to convert, change and compare.

use hadal_model::{Fresh, Model};
use hadal_ops::{Cx, DType};
use hadal_weights::ModelConfig;
use hadal_weights::precision::Precision;
use hadal_weights::{Checkpoint, Conversion, Converted, SaveOptions, ScaleFormat, WeightFormat, convert_into};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype as Stored, TensorView};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

pub(crate) const FP8: WeightFormat = WeightFormat::Fp8(ScaleFormat::F32);
pub(crate) const UE8M0: WeightFormat = WeightFormat::Fp8(ScaleFormat::Ue8m0);
pub(crate) const UE8M0_BYTE: WeightFormat = WeightFormat::Fp8(ScaleFormat::Ue8m0Byte);

/// Small shards, so that there are several.
pub(crate) fn options() -> SaveOptions<'static> {
    SaveOptions { shard_bytes: 300_000, ..SaveOptions::default() }
}

/// A model with an MTP module, router biases, and matrices of several ragged blocks.
pub(crate) fn config() -> ModelConfig {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/yarn/config.json");
    let small = ModelConfig::from_file(fixture).unwrap();
    let (hidden_size, intermediate_size, moe_intermediate_size) = (136, 260, 40);
    ModelConfig { hidden_size, intermediate_size, moe_intermediate_size, q_lora_rank: Some(130), ..small }
}

/// A folder for checkpoints, with one of random f32 weights in `f32`.
pub(crate) struct Folder(pub(crate) TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        let cx = Cx::cpu(1, DType::F32);
        let mut model = Model::fresh(&cx, &config(), Precision::COMPUTE, Fresh { seed: 5, std: 0.3 });
        model.visit_mut(&mut |p| {
            if !p.spec.trainable() {
                let values: Vec<f32> = (0..p.spec.len()).map(|i| 0.001 * i as f32 - 0.0031).collect();
                p.set(&cx, &values).unwrap();
            }
        });
        model.save_into(&folder.make("f32"), WeightFormat::F32, &options()).unwrap();
        folder
    }

    pub(crate) fn make(&self, name: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::create_dir(&path).unwrap();
        path
    }

    pub(crate) fn open(&self, name: &str) -> Checkpoint {
        let checkpoint = Checkpoint::open(self.0.path().join(name)).unwrap();
        checkpoint.audit().unwrap().into_result().unwrap();
        checkpoint
    }

    pub(crate) fn convert(&self, from: &str, to: &str, conversion: impl Into<Conversion>) -> Checkpoint {
        self.converted(from, to, conversion.into());
        self.open(to)
    }

    /// Like [`Folder::convert`], but returns what the conversion reports.
    pub(crate) fn converted(&self, from: &str, to: &str, conversion: Conversion) -> Converted {
        convert_into(&self.open(from), &self.make(to), conversion, &options()).unwrap()
    }

    /// All files, by name.
    pub(crate) fn files(&self, name: &str) -> BTreeMap<String, Vec<u8>> {
        let read = |e: fs::DirEntry| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap());
        fs::read_dir(self.0.path().join(name)).unwrap().map(|e| read(e.unwrap())).collect()
    }

    /// Name, type, shape and bytes of every tensor.
    pub(crate) fn tensors(&self, name: &str) -> BTreeMap<String, Raw> {
        let mut all = BTreeMap::new();
        for (_, file) in self.files(name).into_iter().filter(|(file, _)| file.ends_with(".safetensors")) {
            all.extend(raw(&file));
        }
        all
    }
}

pub(crate) type Raw = (Stored, Vec<usize>, Vec<u8>);

pub(crate) fn raw(file: &[u8]) -> BTreeMap<String, Raw> {
    let copy = |t: TensorView<'_>| (t.dtype(), t.shape().to_vec(), t.data().to_vec());
    SafeTensors::deserialize(file).unwrap().tensors().into_iter().map(|(n, t)| (n, copy(t))).collect()
}

pub(crate) fn serialize(tensors: &BTreeMap<String, Raw>) -> Vec<u8> {
    let views = tensors.iter().map(|(n, (d, s, b))| (n.clone(), TensorView::new(*d, s.clone(), b).unwrap()));
    safetensors::serialize(views, None).unwrap()
}

pub(crate) fn values(checkpoint: &Checkpoint, name: &str) -> Vec<u32> {
    let mut out = vec![0f32; checkpoint.info(name).unwrap().elements()];
    checkpoint.read_f32(name, &mut out).unwrap();
    out.into_iter().map(f32::to_bits).collect()
}

pub(crate) type Change<'a> = &'a dyn Fn(&mut BTreeMap<String, Raw>, &mut serde_json::Value);

/// A copy of the checkpoint `from` in one file, changed.
pub(crate) fn changed(folder: &Folder, from: &str, name: &str, change: Change<'_>) {
    let path = folder.make(name);
    let mut tensors = folder.tensors(from);
    let mut config = serde_json::from_slice(&folder.files(from)["config.json"]).unwrap();
    change(&mut tensors, &mut config);
    fs::write(path.join("model.safetensors"), serialize(&tensors)).unwrap();
    fs::write(path.join("config.json"), config.to_string()).unwrap();
}
