//! Repositories of Hugging Face by their names, from the cache on this machine or from the network.
//!
//! The cache is that of Python's `huggingface_hub`, in its layout (`models--ORG--NAME/{refs,blobs,snapshots}`), so both
//! programs share the files. A repository that is whole there is used without asking the network. Otherwise the crate
//! `hf-hub` downloads the missing files, if the feature `hub` is on. The configuration comes first. If it is refused,
//! no weights are downloaded.
//!
//! `HF_HOME` or `HF_HUB_CACHE` moves the cache, `HF_ENDPOINT` names a mirror, `HF_TOKEN` (or the file that `hf auth
//! login` writes) opens gated repositories, and `HF_HUB_OFFLINE=1` forbids the network.

#[cfg(feature = "hub")]
mod download;

use crate::error::Error;
use crate::index::Index;
use std::fmt;
use std::path::{Path, PathBuf};

/// The index of sharded weights, and the file of weights in one piece.
const WEIGHTS: [&str; 2] = ["model.safetensors.index.json", "model.safetensors"];

/// A repository's name: `ORG/NAME`, or `ORG/NAME@REVISION`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepoId {
    name: String,
    revision: String,
}

impl RepoId {
    /// The repository that an argument names, if it looks like one. The caller has tried it as a path before. If the
    /// first part is a folder that exists, the argument is a misspelt path and not a repository.
    pub fn of(path: &Path) -> Option<Self> {
        let text = path.to_str()?;
        let (name, revision) = text.split_once('@').unwrap_or((text, "main"));
        let (org, repo) = name.split_once('/')?;
        let part = |part: &str| {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            !part.is_empty() && part.len() <= 96 && part.chars().all(plain) && !part.starts_with(['.', '-'])
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        let fits = part(org) && part(repo) && !revision.is_empty() && revision.chars().all(plain);
        let fits = fits && !revision.split('/').any(|p| p.is_empty() || p.starts_with('.'));
        (fits && !Path::new(org).exists()).then(|| Self { name: name.into(), revision: revision.into() })
    }

    /// Its folder in the cache.
    fn folder(&self) -> String {
        format!("models--{}", self.name.replace('/', "--"))
    }
}

impl fmt::Display for RepoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.revision.as_str() {
            "main" => f.write_str(&self.name),
            revision => write!(f, "{}@{revision}", self.name),
        }
    }
}

/// The part of a repository that is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Only `config.json`.
    Config,
    /// Weights, tokenizer, templates and generation settings as well.
    Model,
}

/// Where repositories are looked for.
#[derive(Clone, Debug)]
pub struct Hub {
    /// The folder `hub` of the cache.
    pub cache: PathBuf,
    /// Without a slash at the end.
    pub endpoint: String,
    /// For gated and private repositories.
    pub token: Option<String>,
    /// Use the cache only.
    pub offline: bool,
}

impl Hub {
    /// The settings of the environment (see the module's header).
    pub fn from_env() -> Self {
        let var = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let home = var("HF_HOME").map(PathBuf::from);
        let home = home.or_else(|| var("XDG_CACHE_HOME").map(|cache| Path::new(&cache).join("huggingface")));
        let home = home.or_else(|| var("HOME").map(|home| Path::new(&home).join(".cache/huggingface")));
        let home = home.unwrap_or_else(|| ".cache/huggingface".into());
        let token = var("HF_TOKEN").or_else(|| {
            let token = std::fs::read_to_string(home.join("token")).ok()?;
            Some(token.trim().to_owned()).filter(|token| !token.is_empty())
        });
        let yes = |value: String| ["1", "true", "yes", "on"].contains(&value.to_lowercase().as_str());
        Self {
            cache: var("HF_HUB_CACHE").map_or_else(|| home.join("hub"), PathBuf::from),
            endpoint: var("HF_ENDPOINT").unwrap_or("https://huggingface.co".into()).trim_end_matches('/').to_owned(),
            token,
            offline: var("HF_HUB_OFFLINE").is_some_and(yes),
        }
    }

    /// The folder with the wanted files of a repository. They are downloaded unless all of them are in the cache.
    pub fn folder(&self, repo: &RepoId, wanted: Wanted) -> Result<PathBuf, Error> {
        if let Some(folder) = self.cached(repo).filter(|folder| is_whole(folder, wanted)) {
            return Ok(folder);
        }
        let refused = |reason: String| Error::Hub { repo: repo.to_string(), reason };
        if self.offline {
            return Err(refused(format!(
                "is not whole in the cache, {}, and HF_HUB_OFFLINE forbids to download it",
                self.cache.display()
            )));
        }
        #[cfg(feature = "hub")]
        return self.download(repo, wanted);
        #[cfg(not(feature = "hub"))]
        Err(refused(format!(
            "is neither a folder here nor whole in the cache, {}, and this program was built without the feature `hub`, \
             which downloads: fetch it with `hf download {}`",
            self.cache.display(),
            repo.name
        )))
    }

    /// The snapshot of a revision in the cache, whole or not.
    fn cached(&self, repo: &RepoId) -> Option<PathBuf> {
        let folder = self.cache.join(repo.folder());
        let commit = std::fs::read_to_string(folder.join("refs").join(&repo.revision));
        let commit = commit.map_or_else(|_| repo.revision.clone(), |commit| commit.trim().to_owned());
        let is_commit = commit.len() == 40 && commit.chars().all(|c| c.is_ascii_hexdigit());
        is_commit.then(|| folder.join("snapshots").join(commit)).filter(|folder| folder.is_dir())
    }
}

/// Whether all wanted files are there. Weights are whole if every file that the index names is there, or the single
/// file.
fn is_whole(folder: &Path, wanted: Wanted) -> bool {
    if !folder.join("config.json").is_file() {
        return false;
    }
    wanted == Wanted::Config || missing_weights(folder).is_some_and(|missing| missing.is_empty())
}

/// The files of weights that a folder lacks. `None` if it has neither weights nor an index.
fn missing_weights(folder: &Path) -> Option<Vec<String>> {
    let [index, single] = WEIGHTS.map(|name| folder.join(name));
    if index.is_file() {
        let Index(files) = Index::read(&index).ok()?.ok()?;
        return Some(files.into_keys().filter(|file| !folder.join(file).is_file()).collect());
    }
    single.is_file().then(Vec::new)
}

#[cfg(test)]
mod tests;
