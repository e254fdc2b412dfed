//! Folders that hold models: a Hugging Face checkpoint, a run, one of its checkpoints, a repository in the cache.

use crate::error::Error;
use crate::hub::{Hub, RepoId, Wanted};
use crate::reader::Checkpoint;
use hadal_base::{IoContext, IoError};
use std::path::{Path, PathBuf};

/// The beginning of a checkpoint's name in a run. The step follows.
pub const STEP: &str = "step-";

/// The checkpoints in a folder, oldest first. A folder that does not exist has none.
pub fn checkpoints(folder: &Path) -> Result<Vec<PathBuf>, IoError> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).at("read", folder)? {
        let path = entry.at("read", folder)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.strip_prefix(STEP).is_some_and(|n| n.parse::<u64>().is_ok()) {
            all.push(path);
        }
    }
    all.sort();
    Ok(all)
}

/// The newest checkpoint in the folder of `path` that is older than `path` and for which `whole` is true. `path` is a
/// run's checkpoint.
pub fn older(path: &Path, whole: impl Fn(&Path) -> bool) -> Option<PathBuf> {
    let path = path.canonicalize().ok()?;
    let all = checkpoints(path.parent()?).ok()?;
    let place = all.iter().position(|checkpoint| *checkpoint == path)?;
    all[..place].iter().rev().find(|older| whole(older)).cloned()
}

/// The error from opening `path`. It names an older checkpoint of the same run if that one can be used instead.
pub(crate) fn beside_older(path: &Path, error: Error) -> Error {
    match older(path, |older| Checkpoint::open_alone(older).is_ok()) {
        Some(older) => Error::Newer { error: Box::new(error), path: path.into(), older },
        None => error,
    }
}

/// The folder with `config.json` that `path` stands for: itself, a run's finished model, or its newest checkpoint. If there
/// is no such path, it is the Hugging Face repository with that name ([`Hub`]).
pub fn model_folder(path: &Path) -> Result<PathBuf, Error> {
    folder_with(path, Wanted::Model)
}

/// As [`model_folder`], for the configuration alone: a repository's weights are not downloaded.
pub fn config_folder(path: &Path) -> Result<PathBuf, Error> {
    folder_with(path, Wanted::Config)
}

fn folder_with(path: &Path, wanted: Wanted) -> Result<PathBuf, Error> {
    if let Some(repo) = RepoId::of(path).filter(|_| !path.exists()) {
        return Hub::from_env().folder(&repo, wanted);
    }
    let no_model = |reason: String| Error::NoModel { path: path.into(), reason };
    if !path.is_dir() {
        let problem = if path.exists() { "is a file" } else { "does not exist" };
        return Err(no_model(format!(
            "{problem}: give the folder of a run, of one of its checkpoints, or of a Hugging Face checkpoint, or the name of \
             a repository, ORG/NAME"
        )));
    }
    let finished = path.join("model");
    for folder in [path, &finished] {
        if folder.join("config.json").is_file() {
            return Ok(folder.to_owned());
        }
    }
    checkpoints(&path.join("checkpoints"))?.pop().ok_or_else(|| {
        no_model(
            "holds no model: there is no config.json, no finished model/ and nothing in checkpoints/ \
             (a run has its first checkpoint a while after its start)"
                .into(),
        )
    })
}
