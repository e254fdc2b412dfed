//! Models in files that are mapped into memory ([`PackedFile`]).

use crate::model::Model;
use crate::param::Param;
use crate::stored::{Stored, StoredForm};
use crate::values::Values;
use hadal_ops::Cx;
use hadal_weights::list::{Parameter, parameters};
use hadal_weights::precision::{Precision, RunFormats};
use hadal_weights::{Checkpoint, Error, PackedFile, PackedWriter};
use std::path::Path;
use std::sync::atomic::AtomicBool;

/// The name of an array of a parameter in a file.
fn name_of(spec: &Parameter, form: StoredForm, array: &str) -> String {
    format!("{}.{}.{array}", spec.name(), form.name())
}

/// Packs a checkpoint for models that run in `formats`, into an existing folder, parameter by parameter. So it needs
/// memory for the largest parameter only. `progress` receives the bytes done and their total. Returns the bytes of the
/// file.
///
/// # Errors
/// If the checkpoint is not whole or cannot be read, the folder cannot be written, or `stop` is set.
pub fn write_packed(
    cx: &Cx,
    checkpoint: &Checkpoint,
    formats: RunFormats,
    dir: &Path,
    stop: Option<&AtomicBool>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<u64, Error> {
    checkpoint.audit()?.into_result()?;
    let config = checkpoint.config();
    let all: Vec<(Parameter, StoredForm)> = parameters(config)
        .into_iter()
        .map(|spec| {
            let form = StoredForm::of(&spec, cx.compute(), formats, checkpoint.halves(&spec), checkpoint.coded(&spec));
            (spec, form)
        })
        .collect();
    // Memory that is not touched takes no room. So this only asks for the sizes.
    let mut arrays = Vec::new();
    for (spec, form) in &all {
        let Ok(stored) = Stored::in_room(spec, *form, &mut cx.room());
        arrays.extend(stored.arrays().iter().map(|(array, t)| (name_of(spec, *form, array), t.bytes())));
    }
    let total = arrays.iter().map(|(_, bytes)| bytes).sum();
    let mut writer = PackedWriter::new(dir, config, cx.compute(), arrays.into_iter(), stop)?;
    let mut done = 0;
    for (index, (spec, form)) in all.into_iter().enumerate() {
        let Ok(mut param) = Param::to_run(spec, index, form, &mut cx.room());
        param.fill(cx, checkpoint)?;
        for (array, t) in param.stored().arrays() {
            writer.write(&name_of(&param.spec, form, array), t.as_bytes())?;
        }
        done += param.stored().bytes();
        progress(done, total);
    }
    writer.finish()
}

impl Model {
    /// A model whose weights stay in the file. Only its header was read.
    ///
    /// # Errors
    /// If the file does not hold exactly the weights of its configuration, or was packed for another compute format.
    pub fn map(cx: &Cx, file: &PackedFile) -> Result<Self, Error> {
        if file.compute() != cx.compute() {
            let (has, asked) = (file.compute().name(), cx.compute().name());
            return Err(file.unusable(&format!("was packed for computing in {has}, not in {asked} (--dtype)")));
        }
        let (mut params, mut used) = (Vec::new(), 0);
        for (index, spec) in parameters(file.config()).into_iter().enumerate() {
            let first = |form| match form {
                StoredForm::Table(_) => "table",
                StoredForm::Coded => "codes",
                StoredForm::Packed(_) | StoredForm::Quantised(_) => "panels",
            };
            let there = |form: &StoredForm| file.has(&name_of(&spec, *form, first(*form)));
            let Some(form) = StoredForm::all(&spec, cx.compute()).into_iter().find(there) else {
                return Err(file.unusable(&format!("has no weights for `{}`, which config.json asks for", spec.name())));
            };
            let of = spec.clone();
            let mut place = |array: &'static str, shape: &[usize], dtype| {
                used += 1;
                file.tensor(&name_of(&of, form, array), shape, dtype)
            };
            params.push(Param::to_run(spec, index, form, &mut place)?);
        }
        if used != file.arrays().count() {
            return Err(file.unusable("has weights that the model in config.json does not have"));
        }
        Ok(Self::of_params(cx, file.config(), Precision::COMPUTE, params))
    }
}
