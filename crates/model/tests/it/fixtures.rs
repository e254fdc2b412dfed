//! Tiny checkpoints with the results of an independent implementation (see oracle/README.md).

use hadal_model::dump::{Array, Dump};
use hadal_model::{Fresh, Model};
use hadal_ops::{Cx, Tensor};
use hadal_weights::Checkpoint;
use hadal_weights::ModelConfig;
use hadal_weights::precision::Precision;
use safetensors::{Dtype, SafeTensors};
use std::path::{Path, PathBuf};

/// Folders of fixtures: those in the repository, and those in `HADAL_ORACLE` (more variants, generated with Python).
pub(crate) fn folders() -> Vec<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let more = std::env::var_os("HADAL_ORACLE").map(PathBuf::from);
    let mut all: Vec<PathBuf> = [Some(own), more]
        .into_iter()
        .flatten()
        .flat_map(|root| std::fs::read_dir(&root).unwrap_or_else(|e| panic!("{}: {e}", root.display())))
        .map(|entry| entry.unwrap().path())
        .filter(|p| p.join("oracle.safetensors").exists())
        .collect();
    all.sort();
    assert!(!all.is_empty(), "no fixtures found");
    all
}

pub(crate) struct Fixture {
    pub(crate) name: String,
    pub(crate) oracle: Dump,
    pub(crate) info: serde_json::Value,
    pub(crate) path: PathBuf,
}

impl Fixture {
    pub(crate) fn open(path: &Path) -> Self {
        let bytes = std::fs::read(path.join("oracle.safetensors")).unwrap();
        let info = std::fs::read_to_string(path.join("oracle.json")).unwrap();
        Self {
            name: path.file_name().unwrap().to_string_lossy().into_owned(),
            oracle: read(&SafeTensors::deserialize(&bytes).unwrap()),
            info: serde_json::from_str(&info).unwrap(),
            path: path.to_owned(),
        }
    }

    pub(crate) fn named(name: &str) -> Self {
        Self::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name))
    }

    pub(crate) fn model(&self, cx: &Cx) -> Model {
        self.model_in(cx, Precision::COMPUTE)
    }

    pub(crate) fn model_in(&self, cx: &Cx, precision: Precision) -> Model {
        Model::load_to_train(cx, &Checkpoint::open(&self.path).unwrap(), precision).unwrap()
    }

    /// The sequences that the oracle processed.
    pub(crate) fn ids(&self) -> Vec<Vec<i32>> {
        let Array::I64(shape, ids) = &self.oracle["input_ids"] else { panic!("input_ids are integers") };
        ids.chunks(shape[1]).map(|s| s.iter().map(|v| *v as i32).collect()).collect()
    }

    /// Bound on the relative distance of a tensor: 1e-5, or four times the oracle's own rounding error if that is
    /// larger.
    pub(crate) fn bound(&self, name: &str) -> f64 {
        let own = self.info["f32_err"].get(name).and_then(serde_json::Value::as_f64).unwrap_or(0.0);
        (4.0 * own).max(1e-5)
    }
}

/// A model with initial weights and a dense block, an MoE block and MTP. All contractions are longer than a tile of
/// 128.
pub(crate) fn wide(cx: &Cx, precision: Precision) -> Model {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/wide.json");
    Model::fresh(cx, &ModelConfig::from_file(path).unwrap(), precision, Fresh { seed: 3, std: 0.05 })
}

/// The expert choices in a dump or in the oracle's results, with one tensor for each MoE layer.
pub(crate) fn routing(cx: &Cx, dump: &Dump) -> Vec<Tensor> {
    let layer = |n: &str| n.strip_prefix("router.")?.strip_suffix(".topk_idx")?.parse::<usize>().ok();
    let mut all: Vec<(usize, &Array)> = dump.iter().filter_map(|(n, a)| Some((layer(n)?, a))).collect();
    all.sort_by_key(|(l, _)| *l);
    let tensor = |a: &Array| {
        let Array::I64(shape, idx) = a else { panic!("choices are integers") };
        let idx: Vec<i32> = idx.iter().map(|v| *v as i32).collect();
        let k = shape[shape.len() - 1];
        cx.indices(&[idx.len() / k, k], &idx)
    };
    all.into_iter().map(|(_, a)| tensor(a)).collect()
}

pub(crate) fn read(tensors: &SafeTensors<'_>) -> Dump {
    let array = |t: safetensors::tensor::TensorView<'_>| match t.dtype() {
        Dtype::F32 => Array::F32(
            t.shape().to_vec(),
            t.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
        ),
        Dtype::I64 => Array::I64(
            t.shape().to_vec(),
            t.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect(),
        ),
        other => panic!("fixture of type {other:?}"),
    };
    tensors.tensors().into_iter().map(|(n, t)| (n, array(t))).collect()
}

/// `|a - b| / |b|` in the Euclidean norm. It is 0 if both are zero.
pub(crate) fn distance(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let d: f64 = a.iter().zip(b).map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2)).sum();
    let n: f64 = b.iter().map(|y| f64::from(*y).powi(2)).sum();
    if d == 0.0 { 0.0 } else { (d / n).sqrt() }
}
