//! Causal attention with a shared rotary key and segments, computed one score at a time, with bounds on the rounding
//! error.

/// Sizes. The layouts are those of the operation.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    pub heads: usize,
    pub d_nope: usize,
    pub d_rope: usize,
    pub d_v: usize,
    pub scale: f64,
}

/// Relative errors of an implementation's steps. `forward` and `backward` derive bounds for each element from them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rounding {
    /// Error of a dot product, relative to the sum of the absolute products.
    pub product: f64,
    /// Error of a weight P or a gradient dS as operand of the next product, in addition to the effect of the scores'
    /// errors.
    pub weight: f64,
    /// Error of a written element.
    pub output: f64,
}

/// Values, and for each the error that `Rounding` allows.
pub type Bounded = (Vec<f64>, Vec<f64>);

struct Row {
    /// Weights of keys `first..=i`.
    p: Vec<f64>,
    /// Relative error of a weight.
    p_err: f64,
    lse: f64,
    lse_err: f64,
}

impl Attention {
    fn dqk(&self) -> usize {
        self.d_nope + self.d_rope
    }
    fn key(&self, kv: &[f64], k_rope: &[f64], j: usize, h: usize, c: usize) -> f64 {
        let width = self.d_nope + self.d_v;
        if c < self.d_nope { kv[(j * self.heads + h) * width + c] } else { k_rope[j * self.d_rope + c - self.d_nope] }
    }
    fn value(&self, kv: &[f64], j: usize, h: usize, c: usize) -> f64 {
        kv[(j * self.heads + h) * (self.d_nope + self.d_v) + self.d_nope + c]
    }

    fn row(&self, q: &[f64], kv: &[f64], k_rope: &[f64], first: usize, i: usize, h: usize, r: Rounding) -> Row {
        let d = self.dqk();
        let (mut s, mut worst) = (Vec::new(), 0f64);
        for j in first..=i {
            let (mut dot, mut abs) = (0.0, 0.0);
            for c in 0..d {
                let x = q[(i * self.heads + h) * d + c] * self.key(kv, k_rope, j, h, c);
                dot += x;
                abs += x.abs();
            }
            s.push(dot * self.scale);
            worst = worst.max(abs * self.scale * r.product);
        }
        let max = s.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        // The rounding of the exponent grows with the distance from the maximum, where the weight is small: 2^-23 of
        // |x| e^x stays below 2^-24. The exponential and the sum add a few more roundings.
        let lse_err = worst + r.product;
        let sum: f64 = s.iter().map(|x| (x - max).exp()).sum();
        let span = s.iter().map(|x| max - x).fold(0.0, f64::max);
        let p_err = 2.0 * worst + r.product + 2f64.powi(-23) * (span + max.abs() + 8.0);
        Row {
            p: s.iter().map(|x| (x - max).exp() / sum).collect(),
            p_err,
            lse: max + sum.ln(),
            lse_err: lse_err + 2f64.powi(-23) * (max.abs() + 8.0),
        }
    }

    /// o `[T, H dv]` and lse `[H, T]`.
    pub fn forward(&self, q: &[f64], kv: &[f64], k_rope: &[f64], starts: &[usize], r: Rounding) -> (Bounded, Bounded) {
        let t = starts[starts.len() - 1];
        let mut o = (vec![0.0; t * self.heads * self.d_v], vec![0.0; t * self.heads * self.d_v]);
        let mut lse = (vec![0.0; self.heads * t], vec![0.0; self.heads * t]);
        for w in starts.windows(2) {
            for h in 0..self.heads {
                for i in w[0]..w[1] {
                    let row = self.row(q, kv, k_rope, w[0], i, h, r);
                    lse.0[h * t + i] = row.lse;
                    lse.1[h * t + i] = row.lse_err;
                    for c in 0..self.d_v {
                        let at = (i * self.heads + h) * self.d_v + c;
                        let mut abs = 0.0;
                        for (p, j) in row.p.iter().zip(w[0]..) {
                            let x = p * self.value(kv, j, h, c);
                            o.0[at] += x;
                            abs += x.abs();
                        }
                        o.1[at] = abs * (row.p_err + r.weight + 2.0 * r.product) + r.output * o.0[at].abs();
                    }
                }
            }
        }
        (o, lse)
    }

    /// dq, dkv, dk_rope.
    pub fn backward(
        &self,
        d_o: &[f64],
        q: &[f64],
        kv: &[f64],
        k_rope: &[f64],
        starts: &[usize],
        r: Rounding,
    ) -> [Bounded; 3] {
        let (d, width, t) = (self.dqk(), self.d_nope + self.d_v, starts[starts.len() - 1]);
        let zeros = |n: usize| (vec![0.0; n], vec![0.0; n]);
        let (mut dq, mut dkv) = (zeros(t * self.heads * d), zeros(t * self.heads * width));
        let mut dr = zeros(t * self.d_rope);
        for w in starts.windows(2) {
            for h in 0..self.heads {
                for i in w[0]..w[1] {
                    let row = self.row(q, kv, k_rope, w[0], i, h, r);
                    let dos = &d_o[(i * self.heads + h) * self.d_v..][..self.d_v];
                    let dp = |j: usize| (0..self.d_v).map(|c| dos[c] * self.value(kv, j, h, c)).sum::<f64>();
                    let dp_abs =
                        |j: usize| (0..self.d_v).map(|c| (dos[c] * self.value(kv, j, h, c)).abs()).sum::<f64>();
                    let (mut delta, mut delta_abs) = (0.0, 0.0);
                    for (p, j) in row.p.iter().zip(w[0]..) {
                        delta += p * dp(j);
                        delta_abs += p * dp_abs(j);
                    }
                    // delta is computed from the o that was written.
                    let delta_err = delta_abs * (row.p_err + r.weight + 3.0 * r.product + r.output);
                    for (p, j) in row.p.iter().zip(w[0]..) {
                        let x = dp(j) - delta;
                        let ds = p * x;
                        let ds_err =
                            ds.abs() * (row.p_err + r.weight + r.product) + p * (dp_abs(j) * r.product + delta_err);
                        for c in 0..d {
                            let (qx, kx) = (q[(i * self.heads + h) * d + c], self.key(kv, k_rope, j, h, c));
                            let at = (i * self.heads + h) * d + c;
                            dq.0[at] += self.scale * ds * kx;
                            dq.1[at] += self.scale * kx.abs() * (ds_err + 2.0 * r.product * ds.abs());
                            let (out, at) = if c < self.d_nope {
                                (&mut dkv, (j * self.heads + h) * width + c)
                            } else {
                                (&mut dr, j * self.d_rope + c - self.d_nope)
                            };
                            out.0[at] += self.scale * ds * qx;
                            out.1[at] += self.scale * qx.abs() * (ds_err + 2.0 * r.product * ds.abs());
                        }
                        for c in 0..self.d_v {
                            let at = (j * self.heads + h) * width + self.d_nope + c;
                            dkv.0[at] += p * dos[c];
                            dkv.1[at] += p * dos[c].abs() * (row.p_err + r.weight + 2.0 * r.product);
                        }
                    }
                }
            }
        }
        let mut all = [dq, dkv, dr];
        for (value, bound) in &mut all {
            bound.iter_mut().zip(value).for_each(|(b, v)| *b += r.output * v.abs());
        }
        all
    }
}

/// Latent decode: one query per head, `[H, dc + dr]`, over rows `[n, dc + dr]` of a cache. The values are the first
/// `dc` columns. Returns `[H, dc]`.
pub fn latent(q: &[f64], cache: &[f64], heads: usize, dc: usize, dr: usize, scale: f64, r: Rounding) -> Bounded {
    // The same attention for one head at a time, with the cache as rotary key and the latent as value.
    let (d, n) = (dc + dr, cache.len() / (dc + dr));
    let (mut o, mut bound) = (Vec::new(), Vec::new());
    let a = Attention { heads: 1, d_nope: 0, d_rope: d, d_v: dc, scale };
    let kv: Vec<f64> = (0..n).flat_map(|j| cache[j * d..j * d + dc].to_vec()).collect();
    for h in 0..heads {
        let mut rows = vec![0.0; n * d];
        rows[(n - 1) * d..].copy_from_slice(&q[h * d..(h + 1) * d]);
        let row = a.row(&rows, &kv, cache, 0, n - 1, 0, r);
        for c in 0..dc {
            let terms = row.p.iter().enumerate().map(|(j, p)| p * kv[j * dc + c]);
            let (value, abs) = terms.fold((0.0, 0.0), |(v, a), x| (v + x, a + x.abs()));
            o.push(value);
            bound.push(abs * (row.p_err + r.weight + 2.0 * r.product) + r.output * f64::abs(value));
        }
    }
    (o, bound)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Central differences of `sum(o * d_o)`, compared with `backward`.
    #[test]
    fn backward_is_the_gradient_of_forward() {
        let a = Attention { heads: 2, d_nope: 3, d_rope: 2, d_v: 4, scale: 0.7 };
        let starts = [0, 4, 5, 5, 9];
        let t = starts[4];
        let noise = |n: usize, seed: f64| -> Vec<f64> { (0..n).map(|i| (seed + i as f64 * 1.7).sin()).collect() };
        let inputs = [noise(t * 2 * 5, 0.1), noise(t * 2 * 7, 0.2), noise(t * 2, 0.3)];
        let d_o = noise(t * 2 * 4, 0.4);
        let none = Rounding::default();
        let loss = |x: &[Vec<f64>; 3]| -> f64 {
            let ((o, _), _) = a.forward(&x[0], &x[1], &x[2], &starts, none);
            o.iter().zip(&d_o).map(|(a, b)| a * b).sum()
        };
        let grads = a.backward(&d_o, &inputs[0], &inputs[1], &inputs[2], &starts, none);
        for (which, (grad, _)) in grads.iter().enumerate() {
            for i in 0..grad.len() {
                let h = 1e-5;
                let (mut up, mut down) = (inputs.clone(), inputs.clone());
                up[which][i] += h;
                down[which][i] -= h;
                let numeric = (loss(&up) - loss(&down)) / (2.0 * h);
                assert!((numeric - grad[i]).abs() < 1e-8, "input {which} element {i}: {numeric} and {}", grad[i]);
            }
        }
    }
}
