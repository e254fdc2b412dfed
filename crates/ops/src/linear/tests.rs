//! Every path, orientation and mixture of formats compared with f64, and the same bits for any division of the work.

use super::*;
use crate::fp8::{Shape, Style};
use crate::gemm::BLOCK;
use crate::{Isa, Purpose, Rng};
use hadal_testkit::gemm::matmul;
use proptest::prelude::*;

const FLOATS: [DType; 2] = [DType::F32, DType::Bf16];

fn cx(isa: Isa) -> Cx {
    Cx::cpu(2, DType::Bf16).with_isa(isa)
}

fn random(cx: &Cx, shape: &[usize], dtype: DType, seed: u64) -> Tensor {
    let rng = Rng::new(seed, Purpose::Test, 0);
    let values: Vec<f32> = (0..shape.iter().product::<usize>() as u64).map(|i| rng.normal(i) as f32).collect();
    cx.tensor(shape, &values, dtype)
}

/// Element values as used by the product in `dtype`.
fn seen(values: &[f32], dtype: DType) -> Vec<f64> {
    let round = |v: f32| if dtype == DType::Bf16 { half::bf16::from_f32(v).to_f32() } else { v };
    values.iter().map(|v| f64::from(round(*v))).collect()
}

/// Allowed distance between an f32 sum of `k` products and the exact one, plus the error of the output. The error of a
/// chain of k multiply-adds is at most gamma_2k times the sum of absolute values. Here u = 2^-24, and k is doubled for
/// the blocks and for paths that round the product. Adding to C adds u of the result, and rounding to bf16 (eight
/// significant bits) 2^-8 of it.
fn bound(k: usize, abs: f64, value: f64, old: f64, out: DType) -> f64 {
    let u = f64::from(f32::EPSILON) / 2.0;
    let sum = (2 * k + 4) as f64 * u * abs + 1e-30;
    let total = value.abs() + old.abs() + sum;
    sum + 2.0 * u * total + if out == DType::Bf16 { total / 256.0 } else { 0.0 }
}

#[derive(Clone, Debug)]
struct Case {
    isa: Isa,
    /// Rows of every group.
    counts: Vec<usize>,
    grouped: bool,
    n: usize,
    k: usize,
    w: DType,
    master: DType,
    x: DType,
    y: DType,
    acc: Acc,
    seed: u64,
}

fn cases() -> impl Strategy<Value = Case> {
    let size = || prop_oneof![1usize..9, 1usize..130, Just(16), Just(48), Just(64)];
    let rows = || prop_oneof![Just(0usize), 1usize..5, 1usize..100];
    let groups =
        prop_oneof![rows().prop_map(|r| (vec![r], false)), prop::collection::vec(rows(), 1..5).prop_map(|r| (r, true))];
    let float = || prop::sample::select(&FLOATS[..]);
    let acc = prop::sample::select(&[Acc::Write, Acc::Add][..]);
    let isa = prop::sample::select(Isa::available());
    ((isa, groups, size(), size()), (float(), float(), float(), float()), acc, any::<u64>()).prop_map(
        |((isa, (counts, grouped), n, k), (w, master, x, y), acc, seed)| Case {
            isa,
            counts,
            grouped,
            n,
            k,
            w,
            master,
            x,
            y,
            acc,
            seed,
        },
    )
}

struct Data {
    cx: Cx,
    offsets: Tensor,
    starts: Vec<usize>,
    rows: usize,
    weight: PackedWeight,
    w: Vec<f64>,
}

fn data(c: &Case) -> Data {
    let cx = cx(c.isa);
    let mut starts = vec![0];
    c.counts.iter().for_each(|r| starts.push(starts.last().unwrap() + r));
    // Rows after the last group must not change.
    let rows = starts.last().unwrap() + if c.grouped { 2 } else { 0 };
    let offsets = cx.indices(&[starts.len()], &starts.iter().map(|s| *s as i32).collect::<Vec<_>>());
    let groups = c.counts.len();
    let master = random(&cx, &[groups * c.n, c.k], c.master, c.seed);
    let mut weight = PackedWeight::new(&cx, groups, c.n, c.k, c.w, true);
    weight.pack(&cx, &master);
    let w = seen(&master.to_vec_f32(), c.w);
    Data { cx, offsets, starts, rows, weight, w }
}

/// Compares one group's rows of an output with the exact product.
fn check(
    what: &str,
    (rows, cols, k): (usize, usize, usize),
    got: &[f32],
    old: &[f32],
    exact: &(Vec<f64>, Vec<f64>),
    (out, acc): (DType, Acc),
) -> Result<(), TestCaseError> {
    for i in 0..rows * cols {
        let old = if acc == Acc::Add { f64::from(old[i]) } else { 0.0 };
        let want = old + exact.0[i];
        let allowed = bound(k, exact.1[i], exact.0[i], old, out);
        let off = (f64::from(got[i]) - want).abs();
        prop_assert!(
            off <= allowed,
            "{what} ({}, {}): {} for {want}, off {off} over {allowed}",
            i / cols,
            i % cols,
            got[i]
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn forward_and_input_gradient_match_f64(c in cases()) {
        let d = data(&c);
        for backward in [false, true] {
            let (inner, outer) = if backward { (c.n, c.k) } else { (c.k, c.n) };
            let x = random(&d.cx, &[d.rows, inner], c.x, c.seed + 1);
            let mut y = random(&d.cx, &[d.rows, outer], c.y, c.seed + 2);
            let old = y.to_vec_f32();
            match (backward, c.grouped) {
                (false, false) => forward(&d.cx, &x, &d.weight, &mut y, c.acc),
                (true, false) => backward_input(&d.cx, &x, &d.weight, &mut y, c.acc),
                (false, true) => grouped_forward(&d.cx, &x, &d.weight, &d.offsets, &mut y, c.acc),
                (true, true) => grouped_backward_input(&d.cx, &x, &d.weight, &d.offsets, &mut y, c.acc),
            }
            let (got, xs) = (y.to_vec_f32(), seen(&x.to_vec_f32(), c.w));
            for g in 0..c.counts.len() {
                let (first, rows) = (d.starts[g], c.counts[g]);
                let w = &d.w[g * c.n * c.k..];
                let exact = matmul(rows, outer, inner, |i, l| xs[(first + i) * inner + l], |l, j| {
                    if backward { w[l * c.k + j] } else { w[j * c.k + l] }
                });
                let part = first * outer..(first + rows) * outer;
                check("y", (rows, outer, inner), &got[part.clone()], &old[part], &exact, (c.y, c.acc))?;
            }
            let end = d.starts.last().unwrap() * outer;
            prop_assert_eq!(&got[end..], &old[end..]);
        }
    }

    #[test]
    fn weight_gradient_matches_f64(c in cases()) {
        let d = data(&c);
        let dy = random(&d.cx, &[d.rows, c.n], c.y, c.seed + 1);
        let x = random(&d.cx, &[d.rows, c.k], c.x, c.seed + 2);
        let mut dw = random(&d.cx, &[c.counts.len(), c.n, c.k], DType::F32, c.seed + 3);
        let old = dw.to_vec_f32();
        if c.grouped {
            grouped_backward_weight(&d.cx, &dy, &x, &d.offsets, c.w, &mut dw, c.acc);
        } else {
            backward_weight(&d.cx, &dy, &x, c.w, &mut dw, c.acc);
        }
        let (got, dys, xs) = (dw.f32(), seen(&dy.to_vec_f32(), c.w), seen(&x.to_vec_f32(), c.w));
        for g in 0..c.counts.len() {
            let (first, rows) = (d.starts[g], c.counts[g]);
            let exact =
                matmul(c.n, c.k, rows, |i, l| dys[(first + l) * c.n + i], |l, j| xs[(first + l) * c.k + j]);
            let part = g * c.n * c.k..(g + 1) * c.n * c.k;
            check("dw", (c.n, c.k, rows), &got[part.clone()], &old[part], &exact, (DType::F32, c.acc))?;
        }
    }
}

/// Contractions of several blocks, of which the last is smaller, into both formats.
#[test]
fn long_contractions_match_f64() {
    for isa in Isa::available() {
        for (dtype, k) in [(DType::Bf16, 2 * BLOCK + 7), (DType::F32, BLOCK + 3), (DType::Bf16, 4 * BLOCK)] {
            for y_dtype in FLOATS {
                for acc in [Acc::Write, Acc::Add] {
                    let cx = cx(isa);
                    let (m, n) = (45, 67);
                    let master = random(&cx, &[n, k], DType::F32, 1);
                    let mut weight = PackedWeight::new(&cx, 1, n, k, dtype, false);
                    weight.pack(&cx, &master);
                    let x = random(&cx, &[m, k], dtype, 2);
                    let mut y = random(&cx, &[m, n], y_dtype, 3);
                    let old = y.to_vec_f32();
                    forward(&cx, &x, &weight, &mut y, acc);
                    let (xs, ws) = (seen(&x.to_vec_f32(), dtype), seen(&master.to_vec_f32(), dtype));
                    let exact = matmul(m, n, k, |i, l| xs[i * k + l], |l, j| ws[j * k + l]);
                    check("y", (m, n, k), &y.to_vec_f32(), &old, &exact, (y_dtype, acc)).unwrap();
                    // The same in two groups. The first group has a single row, and its tasks are divided differently.
                    let mut twice = PackedWeight::new(&cx, 2, n, k, dtype, false);
                    twice.pack_group(&cx, 0, master.f32());
                    twice.pack_group(&cx, 1, master.f32());
                    let mut grouped = cx.tensor(&[m, n], &old, y_dtype);
                    let offsets = cx.indices(&[3], &[0, 1, m as i32]);
                    grouped_forward(&cx, &x, &twice, &offsets, &mut grouped, acc);
                    assert_eq!(y.to_vec_f32(), grouped.to_vec_f32());
                    let (dy, xt) = (random(&cx, &[k, n], y_dtype, 4), random(&cx, &[k, m], dtype, 5));
                    let mut dw = random(&cx, &[n, m], DType::F32, 6);
                    let old = dw.to_vec_f32();
                    backward_weight(&cx, &dy, &xt, dtype, &mut dw, acc);
                    let (dys, xs) = (seen(&dy.to_vec_f32(), dtype), seen(&xt.to_vec_f32(), dtype));
                    let exact = matmul(n, m, k, |i, l| dys[l * n + i], |l, j| xs[l * m + j]);
                    check("dw", (n, m, k), dw.f32(), &old, &exact, (DType::F32, acc)).unwrap();
                }
            }
        }
    }
}

/// A row's bits do not depend on the other rows, its position in a tile, its group, views, or the number of threads.
#[test]
fn bits_do_not_depend_on_company_or_threads() {
    for isa in Isa::available() {
        for (dtype, k, n) in [(DType::Bf16, 130, 175), (DType::Bf16, 2 * BLOCK + 3, 50), (DType::F32, 77, 175)] {
            let base = cx(isa);
            let rows = 151;
            let master = random(&base, &[n, k], DType::F32, 1);
            let mut weight = PackedWeight::new(&base, 1, n, k, dtype, false);
            weight.pack(&base, &master);
            let mut twice = PackedWeight::new(&base, 2, n, k, dtype, false);
            twice.pack_group(&base, 0, master.f32());
            twice.pack_group(&base, 1, master.f32());
            let x = random(&base, &[rows, k], dtype, 2);
            let xs = x.to_vec_f32();
            let mut whole = base.empty(&[rows, n], DType::F32);
            forward(&base, &x, &weight, &mut whole, Acc::Write);
            for threads in [1, 2, 3] {
                let cx = Cx::cpu(threads, dtype).with_isa(isa);
                let mut y = cx.empty(&[rows, n], DType::F32);
                forward(&cx, &x, &weight, &mut y, Acc::Write);
                assert_eq!(whole.f32(), y.f32());
                let offsets = cx.indices(&[3], &[0, 37, rows as i32]);
                grouped_forward(&cx, &x, &twice, &offsets, &mut y, Acc::Write);
                assert_eq!(whole.f32(), y.f32());
            }
            for (first, count) in [(0, 1), (9, 1), (150, 1), (3, 2), (5, 3), (8, 9), (1, 17), (2, 100)] {
                // A view of a wider tensor with an odd first column.
                let wide: Vec<f32> = (0..count * (k + 5))
                    .map(|i| {
                        if (3..3 + k).contains(&(i % (k + 5))) {
                            xs[(first + i / (k + 5)) * k + i % (k + 5) - 3]
                        } else {
                            9.0
                        }
                    })
                    .collect();
                let wide = base.tensor(&[count, k + 5], &wide, dtype);
                let mut y = base.zeros(&[count, n + 4], DType::F32);
                forward(&base, wide.columns(3..3 + k), &weight, y.columns_mut(1..1 + n), Acc::Write);
                for r in 0..count {
                    let (got, want) = (&y.f32()[r * (n + 4)..][..n + 4], &whole.f32()[(first + r) * n..][..n]);
                    assert_eq!(&got[1..=n], want, "{isa:?} {dtype:?} row {r} of {first}+{count}");
                    assert_eq!([got[0], got[n + 1], got[n + 2], got[n + 3]], [0.0; 4]);
                }
            }
        }
    }
}

/// The same for a weight so large that it is prefetched for few rows, in blocks of several widths.
#[test]
fn few_rows_of_a_large_weight_have_the_bits_of_many() {
    for isa in Isa::available() {
        for (dtype, n, k) in [(DType::Bf16, 1090, 2500), (DType::F32, 1090, 1100)] {
            let cx = cx(isa);
            let master = random(&cx, &[n, k], DType::F32, 1);
            let mut weight = PackedWeight::new(&cx, 1, n, k, dtype, false);
            weight.pack(&cx, &master);
            assert!(weight.bytes() > crate::gemm::CACHED);
            let x = random(&cx, &[70, k], dtype, 2);
            for y_dtype in FLOATS {
                let mut whole = cx.empty(&[70, n], y_dtype);
                forward(&cx, &x, &weight, &mut whole, Acc::Write);
                let whole = whole.to_vec_f32();
                for rows in 1..11 {
                    let part = cx.tensor(&[rows, k], &x.to_vec_f32()[..rows * k], dtype);
                    let mut y = cx.empty(&[rows, n], y_dtype);
                    forward(&cx, &part, &weight, &mut y, Acc::Write);
                    assert!(y.to_vec_f32() == whole[..rows * n], "{isa:?} {dtype:?}: {rows} rows");
                }
            }
        }
    }
}

/// Weight gradients have the same bits for any number of threads, and for a group alone or with others.
#[test]
fn weight_gradient_bits_do_not_depend_on_threads_or_groups() {
    for isa in Isa::available() {
        for dtype in FLOATS {
            let base = cx(isa);
            // At this size the tiles of C depend on the number of threads, and one group has more than one block.
            let (rows, n, k) = (803, 270, 293);
            let (dy, x) = (random(&base, &[rows, n], DType::F32, 1), random(&base, &[rows, k], DType::Bf16, 2));
            let starts = [0, 31, 31, 250, 803];
            let run = |threads: usize| {
                let cx = Cx::cpu(threads, dtype).with_isa(isa);
                let mut dw = cx.empty(&[4 * n, k], DType::F32);
                grouped_backward_weight(&cx, &dy, &x, &cx.indices(&[5], &starts), dtype, &mut dw, Acc::Write);
                dw.to_vec_f32()
            };
            let all = run(1);
            assert!(all == run(2) && all == run(3));
            for g in 0..4 {
                let part = starts[g] as usize..starts[g + 1] as usize;
                let dy_g = base.tensor(&[part.len(), n], &dy.f32()[part.start * n..part.end * n], DType::F32);
                let x_g = base.tensor(&[part.len(), k], &x.to_vec_f32()[part.start * k..part.end * k], DType::Bf16);
                let mut dw = base.empty(&[n, k], DType::F32);
                backward_weight(&base, &dy_g, &x_g, dtype, &mut dw, Acc::Write);
                assert_eq!(dw.f32(), &all[g * n * k..(g + 1) * n * k]);
            }
        }
    }
}

#[test]
fn a_product_takes_its_scratch_from_the_pool() {
    let cx = cx(Isa::detect());
    let (dy, x) = (random(&cx, &[50, 40], DType::F32, 1), random(&cx, &[50, 30], DType::F32, 2));
    let mut dw = cx.empty(&[40, 30], DType::F32);
    let before = cx.pool().usage().0;
    backward_weight(&cx, &dy, &x, DType::Bf16, &mut dw, Acc::Write);
    let (after, peak) = cx.pool().usage();
    assert!(after == before && peak > before);
}

#[test]
#[should_panic(expected = "linear forward: [3, 5]")]
fn a_wrong_shape_is_named() {
    let cx = cx(Isa::detect());
    let weight = PackedWeight::new(&cx, 1, 4, 6, DType::Bf16, false);
    let (x, mut y) = (cx.zeros(&[3, 5], DType::Bf16), cx.zeros(&[3, 4], DType::F32));
    forward(&cx, &x, &weight, &mut y, Acc::Write);
}

/// The values of a packed weight, read back row by row, are the values that were packed, in the weight's format. The
/// sizes do not fill panels, steps and tiles, and there are several groups if possible.
#[test]
fn rows_read_back_are_those_that_were_packed() {
    let cx = Cx::cpu(2, DType::Bf16);
    for (dtype, groups, n, k) in [(DType::F32, 3, 19, 7), (DType::Bf16, 3, 37, 9), (DType::U8, 1, 149, 131)] {
        let w = random(&cx, &[groups * n, k], DType::F32, 5);
        let mut packed = PackedWeight::new(&cx, groups, n, k, dtype, false);
        packed.pack(&cx, &w);
        let block = Style { shape: Shape::Block, ..Style::TILES };
        let want: Vec<f32> = match dtype {
            DType::F32 | DType::Bf16 => seen(w.f32(), dtype).into_iter().map(|v| v as f32).collect(),
            _ => Quantized::new(&cx, &w, block).dequantize(&cx, DType::F32).f32().to_vec(),
        };
        let mut row = vec![0.0; k];
        for (r, want) in want.chunks_exact(k).enumerate() {
            packed.row(r, &mut row);
            assert_eq!(row, want, "{dtype:?}: row {r}");
        }
        let ids: Vec<i32> = (0..(groups * n) as i32).rev().collect();
        let mut indices = cx.zeros(&[ids.len()], DType::I32);
        indices.i32_mut().copy_from_slice(&ids);
        let mut x = cx.zeros(&[ids.len(), k], DType::F32);
        let row = |row: usize, out: &mut [f32]| packed.row(row, out);
        crate::embedding::forward_by(&cx, (groups * n, k), &row, &indices, &mut x);
        assert!(x.f32().chunks_exact(k).eq(want.chunks_exact(k).rev()), "{dtype:?}: looked up");
    }
}
