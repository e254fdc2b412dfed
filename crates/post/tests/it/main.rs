//! Integration tests of fine-tuning.

mod packing;
mod peft;
mod runs;
mod trl;

use std::path::{Path, PathBuf};

/// The folder of a tiny model with conversations, and what TRL and PEFT make of it (`oracle/make_sft.py`).
fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/sft")
}

/// The distance of two vectors as a share of the second.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
    let apart = norm(&mut a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    let whole = norm(&mut b.iter().map(|b| f64::from(*b)));
    if whole == 0.0 { apart } else { apart / whole }
}
