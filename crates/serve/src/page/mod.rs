//! The page to talk to the model with, at `/`. Its files are part of the program: nothing is read from disk, and nothing
//! comes from another server.
//!
//! The page itself needs no key. It asks for one when the API does. Its scripts may come from here alone, and they may
//! not turn text into markup (`Content-Security-Policy`). So nothing that a model says can run.

use crate::error::ApiError;
use axum::body::{Body, Bytes};
use axum::extract::Path;
use axum::http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderName,
    HeaderValue, IF_NONE_MATCH, REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, Response, StatusCode};
use flate2::Compression;
use flate2::write::GzEncoder;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::sync::OnceLock;

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

/// A file of the page.
pub(crate) struct File {
    pub(crate) name: &'static str,
    kind: &'static str,
    pub(crate) text: &'static str,
    /// It in gzip, once somebody has asked for it.
    packed: OnceLock<Bytes>,
}

macro_rules! files {
    ($($name:literal $kind:ident),* $(,)?) => {
        [$(File { name: $name, kind: $kind, text: include_str!($name), packed: OnceLock::new() }),*]
    };
}

static INDEX: [File; 1] = files!["index.html" HTML];

/// What `/assets/` has.
pub(crate) static FILES: [File; 21] = files![
    "style.css" CSS,
    "icon.svg" SVG,
    "main.js" SCRIPT,
    "dom.js" SCRIPT,
    "api.js" SCRIPT,
    "prefs.js" SCRIPT,
    "store.js" SCRIPT,
    "theme.js" SCRIPT,
    "settings.js" SCRIPT,
    "key.js" SCRIPT,
    "chat.js" SCRIPT,
    "answer.js" SCRIPT,
    "message.js" SCRIPT,
    "tools.js" SCRIPT,
    "conversations.js" SCRIPT,
    "markdown.js" SCRIPT,
    "inline.js" SCRIPT,
    "code.js" SCRIPT,
    "complete.js" SCRIPT,
    "engine.js" SCRIPT,
    "heat.js" SCRIPT,
];

pub(crate) async fn index(headers: HeaderMap) -> Response<Body> {
    INDEX[0].send(&headers)
}

pub(crate) async fn asset(Path(name): Path<String>, headers: HeaderMap) -> Result<Response<Body>, ApiError> {
    let file = FILES.iter().find(|file| file.name == name);
    let missing = || {
        let message = format!("the page has no file `{name}`: reload the page");
        ApiError::new(StatusCode::NOT_FOUND, "not_found", message)
    };
    Ok(file.ok_or_else(missing)?.send(&headers))
}

impl File {
    /// Answers with the file, or says that the client has it already.
    fn send(&'static self, asked: &HeaderMap) -> Response<Body> {
        let tag = self.tag();
        let mut response = Response::new(Body::empty());
        for (name, value) in [
            (CONTENT_TYPE, self.kind),
            (CACHE_CONTROL, "no-cache"),
            (CONTENT_SECURITY_POLICY, POLICY),
            (X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (REFERRER_POLICY, "no-referrer"),
            (VARY, "accept-encoding"),
        ] {
            response.headers_mut().insert::<HeaderName>(name, HeaderValue::from_static(value));
        }
        if words(asked, &IF_NONE_MATCH).any(|word| word.trim_start_matches("W/") == tag) {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        } else if words(asked, &ACCEPT_ENCODING).any(|word| word == "gzip") {
            response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            *response.body_mut() = Body::from(self.packed.get_or_init(|| pack(self.text)).clone());
        } else {
            *response.body_mut() = Body::from(self.text);
        }
        // A weak tag: it stands for the content, however it is packed.
        response.headers_mut().extend(HeaderValue::from_str(&format!("W/{tag}")).map(|tag| (ETAG, tag)));
        response
    }

    /// Changes with the content.
    fn tag(&self) -> String {
        let mut hasher = DefaultHasher::new();
        self.text.hash(&mut hasher);
        format!("\"{:016x}\"", hasher.finish())
    }
}

/// The words of a header that is a list.
fn words<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(|word| word.split(';').next().unwrap_or_default().trim())
}

fn pack(text: &str) -> Bytes {
    let mut packed = GzEncoder::new(Vec::new(), Compression::best());
    // Writing into memory does not fail.
    let _ = packed.write_all(text.as_bytes());
    Bytes::from(packed.finish().unwrap_or_default())
}
