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

static TRAINED: LazyLock<Tokenizer> = LazyLock::new(|| {
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
fn long_pieces_are_merged_alike() {
    for text in ["=".repeat(5000), " ".repeat(700), "ab".repeat(400), format!("{}\n", "();".repeat(300))] {
        assert_eq!(TRAINED.encode(&text), SLOW.encode(&text));
    }
}

#[test]
fn encoding_many_counts() {
    let texts = ["one two", "three"];
    let (ids, rate) = TRAINED.encode_all(&texts);
    assert_eq!((ids[1].clone(), rate.bytes), (TRAINED.encode("three"), 12));
    assert_eq!(rate.tokens as usize, ids[0].len() + ids[1].len());
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
        let mut stream = TRAINED.stream();
        let mut streamed: String = ids.iter().map(|id| stream.push(*id)).collect();
        streamed += &stream.finish();
        prop_assert_eq!(streamed, text);
    }

    #[test]
    fn streams_of_any_ids_decode_like_all_at_once(ids in prop::collection::vec(0u32..1000, 0..60)) {
        let mut stream = TRAINED.stream();
        let mut streamed: String = ids.iter().map(|id| stream.push(*id)).collect();
        streamed += &stream.finish();
        prop_assert_eq!(streamed, TRAINED.decode(&ids));
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
