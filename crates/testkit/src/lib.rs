//! References in f64 on plain slices, gradient checks and error measures. Only tests use this crate.

pub mod adamw;
pub mod attention;
pub mod gate;
pub mod gemm;
pub mod gradcheck;
pub mod head;
pub mod moe;
pub mod rmsnorm;
pub mod rope;
pub mod swiglu;

/// Relative error in the Euclidean norm: `|a - b| / |b|` (|a| if b is zero).
pub fn rel_err(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let d = a.iter().zip(b).map(|(x, y)| (x - y).powi(2)).sum::<f64>().sqrt();
    let n = b.iter().map(|y| y.powi(2)).sum::<f64>().sqrt();
    if n == 0.0 { a.iter().map(|x| x.powi(2)).sum::<f64>().sqrt() } else { d / n }
}
