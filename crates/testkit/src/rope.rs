//! Reference of the rotary embedding on one row: interleaved pairs of each head's slice.

/// Rotates, in `row`, the `2 * freqs.len()` elements from `h * head_stride + off` of each head by `position * freq`,
/// and scales them by `factor`.
pub fn rotate(
    row: &mut [f64],
    heads: usize,
    head_stride: usize,
    off: usize,
    position: f64,
    freqs: &[f64],
    factor: f64,
) {
    for h in 0..heads {
        for (i, freq) in freqs.iter().enumerate() {
            let at = h * head_stride + off + 2 * i;
            let (sin, cos) = (position * freq).sin_cos();
            let (a, b) = (row[at], row[at + 1]);
            row[at] = factor * (a * cos - b * sin);
            row[at + 1] = factor * (a * sin + b * cos);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradcheck::{dot, gradient_error, numbers};

    #[test]
    fn the_gradient_is_the_rotation_back() {
        let (x, dy, freqs) = (numbers(14, 1), numbers(14, 2), [1.0, 0.3]);
        let turn = |row: &[f64], position| {
            let mut row = row.to_vec();
            rotate(&mut row, 2, 7, 2, position, &freqs, 1.5);
            row
        };
        assert!(gradient_error(|x| dot(&turn(x, 3.0), &dy), &x, &turn(&dy, -3.0)) < 1e-7);
    }
}
