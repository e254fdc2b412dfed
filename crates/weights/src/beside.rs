//! Folders of weights with the files that lie beside the weights: tokenizer, templates, generation settings, code.

use crate::error::Error;
use crate::writer::SaveOptions;
use hadal_base::atomic::{StagedDir, remove_leftovers_of};
use hadal_base::{IoContext, IoError, place};
use std::fs;
use std::path::Path;

/// Size in bytes of the largest file that is copied. A tokenizer has some megabytes.
const MAX_BESIDE: u64 = 64 << 20;

/// Endings of the names of files that hold weights in this format.
const OURS: [&str; 2] = [".safetensors", ".safetensors.index.json"];

/// Endings of the names of files that hold weights in other formats.
const OTHERS: [&str; 7] = [".bin", ".bin.index.json", ".pt", ".pth", ".gguf", ".onnx", ".msgpack"];

/// Writes a Hugging Face folder: `weights` writes the weights, then the other files in `from` are copied. The folder
/// `out` appears only when everything is written. Returns the result of `weights` and the names of the files that were
/// not copied.
///
/// # Errors
/// Errors of `weights`, of reading `from`, and of a place where no folder can be written. In these cases nothing
/// remains.
pub fn write_folder<T>(
    from: &Path,
    out: &Path,
    options: &SaveOptions<'_>,
    weights: impl FnOnce(&Path, &SaveOptions<'_>) -> Result<T, Error>,
) -> Result<(T, Vec<String>), Error> {
    let out = place(out)?;
    remove_leftovers_of(&out)?;
    let staged = StagedDir::new(&out)?;
    let written = weights(staged.path(), options)?;
    let left_out = copy_beside(from, staged.path())?;
    staged.commit()?;
    Ok((written, left_out))
}

/// Copies the files of a folder that are neither weights nor hidden. Returns the names of the files that were not
/// copied.
fn copy_beside(from: &Path, to: &Path) -> Result<Vec<String>, IoError> {
    let mut left_out = Vec::new();
    for entry in fs::read_dir(from).at("list", from)? {
        let source = entry.at("list", from)?.path();
        let (Some(own), Some(meta)) = (source.file_name(), fs::metadata(&source).ok()) else { continue };
        let (name, target) = (own.to_string_lossy().escape_debug().to_string(), to.join(own));
        let ends = |ends: &[&str]| ends.iter().any(|end| name.ends_with(end));
        // The configuration and the weights are written anew, so they are not copied.
        if name.starts_with('.') || target.exists() || ends(&OURS) {
            continue;
        }
        if !meta.is_file() || meta.len() > MAX_BESIDE || ends(&OTHERS) {
            left_out.push(if meta.is_dir() { name + "/" } else { name });
            continue;
        }
        fs::copy(&source, &target).at("copy", &source)?;
    }
    left_out.sort();
    Ok(left_out)
}
