//! Held-out data: whole groups (packages), so that no validation text has siblings in training.
//!
//! Groups are tried in the order of a keyed hash of their names. Medium-sized groups come first. So validation consists
//! of several packages, and training does not lose its largest one. If these are not enough, smaller groups follow.

use std::collections::BTreeMap;

use crate::error::{DataError, Result};
use crate::hash::{Purpose, Rng, hash_bytes};
use crate::pieces::cut_document;
use crate::source::Document;

/// Training and held-out documents, both in their original order.
#[derive(Clone, Debug)]
pub struct Split {
    /// The training documents.
    pub train: Vec<Document>,
    /// The held-out documents.
    pub validation: Vec<Document>,
    /// Names of the held-out groups, sorted.
    pub held_out: Vec<String>,
}

/// Holds out groups with about `share` of all bytes. A share of 0 holds out nothing. With a single group, documents are
/// held out instead. With a single document, pieces of it are held out. At least one group (or document) stays on each
/// side.
pub fn hold_out(mut documents: Vec<Document>, share: f64, seed: u64) -> Result<Split> {
    if !(0.0..=0.5).contains(&share) {
        return Err(DataError::Option {
            key: "validation share",
            problem: format!("{share} is not between 0 and 0.5; 0.04 is a good value"),
        });
    }
    if share == 0.0 {
        return Ok(Split { train: documents, validation: Vec::new(), held_out: Vec::new() });
    }
    if documents.len() == 1 {
        documents = documents.into_iter().flat_map(cut_document).collect();
    }
    let mut bytes_of: BTreeMap<&str, u64> = BTreeMap::new();
    for document in &documents {
        *bytes_of.entry(&document.group).or_default() += document.text.len() as u64;
    }
    let by_document = bytes_of.len() < 2;
    if by_document {
        bytes_of = BTreeMap::new();
        for document in &documents {
            *bytes_of.entry(&document.id).or_default() += document.text.len() as u64;
        }
    }
    if bytes_of.len() < 2 {
        return Err(DataError::TooLittle(
            "one short document cannot be split into training and validation; give more text, or hold out nothing (a \
             validation share of 0)"
                .into(),
        ));
    }
    let held_out = choose(&bytes_of, share, seed);
    let held_out: Vec<String> = held_out.into_iter().map(str::to_owned).collect();
    let (mut train, mut validation) = (Vec::new(), Vec::new());
    for document in documents {
        let name = if by_document { &document.id } else { &document.group };
        if held_out.binary_search(name).is_ok() { validation.push(document) } else { train.push(document) }
    }
    Ok(Split { train, validation, held_out })
}

fn choose<'a>(bytes_of: &BTreeMap<&'a str, u64>, share: f64, seed: u64) -> Vec<&'a str> {
    let total: u64 = bytes_of.values().sum();
    let target = (total as f64 * share) as u64;
    let rng = Rng::new(seed, Purpose::Subset, 0);
    let mut order: Vec<(&str, u64)> = bytes_of.iter().map(|(name, bytes)| (*name, *bytes)).collect();
    order.sort_by_key(|(name, _)| rng.bits(hash_bytes(name.as_bytes())));
    let medium = |bytes: u64| bytes * 40 >= target && bytes * 4 <= target;
    let (first, rest): (Vec<_>, Vec<_>) = order.into_iter().partition(|(_, bytes)| medium(*bytes));
    let (mut chosen, mut held) = (Vec::new(), 0u64);
    for (name, bytes) in first.iter().chain(&rest) {
        // Up to a tenth above the target is accepted.
        if held < target && held + bytes <= target + target / 10 {
            chosen.push(*name);
            held += bytes;
        }
    }
    if held == 0 {
        // Every group is larger than the target, so the smallest comes nearest.
        let smallest = first.iter().chain(&rest).filter(|g| g.1 > 0).min_by_key(|g| (g.1, g.0));
        chosen = vec![smallest.unwrap_or(&rest[0]).0];
    }
    chosen.sort_unstable();
    chosen
}

/// A deterministic choice of whole documents of about `bytes` at most in total, in their original order. It is used for
/// quick evaluations.
pub fn subset(documents: &[Document], bytes: u64, seed: u64) -> Vec<Document> {
    let rng = Rng::new(seed, Purpose::Subset, 1);
    let mut order: Vec<usize> = (0..documents.len()).collect();
    order.sort_by_key(|&i| (rng.bits(hash_bytes(documents[i].id.as_bytes())), i));
    let (mut chosen, mut sum) = (Vec::new(), 0u64);
    for i in order {
        let len = documents[i].text.len() as u64;
        if sum + len <= bytes {
            chosen.push(i);
            sum += len;
        }
    }
    chosen.sort_unstable();
    chosen.into_iter().map(|i| documents[i].clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn documents(sizes: &[(u8, u16)]) -> Vec<Document> {
        let one = |(i, (group, size)): (usize, &(u8, u16))| Document {
            id: format!("{group}/{i}"),
            group: format!("package-{group}"),
            text: "x".repeat(usize::from(*size) + 1),
        };
        sizes.iter().enumerate().map(one).collect()
    }

    proptest! {
        #[test]
        fn groups_stay_whole_and_nothing_is_lost(
            sizes in prop::collection::vec((0u8..30, 0u16..2000), 2..200), share in 0.0f64..0.5, seed: u64
        ) {
            let all = documents(&sizes);
            let split = hold_out(all.clone(), share, seed).unwrap();
            prop_assert_eq!(split.train.len() + split.validation.len(), all.len());
            prop_assert!(!split.train.is_empty());
            prop_assert!(share == 0.0 || !split.validation.is_empty());
            let one_group = all.iter().all(|d| d.group == all[0].group);
            for d in &split.validation {
                prop_assert!(one_group || split.train.iter().all(|t| t.group != d.group));
            }
            let again = hold_out(all, share, seed).unwrap();
            prop_assert_eq!(again.held_out, split.held_out);
        }

        #[test]
        fn subsets_keep_order_and_budget(
            sizes in prop::collection::vec((0u8..9, 0u16..2000), 0..50), bytes in 0u64..20_000
        ) {
            let all = documents(&sizes);
            let got = subset(&all, bytes, 1);
            prop_assert!(got.iter().map(|d| d.text.len() as u64).sum::<u64>() <= bytes);
            let places: Vec<usize> = got.iter().map(|d| all.iter().position(|a| a.id == d.id).unwrap()).collect();
            prop_assert!(places.is_sorted());
        }
    }

    #[test]
    fn about_the_share_asked_for_from_medium_groups() {
        // 100 packages of 1 to 100 KB: 5% is about 250 KB.
        let sizes: Vec<(u8, u16)> = (0..100u8).map(|i| (i, u16::from(i) * 600)).collect();
        let all = documents(&sizes);
        let total: usize = all.iter().map(|d| d.text.len()).sum();
        let split = hold_out(all, 0.05, 1).unwrap();
        let held: usize = split.validation.iter().map(|d| d.text.len()).sum();
        let share = held as f64 / total as f64;
        assert!((0.03..=0.055).contains(&share), "{share}");
        assert!(split.held_out.len() >= 4);
    }

    #[test]
    fn one_document_is_too_little_and_shares_are_checked() {
        assert!(matches!(hold_out(documents(&[(1, 1)]), 0.05, 1), Err(DataError::TooLittle(_))));
        assert!(matches!(hold_out(Vec::new(), 0.05, 1), Err(DataError::TooLittle(_))));
        assert!(hold_out(documents(&[(1, 1)]), 0.0, 1).is_ok());
        assert!(matches!(hold_out(documents(&[(1, 1)]), 0.9, 1), Err(DataError::Option { .. })));
        // A single long document is cut. Nothing is lost and the order stays the same.
        let text = "A line of a poem.\nAnother.\n\n".repeat(2000);
        let one = Document { id: "poem".into(), group: "poem".into(), text: text.clone() };
        let split = hold_out(vec![one], 0.05, 1).unwrap();
        assert!((1..=2).contains(&split.validation.len()) && split.train.len() > 20, "{:?}", split.held_out);
        let mut all: Vec<&Document> = split.train.iter().chain(&split.validation).collect();
        all.sort_by_key(|d| d.id.rsplit(':').next().and_then(|n| n.parse::<usize>().ok()));
        assert_eq!(all.iter().map(|d| d.text.as_str()).collect::<String>(), text);
        // One group: documents are held out.
        let split = hold_out(documents(&[(1, 10), (1, 20), (1, 900)]), 0.05, 1).unwrap();
        assert_eq!((split.train.len(), split.held_out.len()), (1, 2));
    }
}
