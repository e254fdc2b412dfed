//! Finite differences.

/// Largest distance of `grad` from the central differences of `f` at `x`, relative to the largest entry of `grad` (at
/// least 1). In f64 with this step, a correct gradient of a smooth function of order 1 gives less than 1e-7.
pub fn gradient_error(f: impl Fn(&[f64]) -> f64, x: &[f64], grad: &[f64]) -> f64 {
    const STEP: f64 = 1e-5;
    assert_eq!(x.len(), grad.len());
    let mut at = x.to_vec();
    let mut worst = 0.0f64;
    for i in 0..x.len() {
        at[i] = x[i] + STEP;
        let above = f(&at);
        at[i] = x[i] - STEP;
        let below = f(&at);
        at[i] = x[i];
        worst = worst.max((grad[i] - (above - below) / (2.0 * STEP)).abs());
    }
    worst / grad.iter().fold(1.0f64, |m, g| m.max(g.abs()))
}

/// Numbers in -2..2 for gradient checks, the same every time.
pub fn numbers(n: usize, seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 51) as f64 - 2.0
    };
    (0..n).map(|_| next()).collect()
}

/// Inner product, to make a scalar from an output.
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}
