//! Reference of RMSNorm over rows of `w.len()` columns.

fn rstd(x: &[f64], eps: f64) -> f64 {
    (x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64 + eps).sqrt().recip()
}

/// `y` and the reciprocal root mean square of each row.
pub fn forward(x: &[f64], w: &[f64], eps: f64) -> (Vec<f64>, Vec<f64>) {
    let stats: Vec<f64> = x.chunks_exact(w.len()).map(|row| rstd(row, eps)).collect();
    let y = x.iter().enumerate().map(|(i, v)| v * stats[i / w.len()] * w[i % w.len()]).collect();
    (y, stats)
}

/// Gradients with respect to x and w.
pub fn backward(dy: &[f64], x: &[f64], w: &[f64], eps: f64) -> (Vec<f64>, Vec<f64>) {
    let d = w.len();
    let (mut dx, mut dw) = (Vec::new(), vec![0.0; d]);
    for (dy, x) in dy.chunks_exact(d).zip(x.chunks_exact(d)) {
        let rstd = rstd(x, eps);
        let mean = (0..d).map(|i| dy[i] * w[i] * x[i] * rstd).sum::<f64>() / d as f64;
        for i in 0..d {
            dx.push(rstd * (dy[i] * w[i] - x[i] * rstd * mean));
            dw[i] += dy[i] * x[i] * rstd;
        }
    }
    (dx, dw)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradcheck::{dot, gradient_error, numbers};

    #[test]
    fn gradients_agree_with_finite_differences() {
        let (t, d, eps) = (3, 5, 1e-3);
        let (x, w, dy) = (numbers(t * d, 1), numbers(d, 2), numbers(t * d, 3));
        let (dx, dw) = backward(&dy, &x, &w, eps);
        assert!(gradient_error(|x| dot(&forward(x, &w, eps).0, &dy), &x, &dx) < 1e-7);
        assert!(gradient_error(|w| dot(&forward(&x, w, eps).0, &dy), &w, &dw) < 1e-7);
    }
}
