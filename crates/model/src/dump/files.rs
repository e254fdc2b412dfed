//! The files of a dump: reads token ids and the routing of another dump, and writes arrays.

use super::{Array, Dump};
use crate::model::Model;
use hadal_base::{IoContext, IoError, atomic};
use hadal_ops::{Cx, Tensor};
use hadal_weights::ModelConfig;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use std::path::{Path, PathBuf};

/// Why a dump's file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// The operating system reported an error.
    #[error(transparent)]
    Io(#[from] IoError),
    /// A file does not have the expected contents.
    #[error("{path}: {reason}", path = path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// Makes an error from what is wrong with the file at `path`.
fn malformed(path: &Path) -> impl Fn(String) -> DumpError {
    move |reason| DumpError::Malformed { path: path.into(), reason }
}

/// Reads `[ids…]` or `[[ids…], …]` as JSON: sequences of the same length, with ids that the model has.
pub fn read_ids(path: &Path, config: &ModelConfig) -> Result<Vec<Vec<i32>>, DumpError> {
    let text = std::fs::read_to_string(path).at("read", path)?;
    let wrong = malformed(path);
    let value: serde_json::Value = serde_json::from_str(&text).map_err(|e| wrong(format!("not JSON: {e}")))?;
    let rows: Vec<Vec<i32>> = serde_json::from_value(value.clone())
        .or_else(|_| serde_json::from_value(value).map(|row| vec![row]))
        .map_err(|e| wrong(format!("must be a list of token ids, or a list of such lists: {e}")))?;
    let len = rows.first().map_or(0, Vec::len);
    let (vocab, longest) = (config.vocab_size, config.max_position_embeddings);
    if len < 2 {
        return Err(wrong("sequences must have at least 2 tokens".into()));
    }
    if rows.iter().any(|r| r.len() != len) {
        return Err(wrong("sequences must have the same length".into()));
    }
    if len > longest {
        return Err(wrong(format!("sequences of {len} tokens are longer than the model's context of {longest}")));
    }
    match rows.iter().flatten().find(|id| usize::try_from(**id).map_or(true, |id| id >= vocab)) {
        Some(id) => Err(wrong(format!("token {id} is not in the model's vocabulary of {vocab}"))),
        None => Ok(rows),
    }
}

/// Reads the choices `router.{layer}.topk_idx` of a dump for `tokens` tokens, in the model's order of MoE layers.
pub fn read_routing(cx: &Cx, model: &Model, tokens: usize, path: &Path) -> Result<Vec<Tensor>, DumpError> {
    let bytes = std::fs::read(path).at("read", path)?;
    let wrong = malformed(path);
    let file = SafeTensors::deserialize(&bytes).map_err(|e| wrong(format!("not a safetensors file: {e}")))?;
    let (experts, k) = (model.config.n_routed_experts as i64, model.config.num_experts_per_tok);
    let layers = model.config.num_hidden_layers + model.mtp.len();
    let choices = |layer: usize| {
        let key = format!("router.{layer}.topk_idx");
        let tensor = file.tensor(&key).map_err(|e| wrong(format!("{key}: {e}")))?;
        if tensor.dtype() != Dtype::I64 {
            return Err(wrong(format!("{key} must be I64")));
        }
        let ids = tensor.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().expect("eight bytes")));
        let ids: Vec<i64> = ids.collect();
        if !ids.len().is_multiple_of(k) {
            return Err(wrong(format!("{key} is not a multiple of {k} experts per token")));
        }
        if !ids.iter().all(|i| (0..experts).contains(i)) {
            return Err(wrong(format!("{key} names an expert beyond {experts}")));
        }
        let ids: Vec<i32> = ids.into_iter().map(|i| i as i32).collect();
        Ok(cx.indices(&[ids.len() / k, k], &ids))
    };
    let all: Vec<Tensor> =
        (0..layers).filter(|l| model.config.is_moe_layer(*l)).map(choices).collect::<Result<_, _>>()?;
    match all.first().map(Tensor::rows) {
        Some(rows) if rows != tokens => {
            Err(wrong(format!("holds choices for {rows} tokens, but there are {tokens} ids")))
        }
        _ => Ok(all),
    }
}

/// Writes a dump as safetensors, whole or not at all.
pub fn write(path: &Path, dump: &Dump) -> Result<(), DumpError> {
    fn view<'a>((name, array): (&'a String, &'a Array)) -> (&'a String, TensorView<'a>) {
        let view = match array {
            Array::F32(shape, v) => TensorView::new(Dtype::F32, shape.clone(), bytemuck::cast_slice(v)),
            Array::I64(shape, v) => TensorView::new(Dtype::I64, shape.clone(), bytemuck::cast_slice(v)),
        };
        (name, view.expect("an array has as many values as its shape says"))
    }
    let views: Vec<(&String, TensorView<'_>)> = dump.iter().map(view).collect();
    let bytes = safetensors::serialize(views, None).map_err(|e| malformed(path)(e.to_string()))?;
    Ok(atomic::write_file(path, &bytes)?)
}
