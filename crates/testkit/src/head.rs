//! Reference of the output head with cross-entropy.

/// Everything that the head computes.
pub struct Head {
    /// `[T, V]`
    pub logits: Vec<f64>,
    /// `[T]`. 0 if the target is negative.
    pub losses: Vec<f64>,
    /// Softmax `[T, V]`.
    pub p: Vec<f64>,
    /// Gradient of the logits `[T, V]`.
    pub dz: Vec<f64>,
    /// Gradient of `h` `[T, D]`.
    pub dh: Vec<f64>,
    /// Gradient of `w` `[V, D]`.
    pub dw: Vec<f64>,
}

/// `h` [T, d], `w` [V, d]; gradients are those of `scale * sum losses`.
pub fn head(h: &[f64], w: &[f64], targets: &[i32], d: usize, scale: f64) -> Head {
    let (t, v) = (targets.len(), w.len() / d);
    let mut out = Head {
        logits: vec![0.0; t * v],
        losses: vec![0.0; t],
        p: vec![0.0; t * v],
        dz: vec![0.0; t * v],
        dh: vec![0.0; t * d],
        dw: vec![0.0; v * d],
    };
    for t in 0..t {
        let h = &h[t * d..][..d];
        let z: Vec<f64> = w.chunks_exact(d).map(|w| w.iter().zip(h).map(|(w, h)| w * h).sum()).collect();
        let max = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = z.iter().map(|z| (z - max).exp()).sum();
        out.logits[t * v..][..v].copy_from_slice(&z);
        for i in 0..v {
            out.p[t * v + i] = (z[i] - max).exp() / sum;
        }
        let Ok(target) = usize::try_from(targets[t]) else { continue };
        out.losses[t] = max + sum.ln() - z[target];
        for i in 0..v {
            let dz = scale * (out.p[t * v + i] - f64::from(i == target));
            out.dz[t * v + i] = dz;
            for c in 0..d {
                out.dh[t * d + c] += dz * w[i * d + c];
                out.dw[i * d + c] += dz * h[c];
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradcheck::{gradient_error, numbers};

    #[test]
    fn gradients_are_those_of_the_losses() {
        let (d, targets) = (3, [4, -1, 0, 2]);
        let (h, w) = (numbers(4 * d, 1), numbers(5 * d, 2));
        let out = head(&h, &w, &targets, d, 0.7);
        let total = |h: &[f64], w: &[f64]| 0.7 * head(h, w, &targets, d, 0.7).losses.iter().sum::<f64>();
        assert!(gradient_error(|h| total(h, &w), &h, &out.dh) < 1e-7);
        assert!(gradient_error(|w| total(&h, w), &w, &out.dw) < 1e-7);
    }
}
