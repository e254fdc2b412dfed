//! Reference of AdamW in f64, written like the published algorithm: bias-corrected moments, and decay separate from the
//! gradient.

/// The numbers of one step.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Step {
    pub lr: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub weight_decay: f64,
    pub step: u32,
}

/// Updates weights and moments in place.
pub fn step(w: &mut [f64], g: &[f64], m: &mut [f64], v: &mut [f64], s: &Step) {
    for i in 0..w.len() {
        w[i] -= s.lr * s.weight_decay * w[i];
        m[i] = s.beta1 * m[i] + (1.0 - s.beta1) * g[i];
        v[i] = s.beta2 * v[i] + (1.0 - s.beta2) * g[i] * g[i];
        let m_hat = m[i] / (1.0 - s.beta1.powi(s.step as i32));
        let v_hat = v[i] / (1.0 - s.beta2.powi(s.step as i32));
        w[i] -= s.lr * m_hat / (v_hat.sqrt() + s.eps);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_gradient_moves_by_the_rate_and_decay_shrinks() {
        let mut s = Step { lr: 0.1, beta1: 0.9, beta2: 0.95, eps: 0.0, weight_decay: 0.5, step: 0 };
        let (mut w, mut m, mut v) = ([2.0], [0.0], [0.0]);
        let mut want = 2.0;
        for step in 1..5 {
            s.step = step;
            super::step(&mut w, &[-3.0], &mut m, &mut v, &s);
            want = want * 0.95 + 0.1;
            assert!((w[0] - want).abs() < 1e-12);
        }
    }
}
