use super::*;
use crate::source::Document;
use proptest::prelude::*;
use std::sync::LazyLock;

/// The sources of this module as training text.
pub(crate) fn corpus() -> Vec<Document> {
    let texts = [
        include_str!("mod.rs"),
        include_str!("bpe.rs"),
        include_str!("train.rs"),
        include_str!("pretoken.rs"),
        "D\u{e9}j\u{e0} vu \u{2014} \u{6df1}\u{5ea6}\u{6c42}\u{7d22} 12345 \u{1f600}\u{1f600}\n",
    ];
    let one = |(i, text): (usize, &&str)| Document { id: i.to_string(), group: i.to_string(), text: (*text).into() };
    texts.iter().enumerate().map(one).collect()
}

pub(super) static TRAINED: LazyLock<Tokenizer> = LazyLock::new(|| {
    Tokenizer::train(&corpus(), &TrainOptions { vocab_size: 900, ..TrainOptions::default() }).unwrap().0
});

/// The same file, encoded by the library.
static SLOW: LazyLock<Tokenizer> = LazyLock::new(|| {
    let mut slow = Tokenizer::from_json(TRAINED.json.clone(), TRAINED.config.clone(), None).unwrap();
    slow.fast = None;
    slow
});

#[test]
fn special_tokens_come_first_and_training_is_deterministic() {
    let t = &*TRAINED;
    assert_eq!(t.vocab_size(), 900);
    for (i, name) in SPECIAL_TOKENS.iter().enumerate() {
        assert_eq!(t.id_of(name), Some(i as u32));
        assert_eq!(t.token_bytes(i as u32), name.as_bytes());
        assert!(t.is_special(i as u32));
    }
    let ids = t.special();
    assert_eq!((ids.bos, ids.eos, ids.pad), (Some(0), Some(1), Some(2)));
    assert_eq!((ids.fim_begin, ids.fim_hole, ids.fim_end), (Some(3), Some(4), Some(5)));
    let again = Tokenizer::train(&corpus(), &TrainOptions { vocab_size: 900, ..TrainOptions::default() }).unwrap().0;
    assert_eq!(again.fingerprint(), t.fingerprint());
    assert!(t.is_lossless() && t.fast.is_some());
}

#[test]
fn punctuation_and_line_breaks_share_tokens() {
    let t = &*TRAINED;
    let combined = (0..t.vocab_size() as u32).filter(|id| t.token_bytes(*id).starts_with(b";\n")).count();
    assert!(combined > 0);
}

#[test]
fn names_of_special_tokens_in_text_are_text() {
    let text = "a<|eos_token|>b <|fim_hole|>";
    for t in [&*TRAINED, &*SLOW] {
        let ids = t.encode(text);
        assert!(ids.iter().all(|id| !t.is_special(*id)), "{ids:?}");
        assert_eq!(t.decode(&ids), text);
    }
    let ids = TRAINED.encode_with_special(text);
    assert_eq!(ids.iter().filter(|id| TRAINED.is_special(**id)).copied().collect::<Vec<_>>(), [1, 4]);
    assert_eq!(TRAINED.decode(&ids), "ab ");
    assert_eq!(TRAINED.decode_with_special(&ids), text);
}

#[test]
fn saved_files_load_again() {
    let dir = tempfile::tempdir().unwrap();
    TRAINED.save(dir.path()).unwrap();
    let t = Tokenizer::load(dir.path()).unwrap();
    assert_eq!((t.fingerprint(), t.special()), (TRAINED.fingerprint(), TRAINED.special()));
    assert_eq!(t.encode("let x = 1;\n\n"), TRAINED.encode("let x = 1;\n\n"));
    let error = Tokenizer::load(&dir.path().join("none")).err().unwrap().to_string();
    assert!(error.contains("none") && error.contains("check the path"), "{error}");
}

#[test]
fn foreign_tokenizers_load() {
    // A byte-fallback tokenizer with a space marker, and one of whole words with a padding request.
    let vocab = r#"{"<unk>":0,"<s>":1,"</s>":2,"<0x0A>":3,"\u2581":4,"a":5,"\u2581a":6}"#;
    let json = format!(
        r#"{{"version":"1.0","added_tokens":[{{"id":1,"content":"<s>","single_word":false,"lstrip":false,
        "rstrip":false,"normalized":false,"special":true}}],"normalizer":null,
        "pre_tokenizer":{{"type":"Metaspace","replacement":"\u2581","prepend_scheme":"never","split":false}},"post_processor":null,
        "decoder":{{"type":"Sequence","decoders":[{{"type":"ByteFallback"}},{{"type":"Metaspace","replacement":"\u2581","prepend_scheme":"never","split":false}}]}},
        "model":{{"type":"BPE","dropout":null,"unk_token":"<unk>","fuse_unk":true,"byte_fallback":true,
        "vocab":{vocab},"merges":[["\u2581","a"]]}}}}"#
    );
    let t = Tokenizer::from_json(json, None, None).unwrap();
    assert!(!t.is_lossless());
    assert_eq!(t.encode(" aa\n"), [6, 5, 3]);
    assert_eq!(t.decode(&[6, 5, 3]), " aa\n");
    assert_eq!((t.token_bytes(6), t.token_bytes(3)), (&b" a"[..], &b"\n"[..]));
    assert_eq!((t.special().bos, t.special().eos), (Some(1), Some(2)));
    assert_eq!(t.encode("<s>").iter().filter(|id| **id == 1).count(), 0);
    let json = r#"{"version":"1.0","added_tokens":[],"normalizer":null,"pre_tokenizer":{"type":"Whitespace"},
        "truncation":{"direction":"Right","max_length":1,"strategy":"LongestFirst","stride":0},
        "post_processor":null,"decoder":null,"model":{"type":"WordLevel","vocab":{"a":0,"b":7,"[UNK]":2},"unk_token":"[UNK]"}}"#;
    let t = Tokenizer::from_json(json.into(), None, None).unwrap();
    assert_eq!((t.encode("b a x"), t.vocab_size()), (vec![7, 0, 2], 8));
    assert!(t.eos().unwrap_err().to_string().contains("tokenizer_config.json"));
}

/// The trained tokenizer with words added as by `transformers`: (name, special, normalized, single_word).
fn with_words(words: &[(&str, bool, bool, bool)]) -> [Tokenizer; 2] {
    let mut json: Value = serde_json::from_str(&TRAINED.json).unwrap();
    for (i, (content, special, normalized, single_word)) in words.iter().enumerate() {
        json["added_tokens"].as_array_mut().unwrap().push(serde_json::json!({
            "id": 900 + i, "content": content, "special": special, "normalized": normalized,
            "single_word": single_word, "lstrip": false, "rstrip": false,
        }));
    }
    let fast = Tokenizer::from_json(json.to_string(), None, None).unwrap();
    let mut slow = Tokenizer::from_json(json.to_string(), None, None).unwrap();
    slow.fast = None;
    [fast, slow]
}

#[test]
fn added_words_are_encoded_and_special_ones_are_not() {
    let words = [
        ("Gremio", false, true, false),
        ("tricalcium", false, true, false),
        ("<think>", false, false, false),
        ("<|user|>", false, true, false),
        ("<\u{ff5c}Tool\u{ff5c}>", false, false, false),
        ("[MASK]", true, false, false),
        // The name of a role, although the file does not call it special.
        ("</s>", false, true, false),
    ];
    let [fast, slow] = with_words(&words);
    assert!(fast.is_lossless());
    let text = "Gremio: a (tricalcium)\n<think>Gremio</s><|user|><\u{ff5c}Tool\u{ff5c}>[MASK]<|eos_token|>";
    for t in [&fast, &slow] {
        let ids = t.encode(text);
        let added: Vec<u32> = ids.iter().copied().filter(|id| *id >= 900 || *id < 6).collect();
        assert_eq!(added, [900, 901, 902, 900]);
        let plain = |text: &str| TRAINED.encode(text);
        let around = [vec![900], plain(": a ("), vec![901], plain(")\n"), vec![902, 900]].concat();
        assert_eq!((&ids[..around.len()], t.decode(&ids)), (&*around, text.to_owned()));
        // In a prompt, all are found.
        let ids = t.encode_with_special(text);
        let added: Vec<u32> = ids.iter().copied().filter(|id| *id >= 900 || *id < 6).collect();
        assert_eq!(added, [900, 901, 902, 900, 906, 903, 904, 905, 1]);
    }
    // Flags that only the library supports.
    let [with_flag, _] = with_words(&[("word", false, true, true)]);
    assert!(with_flag.fast.is_none());
    assert_eq!(with_flag.encode("word").as_slice(), [900]);
    assert_eq!(with_flag.encode("words"), TRAINED.encode("words"));
    // The flags of a special token do not affect text.
    assert!(with_words(&[("<|x|>", true, false, true)])[0].fast.is_some());
}

/// A word that equals a token of the vocabulary has that token's id.
#[test]
fn an_added_word_of_the_vocabulary_keeps_its_id() {
    let letters = |id: &u32| matches!(TRAINED.token_bytes(*id), [b'a'..=b'z', b'a'..=b'z', b'a'..=b'z']);
    let id = (300..900).find(letters).unwrap();
    let word = TRAINED.decode(&[id]);
    let [fast, slow] = with_words(&[(&word, false, true, false)]);
    let text = format!("zzz{word}");
    assert_eq!(fast.encode(&text).last(), Some(&id));
    assert_eq!(fast.encode(&text), slow.encode(&text));
}

#[test]
fn a_released_spelling_takes_the_fast_path() {
    // Real line breaks in the expression, merges as "a b", fields absent or at their defaults.
    let mut json: Value = serde_json::from_str(&TRAINED.json).unwrap();
    let words = &mut json["pre_tokenizer"]["pretokenizers"][2]["pattern"]["Regex"];
    *words = words.as_str().unwrap().replace("\\r", "\r").replace("\\n", "\n").into();
    json["normalizer"] = serde_json::json!({"type": "Sequence", "normalizers": []});
    for merge in json["model"]["merges"].as_array_mut().unwrap() {
        *merge = format!("{} {}", merge[0].as_str().unwrap(), merge[1].as_str().unwrap()).into();
    }
    json["model"].as_object_mut().unwrap().remove("ignore_merges");
    let t = Tokenizer::from_json(json.to_string(), None, None).unwrap();
    assert!(t.is_lossless() && t.json != TRAINED.json);
    for text in [include_str!("mod.rs"), "a\r\n\r\n  b\n\t;\n\n"] {
        assert_eq!(t.encode(text), SLOW.encode(text));
    }
    assert!(crate::fim::Fim::new(&t, 0.1, None).unwrap().is_some());
}

#[test]
fn a_smaller_text_gives_a_smaller_vocabulary_and_options_are_checked() {
    let one = [Document { id: "x".into(), group: "x".into(), text: "ab ab ab".into() }];
    let (t, report) = Tokenizer::train(&one, &TrainOptions::default()).unwrap();
    assert!(t.vocab_size() < 270 && report.bytes == 8 && report.pieces == 2);
    let bad = TrainOptions { vocab_size: 100, ..TrainOptions::default() };
    assert!(matches!(Tokenizer::train(&one, &bad), Err(DataError::Option { key: "vocab_size", .. })));
    assert!(matches!(Tokenizer::train(&[], &TrainOptions::default()), Err(DataError::TooLittle(_))));
    let sampled = TrainOptions { vocab_size: 300, max_bytes: 20_000, ..TrainOptions::default() };
    assert!(Tokenizer::train(&corpus(), &sampled).unwrap().1.bytes <= 20_000);
}

#[test]
fn up_to_the_limit_is_learned_from_and_all_over_the_text() {
    let document = |name: &str, text: String| Document { id: name.into(), group: name.into(), text };
    // One document larger than the limit: each half has its own word. A small document is beside it.
    let half = |word: &str| format!("{word} and more of it. ").repeat(3000);
    let one = [document("one", half("beginning") + &half("conclusion")), document("two", "a tiny second file".into())];
    let options = TrainOptions { vocab_size: 300, max_bytes: 32_000, ..TrainOptions::default() };
    let (t, report) = Tokenizer::train(&one, &options).unwrap();
    assert!((31_000..=32_000).contains(&report.bytes), "{}", report.bytes);
    assert_eq!((t.encode(" beginning").len(), t.encode(" conclusion").len()), (1, 1));
    assert_eq!(Tokenizer::train(&one, &options).unwrap().0.fingerprint(), t.fingerprint());
    let other = Tokenizer::train(&one, &TrainOptions { seed: 2, ..options.clone() }).unwrap();
    assert_ne!(other.1.pieces + other.1.bytes as usize, report.pieces + report.bytes as usize);
    // All of the text fits exactly, so nothing is cut.
    let all = one.iter().map(|d| d.text.len() as u64).sum();
    let (_, report) = Tokenizer::train(&one, &TrainOptions { max_bytes: all, ..options }).unwrap();
    assert_eq!(report.bytes, all);
}

#[test]
fn long_pieces_are_merged_alike() {
    for text in ["=".repeat(5000), " ".repeat(700), "ab".repeat(400), format!("{}\n", "();".repeat(300))] {
        assert_eq!(TRAINED.encode(&text), SLOW.encode(&text));
    }
}

/// A quadratic algorithm would need minutes.
#[test]
fn a_very_long_run_of_letters_is_trained_on_and_encoded() {
    let start = Instant::now();
    let run: String = (0..300_000u64).map(|i| char::from(b'a' + (crate::hash::mix(i) % 26) as u8)).collect();
    for text in [run, "\u{e9}".repeat(150_000), "12".repeat(150_000), " \u{3000}".repeat(90_000), "-\n".repeat(150_000)]
    {
        let one = [Document { id: "x".into(), group: "x".into(), text }];
        let (t, _) = Tokenizer::train(&one, &TrainOptions { vocab_size: 400, ..TrainOptions::default() }).unwrap();
        assert!(t.decode(&t.encode(&one[0].text)) == one[0].text);
        assert!(TRAINED.decode(&TRAINED.encode(&one[0].text)) == one[0].text);
    }
    assert!(start.elapsed().as_secs() < 120, "{:?}", start.elapsed());
}

#[test]
fn encoding_many_counts() {
    let texts = ["one two", "three"];
    let (ids, rate) = TRAINED.encode_all(&texts);
    assert_eq!((ids[1].clone(), rate.bytes), (TRAINED.encode("three"), 12));
    assert_eq!(rate.tokens as usize, ids[0].len() + ids[1].len());
}

/// The text of ids that come one at a time.
fn streamed(ids: &[u32]) -> String {
    let (mut stream, mut text) = (Utf8Stream::default(), String::new());
    ids.iter().filter(|id| !TRAINED.is_special(**id)).for_each(|id| stream.push(TRAINED.token_bytes(*id), &mut text));
    stream.finish(&mut text);
    text
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn encodes_as_the_library_does(
        text in prop::collection::vec(
            prop_oneof!["[a-z_]{1,12}", "[ \n\t]{1,5}", "[(){};:,.=<>!]{1,4}", "\\PC{0,6}", "(let|fn|self|pub|->|::|    )"], 0..40,
        )
    ) {
        let text = text.concat();
        let ids = TRAINED.encode(&text);
        prop_assert_eq!(&ids, &SLOW.encode(&text));
        prop_assert_eq!(TRAINED.decode(&ids), text.clone());
        prop_assert_eq!(streamed(&ids), text);
    }

    #[test]
    fn added_words_are_found_as_the_library_finds_them(
        words in prop::collection::vec(("[a-c<|> ]{1,4}", any::<bool>(), any::<bool>()), 1..6), text in "[a-c<|> \n]{0,60}"
    ) {
        let words: Vec<(&str, bool, bool, bool)> = words.iter().map(|(w, s, n)| (w.as_str(), *s, *n, false)).collect();
        let [fast, slow] = with_words(&words);
        prop_assert!(fast.fast.is_some());
        prop_assert_eq!(fast.encode(&text), slow.encode(&text));
    }

    #[test]
    fn streams_of_any_ids_decode_like_all_at_once(ids in prop::collection::vec(0u32..1000, 0..60)) {
        prop_assert_eq!(streamed(&ids), TRAINED.decode(&ids));
    }

    #[test]
    fn broken_files_are_errors(cut in 0usize..3000, byte in any::<u8>(), at in 0usize..3000) {
        let whole = TRAINED.json.as_bytes();
        let mut changed = whole[whole.len() - 3000..].to_vec();
        changed[at] = byte;
        let mut front = whole[..2000].to_vec();
        front[at % 2000] = byte;
        for bytes in [&whole[..cut], &changed, &[&front, &whole[2000..]].concat()] {
            let text = String::from_utf8_lossy(bytes).into_owned();
            let _ = Tokenizer::from_json(text, None, None);
        }
        prop_assert!(Tokenizer::from_json(String::from_utf8_lossy(&whole[..cut]).into_owned(), None, None).is_err());
    }
}
