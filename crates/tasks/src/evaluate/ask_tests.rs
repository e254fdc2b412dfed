//! Tokens of contexts, continuations and windows.

use super::super::tests::tiny;
use super::*;

fn loaded() -> (tempfile::TempDir, Loaded) {
    let folder = tempfile::tempdir().unwrap();
    tiny::write(folder.path());
    let loaded = tiny::open(folder.path());
    (folder, loaded)
}

fn likelihood(asker: &mut Asker, context: &str, continuation: &str) -> (Vec<u32>, usize) {
    let request = Request::Likelihood { context: context.into(), continuation: continuation.into() };
    let ask = asker.ask(&request, (0, 0), 1).unwrap();
    (ask.parts[0].prompt.clone(), ask.parts[0].score.unwrap().from)
}

#[test]
fn a_continuation_has_the_tokens_behind_those_of_its_context() {
    let (_folder, loaded) = loaded();
    let encode = |text: &str| loaded.tokenizer.encode(text);
    let begin = loaded.tokenizer.special().bos.unwrap();
    let mut asker = Asker::new(&loaded, false, 0);
    for (context, continuation) in [("{\"name\":", " \"Ada\""), ("a", "bc"), ("tags ", "true"), ("é[", "[1, 2]]\n")] {
        let (ids, from) = likelihood(&mut asker, context, continuation);
        let head = encode(context.trim_end());
        assert_eq!(from, head.len(), "{context:?}");
        assert_eq!(ids[..from], head);
        assert_eq!(ids[from..], encode(&format!("{context}{continuation}"))[from..]);
        let (begun, at) = likelihood(&mut Asker::new(&loaded, true, 0), context, continuation);
        assert_eq!((begun, at), ([vec![begin], ids].concat(), from + 1));
    }
    // Without a context, the token that begins texts stands there.
    assert_eq!(likelihood(&mut asker, "", "true"), ([vec![begin], encode("true")].concat(), 1));
    let empty = Request::Likelihood { context: "a".into(), continuation: String::new() };
    assert!(asker.ask(&empty, (0, 0), 1).unwrap_err().contains("no token of its own"));
}

#[test]
fn windows_score_each_token_once_with_as_much_before_it_as_fits() {
    let (_folder, mut loaded) = loaded();
    loaded.model.config.max_position_embeddings = 8;
    let asker = Asker::new(&loaded, false, 0);
    for length in [0, 1, 7, 8, 9, 15, 16, 17, 40] {
        let text: String = "[]{}".chars().cycle().take(length).collect();
        let ids = loaded.tokenizer.encode(&text);
        let all = [vec![asker.prefix.unwrap()], ids.clone()].concat();
        let (_, parts, _) = asker.rolling(&text).unwrap();
        let mut scored: Vec<u32> = Vec::new();
        for (at, part) in parts.iter().enumerate() {
            let from = part.score.unwrap().from;
            scored.extend_from_slice(&part.prompt[from..]);
            // It stands so in the text, and all of the context is used once there is so much.
            let end = 1 + scored.len();
            assert_eq!(part.prompt, all[end - part.prompt.len()..end]);
            assert_eq!(part.prompt.len(), end.min(9), "{at}");
        }
        assert_eq!(scored, ids);
        assert_eq!(parts.len(), ids.len().div_ceil(8));
    }
}

#[test]
fn what_is_too_long_loses_its_beginning_or_is_refused() {
    let (_folder, mut loaded) = loaded();
    loaded.model.config.max_position_embeddings = 20;
    let mut asker = Asker::new(&loaded, true, 0);
    let text: String = "[]{}, ".repeat(20);
    let ids = loaded.tokenizer.encode(&text);
    let generation = Generation { until: vec!["\n".into()], max_tokens: 5, temperature: 0.0, top_p: None, top_k: None };
    let request = Request::Generate { prompt: text.clone(), generation: generation.clone() };
    let ask = asker.ask(&request, (0, 0), 1).unwrap();
    assert!(ask.cut);
    assert_eq!(ask.parts[0].prompt, ids[ids.len() - 15..]);
    let long = Generation { max_tokens: 20, ..generation };
    let error = asker.ask(&Request::Generate { prompt: text.clone(), generation: long }, (0, 0), 1).unwrap_err();
    assert!(error.contains("--max-new") && error.contains("20"), "{error}");
    let (pair, from) = likelihood(&mut asker, &text, "true");
    assert_eq!(pair.len(), 21);
    assert_eq!(pair[from..], loaded.tokenizer.encode(&format!("{text}true"))[ids.len() - 1..]);
    let error = asker.ask(&Request::Likelihood { context: "a".into(), continuation: text }, (0, 0), 1).unwrap_err();
    assert!(error.contains("context of 20"), "{error}");
}

#[test]
fn everything_that_an_answer_depends_on_changes_its_key() {
    let (_folder, loaded) = loaded();
    let base = Generation { until: vec!["\n".into()], max_tokens: 5, temperature: 0.5, top_p: None, top_k: None };
    let key = |prompt: &str, generation: &Generation, at, seed, repeats| {
        let request = Request::Generate { prompt: prompt.into(), generation: generation.clone() };
        Asker::new(&loaded, true, seed).ask(&request, at, repeats).unwrap().key
    };
    let keys = [
        key("a", &base, (0, 0), 0, 2),
        key("b", &base, (0, 0), 0, 2),
        key("a", &base, (1, 0), 0, 2),
        key("a", &base, (0, 1), 0, 2),
        key("a", &base, (0, 0), 1, 2),
        key("a", &base, (0, 0), 0, 3),
        key("a", &Generation { until: vec!["x".into()], ..base.clone() }, (0, 0), 0, 2),
        key("a", &Generation { max_tokens: 6, ..base.clone() }, (0, 0), 0, 2),
        key("a", &Generation { temperature: 0.6, ..base.clone() }, (0, 0), 0, 2),
        key("a", &Generation { top_p: Some(0.5), ..base.clone() }, (0, 0), 0, 2),
        key("a", &Generation { top_k: Some(5), ..base.clone() }, (0, 0), 0, 2),
    ];
    for (at, key) in keys.iter().enumerate() {
        assert!(!keys[..at].contains(key), "{at}");
    }
    assert_eq!(keys[0], key("a", &base, (0, 0), 0, 2));
}
