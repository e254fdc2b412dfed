//! Products in E4M3, compared with f64 sums of the codes given by the definition.

use super::*;
use crate::fp8::definition::Grid;
use crate::fp8::{E4M3, Quantized, Shape, Style, TILE};
use crate::testing::{contexts, random};
use crate::{Isa, Threads};
use accumulator::Accumulator;

mod products;
mod special;

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
    // Codes are dequantised for a product of floats. Codes in another format are converted through floats for a product
    // of codes.
    let q = Quantized::new(&cx, &x, Style { format: crate::fp8::E5M6, power_of_two: true, shape: Shape::Tile });
    let back = q.dequantize(&cx, DType::F32);
    for weight in [&plain, &codes] {
        let (mut y, mut want) = (cx.zeros(&[20, 48], DType::F32), cx.zeros(&[20, 48], DType::F32));
        forward(&cx, &q, weight, &mut y, Acc::Write);
        forward(&cx, &back, weight, &mut want, Acc::Write);
        assert_eq!(y.to_vec_f32(), want.to_vec_f32());
    }
}

/// The definition of a short accumulator in f64, which is exact here. 32 products at a time are cut, toward zero, to
/// whole multiples of 2^-13 of the largest power of two among them and the sum. The sum loses its lower bits as well.
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
    // k has several chunks of scratch, and is not a multiple of a tile.
    let (rows, n, k) = (7, 40, 1100);
    let u = f64::from(f32::EPSILON) / 2.0;
    for base in contexts() {
        let w = random(&base, &[n, k], DType::F32, 0.02, 1);
        let x = random(&base, &[rows, k], DType::Bf16, 1.0, 2);
        let wq = Grid::WEIGHT.quantise(&w.to_vec_f32(), k, &[0, n]);
        let xq = Grid::of(Style::TILES).quantise(&x.to_vec_f32(), k, &[0, rows]);
        let mut packed = PackedWeight::new(&base, 1, n, k, DType::U8, true);
        packed.pack(&base, &w);
        for promoted in [true, false] {
            let accumulator = if promoted { Accumulator::Promoted14 } else { Accumulator::Only14 };
            let mut y = base.tensor(&[rows, n], &vec![0.5; rows * n], DType::F32);
            accumulator.forward(&base, &x, &packed, None, &mut y, Acc::Add);
            for (i, got) in y.to_vec_f32().iter().enumerate() {
                let (x, w) = (&xq[i / n * k..][..k], &wq[i % n * k..][..k]);
                // In f32: the scales of a block, and the inputs of the accumulator, in units of the block's scale or of
                // the first one.
                let scale = |c: usize| x[c].1 * w[c].1;
                let unit = |c: usize| if promoted { 1.0 } else { scale(c) / scale(0) };
                let term = |c: usize| f64::from(E4M3.decode(x[c].0) * E4M3.decode(w[c].0) * unit(c));
                let blocks = if promoted { k.div_ceil(TILE) } else { 1 };
                let sums = (0..blocks).map(|b| {
                    let end = if promoted { k.min((b + 1) * TILE) } else { k };
                    short_sum((b * TILE..end).map(term)) * f64::from(scale(b * TILE))
                });
                let (want, magnitude) = sums.fold((0.5, 0.5), |(s, m), v: f64| (s + v, m + v.abs()));
                // The accumulator itself is exact. In f32, each block's scale and the running sum are rounded once.
                let bound = 2.0 * (blocks + 1) as f64 * u * magnitude;
                let far = (f64::from(*got) - want).abs();
                assert!(far <= bound, "{promoted} [{}, {}]: {got} but {want} (bound {bound:e})", i / n, i % n);
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
    let all = |accumulator: Accumulator| {
        let mut y = base.zeros(&[4, n], DType::F32);
        accumulator.forward(&base, &x, &packed, None, &mut y, Acc::Write);
        let mut dx = base.zeros(&[4, k], DType::F32);
        accumulator.backward_input(&base, &dy, &packed, None, &mut dx, Acc::Write);
        let mut dw = base.zeros(&[16, 32], DType::F32);
        accumulator.backward_weight(&base, &tall_y, &tall_x, None, &mut dw, Acc::Write);
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
