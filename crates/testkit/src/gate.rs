//! Reference of the gate: scores, selection, weights and their gradients; the balance loss. Rows are tokens, e experts.

/// Row-wise sigmoid, or softmax over the `e` columns.
pub fn scores(logits: &[f64], e: usize, softmax: bool) -> Vec<f64> {
    if !softmax {
        return logits.iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect();
    }
    logits
        .chunks_exact(e)
        .flat_map(|row| {
            let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = row.iter().map(|x| (x - max).exp()).sum();
            row.iter().map(|x| (x - max).exp() / sum).collect::<Vec<_>>()
        })
        .collect()
}

/// Indices of the `k` best, best first, ties to the lower index.
pub fn top_k(values: &[f64], k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*b].total_cmp(&values[*a]).then(a.cmp(b)));
    order.truncate(k);
    order
}

/// The `k` best of one row of choice scores among the `topk_group` best of `n_group` groups. A group's score is the sum
/// of its `group_top` best.
pub fn select(choice: &[f64], n_group: usize, topk_group: usize, group_top: usize, k: usize) -> Vec<usize> {
    let size = choice.len() / n_group;
    let group_scores: Vec<f64> =
        choice.chunks_exact(size).map(|g| top_k(g, group_top).iter().map(|i| g[*i]).sum()).collect();
    let kept = top_k(&group_scores, topk_group);
    let masked: Vec<f64> =
        (0..choice.len()).map(|i| if kept.contains(&(i / size)) { choice[i] } else { f64::NEG_INFINITY }).collect();
    top_k(&masked, k)
}

/// Weights of one row's selected experts; `factor` is applied last.
pub fn weights(s: &[f64], idx: &[usize], normalise: bool, factor: f64) -> Vec<f64> {
    let sum = if normalise { idx.iter().map(|i| s[*i]).sum::<f64>() + 1e-20 } else { 1.0 };
    idx.iter().map(|i| s[*i] / sum * factor).collect()
}

/// Gradient of one row's scores from that of its weights.
pub fn weights_backward(dw: &[f64], s: &[f64], idx: &[usize], normalise: bool, factor: f64) -> Vec<f64> {
    let mut d = vec![0.0; s.len()];
    let sum = idx.iter().map(|i| s[*i]).sum::<f64>() + 1e-20;
    for (k, i) in idx.iter().enumerate() {
        if normalise {
            // Row i of the Jacobian: dw_j/ds_i = factor (delta_ij / sum - s_j / sum^2).
            for (j, other) in idx.iter().enumerate() {
                d[*i] += dw[j] * factor * (f64::from(j == k) / sum - s[*other] / (sum * sum));
            }
        } else {
            d[*i] += dw[k] * factor;
        }
    }
    d
}

/// Gradient of one row's logits from that of its scores.
pub fn scores_backward(ds: &[f64], s: &[f64], softmax: bool) -> Vec<f64> {
    (0..s.len())
        .map(|i| {
            if softmax {
                (0..s.len()).map(|j| ds[j] * s[j] * (f64::from(i == j) - s[i])).sum()
            } else {
                ds[i] * s[i] * (1.0 - s[i])
            }
        })
        .collect()
}

/// Loads `f` and loss of one segment's scores.
pub fn balance(s: &[f64], e: usize, k: usize) -> (Vec<f64>, f64) {
    let tokens = (s.len() / e) as f64;
    let (mut f, mut p) = (vec![0.0; e], vec![0.0; e]);
    for row in s.chunks_exact(e) {
        let sum: f64 = row.iter().sum::<f64>() + 1e-20;
        for i in top_k(row, k) {
            f[i] += e as f64 / (k as f64 * tokens);
        }
        p.iter_mut().zip(row).for_each(|(p, s)| *p += s / sum / tokens);
    }
    let loss = f.iter().zip(&p).map(|(f, p)| f * p).sum();
    (f, loss)
}

/// Gradient of one segment's loss, `f` constant.
pub fn balance_backward(s: &[f64], e: usize, f: &[f64]) -> Vec<f64> {
    let tokens = (s.len() / e) as f64;
    s.chunks_exact(e)
        .flat_map(|row| {
            let sum: f64 = row.iter().sum::<f64>() + 1e-20;
            (0..e)
                .map(|j| (0..e).map(|i| f[i] * (f64::from(i == j) / sum - row[i] / (sum * sum))).sum::<f64>() / tokens)
                .collect::<Vec<_>>()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradcheck::{dot, gradient_error};

    #[test]
    fn gradients_are_those_of_the_forward() {
        let x: Vec<f64> = (0..12).map(|i| (i as f64 * 1.7).sin()).collect();
        let (idx, dw) = (vec![3, 1, 5], vec![0.3, -1.1, 0.7]);
        for softmax in [false, true] {
            for normalise in [false, true] {
                let row = &x[..6];
                let weigh = |x: &[f64]| dot(&weights(&scores(x, 6, softmax), &idx, normalise, 2.5), &dw);
                let s = scores(row, 6, softmax);
                let ds = weights_backward(&dw, &s, &idx, normalise, 2.5);
                assert!(gradient_error(weigh, row, &scores_backward(&ds, &s, softmax)) < 1e-7);
            }
            let s = scores(&x, 6, softmax);
            let (f, _) = balance(&s, 6, 2);
            assert!(gradient_error(|s| balance(s, 6, 2).1, &s, &balance_backward(&s, 6, &f)) < 1e-7);
        }
    }

    #[test]
    fn a_masked_group_never_comes_back() {
        // Groups {0,1} {2,3}: the second group wins by its pair. All choices are negative. Ties go to the lower index.
        assert_eq!(select(&[-1.0, -9.0, -2.0, -2.0], 2, 1, 2, 2), [2, 3]);
        assert_eq!(select(&[-1.0, -9.0, -2.0, -2.0], 2, 1, 1, 2), [0, 1]);
    }
}
