//! Downloads the files that the cache lacks, with the blocking form of `hf-hub` over `ureq`.
//!
//! Files arrive beside their place and are renamed when they are whole. So a stopped download goes on where it was. The
//! revision's commit is asked for once, and every file is fetched from that commit. So files of two commits are never
//! mixed. The cache records the revision only when all files are there.

use super::{Hub, RepoId, WEIGHTS, Wanted, missing_weights};
use crate::config::{ConfigError, ModelConfig};
use crate::error::Error;
use crate::quantization::Quantization;
use hadal_base::IoContext;
use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Files beside the weights that are used: tokenizer, templates, settings.
const BESIDE: [&str; 9] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tiktoken.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
];
/// How often a broken download is tried again.
const RETRIES: usize = 3;
/// Time before each of these.
const PAUSE: Duration = Duration::from_millis(500);

/// A repository at one commit.
struct Remote<'a> {
    hub: &'a Hub,
    repo: &'a RepoId,
    api: ApiRepo,
    /// Files and their sizes, if the answer has them.
    files: BTreeMap<String, Option<u64>>,
    snapshot: PathBuf,
}

impl Hub {
    pub(super) fn download(&self, repo: &RepoId, wanted: Wanted) -> Result<PathBuf, Error> {
        let remote = Remote::open(self, repo)?;
        remote.need("config.json")?;
        if wanted == Wanted::Model {
            // This comes before hundreds of gigabytes are downloaded.
            let path = remote.snapshot.join("config.json");
            if let Some(quantised) = &ModelConfig::from_file(&path)?.quantization_config {
                Quantization::parse(quantised)
                    .map_err(|error| ConfigError::InFile { path: path.clone(), error: Box::new(error) })?;
            }
            for name in BESIDE.into_iter().filter(|name| remote.files.contains_key(*name)) {
                remote.fetch(name)?;
            }
            remote.weights()?;
        }
        let known = Cache::new(self.cache.clone()).repo(Repo::with_revision(
            repo.name.clone(),
            RepoType::Model,
            repo.revision.clone(),
        ));
        let commit = remote.snapshot.file_name().unwrap_or_default().to_string_lossy().into_owned();
        known.create_ref(&commit).at("write", &self.cache)?;
        Ok(remote.snapshot)
    }

    fn api(&self, repo: &RepoId, revision: &str) -> Result<ApiRepo, Error> {
        let api = ApiBuilder::from_cache(Cache::new(self.cache.clone()))
            .with_endpoint(self.endpoint.clone())
            .with_token(self.token.clone())
            .with_user_agent("hadal", env!("CARGO_PKG_VERSION"))
            .build()
            .map_err(|e| self.refusal(repo, "", &e))?;
        Ok(api.repo(Repo::with_revision(repo.name.clone(), RepoType::Model, revision.to_owned())))
    }

    /// The error for an answer of the network. It says what to do.
    fn refusal(&self, repo: &RepoId, file: &str, error: &ApiError) -> Error {
        let (endpoint, cache) = (&self.endpoint, self.cache.display());
        let here = if file.is_empty() { "is not a folder here, and ".to_owned() } else { format!("`{file}`: ") };
        let token = "set HF_TOKEN to a token of an account that may read it";
        let reason = match status(error) {
            Some(401) => format!(
                "{here}{endpoint} answers 401: there is no such repository, or it is private or gated; check the name, or accept \
                 its terms on its page and {token}"
            ),
            Some(403) => {
                format!("{here}{endpoint} answers 403: it is gated; accept its terms on its page and {token}")
            }
            Some(404) => {
                format!("{here}{endpoint} answers 404: there is no such repository, revision or file; check the name")
            }
            Some(429) => {
                format!("{here}{endpoint} answers 429: too many requests; try again later, with HF_TOKEN set")
            }
            Some(code) => format!("{here}{endpoint} answers {code}; try again later"),
            None => match error {
                ApiError::IoError(_) | ApiError::LockAcquisition(_) | ApiError::InvalidResume => {
                    format!("{here}the cache, {cache}, cannot be written: {error}; HF_HOME names another place")
                }
                _ => format!(
                    "{here}{endpoint} cannot be reached ({error}); without a network, give a folder with the model, or use a \
                     machine with one to fill the cache, {cache}; HF_ENDPOINT names a mirror"
                ),
            },
        };
        Error::Hub { repo: repo.to_string(), reason }
    }
}

/// The status, if the server answered.
fn status(error: &ApiError) -> Option<u16> {
    match error {
        ApiError::RequestError(error) => match error.as_ref() {
            ureq::Error::StatusCode(code) => Some(*code),
            _ => None,
        },
        _ => None,
    }
}

impl<'a> Remote<'a> {
    /// Asks for the commit of a revision and for its files.
    fn open(hub: &'a Hub, repo: &'a RepoId) -> Result<Self, Error> {
        let fail = |error: ureq::Error| hub.refusal(repo, "", &ApiError::RequestError(Box::new(error)));
        let mut answer = hub.api(repo, &repo.revision)?.info_request().query("blobs", "true").call().map_err(fail)?;
        let info: Value = answer.body_mut().read_json().map_err(fail)?;
        let wrong = || Error::Hub {
            repo: repo.to_string(),
            reason: format!(
                "{} answers something that is not a list of its files; is HF_ENDPOINT right?",
                hub.endpoint
            ),
        };
        let is_commit = |s: &&str| s.len() == 40 && s.chars().all(|c| c.is_ascii_hexdigit());
        let commit = info["sha"].as_str().filter(is_commit).ok_or_else(wrong)?;
        let listed = info["siblings"].as_array().ok_or_else(wrong)?;
        // Files of subfolders are other forms of the model, or pictures.
        let file = |entry: &Value| Some((entry["rfilename"].as_str()?.to_owned(), entry["size"].as_u64()));
        let files = listed.iter().filter_map(file).filter(|(name, _)| !name.contains(['/', '\\'])).collect();
        let snapshot = hub.cache.join(repo.folder()).join("snapshots").join(commit);
        Ok(Self { hub, repo, api: hub.api(repo, commit)?, files, snapshot })
    }

    fn refused(&self, reason: String) -> Error {
        Error::Hub { repo: self.repo.to_string(), reason }
    }

    /// Fetches a file that the repository must have.
    fn need(&self, name: &str) -> Result<(), Error> {
        if !self.files.contains_key(name) {
            return Err(self.refused(format!("has no {name}: it is not a model in Hugging Face's layout")));
        }
        self.fetch(name)
    }

    /// Downloads a file into the snapshot, unless it is there.
    fn fetch(&self, name: &str) -> Result<(), Error> {
        let place = self.snapshot.join(name);
        if place.is_file() {
            return Ok(());
        }
        // A link to a file that was removed would be in the way of a new one.
        if place.is_symlink() {
            std::fs::remove_file(&place).at("remove", &place)?;
        }
        let mut arrived = self.api.download(name);
        // The library's own retries go on at the wrong place of a part that was there before. Each of these retries
        // looks at the part again.
        for _ in 0..RETRIES {
            match &arrived {
                // A part that is already whole, or longer than the file, cannot be continued.
                Err(e) if matches!(e, ApiError::InvalidResume) || status(e) == Some(416) => self.remove_parts()?,
                Err(ApiError::RequestError(e)) if !matches!(**e, ureq::Error::StatusCode(_)) => {
                    std::thread::sleep(PAUSE);
                }
                _ => break,
            }
            arrived = self.api.download(name);
        }
        let arrived = arrived.map_err(|e| self.hub.refusal(self.repo, name, &e))?;
        let length = std::fs::metadata(&arrived).at("read", &arrived)?.len();
        if let Some(size) = self.files.get(name).copied().flatten().filter(|size| *size != length) {
            remove(&arrived);
            return Err(self.refused(format!("`{name}` has {size} bytes, and {length} arrived; try again")));
        }
        if !place.is_file() {
            return Err(
                self.refused(format!("changed while it was downloaded; try again (`{name}` is of another commit)"))
            );
        }
        Ok(())
    }

    fn remove_parts(&self) -> Result<(), Error> {
        let blobs = self.hub.cache.join(self.repo.folder()).join("blobs");
        for entry in std::fs::read_dir(&blobs).at("read", &blobs)? {
            let path = entry.at("read", &blobs)?.path();
            if path.extension().is_some_and(|e| e == "part") {
                std::fs::remove_file(&path).at("remove", &path)?;
            }
        }
        Ok(())
    }

    fn weights(&self) -> Result<(), Error> {
        let listed = WEIGHTS.into_iter().find(|name| self.files.contains_key(*name)).ok_or_else(|| {
            self.refused(
                "has no safetensors (model.safetensors, or an index of shards): other formats are not read".into(),
            )
        })?;
        self.fetch(listed)?;
        // If the index cannot be read, the shards are unknown. The reader of the weights then gives the error.
        for shard in missing_weights(&self.snapshot).unwrap_or_default() {
            self.need(&shard)?;
        }
        Ok(())
    }
}

/// Removes a link of a snapshot together with its file.
fn remove(link: &Path) {
    if let Ok(blob) = link.canonicalize() {
        let _ = std::fs::remove_file(blob);
    }
    let _ = std::fs::remove_file(link);
}
