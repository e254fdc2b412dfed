//! `hadal dump`: see `hadal_model::dump`.

use super::common::open;
use crate::cli::DumpArgs;
use anyhow::{Context, Result, bail, ensure};
use hadal_model::Model;
use hadal_model::dump::{Array, dump};
use hadal_ops::{Cx, Tensor};
use hadal_weights::ModelConfig;
use hadal_weights::folder::model_folder;
use hadal_weights::precision::Precision;
use safetensors::tensor::{Dtype, TensorView};
use std::path::Path;

pub(crate) fn run(args: &DumpArgs) -> Result<()> {
    let cx = Cx::cpu(args.threads, args.dtype.dtype());
    let checkpoint = open(&model_folder(&args.model)?)?;
    let ids = read_ids(&args.ids, checkpoint.config())?;
    let ids: Vec<&[i32]> = ids.iter().map(Vec::as_slice).collect();
    let model = cx.threads().run(|| Model::load_to_train(&cx, &checkpoint, Precision::COMPUTE))?;
    let replay = args.replay.as_deref().map(|p| read_routing(&cx, &model, p)).transpose()?;
    if let Some(first) = replay.as_ref().and_then(|r| r.first()) {
        let tokens: usize = ids.iter().map(|s| s.len()).sum();
        ensure!(first.rows() == tokens, "--replay holds choices for {} tokens, --ids has {tokens}", first.rows());
    }
    let arrays = cx.threads().run(|| dump(&cx, &model, &ids, args.grads, replay.as_deref()));
    let views: Vec<(&str, TensorView<'_>)> = arrays
        .iter()
        .map(|(name, array)| {
            let view = match array {
                Array::F32(shape, v) => TensorView::new(Dtype::F32, shape.clone(), bytemuck::cast_slice(v)),
                Array::I64(shape, v) => TensorView::new(Dtype::I64, shape.clone(), bytemuck::cast_slice(v)),
            };
            Ok((name.as_str(), view.with_context(|| format!("tensor {name}"))?))
        })
        .collect::<Result<_>>()?;
    let bytes = safetensors::serialize(views, None).context("the dump cannot be written as safetensors")?;
    hadal_base::atomic::write_file(&args.out, &bytes)?;
    say!("{} tensors in {}", arrays.len(), args.out.display());
    if let Some(Array::F32(_, loss)) = arrays.get("loss") {
        say!("loss {:.6}", loss[0]);
    }
    Ok(())
}

/// `[ids…]` or `[[ids…], …]`, all of one length.
fn read_ids(path: &Path, config: &ModelConfig) -> Result<Vec<Vec<i32>>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let name = path.display();
    let value: serde_json::Value = serde_json::from_str(&text).with_context(|| format!("{name} is not JSON"))?;
    let rows: Vec<Vec<i32>> = serde_json::from_value(value.clone())
        .or_else(|_| serde_json::from_value(value).map(|row| vec![row]))
        .with_context(|| format!("{name}: must be a list of token ids, or a list of such lists"))?;
    let len = rows.first().map_or(0, Vec::len);
    ensure!(len >= 2, "{name}: sequences must have at least 2 tokens");
    ensure!(rows.iter().all(|r| r.len() == len), "{name}: sequences must have one length");
    let (vocab, longest) = (config.vocab_size, config.max_position_embeddings);
    ensure!(len <= longest, "{name}: sequences of {len} tokens are longer than the model's context of {longest}");
    if let Some(id) = rows.iter().flatten().find(|id| usize::try_from(**id).map_or(true, |id| id >= vocab)) {
        bail!("{name}: token {id} is not in the model's vocabulary of {vocab}");
    }
    Ok(rows)
}

/// The choices `router.{layer}.topk_idx` of a dump, in the model's order of MoE layers.
fn read_routing(cx: &Cx, model: &Model, path: &Path) -> Result<Vec<Tensor>> {
    let name = path.display();
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {name}"))?;
    let file =
        safetensors::SafeTensors::deserialize(&bytes).with_context(|| format!("{name} is not a safetensors file"))?;
    let (experts, k) = (model.config.n_routed_experts as i64, model.config.num_experts_per_tok);
    let layers = model.config.num_hidden_layers + model.mtp.len();
    (0..layers)
        .filter(|l| model.config.is_moe_layer(*l))
        .map(|l| {
            let key = format!("router.{l}.topk_idx");
            let t = file.tensor(&key).with_context(|| format!("{name}: {key}"))?;
            ensure!(t.dtype() == Dtype::I64, "{name}: {key} must be I64");
            let idx = t.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().expect("eight bytes")));
            let idx: Vec<i64> = idx.collect();
            ensure!(idx.len().is_multiple_of(k), "{name}: {key} is no multiple of {k} experts a token");
            ensure!(idx.iter().all(|i| (0..experts).contains(i)), "{name}: {key} names an expert beyond {experts}");
            let idx: Vec<i32> = idx.into_iter().map(|i| i as i32).collect();
            Ok(cx.indices(&[idx.len() / k, k], &idx))
        })
        .collect()
}
