//! Sums of products in f64, and error bounds for results.

use crate::fp8::TILE;
use crate::{Acc, DType};

/// The transpose of `[rows, cols]`.
pub(super) fn transposed(values: &[f64], cols: usize) -> Vec<f64> {
    let rows = values.len() / cols;
    (0..values.len()).map(|i| values[i % rows * cols + i / rows]).collect()
}

/// A sum, and the sum of magnitudes, to which rounding errors are proportional.
pub(super) type Sum = (f64, f64);

/// `A[m, k] B[n, k]^T`.
pub(super) fn products(a: &[f64], b: &[f64], k: usize) -> Vec<Sum> {
    const LANES: usize = 8;
    let dot = |a: &[f64], b: &[f64]| {
        let (mut sums, mut sizes) = ([0.0; LANES], [0.0; LANES]);
        for (a, b) in a.chunks(LANES).zip(b.chunks(LANES)) {
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                let p = a * b;
                (sums[i], sizes[i]) = (sums[i] + p, sizes[i] + p.abs());
            }
        }
        (sums.iter().sum(), sizes.iter().sum())
    };
    a.chunks_exact(k).flat_map(|a| b.chunks_exact(k).map(move |b| dot(a, b))).collect()
}

/// The largest allowed distance of a result from the f64 sum. It covers a chain of `k` f32 multiply-adds in blocks
/// whose sums are scaled. Relative to the sum of magnitudes these are `2k` roundings of the chain (paths may round
/// products), one of the scales' product and one of each promotion. The value that is added to is rounded with each 512
/// of k and at the end, and a bf16 to eight bits.
fn bound(k: usize, (value, magnitude): Sum, old: f64, dtype: DType) -> f64 {
    let u = f64::from(f32::EPSILON) / 2.0;
    let sum = (2 * k + k.div_ceil(TILE) + 8) as f64 * u * magnitude + 1e-30;
    let total = value.abs() + old.abs() + sum;
    sum + (2 + k / 512) as f64 * u * total + if dtype == DType::Bf16 { total / 256.0 } else { 0.0 }
}

/// Panics unless `got`, stored as `dtype`, equals `want` within the bound. `want` are sums over `k`, and `old` is added
/// if `acc` says so. NaN equals NaN.
pub(super) fn close(what: &str, (got, dtype): (&[f32], DType), old: &[f32], acc: Acc, want: &[Sum], k: usize) {
    assert_eq!((got.len(), old.len()), (want.len(), want.len()), "{what}");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let old = if acc == Acc::Add { f64::from(old[i]) } else { 0.0 };
        let (value, bound) = (old + want.0, bound(k, *want, old, dtype));
        let far = (f64::from(*got) - value).abs();
        assert!(far <= bound || got.is_nan() && value.is_nan(), "{what}[{i}]: {got:e} but {value:e}, bound {bound:e}");
    }
}
