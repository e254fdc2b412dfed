//! Reference of the permutation between tokens and experts.

/// Slots `t * k + j` sorted by expert, with ties by slot, and the first place of every expert (followed by the end).
pub fn sort(idx: &[i32], experts: usize) -> (Vec<usize>, Vec<usize>) {
    let mut slots: Vec<usize> = (0..idx.len()).collect();
    slots.sort_by_key(|s| (idx[*s], *s));
    let offsets = (0..=experts).map(|e| idx.iter().filter(|i| **i < e as i32).count()).collect();
    (slots, offsets)
}

/// Rows of `x` [T, d] in the order of the slots.
pub fn permute(x: &[f64], d: usize, k: usize, slots: &[usize]) -> Vec<f64> {
    slots.iter().flat_map(|s| x[s / k * d..][..d].to_vec()).collect()
}

/// For every token, the sum of its rows of `y` [T k, d].
pub fn combine(y: &[f64], d: usize, k: usize, slots: &[usize]) -> Vec<f64> {
    let mut out = vec![0.0; slots.len() / k * d];
    for (row, s) in slots.iter().enumerate() {
        for c in 0..d {
            out[s / k * d + c] += y[row * d + c];
        }
    }
    out
}
