//! Products in E4M3 against f64 sums of the codes that the definition gives.

use super::*;
use crate::fp8::{E4M3, Quantized, Shape, Style, TILE};
use crate::testing::{contexts, random};
use crate::{Accumulator, Isa, Threads};
use proptest::prelude::*;

/// A matrix as it is multiplied: values `code * scale` in f64, with tiles of `high` rows by `wide` columns. Tiles of 128x1
/// are multiplied by the scale's inverse.
pub(super) fn quantised(x: &Tensor, high: usize, wide: usize, first_rows: &[usize], power_of_two: bool) -> Vec<f64> {
    let (rows, cols, values) = (x.rows(), x.cols(), x.to_vec_f32());
    let mut out = vec![0.0; rows * cols];
    for group in first_rows.windows(2) {
        for r0 in (group[0]..group[1]).step_by(high) {
            for c0 in (0..cols).step_by(wide) {
                let (r1, c1) = ((r0 + high).min(group[1]), (c0 + wide).min(cols));
                let at = || (r0..r1).flat_map(move |r| (c0..c1).map(move |c| r * cols + c));
                let amax = at().fold(0f32, |m, i| m.max(values[i].abs()));
                let mut scale = if amax > 0.0 { amax / E4M3.max() } else { 1.0 };
                if power_of_two {
                    scale = f64::from(scale).log2().ceil().exp2() as f32;
                }
                for i in at() {
                    let v = if wide == 1 { values[i] * (1.0 / scale) } else { values[i] / scale };
                    out[i] = f64::from(E4M3.decode(E4M3.encode(v))) * f64::from(scale);
                }
            }
        }
    }
    out
}

/// A chain of `k` f32 multiply-adds in blocks whose sums are scaled: relative to the sum of magnitudes, `2k` roundings of
/// the chain (paths may round products), one of the scales' product and of each promotion.
fn bound(k: usize, magnitude: f64) -> f64 {
    (2 * k + k.div_ceil(TILE) + 8) as f64 * f64::from(f32::EPSILON) / 2.0 * magnitude + 1e-30
}

pub(super) fn close(what: &str, got: &Tensor, want: &[(f64, f64)], k: usize) {
    for (i, (got, (value, magnitude))) in got.to_vec_f32().iter().zip(want).enumerate() {
        let far = (f64::from(*got) - value).abs();
        assert!(far <= bound(k, *magnitude), "{what}[{i}]: {got:e} but {value:e}, bound {:e}", bound(k, *magnitude));
    }
}

/// `sum_i a(i) b(i)` and the sum of magnitudes.
pub(super) fn dot(n: usize, term: impl Fn(usize) -> f64) -> (f64, f64) {
    (0..n).map(term).fold((0.0, 0.0), |(s, m), t| (s + t, m + t.abs()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn products_of_codes_agree_with_f64(
        counts in prop::collection::vec(prop_oneof![Just(0usize), 1usize..6, 1usize..300], 1..4),
        n in prop_oneof![1usize..40, 1usize..300], k in prop_oneof![1usize..40, 1usize..300, Just(700)], power_of_two: bool, seed: u64
    ) {
        let groups = counts.len();
        let mut first = vec![0];
        counts.iter().for_each(|c| first.push(first[first.len() - 1] + c));
        let rows = first[groups];
        for cx in contexts() {
            let w = random(&cx, &[groups * n, k], DType::F32, 0.02, seed);
            let x = random(&cx, &[rows, k], DType::Bf16, 1.0, seed + 1);
            let dy = random(&cx, &[rows, n], DType::F32, 1e-3, seed + 2);
            let offsets = cx.indices(&[groups + 1], &first.iter().map(|v| *v as i32).collect::<Vec<_>>());
            let mut packed = PackedWeight::new(&cx, groups, n, k, DType::U8, true);
            packed.pack(&cx, &w);
            let by_group: Vec<usize> = (0..=groups).map(|g| g * n).collect();
            let wq = quantised(&w, TILE, TILE, &by_group, false);
            let group_of = |r: usize| first.iter().rposition(|f| *f <= r).unwrap().min(groups - 1);
            let group_of = |r: usize| (0..groups).find(|g| (first[*g]..first[g + 1]).contains(&r)).unwrap_or(group_of(r));

            let mut y = cx.zeros(&[rows, n], DType::F32);
            grouped_forward(&cx, &x, &packed, &offsets, &mut y, Acc::Write);
            let xq = quantised(&x, 1, TILE, &[0, rows], false);
            let want: Vec<_> = (0..rows * n)
                .map(|i| {
                    let (r, j) = (i / n, i % n);
                    let g = group_of(r);
                    dot(k, |c| xq[r * k + c] * wq[(g * n + j) * k + c])
                })
                .collect();
            close("forward", &y, &want, k);

            let mut dx = cx.zeros(&[rows, k], DType::F32);
            grouped_backward_input(&cx, &dy, &packed, &offsets, &mut dx, Acc::Write);
            let dq = quantised(&dy, 1, TILE, &[0, rows], false);
            let want: Vec<_> = (0..rows * k)
                .map(|i| {
                    let (r, c) = (i / k, i % k);
                    let g = group_of(r);
                    dot(n, |j| dq[r * n + j] * wq[(g * n + j) * k + c])
                })
                .collect();
            close("backward_input", &dx, &want, n);

            // Saved in tiles along the row, contracted in tiles along the column.
            let saved = Quantized::new(&cx, &x, Style { power_of_two, ..Style::TILES });
            let mut dw = cx.zeros(&[groups * n, k], DType::F32);
            grouped_backward_weight(&cx, &dy, &saved, &offsets, DType::U8, &mut dw, Acc::Write);
            let xq = quantised(&saved.dequantize(&cx, DType::F32), TILE, 1, &first, power_of_two);
            let dq = quantised(&dy, TILE, 1, &first, false);
            let want: Vec<_> = (0..groups * n * k)
                .map(|i| {
                    let (g, j, c) = (i / (n * k), i / k % n, i % k);
                    dot(first[g + 1] - first[g], |r| dq[(first[g] + r) * n + j] * xq[(first[g] + r) * k + c])
                })
                .collect();
            close("backward_weight", &dw, &want, rows);
        }
    }
}

#[test]
fn bits_of_code_products_do_not_depend_on_threads_or_batch_mates() {
    let run = |threads, rows: usize| {
        let cx = Cx::cpu(threads, DType::Bf16);
        let w = random(&cx, &[600, 1100], DType::F32, 0.02, 1);
        let mut packed = PackedWeight::new(&cx, 1, 600, 1100, DType::U8, true);
        packed.pack(&cx, &w);
        let (x, dy) = (random(&cx, &[rows, 1100], DType::Bf16, 1.0, 2), random(&cx, &[rows, 600], DType::Bf16, 1.0, 3));
        let (mut y, mut dx) = (cx.zeros(&[rows, 600], DType::Bf16), cx.zeros(&[rows, 1100], DType::F32));
        forward(&cx, &x, &packed, &mut y, Acc::Write);
        backward_input(&cx, &dy, &packed, &mut dx, Acc::Write);
        let mut dw = cx.zeros(&[600, 1100], DType::F32);
        backward_weight(&cx, &dy, &x, DType::U8, &mut dw, Acc::Write);
        (y.to_vec_f32(), dx.to_vec_f32(), dw.to_vec_f32())
    };
    let one = run(1, 400);
    assert!(one == run(2, 400) && one == run(3, 400));
    let few = run(2, 3);
    assert!(few.0[..] == one.0[..3 * 600] && few.1[..] == one.1[..3 * 1100]);
}

#[test]
fn formats_mix() {
    let cx = Cx::cpu(Threads::new(1).count(), DType::Bf16).with_isa(Isa::detect());
    let (w, x) = (random(&cx, &[48, 160], DType::F32, 0.1, 1), random(&cx, &[20, 160], DType::F32, 1.0, 2));
    let mut plain = PackedWeight::new(&cx, 1, 48, 160, DType::F32, true);
    plain.pack(&cx, &w);
    let mut codes = PackedWeight::new(&cx, 1, 48, 160, DType::U8, true);
    codes.pack(&cx, &w);
    // Codes into a product of floats are taken back; another format into a product of codes goes by way of floats.
    let q = Quantized::new(&cx, &x, Style { format: crate::fp8::E5M6, power_of_two: true, shape: Shape::Tile });
    let back = q.dequantize(&cx, DType::F32);
    for weight in [&plain, &codes] {
        let (mut y, mut want) = (cx.zeros(&[20, 48], DType::F32), cx.zeros(&[20, 48], DType::F32));
        forward(&cx, &q, weight, &mut y, Acc::Write);
        forward(&cx, &back, weight, &mut want, Acc::Write);
        assert_eq!(y.to_vec_f32(), want.to_vec_f32());
    }
}

/// The definition of a short accumulator in f64: 32 products at a time are cut to whole multiples of 2^-13 of the largest
/// power of two among them and the sum, which loses what lies below as well.
fn short_sum(products: impl Iterator<Item = f64>) -> f64 {
    let products: Vec<f64> = products.collect();
    products.chunks(32).fold(0f64, |sum, chunk| {
        let top = chunk.iter().fold(sum.abs(), |m, p| m.max(p.abs()));
        if top == 0.0 {
            return 0.0;
        }
        let unit = top.log2().floor().exp2() / 8192.0;
        chunk.iter().chain([&sum]).map(|p| (p / unit).trunc() * unit).sum()
    })
}

#[test]
fn a_short_accumulator_is_its_definition() {
    // k over several chunks of scratch and no multiple of a tile.
    let (rows, n, k) = (7, 40, 1100);
    for base in contexts() {
        let w = random(&base, &[n, k], DType::F32, 0.02, 1);
        let x = random(&base, &[rows, k], DType::Bf16, 1.0, 2);
        let (wq, xq) = (quantised(&w, TILE, TILE, &[0, n], false), quantised(&x, 1, TILE, &[0, rows], false));
        let mut packed = PackedWeight::new(&base, 1, n, k, DType::U8, true);
        packed.pack(&base, &w);
        // Scales of x's tiles and of w's blocks, of which there is one row.
        let tiles = Quantized::new(&base, &x, Style::TILES);
        let x_scales = tiles.scales();
        let w_amax = |b: usize, c: usize| {
            if c / TILE == b { (0..n).fold(0f32, |m, j| m.max(w.f32()[j * k + c].abs())) } else { 0.0 }
        };
        let w_scales: Vec<f64> = (0..k.div_ceil(TILE))
            .map(|b| f64::from((0..k).fold(0f32, |m, c| m.max(w_amax(b, c))) / E4M3.max()))
            .collect();
        for promoted in [true, false] {
            let accumulator = if promoted { Accumulator::Promoted14 } else { Accumulator::Only14 };
            let cx = base.clone().with_accumulator(accumulator);
            let mut y = cx.tensor(&[rows, n], &vec![0.5; rows * n], DType::F32);
            forward(&cx, &x, &packed, &mut y, Acc::Add);
            for (i, got) in y.to_vec_f32().iter().enumerate() {
                let (r, j) = (i / n, i % n);
                let term = |c: usize| xq[r * k + c] * wq[j * k + c];
                let magnitude: f64 = (0..k).map(|c| term(c).abs()).sum();
                // In units of the scale of a block, or of the first one.
                let scale = |b: usize| f64::from(x_scales.f32()[r * x_scales.cols() + b]) * w_scales[b];
                let sum = |cols: std::ops::Range<usize>, scale: f64| {
                    short_sum(cols.map(|c| f64::from((term(c) / scale) as f32))) * scale
                };
                let want = if promoted {
                    (0..k.div_ceil(TILE)).map(|b| sum(b * TILE..k.min((b + 1) * TILE), scale(b))).sum::<f64>()
                } else {
                    sum(0..k, scale(0))
                };
                // Promoted: f32's roundings only. Otherwise a product's last bit may fall on the other side of a cut:
                // one unit of the sum's 14 bits for one product in a few hundred.
                let far = (f64::from(*got) - 0.5 - want).abs();
                let bound =
                    if promoted { 40.0 * f64::from(f32::EPSILON) * (magnitude + 1.0) } else { magnitude / 8192.0 };
                assert!(far <= bound, "{promoted} [{r}, {j}]: {got} but {} (bound {bound:e})", want + 0.5);
            }
        }
    }
}

#[test]
fn a_short_accumulator_loses_bits_unless_promoted_in_all_orientations() {
    let (rows, n, k) = (2048, 2048, 2048);
    let base = Cx::cpu(2, DType::Bf16);
    let (w, x) = (random(&base, &[n, k], DType::F32, 1.0, 2), random(&base, &[4, k], DType::F32, 1.0, 3));
    let mut packed = PackedWeight::new(&base, 1, n, k, DType::U8, true);
    packed.pack(&base, &w);
    let (tall_x, tall_y) =
        (random(&base, &[rows, 32], DType::F32, 1.0, 4), random(&base, &[rows, 16], DType::F32, 1.0, 5));
    let dy = random(&base, &[4, n], DType::F32, 1.0, 6);
    let all = |accumulator| {
        let cx = base.clone().with_accumulator(accumulator);
        let mut y = cx.zeros(&[4, n], DType::F32);
        forward(&cx, &x, &packed, &mut y, Acc::Write);
        let mut dx = cx.zeros(&[4, k], DType::F32);
        backward_input(&cx, &dy, &packed, &mut dx, Acc::Write);
        let mut dw = cx.zeros(&[16, 32], DType::F32);
        backward_weight(&cx, &tall_y, &tall_x, DType::U8, &mut dw, Acc::Write);
        [y, dx, dw].map(|t| t.to_vec_f32())
    };
    let rms = |a: &[f32], b: &[f32]| {
        let far: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum();
        (far / b.iter().map(|b| f64::from(*b).powi(2)).sum::<f64>()).sqrt()
    };
    let (exact, promoted, only) = (all(Accumulator::F32), all(Accumulator::Promoted14), all(Accumulator::Only14));
    for (i, what) in ["forward", "backward_input", "backward_weight"].into_iter().enumerate() {
        let (with, without) = (rms(&promoted[i], &exact[i]), rms(&only[i], &exact[i]));
        println!("{what}: {with:e} promoted, {without:e} not");
        assert!(with > 1e-5 && with < 3e-3 && without > 2.0 * with, "{what} {without:e} {with:e}");
    }
}
