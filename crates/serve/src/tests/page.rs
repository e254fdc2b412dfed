//! The page's files and headers, and the figures that it shows.

use super::client::{begin, finish, get, post};
use super::{Running, options};
use crate::page::FILES;
use crate::{Keys, ServeOptions};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// The paths that a text names in quotes.
fn named<'a>(text: &'a str, prefix: &str) -> Vec<&'a str> {
    text.split('"').filter_map(|part| part.strip_prefix(prefix)).filter(|name| !name.contains(' ')).collect()
}

#[test]
fn the_page_is_complete_and_asks_nothing_of_others() {
    let server = Running::new();
    let index = get(server.address, "/");
    assert_eq!((index.status, index.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let mut wanted: Vec<&str> = named(&index.body, "/assets/");
    wanted.extend(FILES.iter().flat_map(|file| named(file.text, "./")));
    wanted.sort_unstable();
    wanted.dedup();
    let mut have: Vec<&str> = FILES.iter().map(|file| file.name).collect();
    have.sort_unstable();
    assert_eq!(wanted, have);
    for name in have {
        let file = get(server.address, &format!("/assets/{name}"));
        let kind = match name.rsplit_once('.').unwrap().1 {
            "js" => "text/javascript; charset=utf-8",
            "css" => "text/css; charset=utf-8",
            _ => "image/svg+xml",
        };
        assert_eq!((file.status, file.header("content-type")), (200, Some(kind)), "{name}");
        // Nothing is loaded from elsewhere, and no text becomes markup.
        for bad in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "@import", "url("] {
            assert!(!file.body.contains(bad), "{name} has {bad}");
        }
    }
    // Inline scripts and styles would not run.
    assert!(!index.body.contains("<script>") && !index.body.contains("style=") && !index.body.contains(" onclick="));
    assert_eq!(get(server.address, "/assets/mod.rs").error().2, "not_found");
    assert_eq!(get(server.address, "/assets/../Cargo.toml").status, 404);
}

#[test]
fn the_page_is_safe_and_cached() {
    let server = Running::start(ServeOptions { origins: vec!["https://example.org".into()], ..options() });
    for path in ["/", "/assets/main.js"] {
        let file = get(server.address, path);
        let policy = file.header("content-security-policy").unwrap();
        for rule in
            ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "require-trusted-types-for 'script'"]
        {
            assert!(policy.contains(rule), "{policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
        assert_eq!(file.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(file.header("referrer-policy"), Some("no-referrer"));
        assert_eq!(file.header("cache-control"), Some("no-cache"));
        let tag = file.header("etag").unwrap();
        let ask = |headers: &str| finish(begin(server.address, "GET", path, headers, b""));
        let again = ask(&format!("if-none-match: \"x\", {tag}\r\n"));
        assert_eq!((again.status, again.body.as_str(), again.header("etag")), (304, "", Some(tag)));
        assert_eq!(ask("if-none-match: W/\"0123456789abcdef\"\r\n").status, 200);
        assert_eq!(ask("accept-encoding: br, identity\r\n").body, file.body);
        assert_eq!(
            ask("origin: https://example.org\r\n").header("access-control-allow-origin"),
            Some("https://example.org")
        );
    }
}

/// The files in gzip, read by the same library, are those without. All of them together load quickly.
#[test]
fn files_are_packed_for_those_who_can_read_it() {
    use std::io::{Read, Write};
    let server = Running::new();
    let mut sum = 0;
    for path in FILES.iter().map(|file| format!("/assets/{}", file.name)).chain(["/".into()]) {
        let mut stream = begin(server.address, "GET", &path, "accept-encoding: deflate, gzip;q=1.0\r\n", b"");
        stream.flush().unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        let end = all.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(all[..end].to_vec()).unwrap();
        assert!(head.contains("content-encoding: gzip") && head.contains("vary: accept-encoding"), "{head}");
        let mut text = String::new();
        flate2::read::GzDecoder::new(&all[end + 4..]).read_to_string(&mut text).unwrap();
        assert_eq!(text, get(server.address, &path).body, "{path}");
        sum += all.len() - end;
    }
    assert!(sum < 60_000, "the page has {sum} bytes");
}

#[test]
fn the_page_needs_no_key_and_its_figures_do() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    std::fs::write(&file, "abc\n").unwrap();
    let server = Running::start(ServeOptions { keys: Some(Keys::read(&file).unwrap()), ..options() });
    for path in ["/", "/assets/style.css"] {
        assert_eq!(get(server.address, path).status, 200, "{path}");
    }
    for path in ["/engine", "/engine/experts", "//engine", "/assets", "/assets/../engine", "/assets/..%2fengine"] {
        let without = get(server.address, path);
        assert!([401, 404].contains(&without.status), "{path}: {}", without.body);
    }
    for path in ["/engine", "/engine/experts"] {
        assert_eq!(get(server.address, path).error().2, "invalid_api_key");
        let with = finish(begin(server.address, "GET", path, "authorization: Bearer abc\r\n", b""));
        assert_eq!(with.status, 200, "{path}");
    }
}

/// The engine's figures, as soon as something holds of them.
fn figures_once(server: &Running, holds: impl Fn(&Value) -> bool) -> Value {
    let start = Instant::now();
    loop {
        let figures = get(server.address, "/engine").json();
        if holds(&figures) {
            return figures;
        }
        assert!(start.elapsed() < Duration::from_mins(1), "{figures}");
    }
}

/// Live figures, and the loads of experts, count each row of a pass: the prompt, and each new token but the last.
#[test]
fn the_engine_tells_its_figures() {
    let server = Running::new();
    // The engine is made after the server has begun to listen.
    let before = figures_once(&server, |figures| figures["pages"]["all"] != json!(0));
    assert_eq!(
        (&before["has_chat"], &before["most_running"], &before["running"]),
        (&json!(true), &json!(8), &json!(0))
    );
    assert_eq!(before["pages"], json!({"all": 32, "free": 32, "prefix": 0, "tokens": 128}));
    assert_eq!((&before["seconds_to_first_token"], &before["seconds_per_token"]), (&json!(null), &json!(null)));
    let body = json!({"prompt": [1, 2, 3], "max_tokens": 6, "ignore_eos": true});
    post(server.address, "/v1/completions", &body);
    // The figures are those of the last whole step. The answer may be here before it ends.
    let is_over = |figures: &Value| figures["generated_tokens"] == json!(6) && figures["running"] == json!(0);
    let after = figures_once(&server, is_over);
    assert_eq!((&after["prompt_tokens"], &after["generated_tokens"]), (&json!(3), &json!(6)));
    assert!(after["seconds"].as_f64() > before["seconds"].as_f64());
    assert!(after["seconds_to_first_token"].as_f64() > Some(0.0));
    assert!(after["passes"].as_u64() > Some(0) && after["experts_used"].as_u64() > Some(0), "{after}");
    let loads = get(server.address, "/engine/experts").json();
    let layers = loads["layers"].as_array().unwrap();
    let mut scraped = 0.0;
    for layer in layers.iter().filter(|layer| layer["mtp"] == false) {
        let sum: u64 = layer["tokens"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).sum();
        // Three experts of each token. A draft that was wrong has a row as well.
        assert!(sum >= 3 * (3 + 5) && sum.is_multiple_of(3), "{loads}");
        for (expert, tokens) in layer["tokens"].as_array().unwrap().iter().enumerate() {
            let name = format!("hadal_expert_tokens_total{{layer=\"{}\",expert=\"{expert}\"}}", layer["layer"]);
            assert_eq!(server.figure(&name), tokens.as_f64().unwrap());
            scraped += tokens.as_f64().unwrap();
        }
    }
    assert!(scraped > 0.0);
    assert_eq!((server.figure("hadal_read_tokens_total"), server.figure("hadal_drawn_tokens_total")), (3.0, 6.0));
}
