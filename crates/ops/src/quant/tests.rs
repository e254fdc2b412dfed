//! Every path compared with the definition bit for bit, and the definition compared with f64.

use super::format::{BOOK, GROUP};
use super::*;
use crate::gemm::LANES;
use crate::testing::{F32_EPS, FLOATS, bits, random, store_eps};
use crate::{DType, Isa, Purpose, Rng};
use proptest::prelude::*;

const FORMATS: [QuantFormat; 2] = [QuantFormat::Int8, QuantFormat::Int4];

fn cx(isa: Isa) -> Cx {
    Cx::cpu(2, DType::Bf16).with_isa(isa)
}

fn weight(cx: &Cx, format: QuantFormat, groups: usize, n: usize, k: usize, seed: u64) -> QuantWeight {
    let mut w = QuantWeight::new(cx, format, groups, n, k);
    w.pack(cx, &random(cx, &[groups * n, k], DType::F32, 0.02, seed));
    w
}

/// What a row of the reference becomes in y.
fn stored(sums: &[f32], old: &[f32], dtype: DType, acc: Acc) -> Vec<u32> {
    let round = |v: f32| if dtype == DType::Bf16 { half::bf16::from_f32(v).to_f32() } else { v };
    let one = |(s, old): (&f32, &f32)| round(if acc == Acc::Add { old + s } else { *s }).to_bits();
    sums.iter().zip(old).map(one).collect()
}

#[derive(Clone, Debug)]
struct Case {
    format: QuantFormat,
    counts: Vec<usize>,
    n: usize,
    k: usize,
    x: DType,
    y: DType,
    acc: Acc,
    seed: u64,
}

fn cases() -> impl Strategy<Value = Case> {
    let rows = prop_oneof![Just(0usize), 1usize..9, 1usize..90];
    let k = prop_oneof![1usize..70, Just(64), Just(96), 500usize..1200];
    let float = || prop::sample::select(&FLOATS[..]);
    let acc = prop::sample::select(&[Acc::Write, Acc::Add][..]);
    let format = prop::sample::select(&FORMATS[..]);
    ((format, prop::collection::vec(rows, 1..5), 1usize..200, k), (float(), float()), acc, any::<u64>())
        .prop_map(|((format, counts, n, k), (x, y), acc, seed)| Case { format, counts, n, k, x, y, acc, seed })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// Bits are those of the definition on every path; rows of no group stay as they are; f64 agrees within the bound.
    #[test]
    fn forward_is_the_definition(c in cases()) {
        let base = cx(Isa::Portable);
        let w = weight(&base, c.format, c.counts.len(), c.n, c.k, c.seed);
        let mut starts = vec![1];
        c.counts.iter().for_each(|r| starts.push(starts.last().unwrap() + r));
        let rows = starts.last().unwrap() + 2;
        let offsets = base.indices(&[starts.len()], &starts.iter().map(|s| *s as i32).collect::<Vec<_>>());
        let x = random(&base, &[rows, c.k], c.x, 1.0, c.seed + 1);
        let old = random(&base, &[rows, c.n], c.y, 1.0, c.seed + 2);
        let (xs, olds) = (x.to_vec_f32(), old.to_vec_f32());
        let mut want: Vec<u32> = olds.iter().map(|v| v.to_bits()).collect();
        for g in 0..c.counts.len() {
            for r in starts[g]..starts[g + 1] {
                let sums = reference::forward(&xs[r * c.k..][..c.k], &w, g);
                let old = &olds[r * c.n..][..c.n];
                want[r * c.n..][..c.n].copy_from_slice(&stored(&sums, old, c.y, c.acc));
                near(&xs[r * c.k..][..c.k], &w, g, old, &want[r * c.n..][..c.n], (c.y, c.acc))?;
            }
        }
        for isa in Isa::available() {
            let cx = cx(isa);
            let mut y = cx.copy(&old);
            forward(&cx, &x, &w, &offsets, &mut y, c.acc);
            prop_assert!(bits(&y) == want, "{isa:?}");
        }
    }
}

/// Checks a row of y against f64. With a value v of x comes a code q, `|v - r q| <= r / 2` but for the rounding of `127
/// / max`, of its product with v, and of r (three roundings, of values up to 127). The sum has a rounding for each
/// group; each factor has one more.
fn near(
    x: &[f32],
    w: &QuantWeight,
    group: usize,
    old: &[f32],
    got: &[u32],
    (dtype, acc): (DType, Acc),
) -> Result<(), TestCaseError> {
    let (_, scales) = reference::inputs(x);
    let mut values = vec![0.0; w.k()];
    for (j, got) in got.iter().enumerate() {
        w.row(group * w.n() + j, &mut values);
        let (mut sum, mut size, mut cut) = (0.0, 0.0, 0.0);
        for (i, (x, w)) in x.iter().zip(&values).enumerate() {
            let (x, w, r) = (f64::from(*x), f64::from(*w), f64::from(scales[i / GROUP]));
            sum += x * w;
            size += (x.abs() + r) * w.abs();
            cut += r * (0.5 + 127.0 * 3.0 * F32_EPS) * w.abs();
        }
        let old = if acc == Acc::Add { f64::from(old[j]) } else { 0.0 };
        let bound = cut + (scales.len() + 2) as f64 * F32_EPS * size;
        let bound = bound + 2.0 * store_eps(dtype) * ((sum + old).abs() + bound);
        let off = (f64::from(f32::from_bits(*got)) - sum - old).abs();
        prop_assert!(off <= bound, "output {j}: off by {off:e}, bound {bound:e}");
    }
    Ok(())
}

/// A row's bits do not depend on the rows around it, on its group, on threads or on a view's place. Sizes with several
/// chunks, blocks of rows, and tiles of every width.
#[test]
fn bits_do_not_depend_on_company_or_threads() {
    for format in FORMATS {
        for (n, k) in [(200, 1100), (37, 2048)] {
            let base = cx(Isa::detect());
            let w = weight(&base, format, 1, n, k, 5);
            let mut twice = QuantWeight::new(&base, format, 2, n, k);
            let master = random(&base, &[n, k], DType::F32, 0.02, 5);
            let both: Vec<f32> = master.f32().iter().chain(master.f32()).copied().collect();
            twice.pack(&base, &base.tensor(&[2 * n, k], &both, DType::F32));
            let rows = 300;
            let x = random(&base, &[rows, k], DType::Bf16, 1.0, 2);
            let xs = x.to_vec_f32();
            let want: Vec<u32> =
                xs.chunks(k).take(40).flat_map(|x| reference::forward(x, &w, 0)).map(f32::to_bits).collect();
            let mut whole = base.empty(&[rows, n], DType::F32);
            forward(&base, &x, &w, None, &mut whole, Acc::Write);
            assert_eq!(&bits(&whole)[..want.len()], want, "{format:?}");
            for isa in Isa::available() {
                for threads in [1, 2, 3] {
                    let cx = Cx::cpu(threads, DType::Bf16).with_isa(isa);
                    for count in [1, 2, 3, 4, 5, 8, 16, 33, 200, 300] {
                        let first = (rows - count) / 3;
                        let part = cx.tensor(&[count, k], &xs[first * k..][..count * k], DType::Bf16);
                        let mut y = cx.empty(&[count, n], DType::F32);
                        forward(&cx, &part, &w, None, &mut y, Acc::Write);
                        let want = &whole.f32()[first * n..][..count * n];
                        assert!(y.f32() == want, "{isa:?} {format:?}: {count} rows, {threads} threads");
                        let offsets = cx.indices(&[3], &[0, count as i32 / 3, count as i32]);
                        forward(&cx, &part, &twice, &offsets, &mut y, Acc::Write);
                        assert!(y.f32() == want, "{isa:?} {format:?}: {count} rows in groups, {threads} threads");
                    }
                }
            }
            // Columns of wider tensors.
            let wide: Vec<f32> = (0..7 * (k + 5))
                .map(|i| if (3..3 + k).contains(&(i % (k + 5))) { xs[i / (k + 5) * k + i % (k + 5) - 3] } else { 9.0 })
                .collect();
            let wide = base.tensor(&[7, k + 5], &wide, DType::F32);
            let mut y = base.zeros(&[7, n + 4], DType::F32);
            forward(&base, wide.columns(3..3 + k), &w, None, y.columns_mut(1..1 + n), Acc::Write);
            for r in 0..7 {
                let (got, want) = (&y.f32()[r * (n + 4)..][..n + 4], &whole.f32()[r * n..][..n]);
                assert_eq!(&got[1..=n], want);
                assert_eq!([got[0], got[n + 1], got[n + 2], got[n + 3]], [0.0; 4]);
            }
        }
    }
}

/// The same for weights so large that they are prefetched.
#[test]
fn large_weights_give_the_same_bits() {
    for format in FORMATS {
        let base = cx(Isa::detect());
        let (n, k, rows) = (1003, 4000, 21);
        let w = weight(&base, format, 1, n, k, 3);
        assert!(w.bytes() > product::CACHED);
        let x = random(&base, &[rows, k], DType::F32, 1.0, 2);
        let want: Vec<f32> = x.f32().chunks(k).take(2).flat_map(|x| reference::forward(x, &w, 0)).collect();
        for isa in Isa::available() {
            let cx = cx(isa);
            let mut whole = cx.empty(&[rows, n], DType::F32);
            forward(&cx, &x, &w, None, &mut whole, Acc::Write);
            assert!(whole.f32()[..want.len()] == want, "{isa:?} {format:?}");
            for count in 1..18 {
                let part = cx.tensor(&[count, k], &x.f32()[..count * k], DType::F32);
                let mut y = cx.empty(&[count, n], DType::F32);
                forward(&cx, &part, &w, None, &mut y, Acc::Write);
                assert!(y.f32() == &whole.f32()[..count * n], "{isa:?} {format:?}: {count} rows");
            }
        }
    }
}

/// The codes are the nearest ones for their scale, on every path the same, and errors are what the module says.
#[test]
fn weights_become_the_nearest_codes() {
    let heavy = |cx: &Cx, n: usize, k: usize| {
        let rng = Rng::new(3, Purpose::Test, 1);
        let values: Vec<f32> = (0..(n * k) as u64)
            .map(|i| {
                let spread: f64 = (1..5).map(|s| rng.normal(i + (s << 40)).powi(2)).sum::<f64>() / 4.0;
                (rng.normal(i) / spread.sqrt()) as f32
            })
            .collect();
        cx.tensor(&[n, k], &values, DType::F32)
    };
    let (n, k) = (61, 1027);
    for (format, limits) in [(QuantFormat::Int8, [0.0056, 0.0078]), (QuantFormat::Int4, [0.0745, 0.088])] {
        let base = cx(Isa::Portable);
        for (master, limit) in [random(&base, &[n, k], DType::F32, 1.0, 1), heavy(&base, n, k)].iter().zip(limits) {
            let mut w = QuantWeight::new(&base, format, 1, n, k);
            w.pack(&base, master);
            assert_eq!(w.bytes(), format.bytes(1, n, k));
            let (mut off, mut size) = (0.0, 0.0);
            let mut row = vec![0.0; k];
            for j in 0..n {
                w.row(j, &mut row);
                for (i, got) in row.iter().enumerate() {
                    let value = master.f32()[j * k + i];
                    let (code, scale) = reference::weight(&w, 0, j, i);
                    assert_eq!(*got, code as f32 * scale);
                    let far = |c: i32| (f64::from(value) - f64::from(c) * f64::from(scale)).abs();
                    let best = match format {
                        QuantFormat::Int8 => (-127..=127).map(far).fold(f64::INFINITY, f64::min),
                        QuantFormat::Int4 => BOOK.iter().map(|c| far(i32::from(*c))).fold(f64::INFINITY, f64::min),
                    };
                    assert!(far(code) <= best + 1e-4 * f64::from(scale.abs()), "{format:?} row {j}, {i}");
                    off += far(code).powi(2);
                    size += f64::from(value).powi(2);
                }
            }
            let error = (off / size).sqrt();
            println!("{format:?}: {error:.5}");
            assert!(error < limit, "{format:?}: {error}");
            for isa in Isa::available() {
                let cx = cx(isa);
                let mut other = QuantWeight::new(&cx, format, 1, n, k);
                // In bands, as f32 and, where the values allow, from any row on.
                other
                    .fill(&cx, DType::F32, &|row, out| {
                        let len = out.len();
                        out.f32_mut().copy_from_slice(&master.f32()[row * k..][..len]);
                        Ok::<(), ()>(())
                    })
                    .unwrap();
                assert!(other.panels(0) == w.panels(0), "{isa:?}");
            }
        }
    }
    assert_eq!((QuantFormat::Int8.bits(), QuantFormat::Int4.bits()), (8.5, 4.5));
}

/// Bands of several groups from bf16, in any order, with an error in one of them.
#[test]
fn a_weight_is_filled_in_bands_and_errors_come_back() {
    let cx = cx(Isa::detect());
    let (groups, n, k) = (3, 150, 2100);
    let master = random(&cx, &[groups * n, k], DType::Bf16, 0.1, 4);
    for format in FORMATS {
        let mut want = QuantWeight::new(&cx, format, groups, n, k);
        want.pack(&cx, &master);
        let mut w = QuantWeight::new(&cx, format, groups, n, k);
        let read = |row: usize, out: &mut Tensor| {
            let len = out.len();
            out.bf16_mut().copy_from_slice(&master.bf16()[row * k..][..len]);
            if row > n && row < 2 * n { Err(row) } else { Ok(()) }
        };
        assert!(w.fill(&cx, DType::Bf16, &read).is_err_and(|row| row > n && row < 2 * n));
        w.fill(&cx, DType::Bf16, &|row, out: &mut Tensor| read(row, out).or(Ok::<(), ()>(()))).unwrap();
        for g in 0..groups {
            assert!(w.panels(g) == want.panels(g), "{format:?} group {g}");
        }
    }
}

/// NaN and infinities of x and of the weight stay in their row and column; tiny and huge values do no harm.
#[test]
fn special_values() {
    for isa in Isa::available() {
        let cx = cx(isa);
        for format in FORMATS {
            let (n, k) = (33, 100);
            let mut master = random(&cx, &[n, k], DType::F32, 0.02, 1);
            master.f32_mut()[17 * k + 70] = f32::INFINITY;
            master.f32_mut()[18 * k..19 * k].fill(1e-35);
            master.f32_mut()[19 * k..20 * k].fill(-0.0);
            let mut w = QuantWeight::new(&cx, format, 1, n, k);
            w.pack(&cx, &master);
            for rows in [3, 11] {
                let mut x = random(&cx, &[rows, k], DType::F32, 1.0, 2);
                x.f32_mut()[k + 40] = f32::NAN;
                x.f32_mut()[2 * k..3 * k].fill(1e37);
                x.f32_mut()[2 * k..2 * k + 50].fill(1e-36);
                let mut y = cx.empty(&[rows, n], DType::F32);
                forward(&cx, &x, &w, None, &mut y, Acc::Write);
                for (r, row) in y.f32().chunks(n).enumerate() {
                    for (j, v) in row.iter().enumerate() {
                        assert_eq!(v.is_nan(), r == 1 || j == 17, "{isa:?} {format:?} row {r}, {j}: {v}");
                        assert!(r == 1 || !(18..20).contains(&j) || *v == 0.0);
                    }
                    if r != 1 {
                        let want = reference::forward(&x.f32()[r * k..][..k], &w, 0);
                        assert!(
                            row.iter().zip(&want).all(|(y, w)| y.to_bits() == w.to_bits() || y.is_nan() && w.is_nan())
                        );
                    }
                }
                x.f32_mut()[k + 40] = f32::NEG_INFINITY;
                forward(&cx, &x, &w, None, &mut y, Acc::Write);
                assert!(y.f32()[n..2 * n].iter().all(|v| v.is_nan()));
            }
        }
    }
}

/// The kernel that multiplies 16-bit numbers, which a processor with AVX-VNNI never chooses, over extreme codes.
#[cfg(target_arch = "x86_64")]
#[test]
fn products_of_pairs_are_those_of_bytes() {
    use super::tile::{Meta, Tile};
    if !Isa::available().contains(&Isa::Avx2) {
        return;
    }
    let cx = cx(Isa::Portable);
    for format in FORMATS {
        let (blocks, rows) = (3, 2);
        let mut w = cx.zeros(&[blocks * format.block_bytes()], DType::U8);
        let mut x = cx.zeros(&[rows * blocks * format::BLOCK], DType::U8);
        let rng = Rng::new(1, Purpose::Test, 0);
        // Bytes of all values; in scales they are finite numbers of either sign.
        w.u8_mut().iter_mut().enumerate().for_each(|(i, v)| *v = (rng.uniform(i as u64) * 256.0) as u8);
        for block in w.u8_mut().chunks_exact_mut(format.block_bytes()) {
            block[..format::LINE].chunks_exact_mut(2).for_each(|scale| scale[1] = 0x3c | scale[1] & 0x80);
        }
        let code = |i: usize| [127, 129, (rng.uniform(i as u64) * 255.0) as u8 ^ 0x80][i / 64 % 3];
        x.u8_mut().iter_mut().enumerate().for_each(|(i, v)| *v = code(i));
        let meta: Vec<Meta> =
            (0..2 * blocks * rows).map(|i| Meta { scale: 0.3 + i as f32, start: 1000 - 77 * i as i32 }).collect();
        let run = |kernel: tile::Kernel| {
            let mut sums = vec![1.0f32; rows * LANES];
            let at = sums.as_mut_ptr();
            let tile = |row: usize| Tile {
                x: x.u8()[row * blocks * format::BLOCK..].as_ptr(),
                x_row: blocks * format::BLOCK,
                meta: meta[row * 2 * blocks..].as_ptr(),
                meta_row: 2 * blocks,
                w: w.u8().as_ptr(),
                w_panel: 0,
                blocks,
                sums: at.wrapping_add(row * LANES),
                sums_row: LANES,
                first: false,
                ahead: 0,
            };
            for row in (0..rows).step_by(kernel.rows) {
                // SAFETY: operands and sums have these extents, and the processor has AVX2.
                unsafe { (kernel.run)(&tile(row), format, kernel.rows, 1) };
            }
            sums
        };
        assert_eq!(run(avx2::PAIRS), run(portable::KERNEL), "{format:?}");
    }
}

#[test]
fn empty_sizes_do_nothing() {
    let cx = cx(Isa::detect());
    for format in FORMATS {
        let w = weight(&cx, format, 2, 5, 40, 1);
        let (x, mut y) = (cx.zeros(&[4, 40], DType::F32), cx.tensor(&[4, 5], &[7.0; 20], DType::F32));
        forward(&cx, &x, &w, &cx.indices(&[3], &[2, 2, 2]), &mut y, Acc::Write);
        assert!(y.f32().iter().all(|v| *v == 7.0));
        // No inputs: sums are zero.
        let none = QuantWeight::new(&cx, format, 1, 5, 0);
        forward(&cx, &cx.zeros(&[4, 0], DType::F32), &none, None, &mut y, Acc::Add);
        assert!(y.f32().iter().all(|v| *v == 7.0));
        forward(&cx, &cx.zeros(&[4, 0], DType::F32), &none, None, &mut y, Acc::Write);
        assert!(y.f32().iter().all(|v| *v == 0.0));
    }
}

#[test]
fn a_product_takes_its_scratch_from_the_pool_and_a_weight_does_not() {
    let cx = cx(Isa::detect());
    let w = weight(&cx, QuantFormat::Int4, 1, 100, 640, 1);
    let (x, mut y) = (cx.zeros(&[20, 640], DType::F32), cx.zeros(&[20, 100], DType::F32));
    let before = cx.pool().usage().0;
    forward(&cx, &x, &w, None, &mut y, Acc::Write);
    let (after, peak) = cx.pool().usage();
    assert!(after == before && peak > before && after < w.bytes() + x.bytes() + y.bytes());
}

#[test]
#[should_panic(expected = "quant forward: [3, 5] by a weight of 4 x 6 into [3, 4]")]
fn a_wrong_shape_is_named() {
    let cx = cx(Isa::detect());
    let w = QuantWeight::new(&cx, QuantFormat::Int8, 1, 4, 6);
    let (x, mut y) = (cx.zeros(&[3, 5], DType::Bf16), cx.zeros(&[3, 4], DType::F32));
    forward(&cx, &x, &w, None, &mut y, Acc::Write);
}
