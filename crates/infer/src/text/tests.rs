//! What comes out piece by piece is what a search of the whole text finds.

use super::*;
use hadal_data::Document;
use hadal_data::tokenizer::TrainOptions;
use proptest::prelude::*;
use std::sync::LazyLock;

static TOKENIZER: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| {
    let document = Document { id: "a".into(), group: "a".into(), text: "a text of words, some words of a text".into() };
    Arc::new(Tokenizer::train(&[document], &TrainOptions { vocab_size: 280, ..TrainOptions::default() }).unwrap().0)
});

fn options(stop: &[&str], include_stop: bool) -> TextOptions {
    let stop = stop.iter().map(|s| (*s).to_owned()).collect();
    TextOptions { stop, include_stop, ..TextOptions::new(Arc::clone(&TOKENIZER)) }
}

/// The text of bytes, and how much of it more bytes cannot change.
fn whole_text(bytes: &[u8]) -> (String, usize) {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let tail = bytes.utf8_chunks().last().map_or(&[][..], |chunk| chunk.invalid());
    let open = std::str::from_utf8(tail).is_err_and(|e| e.error_len().is_none());
    let sure = text.len() - if open { char::REPLACEMENT_CHARACTER.len_utf8() } else { 0 };
    (text, sure)
}

/// The first end of a stop string in a text, and the number of the longest that ends there.
fn first_stop(text: &str, stops: &[String]) -> Option<(usize, usize)> {
    (1..=text.len()).find_map(|end| {
        let here = |(_, stop): &(usize, &String)| text.as_bytes()[..end].ends_with(stop.as_bytes());
        let longest = stops.iter().enumerate().filter(here).max_by_key(|(i, stop)| (stop.len(), std::cmp::Reverse(*i)));
        longest.map(|(i, _)| (end, i))
    })
}

/// Bytes at the end of a text that begin a stop string without completing it.
fn may_begin(text: &str, stops: &[String]) -> usize {
    let begins =
        |n: &usize| stops.iter().any(|s| s.len() > *n && s.as_bytes().starts_with(&text.as_bytes()[text.len() - n..]));
    (0..=text.len()).rev().find(begins).unwrap_or(0)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_cut_into_tokens_gives_what_a_search_of_the_whole_text_finds(
        parts in prop::collection::vec(
            prop_oneof![
                6 => "[ab\u{e9}\u{20ac}\u{1f600}]{0,4}".prop_map(String::into_bytes),
                1 => prop::collection::vec(any::<u8>(), 0..3),
            ],
            0..12,
        ),
        cuts in prop::collection::vec(0usize..40, 0..12),
        stops in prop::collection::vec("[ab\u{e9}\u{20ac}\u{fffd}]{1,5}", 0..4),
        include in any::<bool>(),
    ) {
        let bytes = parts.concat();
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).chain([0, bytes.len()]).collect();
        cuts.sort_unstable();
        let mut text = Text::new(TextOptions { stop: stops.clone(), ..options(&[], include) });
        let (mut said, mut offsets, mut stop) = (String::new(), Vec::new(), None);
        let mut take = |(piece, stop): (Piece, Option<usize>)| {
            said += &piece.text;
            offsets.extend(piece.offsets);
            (said.len(), stop)
        };
        let mut begins = Vec::new();
        for cut in cuts.windows(2) {
            let (now, sure) = whole_text(&bytes[..cut[1]]);
            begins.push(whole_text(&bytes[..cut[0]]).1);
            let (len, found) = take(text.push_bytes(&bytes[cut[0]..cut[1]]));
            stop = found;
            if found.is_some() {
                break;
            }
            // No more is held back than must be.
            prop_assert_eq!(len, sure - may_begin(&now[..sure], &stops));
        }
        if stop.is_none() {
            stop = take(text.finish()).1;
        }
        let (all, _) = whole_text(&bytes);
        let want = first_stop(&all, &stops);
        prop_assert_eq!(stop, want.map(|(_, stop)| stop));
        let end = want.map_or(all.len(), |(end, stop)| if include { end } else { end - stops[stop].len() });
        prop_assert_eq!(&said, &all[..end]);
        // Tokens that begin in the text, and without a stop string all of them.
        begins.retain(|at| want.is_none() || *at < end);
        prop_assert_eq!(offsets, begins);
    }
}

#[test]
fn special_tokens_are_skipped_or_shown_by_name() {
    let eos = TOKENIZER.eos().unwrap();
    let ids: Vec<u32> = TOKENIZER.encode("some").into_iter().chain([eos]).chain(TOKENIZER.encode("words")).collect();
    for (show_special, want) in [(false, "somewords"), (true, "some<|eos_token|>words")] {
        let mut text = Text::new(TextOptions { show_special, ..options(&[], false) });
        let mut said: String = ids.iter().map(|id| text.push(*id).0.text).collect();
        said += &text.finish().0.text;
        assert_eq!(said, want);
    }
    // A stop string may be the name of a special token, and reaches over skipped ones.
    let stop = |stop: &str, show_special: bool| {
        let mut text = Text::new(TextOptions { show_special, ..options(&[stop], false) });
        ids.iter().find_map(|id| text.push(*id).1)
    };
    assert_eq!([stop("<|eos", true), stop("<|eos", false)], [Some(0), None]);
    assert_eq!([stop("mewo", true), stop("mewo", false)], [None, Some(0)]);
}
