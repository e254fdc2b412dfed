//! Folders of weights that `export` and `import` write: found to be possible before the work, whole or not at all after it.

use anyhow::{Context, Result};
use hadal_model::hf::atomic::{StagedDir, remove_leftovers_of};
use hadal_model::hf::{Error, SaveOptions, place};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Bytes of the largest file that is copied: a tokenizer has some megabytes.
const MAX_BESIDE: u64 = 64 << 20;

/// What only names weights, in this format or another.
const WEIGHTS: [&str; 9] =
    [".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".pt", ".pth", ".gguf", ".onnx", ".msgpack"];

/// A Hugging Face folder with what `weights` writes and all else that lies in `from`: tokenizer, templates, code. Ends at
/// the next piece, with nothing left behind, when the program is told to by a signal.
pub(crate) fn write<T>(
    from: &Path,
    out: &Path,
    shard_bytes: usize,
    weights: impl FnOnce(&Path, &SaveOptions<'_>) -> Result<T, Error>,
) -> Result<T> {
    let out = place(out)?;
    remove_leftovers_of(&out)?;
    let stop = Arc::new(AtomicBool::new(false));
    stop_on_signals(&stop)?;
    let staged = StagedDir::new(&out)?;
    let written = weights(staged.path(), &SaveOptions { shard_bytes, stop: Some(&stop) })?;
    let left_out = copy_beside(from, staged.path())?;
    staged.commit()?;
    if !left_out.is_empty() {
        say!("not copied: {}", left_out.join(", "));
    }
    Ok(written)
}

/// The first signal asks to stop, a second one ends the process.
fn stop_on_signals(stop: &Arc<AtomicBool>) -> Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    use signal_hook::flag;
    for signal in [SIGINT, SIGTERM] {
        // Handlers run in the order they are registered: the second signal finds the flag set by the first.
        let end = flag::register_conditional_shutdown(signal, 128 + signal, stop.clone());
        end.and_then(|_| flag::register(signal, stop.clone())).context("cannot watch for signals")?;
    }
    Ok(())
}

/// Copies the files of a folder that are not weights and not hidden, and gives the names of those that it did not.
fn copy_beside(from: &Path, to: &Path) -> Result<Vec<String>> {
    let mut left_out = Vec::new();
    for entry in fs::read_dir(from).with_context(|| format!("cannot list {}", from.display()))? {
        let source = entry.with_context(|| format!("cannot list {}", from.display()))?.path();
        let (Some(own), Some(meta)) = (source.file_name(), fs::metadata(&source).ok()) else { continue };
        let (name, target) = (own.to_string_lossy().escape_debug().to_string(), to.join(own));
        // The configuration and the weights are written anew.
        if name.starts_with('.') || target.exists() || WEIGHTS[..2].iter().any(|end| name.ends_with(end)) {
            continue;
        }
        if !meta.is_file() || meta.len() > MAX_BESIDE || WEIGHTS.iter().any(|end| name.ends_with(end)) {
            left_out.push(if meta.is_dir() { name + "/" } else { name });
            continue;
        }
        fs::copy(&source, &target).with_context(|| format!("cannot copy {}", source.display()))?;
    }
    left_out.sort();
    Ok(left_out)
}
