//! Reference of SwiGLU: rows of [gate | up], `i` channels each, and a scale for each row.

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `silu(gate) * up * scale`.
pub fn forward(gu: &[f64], scale: &[f64], i: usize) -> Vec<f64> {
    let mut h = Vec::new();
    for (row, s) in gu.chunks_exact(2 * i).zip(scale) {
        for c in 0..i {
            h.push(row[c] * sigmoid(row[c]) * row[i + c] * s);
        }
    }
    h
}

/// Gradients with respect to `gu` and `scale`.
pub fn backward(dh: &[f64], gu: &[f64], scale: &[f64], i: usize) -> (Vec<f64>, Vec<f64>) {
    let (mut dgu, mut d_scale) = (vec![0.0; gu.len()], vec![0.0; scale.len()]);
    for r in 0..scale.len() {
        for c in 0..i {
            let (d, g, u) = (dh[r * i + c], gu[2 * i * r + c], gu[2 * i * r + i + c]);
            let s = sigmoid(g);
            dgu[2 * i * r + c] = d * scale[r] * u * s * (1.0 + g * (1.0 - s));
            dgu[2 * i * r + i + c] = d * scale[r] * g * s;
            d_scale[r] += d * g * s * u;
        }
    }
    (dgu, d_scale)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradcheck::{dot, gradient_error, numbers};

    #[test]
    fn gradients_agree_with_finite_differences() {
        let (r, i) = (3, 4);
        let (gu, scale, dh) = (numbers(r * 2 * i, 1), numbers(r, 2), numbers(r * i, 3));
        let (dgu, d_scale) = backward(&dh, &gu, &scale, i);
        assert!(gradient_error(|x| dot(&forward(x, &scale, i), &dh), &gu, &dgu) < 1e-7);
        assert!(gradient_error(|x| dot(&forward(&gu, x, i), &dh), &scale, &d_scale) < 1e-7);
    }
}
