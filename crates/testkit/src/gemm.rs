//! Matrix products.

/// `sum_k a(i, k) b(k, j)` for all i and j, row-major, and the same sum of absolute values. The rounding errors of any
/// order of summation are proportional to the latter.
pub fn matmul(
    m: usize,
    n: usize,
    k: usize,
    a: impl Fn(usize, usize) -> f64,
    b: impl Fn(usize, usize) -> f64,
) -> (Vec<f64>, Vec<f64>) {
    let mut sum = vec![0.0; m * n];
    let mut abs = vec![0.0; m * n];
    for i in 0..m {
        for j in 0..n {
            for l in 0..k {
                let p = a(i, l) * b(l, j);
                sum[i * n + j] += p;
                abs[i * n + j] += p.abs();
            }
        }
    }
    (sum, abs)
}
