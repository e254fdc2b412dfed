//! Keys of clients, from a file.
//!
//! A line is a key, followed by what it may do: `name=NAME` for logs, `concurrent=N` sequences at a time, and
//! `per_minute=N` requests. Empty lines and lines that begin with `#` count for nothing.

use crate::error::ApiError;
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, StatusCode};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Why a file of keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// It cannot be read.
    #[error("cannot read the keys in {}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A line has a mistake.
    #[error("{}:{line}: {problem}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Number of the line.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// There is no key in it.
    #[error("{} has no key: write one in each line, or leave out --api-keys", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

/// A client's key and its limits.
#[derive(Debug)]
pub(crate) struct Key {
    secret: String,
    /// Its name in logs.
    pub(crate) name: String,
    concurrent: Option<(u32, Arc<Semaphore>)>,
    per_minute: Option<Mutex<Bucket>>,
}

/// Requests that a key may make now. It fills up evenly.
#[derive(Debug)]
struct Bucket {
    most: f64,
    left: f64,
    at: Instant,
}

impl Bucket {
    /// Takes a request out at `now`, or says in how many seconds there will be one.
    fn take(&mut self, now: Instant) -> Result<(), f64> {
        let rate = self.most / 60.0;
        self.left = (self.left + now.duration_since(self.at).as_secs_f64() * rate).min(self.most);
        self.at = now;
        if self.left < 1.0 {
            return Err((1.0 - self.left) / rate);
        }
        self.left -= 1.0;
        Ok(())
    }
}

/// All keys.
#[derive(Debug)]
pub struct Keys(Vec<Arc<Key>>);

impl Keys {
    /// Reads a file of keys.
    pub fn read(path: &Path) -> Result<Self, KeysError> {
        let text = std::fs::read_to_string(path).map_err(|error| KeysError::Read { path: path.to_owned(), error })?;
        let mut keys: Vec<Arc<Key>> = Vec::new();
        for (i, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty() && !l.trim().starts_with('#')) {
            let bad = |problem| KeysError::Line { path: path.to_owned(), line: i + 1, problem };
            let key = Key::parse(line, keys.len() + 1).map_err(bad)?;
            if keys.iter().any(|other| other.secret == key.secret) {
                return Err(bad("this key was there before: remove one of the lines".into()));
            }
            keys.push(Arc::new(key));
        }
        if keys.is_empty() { Err(KeysError::Empty { path: path.to_owned() }) } else { Ok(Self(keys)) }
    }

    /// The key that a client has sent, in its `Authorization` header or as Anthropic's clients do.
    pub(crate) fn find(&self, headers: &HeaderMap) -> Result<Arc<Key>, ApiError> {
        let refused = |message: &str| ApiError::new(StatusCode::UNAUTHORIZED, "invalid_api_key", message);
        let sent = match (headers.get(AUTHORIZATION), headers.get("x-api-key")) {
            (Some(header), _) => header.as_bytes().strip_prefix(b"Bearer ").unwrap_or_default(),
            (None, Some(key)) => key.as_bytes(),
            (None, None) => return Err(refused("a key is needed: send the header `Authorization: Bearer KEY`")),
        };
        // All keys are compared, each in a time that does not depend on what it is.
        let is_sent = |key: &Arc<Key>| is_same(key.secret.as_bytes(), sent);
        let found = self.0.iter().fold(None, |found, key| if is_sent(key) { Some(key) } else { found });
        found.cloned().ok_or_else(|| refused("the key is not known: check the header `Authorization: Bearer KEY`"))
    }
}

impl Key {
    /// Reads a line.
    fn parse(line: &str, number: usize) -> Result<Self, String> {
        let mut words = line.split_whitespace();
        let secret = words.next().unwrap_or_default().to_owned();
        let mut key = Self { secret, name: format!("key {number}"), concurrent: None, per_minute: None };
        for word in words {
            let number = |value: &str| match value.parse::<u32>() {
                Ok(n) if n > 0 => Ok(n),
                _ => Err(format!("`{word}` must have a number of at least 1")),
            };
            match word.split_once('=') {
                Some(("name", name)) => name.clone_into(&mut key.name),
                Some(("concurrent", n)) => {
                    let n = number(n)?;
                    key.concurrent = Some((n, Arc::new(Semaphore::new(n as usize))));
                }
                Some(("per_minute", n)) => {
                    let most = f64::from(number(n)?);
                    key.per_minute = Some(Mutex::new(Bucket { most, left: most, at: Instant::now() }));
                }
                _ => return Err(format!("`{word}` is not known: use name=NAME, concurrent=N or per_minute=N")),
            }
        }
        Ok(key)
    }

    /// Counts a request for so many sequences. What it returns is held until they have ended.
    pub(crate) fn admit(&self, sequences: u32) -> Result<Option<OwnedSemaphorePermit>, ApiError> {
        let permit = match &self.concurrent {
            Some((most, _)) if sequences > *most => {
                let message = format!("the request has {sequences} sequences, and the key may have {most} at a time");
                return Err(ApiError::new(StatusCode::BAD_REQUEST, "too_many_sequences", message));
            }
            Some((most, semaphore)) => {
                let permit = Arc::clone(semaphore).try_acquire_many_owned(sequences);
                let message = format!("the key may have {most} sequences at a time: try again when one has ended");
                Some(permit.map_err(|_| ApiError::busy(1, message))?)
            }
            None => None,
        };
        if let Some(bucket) = &self.per_minute {
            let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
            let most = bucket.most;
            bucket.take(Instant::now()).map_err(|wait| {
                ApiError::busy(
                    wait.ceil() as u64,
                    format!("the key may make {most} requests a minute: try again later"),
                )
            })?;
        }
        Ok(permit)
    }
}

/// Whether both are the same, in a time that depends on the length alone.
fn is_same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::{HeaderName, HeaderValue};
    use std::time::Duration;

    #[test]
    fn a_line_is_a_key_and_its_limits() {
        let key = Key::parse("abc name=ada concurrent=2 per_minute=60", 1).unwrap();
        assert_eq!((key.secret.as_str(), key.name.as_str()), ("abc", "ada"));
        let one = key.admit(2).unwrap();
        assert!(key.admit(1).is_err() && key.admit(3).unwrap_err().status() == StatusCode::BAD_REQUEST);
        drop(one);
        assert!(key.admit(1).is_ok());
        assert!(Key::parse("abc speed=3", 1).unwrap_err().contains("speed"));
        assert!(Key::parse("abc concurrent=0", 1).is_err());
    }

    #[test]
    fn a_bucket_fills_up_evenly() {
        let start = Instant::now();
        let mut bucket = Bucket { most: 60.0, left: 60.0, at: start };
        assert!((0..60).all(|_| bucket.take(start).is_ok()));
        assert!((bucket.take(start).unwrap_err() - 1.0).abs() < 1e-9);
        assert!(bucket.take(start + Duration::from_millis(1001)).is_ok());
        assert!(bucket.take(start + Duration::from_millis(1500)).is_err());
    }

    #[test]
    fn keys_are_found_by_their_header() {
        let keys = Keys(vec![Arc::new(Key::parse("abc", 1).unwrap()), Arc::new(Key::parse("abd", 2).unwrap())]);
        let headers = |name: &'static str, value: &'static str| {
            HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_static(value))])
        };
        assert_eq!(keys.find(&headers("authorization", "Bearer abd")).unwrap().name, "key 2");
        assert_eq!(keys.find(&headers("x-api-key", "abc")).unwrap().name, "key 1");
        for (name, value) in [("a", "b"), ("authorization", "Bearer ab"), ("authorization", "abc"), ("x-api-key", "")] {
            assert_eq!(keys.find(&headers(name, value)).unwrap_err().status(), StatusCode::UNAUTHORIZED);
        }
    }
}
