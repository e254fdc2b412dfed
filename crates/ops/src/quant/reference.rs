//! The definition, computed one value at a time.

use super::QuantWeight;
use super::format::{BLOCK, GROUP, QuantFormat};
use crate::gemm::LANES;

/// A row of x as whole numbers, a scale for each group.
pub(super) fn inputs(x: &[f32]) -> (Vec<i32>, Vec<f32>) {
    let scale = |group: &[f32]| {
        let top =
            group.iter().fold(0.0, |top: f32, v| if v.is_nan() || top.is_nan() { f32::NAN } else { top.max(v.abs()) });
        if !top.is_finite() {
            f32::NAN
        } else if top < 2f32.powi(-100) {
            0.0
        } else {
            top
        }
    };
    let tops: Vec<f32> = x.chunks(GROUP).map(scale).collect();
    let code = |(i, v): (usize, &f32)| {
        let top = tops[i / GROUP];
        if top > 0.0 { (v * (127.0 / top)).round_ties_even() as i32 } else { 0 }
    };
    (x.iter().enumerate().map(code).collect(), tops.iter().map(|t| t / 127.0).collect())
}

/// Code and scale of weight `i` of row `row` of a group.
pub(super) fn weight(w: &QuantWeight, group: usize, row: usize, i: usize) -> (i32, f32) {
    let bytes = w.format().block_bytes();
    let at = row / LANES * w.panel_bytes() + i / BLOCK * bytes;
    let block = &w.panels(group)[at..at + bytes];
    let lane = row % LANES;
    (w.format().code(block, i % BLOCK, lane), QuantFormat::scale(block, i % BLOCK / GROUP, lane))
}

/// A row of y.
pub(super) fn forward(x: &[f32], w: &QuantWeight, group: usize) -> Vec<f32> {
    let (codes, scales) = inputs(x);
    let one = |row: usize| {
        let mut sum = 0f32;
        for (b, (codes, r)) in codes.chunks(GROUP).zip(&scales).enumerate() {
            let dot: i32 = codes.iter().enumerate().map(|(i, q)| q * weight(w, group, row, b * GROUP + i).0).sum();
            sum = (dot as f32).mul_add(weight(w, group, row, b * GROUP).1 * r, sum);
        }
        sum
    };
    (0..w.n()).map(one).collect()
}
