//! Weights of codes compared with BF16 weights of the same values, bit for bit, and with f64.

use super::*;
use crate::fp8::{E4M3, TILE};
use crate::gemm::BLOCK;
use crate::testing::{FLOATS, bits, f64s, random};
use crate::{Isa, Purpose, Rng};
use half::bf16;
use proptest::prelude::*;
use std::convert::Infallible;

fn cx(isa: Isa) -> Cx {
    Cx::cpu(2, DType::Bf16).with_isa(isa)
}

/// Codes of a weight, and scales that change with every 128 of k and every `block` rows.
struct Codes {
    k: usize,
    block: usize,
    rng: Rng,
}

impl Codes {
    fn new(k: usize, block: usize, seed: u64) -> Self {
        Self { k, block, rng: Rng::new(seed, Purpose::Test, 0) }
    }
    /// Any code but NaN.
    fn code(&self, row: usize, i: usize) -> u8 {
        let code = self.rng.bits((row * self.k + i) as u64) as u8;
        if code & 0x7f == 0x7f { 0 } else { code }
    }
    fn scale(&self, row: usize, tile: usize) -> f32 {
        let scale = self.rng.uniform((row / self.block * 1000 + tile) as u64 + (1 << 40));
        (2e-4 * (0.1 + scale)) as f32
    }
    /// The weight in codes.
    fn coded(&self, cx: &Cx, groups: usize, n: usize) -> CodedWeight {
        let mut w = CodedWeight::new(cx, groups, n, self.k);
        let codes = |row: usize, out: &mut Tensor| {
            let k = out.cols();
            out.u8_mut().iter_mut().enumerate().for_each(|(i, c)| *c = self.code(row + i / k, i % k));
            Ok::<_, Infallible>(())
        };
        let scales = |row: usize, out: &mut [f32]| {
            out.iter_mut().enumerate().for_each(|(tile, s)| *s = self.scale(row, tile));
        };
        match w.fill(cx, &codes, &scales) {
            Ok(()) => w,
        }
    }
    /// Its values: code times scale in f32.
    fn values(&self, rows: usize) -> Vec<f32> {
        let one = |i: usize| {
            let (row, i) = (i / self.k, i % self.k);
            E4M3.decode(u16::from(self.code(row, i))) * self.scale(row, i / TILE)
        };
        (0..rows * self.k).map(one).collect()
    }
}

/// Compares the product of groups with so many rows on a path with that of a BF16 weight, and with f64.
fn check(isa: Isa, codes: &Codes, counts: &[usize], n: usize, (x, y): (DType, DType), acc: Acc) {
    let (cx, groups, k) = (cx(isa), counts.len(), codes.k);
    let coded = codes.coded(&cx, groups, n);
    let values = codes.values(groups * n);
    let mut row = vec![0.0; k];
    for (r, want) in values.chunks_exact(k).enumerate() {
        coded.row(r, &mut row);
        assert_eq!(row, want, "row {r}");
    }
    let mut plain = PackedWeight::new(&cx, groups, n, k, DType::Bf16, false);
    plain.pack(&cx, &cx.tensor(&[groups * n, k], &values, DType::F32));
    let mut starts = vec![1];
    counts.iter().for_each(|c| starts.push(starts.last().unwrap() + c));
    let offsets = cx.indices(&[groups + 1], &starts.iter().map(|s| *s as i32).collect::<Vec<_>>());
    let rows = starts[groups] + 2;
    let x = random(&cx, &[rows, k], x, 1.0, 5);
    let old = random(&cx, &[rows, n], y, 1.0, 6);
    let (mut got, mut want) = (cx.copy(&old), cx.copy(&old));
    coded_forward(&cx, &x, &coded, &offsets, &mut got, acc);
    grouped_forward(&cx, &x, &plain, &offsets, &mut want, acc);
    assert!(bits(&got) == bits(&want), "{isa:?}: {counts:?} rows, {n} x {k}");
    let round = |v: f64| f64::from(bf16::from_f32(v as f32).to_f32());
    let xs: Vec<f64> = f64s(&x).into_iter().map(round).collect();
    let ws: Vec<f64> = values.iter().map(|v| f64::from(bf16::from_f32(*v).to_f32())).collect();
    let (old, got) = (f64s(&old), f64s(&got));
    for g in 0..groups {
        for (r, j) in (starts[g]..starts[g + 1]).flat_map(|r| (0..n).map(move |j| (r, j))) {
            let products = xs[r * k..][..k].iter().zip(&ws[(g * n + j) * k..][..k]).map(|(x, w)| x * w);
            let (sum, size) = products.fold((0.0, 0.0), |(s, m), p| (s + p, m + p.abs()));
            let old = if acc == Acc::Add { old[r * n + j] } else { 0.0 };
            // A chain of k multiply-adds in f32, some sums of blocks, and the output's rounding.
            let u = f64::from(f32::EPSILON) / 2.0;
            let total = (sum + old).abs() + size * u;
            let bound = (2 * k + 8) as f64 * u * size
                + 2.0 * u * total
                + if y == DType::Bf16 { total / 256.0 } else { 0.0 }
                + 1e-30;
            let far = (got[r * n + j] - sum - old).abs();
            assert!(far <= bound, "{isa:?} row {r}, output {j}: {far:e} is over {bound:e}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// Blocks of scales that begin anywhere, also inside a panel.
    #[test]
    fn products_have_the_bits_of_bf16_weights(
        isa in prop::sample::select(Isa::available()),
        counts in prop::collection::vec(prop_oneof![Just(0usize), 1usize..5, 1usize..60], 1..4),
        n in 1usize..100,
        k in prop_oneof![1usize..300, Just(128), Just(256)],
        block in prop_oneof![1usize..40, Just(128)],
        formats in (prop::sample::select(&FLOATS[..]), prop::sample::select(&FLOATS[..])),
        acc in prop::sample::select(&[Acc::Write, Acc::Add][..]),
        seed in any::<u64>(),
    ) {
        check(isa, &Codes::new(k, block, seed), &counts, n, formats, acc);
    }
}

/// Contractions of several blocks, into both formats, for one row and for many.
#[test]
fn long_contractions_have_the_bits_of_bf16_weights() {
    for isa in Isa::available() {
        for (k, y) in [(2 * BLOCK + 131, DType::Bf16), (4 * BLOCK, DType::F32), (4 * BLOCK + 1, DType::Bf16)] {
            for rows in [1, 3, 70] {
                check(isa, &Codes::new(k, 64, 3), &[rows], 83, (DType::Bf16, y), Acc::Add);
            }
        }
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    crate::testing::same_bits_for_any_threads(|cx| {
        let w = Codes::new(300, 128, 9).coded(cx, 1, 200);
        let x = random(cx, &[37, 300], DType::Bf16, 1.0, 1);
        let mut y = cx.empty(&[37, 200], DType::F32);
        coded_forward(cx, &x, &w, None, &mut y, Acc::Write);
        vec![y]
    });
}

#[test]
fn nothing_is_a_product_too() {
    let cx = Cx::cpu(1, DType::Bf16);
    for (rows, n, k) in [(0, 3, 4), (3, 2, 0)] {
        let w = CodedWeight::new(&cx, 1, n, k);
        let x = cx.zeros(&[rows, k], DType::Bf16);
        let mut y = cx.empty(&[rows, n], DType::F32);
        coded_forward(&cx, &x, &w, None, &mut y, Acc::Write);
        assert!(y.f32().iter().all(|v| *v == 0.0));
    }
}

#[test]
#[should_panic(expected = "coded forward: a weight of 2 groups needs offsets")]
fn groups_need_offsets() {
    let cx = Cx::cpu(1, DType::Bf16);
    let (w, x) = (CodedWeight::new(&cx, 2, 3, 4), cx.zeros(&[1, 4], DType::F32));
    coded_forward(&cx, &x, &w, None, &mut cx.empty(&[1, 3], DType::F32), Acc::Write);
}
