use super::*;
use crate::pack::pack;
use crate::testing::{documents, tokenizer};
use proptest::prelude::*;
use std::sync::LazyLock;

const T: usize = 33;

static PACKED: LazyLock<(tempfile::TempDir, Arc<Packed>)> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    // Parts of the sources as documents of different lengths. One of them is empty.
    let mut all = Vec::new();
    for document in documents() {
        let lines: Vec<&str> = document.text.split_inclusive('\n').collect();
        for (i, part) in lines.chunks(17).enumerate() {
            let id = format!("{}-{i}", document.id);
            all.push(crate::Document { id, group: document.group.clone(), text: part.concat() });
        }
    }
    all[3].text.clear();
    pack(dir.path(), "train", &all, &tokenizer(), 2000).unwrap();
    let packed = Packed::open(dir.path(), "train", &tokenizer()).unwrap();
    (dir, Arc::new(packed))
});

fn options() -> StreamOptions {
    StreamOptions { seq_len: T, seed: 5, fim_rate: 0.3, split_rate: 0.5, ..StreamOptions::default() }
}

fn loader(options: StreamOptions, share: Share, start: Option<Cursor>) -> Loader {
    Loader::new(Arc::clone(&PACKED.1), tokenizer(), options, share, start, 3).unwrap()
}

fn rows(loader: &mut Loader, count: usize) -> Vec<Vec<i32>> {
    loader.next_batch(count).unwrap().tokens.chunks(T + 1).map(<[i32]>::to_vec).collect()
}

/// Rows for about three epochs.
const MANY: usize = 1500;

static ALL: LazyLock<Vec<Vec<i32>>> = LazyLock::new(|| rows(&mut loader(options(), Share::ALL, None), MANY));

#[test]
fn rows_overlap_by_one_token_and_epochs_differ() {
    for pair in ALL.windows(2) {
        assert_eq!(pair[0][T], pair[1][0]);
    }
    let mut l = loader(options(), Share::ALL, None);
    let cursor = l.next_batch(MANY).unwrap().cursor.unwrap();
    assert!(cursor.epoch >= 2, "{cursor:?}");
    assert_eq!((cursor.rows, cursor.tokens_seen), (MANY as u64, (MANY * T) as u64));
}

#[test]
fn an_epoch_is_every_document_once() {
    let plain = StreamOptions { fim_rate: 0.0, split_rate: 0.0, ..options() };
    let t = tokenizer();
    let stream: Vec<u32> = rows(&mut loader(plain, Share::ALL, None), MANY)
        .iter()
        .flat_map(|row| row[..T].iter().map(|id| *id as u32))
        .collect();
    let n = PACKED.1.documents();
    let mut expect: Vec<Vec<u32>> = (0..n)
        .map(|d| {
            let mut ids = Vec::new();
            PACKED.1.read(d, &mut ids).unwrap();
            ids
        })
        .collect();
    expect.sort();
    let orders: Vec<Vec<Vec<u32>>> = (0..2)
        .map(|epoch| {
            stream.split(|id| Some(*id) == t.special().eos).skip(epoch * n).take(n).map(|d| d[1..].to_vec()).collect()
        })
        .collect();
    assert_ne!(orders[0], orders[1]);
    for mut order in orders {
        order.sort();
        assert_eq!(order, expect);
    }
}

#[test]
fn fill_in_middle_keeps_every_document_and_changes_by_epoch() {
    let t = tokenizer();
    let all = StreamOptions { fim_rate: 1.0, ..options() };
    let stream: Vec<u32> = rows(&mut loader(all, Share::ALL, None), MANY)
        .iter()
        .flat_map(|r| r[..T].iter().map(|id| *id as u32))
        .collect();
    let n = PACKED.1.documents();
    let documents: Vec<String> = stream
        .split(|id| Some(*id) == t.special().eos)
        .take(2 * n)
        .map(|ids| t.decode_with_special(ids).trim_start_matches("<|bos_token|>").to_owned())
        .collect();
    let restored = |shown: &String| -> String {
        // The empty document has no parts.
        let Some(rest) = shown.strip_prefix("<|fim_begin|>") else { return shown.clone() };
        let (prefix, rest) = rest.split_once("<|fim_hole|>").unwrap();
        let (suffix, middle) = rest.split_once("<|fim_end|>").unwrap();
        format!("{prefix}{middle}{suffix}")
    };
    let mut expect: Vec<String> = (0..n)
        .map(|d| {
            let mut ids = Vec::new();
            PACKED.1.read(d, &mut ids).unwrap();
            t.decode(&ids)
        })
        .collect();
    expect.sort();
    for epoch in [&documents[..n], &documents[n..]] {
        let mut texts: Vec<String> = epoch.iter().map(restored).collect();
        texts.sort();
        assert_eq!(texts, expect);
    }
    let mut cuts = [documents[..n].to_vec(), documents[n..].to_vec()];
    for c in &mut cuts {
        c.sort();
    }
    assert_ne!(cuts[0], cuts[1]);
}

#[test]
fn ranks_share_one_stream() {
    for ranks in [2usize, 3] {
        let mut loaders: Vec<Loader> = (0..ranks).map(|rank| loader(options(), Share { rank, ranks }, None)).collect();
        for step in 0..40 {
            let mut cursors = Vec::new();
            for (rank, loader) in loaders.iter_mut().enumerate() {
                let batch = loader.next_batch(2).unwrap();
                for (i, row) in batch.tokens.chunks(T + 1).enumerate() {
                    assert_eq!(row, ALL[(step * 2 + i) * ranks + rank]);
                }
                cursors.push(batch.cursor.unwrap());
            }
            assert!(cursors.iter().all(|c| *c == cursors[0] && c.rows == ((step + 1) * 2 * ranks) as u64));
        }
    }
}

#[test]
fn wrong_positions_and_settings_are_refused() {
    let mut l = loader(options(), Share::ALL, None);
    let good = l.next_batch(7).unwrap().cursor.unwrap();
    let open = |options: StreamOptions, share: Share, cursor: Cursor| {
        Loader::new(Arc::clone(&PACKED.1), tokenizer(), options, share, Some(cursor), 1).err().map(|e| e.to_string())
    };
    assert_eq!(open(options(), Share::ALL, good), None);
    // Longer rows continue from the same token.
    assert_eq!(open(StreamOptions { seq_len: 99, ..options() }, Share::ALL, good), None);
    let says =
        |error: Option<String>, what: &str| assert!(error.as_ref().is_some_and(|e| e.contains(what)), "{error:?}");
    says(open(StreamOptions { seed: 6, ..options() }, Share::ALL, good), "seed");
    says(open(options(), Share::ALL, Cursor { data: 1, ..good }), "is different");
    says(open(options(), Share::ALL, Cursor { document: 1 << 40, ..good }), "document");
    says(open(options(), Share::ALL, Cursor { offset: 1 << 40, ..good }), "token");
    says(open(options(), Share { rank: 2, ranks: 2 }, good), "rank 2 of 2");
    says(open(StreamOptions { seq_len: 0, ..options() }, Share::ALL, good), "sequence length");
    says(open(StreamOptions { fim_rate: 2.0, ..options() }, Share::ALL, good), "fim rate");
}

#[test]
fn a_file_cut_while_in_use_is_an_error_and_stays_one() {
    let dir = tempfile::tempdir().unwrap();
    pack(dir.path(), "x", &documents(), &tokenizer(), 1 << 30).unwrap();
    let packed = Arc::new(Packed::open(dir.path(), "x", &tokenizer()).unwrap());
    let mut l = Loader::new(packed, tokenizer(), options(), Share::ALL, None, 1).unwrap();
    l.next_batch(1).unwrap();
    std::fs::File::options().write(true).open(dir.path().join("x-00000.tok")).unwrap().set_len(5000).unwrap();
    let error = (0..2000).find_map(|_| l.next_batch(1).err()).unwrap().to_string();
    assert!(error.contains("x-00000.tok"), "{error}");
    assert!(l.next_batch(1).is_err());
}

#[test]
fn positions_survive_json() {
    let mut l = loader(options(), Share::ALL, None);
    let cursor = l.next_batch(7).unwrap().cursor.unwrap();
    let json = serde_json::to_string(&cursor).unwrap();
    assert_eq!(serde_json::from_str::<Cursor>(&json).unwrap(), cursor);
    assert_eq!(l.cursor(), cursor);
    assert!(l.wait_seconds() >= 0.0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn resuming_anywhere_gives_the_same_rows(
        before in 1usize..MANY - 20, first in 1usize..5, ranks in 1usize..4, second_ranks in 1usize..4
    ) {
        // One number of ranks up to a position, another one after it.
        let steps = (before / (ranks * first)).clamp(1, 12);
        let mut loaders: Vec<Loader> = (0..ranks).map(|rank| loader(options(), Share { rank, ranks }, None)).collect();
        let mut cursor = None;
        for _ in 0..steps {
            for l in &mut loaders {
                cursor = l.next_batch(first).unwrap().cursor;
            }
        }
        let done = steps * first * ranks;
        for rank in 0..second_ranks {
            let share = Share { rank, ranks: second_ranks };
            let got = rows(&mut loader(options(), share, cursor), 3);
            for (i, row) in got.iter().enumerate() {
                prop_assert_eq!(row, &ALL[done + i * second_ranks + rank]);
            }
        }
        // The same from a position far into the stream.
        let mut l = loader(options(), Share::ALL, None);
        let at = l.next_batch(before).unwrap().cursor;
        prop_assert_eq!(rows(&mut loader(options(), Share::ALL, at), 10), ALL[before..before + 10].to_vec());
    }
}

const WINDOW: usize = 64;

fn shuffled() -> StreamOptions {
    StreamOptions { shuffle_rows: WINDOW, ..options() }
}

#[test]
fn a_window_holds_the_same_rows_in_another_order() {
    let got = rows(&mut loader(shuffled(), Share::ALL, None), 5 * WINDOW);
    let mut orders = std::collections::HashSet::new();
    for (have, want) in got.chunks(WINDOW).zip(ALL.chunks(WINDOW)) {
        let order: Vec<usize> = have.iter().map(|r| want.iter().position(|w| w == r).unwrap()).collect();
        let kept = order.windows(2).filter(|p| p[1] == p[0] + 1).count();
        assert!(kept < WINDOW / 4, "{kept} neighbours kept");
        let (mut have, mut want) = (have.to_vec(), want.to_vec());
        have.sort();
        want.sort();
        assert_eq!(have, want);
        orders.insert(order);
    }
    assert_eq!(orders.len(), 5, "every window has an order of its own");
}

#[test]
fn shuffled_rows_resume_anywhere_and_are_shared_by_ranks() {
    let all = rows(&mut loader(shuffled(), Share::ALL, None), 3 * WINDOW);
    for at in [1, 7, WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW - 3] {
        let cursor = loader(shuffled(), Share::ALL, None).next_batch(at).unwrap().cursor.unwrap();
        assert_eq!((cursor.rows, cursor.tokens_seen), (at as u64, (at * T) as u64));
        let again: Cursor = serde_json::from_str(&serde_json::to_string(&cursor).unwrap()).unwrap();
        assert_eq!(rows(&mut loader(shuffled(), Share::ALL, Some(again)), WINDOW), all[at..at + WINDOW]);
    }
    let mut second = loader(shuffled(), Share { rank: 1, ranks: 2 }, None);
    assert_eq!(rows(&mut second, WINDOW), all.iter().skip(1).step_by(2).take(WINDOW).cloned().collect::<Vec<_>>());
}

#[test]
fn rows_of_another_length_go_on_after_the_window() {
    let cursor = loader(shuffled(), Share::ALL, None).next_batch(7).unwrap().cursor.unwrap();
    let longer = StreamOptions { seq_len: 2 * T, ..shuffled() };
    let got = Loader::new(Arc::clone(&PACKED.1), tokenizer(), longer, Share::ALL, Some(cursor), 3)
        .unwrap()
        .next_batch(WINDOW)
        .unwrap();
    // The first window of rows of length T is used up. Two rows of T make one of 2 T.
    let first: Vec<i32> = ALL[WINDOW][..T].iter().chain(&ALL[WINDOW + 1]).copied().collect();
    assert!(got.tokens.chunks(2 * T + 1).any(|row| row == first));
    let absurd = Cursor { seq_len: u64::MAX, ..cursor };
    assert!(Loader::new(Arc::clone(&PACKED.1), tokenizer(), shuffled(), Share::ALL, Some(absurd), 1).is_err());
}

/// Longer rows continue after the old window, with a window of as many tokens.
#[test]
fn longer_rows_go_on_after_the_window() {
    const LONG: usize = 96;
    let base = StreamOptions { seq_len: LONG, shuffle_rows: 16, shuffle_len: LONG, ..options() };
    let open = |options, from| Loader::new(Arc::clone(&PACKED.1), tokenizer(), options, Share::ALL, from, 3).unwrap();
    let cursor = open(base.clone(), None).next_batch(20).unwrap().cursor.unwrap();
    let longer = StreamOptions { seq_len: 4 * LONG, ..base };
    let mut l = open(longer.clone(), Some(cursor));
    let first = l.next_batch(9).unwrap();
    let next = l.next_batch(5).unwrap();
    assert_eq!(open(longer, first.cursor).next_batch(5).unwrap(), next);
    assert_eq!(first.cursor.unwrap().rows, 32 + 9);
}
