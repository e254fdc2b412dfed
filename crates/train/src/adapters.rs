//! Low-rank adapters in training: their first values, merging them into the weights, and PEFT's files.
//!
//! PEFT writes a folder with `adapter_config.json` and `adapter_model.safetensors`. The latter has, for each adapted
//! layer `NAME`, the matrices `base_model.model.NAME.lora_A.weight` `[r, k]` and `...lora_B.weight` `[n, r]`. Merged
//! weights are `W + alpha / r B A`. Folders with something else (`DoRA`, biases, ranks that differ) are refused by key.

use crate::checkpoint::CheckpointError;
use crate::step::Trainer;
use hadal_base::atomic::StagedDir;
use hadal_base::{IoContext, IoError};
use hadal_model::{Fresh, LORA_A, LORA_B, Values, save_parameters};
use hadal_ops::bf16;
use hadal_recipe::trained::{LORA_LAYERS, Lora, MAX_RANK};
use hadal_weights::list::{Parameter, Part, Role, parameters};
use hadal_weights::{Checkpoint, Dtype, Error, ModelConfig, SaveOptions, TensorFile, WeightFormat};
use safetensors::tensor::{Dtype as Written, TensorView};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

const CONFIG: &str = "adapter_config.json";
const TENSORS: &str = "adapter_model.safetensors";
const PREFIX: &str = "base_model.model.";

/// The values of a model, with fresh ones for its adapters.
pub(crate) struct FreshAdapters<'a> {
    pub(crate) base: &'a dyn Values,
    pub(crate) seed: u64,
}

impl Values for FreshAdapters<'_> {
    fn read(&self, of: &Parameter, part: &Part, start: usize, out: &mut [f32]) -> Result<(), Error> {
        match of.role {
            Role::Adapter => Fresh { seed: self.seed, std: 0.0 }.read(of, part, start, out),
            _ => self.base.read(of, part, start, out),
        }
    }
    fn halves(&self, of: &Parameter) -> bool {
        of.role != Role::Adapter && self.base.halves(of)
    }
    fn read_bf16(&self, of: &Parameter, part: &Part, start: usize, out: &mut [bf16]) -> Result<(), Error> {
        self.base.read_bf16(of, part, start, out)
    }
}

/// The two matrices of one adapter.
struct Pair<'a> {
    a: Cow<'a, [f32]>,
    b: Cow<'a, [f32]>,
}

/// Adapters by the name of the weight that they change.
pub struct Adapters<'a> {
    pairs: BTreeMap<String, Pair<'a>>,
    lora: Lora,
}

impl<'a> Adapters<'a> {
    /// The adapters of a trainer. Without adapters it is empty.
    pub fn of(trainer: &'a Trainer) -> Self {
        let lora = trainer.lora.clone().unwrap_or_default();
        let mut halves: BTreeMap<&str, &[f32]> = BTreeMap::new();
        for p in trainer.model.params().into_iter().filter(|p| p.spec.role == Role::Adapter) {
            let master = trainer.masters.of(p).f32();
            halves.extend(p.spec.parts.iter().map(|part| (part.name.as_str(), &master[part.range()])));
        }
        let pair = |(name, a): (&&str, &&'a [f32])| {
            let base = name.strip_suffix(LORA_A)?;
            let b = halves[format!("{base}{LORA_B}").as_str()];
            Some((format!("{base}.weight"), Pair { a: Cow::Borrowed(*a), b: Cow::Borrowed(b) }))
        };
        Self { pairs: halves.iter().filter_map(pair).collect(), lora }
    }

    /// Adds to elements of a weight, from its element `start` on, what the adapter adds to it.
    pub fn add(&self, part: &Part, start: usize, out: &mut [f32]) {
        let Some(Pair { a, b }) = self.pairs.get(&part.name) else { return };
        let (k, r) = (part.shape[1], self.lora.rank);
        let scale = self.lora.alpha / r as f32;
        let mut delta = vec![0.0f32; k];
        let mut done = 0;
        while done < out.len() {
            let (row, from) = ((start + done) / k, (start + done) % k);
            let n = (k - from).min(out.len() - done);
            delta[..n].fill(0.0);
            for j in 0..r {
                let factor = b[row * r + j];
                delta.iter_mut().zip(&a[j * k + from..][..n]).for_each(|(d, a)| *d += factor * a);
            }
            out[done..done + n].iter_mut().zip(&delta).for_each(|(w, d)| *w += scale * d);
            done += n;
        }
    }

    /// Writes PEFT's files into `folder`, which is replaced as a whole. `base` names the model that they change.
    pub fn write(&self, folder: &Path, base: &str) -> Result<(), CheckpointError> {
        let staged = StagedDir::new(folder)?;
        let Lora { rank, alpha, layers } = &self.lora;
        let config = json!({
            "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "r": rank,
            "lora_alpha": alpha, "target_modules": layers, "lora_dropout": 0.0, "bias": "none",
            "fan_in_fan_out": false, "init_lora_weights": true, "inference_mode": true, "modules_to_save": null,
            "rank_pattern": {}, "alpha_pattern": {}, "use_rslora": false, "use_dora": false
        });
        let path = staged.path().join(CONFIG);
        std::fs::write(&path, format!("{config:#}\n")).at("write", &path)?;
        let mut tensors = Vec::new();
        for (name, Pair { a, b }) in &self.pairs {
            let base = name.strip_suffix(".weight").unwrap_or(name);
            for (end, values) in [(LORA_A, a), (LORA_B, b)] {
                let other = values.len() / rank;
                let shape = if end == LORA_A { vec![*rank, other] } else { vec![other, *rank] };
                let view = TensorView::new(Written::F32, shape, bytemuck::cast_slice(values))
                    .map_err(|e| bad(folder, e.to_string()))?;
                tensors.push((format!("{PREFIX}{base}{end}"), view));
            }
        }
        let path = staged.path().join(TENSORS);
        let metadata = std::collections::HashMap::from([("format".to_owned(), "pt".to_owned())]);
        safetensors::serialize_to_file(tensors, Some(metadata), &path).map_err(|e| match e {
            safetensors::SafeTensorError::IoError(error) => {
                IoError { action: "write", path: path.clone(), error }.into()
            }
            other => bad(&path, other.to_string()),
        })?;
        Ok(staged.commit_replacing()?)
    }

    /// Reads PEFT's files for a model.
    pub fn read(folder: &Path, model: &ModelConfig) -> Result<Adapters<'static>, CheckpointError> {
        let path = folder.join(CONFIG);
        let text = std::fs::read_to_string(&path).at("read", &path)?;
        let config: Value = serde_json::from_str(&text).map_err(|e| bad(&path, format!("it is not JSON ({e})")))?;
        let (rank, alpha) = settings(&config).map_err(|what| bad(&path, what))?;
        let file = TensorFile::open(&folder.join(TENSORS))?;
        let parts: BTreeMap<String, Vec<usize>> =
            parameters(model).into_iter().flat_map(|p| p.parts).map(|part| (part.name, part.shape)).collect();
        let mut pairs = BTreeMap::new();
        let mut names: Vec<&str> = file.names().collect();
        names.sort_unstable();
        for name in names {
            let problem = |what: String| bad(file.path(), format!("`{name}` {what}"));
            let own = name.strip_prefix(PREFIX);
            let base = own.and_then(|own| own.strip_suffix(LORA_A).or_else(|| own.strip_suffix(LORA_B)));
            let base = base.ok_or_else(|| problem("is not a matrix of a low-rank adapter".into()))?;
            let weight = format!("{base}.weight");
            let Some([n, k]) = parts.get(&weight).map(Vec::as_slice) else {
                return Err(problem(format!("changes `{weight}`, which the model does not have")));
            };
            if pairs.contains_key(&weight) {
                continue;
            }
            let half = |end: &str, shape: [usize; 2]| read(&file, &format!("{PREFIX}{base}{end}"), shape);
            pairs.insert(weight, Pair { a: half(LORA_A, [rank, *k])?.into(), b: half(LORA_B, [*n, rank])?.into() });
        }
        if pairs.is_empty() {
            return Err(bad(file.path(), "has no adapters"));
        }
        let kind = |name: &String| LORA_LAYERS.iter().find(|kind| name.ends_with(&format!(".{kind}.weight")));
        let layers = pairs.keys().filter_map(kind).collect::<std::collections::BTreeSet<_>>();
        let layers = layers.into_iter().map(|kind| (*kind).to_owned()).collect();
        Ok(Adapters { pairs, lora: Lora { rank, alpha, layers } })
    }

    /// Writes a checkpoint's weights with these adapters merged, and `config.json`, into an existing folder.
    pub fn save_merged(
        &self,
        base: &Checkpoint,
        dir: &Path,
        format: WeightFormat,
        options: &SaveOptions<'_>,
    ) -> Result<(), Error> {
        save_parameters(dir, base.config(), format, options, |_, part, start, out| {
            base.read_from(&part.name, start, out)?;
            self.add(part, start, out);
            Ok(())
        })
    }

    /// The values of a model with these adapters merged.
    pub fn merged<'v>(&'v self, base: &'v dyn Values) -> impl Values + 'v {
        Merged { base, adapters: self }
    }
}

fn bad(path: &Path, what: impl Into<String>) -> CheckpointError {
    CheckpointError::Format { path: path.to_owned(), what: what.into() }
}

/// Rank and alpha of a configuration. With `use_rslora`, PEFT divides by the root of the rank. The alpha here is that
/// for division by the rank. Everything that would change the result in another way is refused.
fn settings(config: &Value) -> Result<(usize, f32), String> {
    if config["peft_type"] != "LORA" {
        return Err(format!("`peft_type` is {}, and only \"LORA\" can be read", config["peft_type"]));
    }
    for key in ["use_dora", "use_qalora", "use_bdlora", "fan_in_fan_out", "lora_bias"] {
        if config[key] == true {
            return Err(format!("`{key}` is true, which cannot be computed here"));
        }
    }
    if config.get("bias").is_some_and(|bias| bias != "none" && !bias.is_null()) {
        return Err("`bias` must be \"none\": layers have no biases here".into());
    }
    let others = ["rank_pattern", "alpha_pattern", "modules_to_save", "target_parameters", "trainable_token_indices"];
    for key in others.into_iter().chain(["layer_replication", "alora_invocation_tokens"]) {
        let value = &config[key];
        let empty = value.is_null() || value.as_object().is_some_and(serde_json::Map::is_empty);
        if !empty && value.as_array().is_none_or(|list| !list.is_empty()) {
            return Err(format!("`{key}` is {value}, and must be empty"));
        }
    }
    let rank = config["r"].as_u64().and_then(|r| usize::try_from(r).ok()).filter(|r| (1..=MAX_RANK).contains(r));
    let rank = rank.ok_or_else(|| format!("`r` must be a number from 1 to {MAX_RANK}"))?;
    let alpha =
        config["lora_alpha"].as_f64().filter(|alpha| alpha.is_finite()).ok_or("`lora_alpha` must be a number")?;
    let per_root = config["use_rslora"] == true;
    Ok((rank, if per_root { alpha * (rank as f64).sqrt() } else { alpha } as f32))
}

/// A matrix of f32 or bf16.
fn read(file: &TensorFile, name: &str, shape: [usize; 2]) -> Result<Vec<f32>, CheckpointError> {
    let problem = |what: String| bad(file.path(), format!("`{name}` {what}"));
    let Some((dtype, found)) = file.info(name) else { return Err(problem("is missing".into())) };
    if *found != shape {
        return Err(problem(format!("has the shape {found:?}, and must have {shape:?}")));
    }
    let n = shape[0] * shape[1];
    match dtype {
        Dtype::F32 => {
            let mut values = vec![0.0f32; n];
            file.read(name, 0, bytemuck::cast_slice_mut(&mut values))?;
            Ok(values)
        }
        Dtype::Bf16 => {
            let mut values = vec![bf16::ZERO; n];
            file.read(name, 0, bytemuck::cast_slice_mut(&mut values))?;
            Ok(values.into_iter().map(bf16::to_f32).collect())
        }
        other => Err(problem(format!("has the format {other}, and must be F32 or BF16"))),
    }
}

/// The values of a model with adapters merged.
struct Merged<'a> {
    base: &'a dyn Values,
    adapters: &'a Adapters<'a>,
}

impl Values for Merged<'_> {
    fn read(&self, of: &Parameter, part: &Part, start: usize, out: &mut [f32]) -> Result<(), Error> {
        self.base.read(of, part, start, out)?;
        self.adapters.add(part, start, out);
        Ok(())
    }
    fn halves(&self, of: &Parameter) -> bool {
        self.base.halves(of) && !of.parts.iter().any(|part| self.adapters.pairs.contains_key(&part.name))
    }
    fn read_bf16(&self, of: &Parameter, part: &Part, start: usize, out: &mut [bf16]) -> Result<(), Error> {
        self.base.read_bf16(of, part, start, out)
    }
}
