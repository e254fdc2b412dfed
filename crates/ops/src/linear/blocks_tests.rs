//! Gradients with one scale per 128x128 block (the report's appendix B.2), and which codes a product uses directly.

use super::reference::{Sum, products, transposed};
use super::*;
use crate::fp8::definition::Grid;
use crate::fp8::{E5M2, Quantized, Shape, Style};
use crate::moe;
use crate::testing::{bits, contexts, random};

const BLOCKS: Style = Style { shape: Shape::Block, ..Style::TILES };
/// Number of outputs, over which input gradients are summed, and number of inputs.
const N: usize = 200;
const K: usize = 70;

/// Three groups of weights. The scales of their gradients have the style `style`.
fn weight(cx: &Cx, style: Style) -> (PackedWeight, Tensor) {
    let w = random(cx, &[3 * N, K], DType::F32, 0.02, 1);
    let mut packed = PackedWeight::new(cx, 3, N, K, DType::U8, true).with_gradients(style);
    packed.pack(cx, &w);
    (packed, w)
}

/// Rows of very different magnitudes, so that sharing a scale costs bits.
fn gradients(cx: &Cx, rows: usize) -> Tensor {
    let mut dy = random(cx, &[rows, N], DType::F32, 1e-3, 2);
    for (r, row) in dy.f32_mut().chunks_exact_mut(N).enumerate() {
        row.iter_mut().for_each(|v| *v *= 4f32.powi((r % 5) as i32));
    }
    dy
}

fn product<'a>(cx: &Cx, dy: impl Into<Operand<'a>>, w: &PackedWeight, offsets: &Tensor) -> Tensor {
    let dy = dy.into();
    let mut dx = cx.zeros(&[dy.rows(), K], DType::F32);
    grouped_backward_input(cx, dy, w, offsets, &mut dx, Acc::Write);
    dx
}

/// The f64 results for rows that have already been quantised to `dq`.
fn sums(dq: &[f64], w: &Tensor, first: &[usize]) -> Vec<Sum> {
    let wq = Grid::WEIGHT.exact(w.f32(), K, &[0, N, 2 * N, 3 * N]);
    let group = |g: usize| {
        let (rows, w) = (first[g] * N..first[g + 1] * N, &wq[g * N * K..][..N * K]);
        products(&dq[rows], &transposed(w, K), N)
    };
    (0..3).flat_map(group).collect()
}

fn close(what: &str, got: &Tensor, want: &[Sum]) {
    super::reference::close(what, (got.f32(), DType::F32), got.f32(), Acc::Write, want, N);
}

#[test]
fn blocks_are_of_the_rows_of_a_group() {
    // A group that ends inside a block, an empty group, and several blocks.
    let first = [0, 77, 77, 300];
    for cx in contexts() {
        let offsets = cx.indices(&[4], &first.map(|v| v as i32));
        let ((blocks, w), (tiles, _)) = (weight(&cx, BLOCKS), weight(&cx, Style::TILES));
        let dy = gradients(&cx, 300);
        let (by_block, by_tile) = (product(&cx, &dy, &blocks, &offsets), product(&cx, &dy, &tiles, &offsets));
        close("blocks", &by_block, &sums(&Grid::of(BLOCKS).exact(dy.f32(), N, &first), &w, &first));
        close("tiles", &by_tile, &sums(&Grid::of(Style::TILES).exact(dy.f32(), N, &first), &w, &first));
        assert!(bits(&by_block) != bits(&by_tile));
    }
}

/// Rows that experts receive in blocks of their tokens keep the scales of these blocks.
#[test]
fn rows_keep_the_scales_of_the_blocks_that_they_come_from() {
    for cx in contexts() {
        let tokens = 150;
        let chosen: Vec<i32> = (0..tokens as i32).flat_map(|t| [t * 7 % 3, (t * 7 + 1) % 3]).collect();
        let plan = moe::plan(&cx, &cx.indices(&[tokens, 2], &chosen), 3);
        let first: Vec<usize> = plan.offsets.i32().iter().map(|v| *v as usize).collect();
        let (blocks, w) = weight(&cx, BLOCKS);
        let dy = gradients(&cx, tokens);
        let style = Style { power_of_two: true, ..BLOCKS };
        let sent = Quantized::new(&cx, &dy, style).permute(&cx, &plan);
        let by_token = Grid::of(style).exact(dy.f32(), N, &[0, tokens]);
        let from = plan.token_of.i32().iter().map(|t| *t as usize);
        let dq: Vec<f64> = from.flat_map(|t| by_token[t * N..(t + 1) * N].to_vec()).collect();
        close("sent in blocks", &product(&cx, &sent, &blocks, &plan.offsets), &sums(&dq, &w, &first));
    }
}

/// Codes of another shape or format are converted through floats. Powers of two as scales make no difference.
#[test]
fn only_codes_of_the_product_s_own_style_are_taken_as_they_are() {
    let cx = Cx::cpu(2, DType::Bf16);
    let offsets = cx.indices(&[4], &[0, 77, 77, 300]);
    let dy = gradients(&cx, 300);
    for style in [Style::TILES, BLOCKS] {
        let (packed, _) = weight(&cx, style);
        for (given, own) in [
            (style, true),
            (Style { power_of_two: true, ..style }, true),
            (Style { shape: if style == BLOCKS { Shape::Tile } else { Shape::Block }, ..style }, false),
            (Style { format: E5M2, ..style }, false),
        ] {
            let q = Quantized::new(&cx, &dy, given);
            assert_eq!(q.style(), given);
            let got = product(&cx, &q, &packed, &offsets);
            let floats = q.dequantize(&cx, DType::F32);
            if own {
                // Their values without any loss. This includes blocks, which extend over several groups here.
                let w = weight(&cx, style).1;
                let dq: Vec<f64> = floats.f32().iter().map(|v| f64::from(*v)).collect();
                close("codes", &got, &sums(&dq, &w, &[0, 77, 77, 300]));
            } else {
                assert_eq!(bits(&got), bits(&product(&cx, &floats, &packed, &offsets)), "{style:?} {given:?}");
            }
        }
    }
}
