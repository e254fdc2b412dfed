use super::*;

pub(super) const ALL: [MiniFloat; 3] = [E4M3, E5M2, E5M6];

/// The positive finite values of a format in order, computed without the code under test.
fn values(f: MiniFloat) -> Vec<f64> {
    (0..=f.max_code)
        .map(|c| {
            let (field, m) = (i32::from(c) >> f.mantissa_bits, i32::from(c) & ((1 << f.mantissa_bits) - 1));
            let hidden = if field == 0 { 0 } else { 1 << f.mantissa_bits };
            f64::from(hidden + m) * 2f64.powi(field.max(1) - f.bias - f.mantissa_bits as i32)
        })
        .collect()
}

/// The code of the nearest value, found by search. Of two equally near values, the even one.
fn nearest(values: &[f64], x: f64) -> u16 {
    let i = values.partition_point(|v| *v < x);
    if i == 0 || i == values.len() {
        return i.saturating_sub(usize::from(i > 0)) as u16;
    }
    let (below, above) = (x - values[i - 1], values[i] - x);
    let up = above < below || (above == below && i % 2 == 0);
    (i - usize::from(!up)) as u16
}

#[test]
fn every_code_is_its_value_and_every_value_its_code() {
    for f in ALL {
        let sign = 1 << (f.bits() - 1);
        for (code, value) in values(f).iter().enumerate() {
            let code = code as u16;
            assert_eq!(f64::from(f.decode(code)), *value);
            assert_eq!(f64::from(f.decode(code | sign)), -*value);
            assert_eq!((f.encode(*value as f32), f.encode(-*value as f32)), (code, code | sign), "{f:?} {value}");
            // Exact in bf16, which is what products read.
            assert_eq!(half::bf16::from_f64(*value).to_f64(), *value);
        }
        assert!(f.decode(f.nan_code).is_nan() && f.encode(f32::NAN) & (sign - 1) == f.nan_code);
    }
    assert_eq!([E4M3.max(), E5M2.max(), E5M6.max()], [448.0, 57344.0, 129_024.0]);
    assert_eq!(E5M2.decode(0x7c), f32::INFINITY);
}

#[test]
fn encoding_is_to_nearest_even_and_saturates() {
    for f in ALL {
        let table = values(f);
        let max = f64::from(f.max());
        // Every bf16, every midpoint of two values and its neighbours, and numbers beyond the largest value.
        let bf16 = (0..0x7f80u16).map(|b| half::bf16::from_bits(b).to_f32());
        let middles = table.windows(2).flat_map(|w| {
            let m = f64::midpoint(w[0], w[1]) as f32;
            [m.next_down(), m, m.next_up()]
        });
        let sweep = (0..2_000_000u32).map(|i| f32::from_bits(i * 1063));
        for x in bf16.chain(middles).chain(sweep).filter(|x| x.is_finite()).chain([f32::INFINITY, f32::MAX]) {
            let want = nearest(&table, f64::from(x).min(max));
            assert_eq!(f.encode(x), want, "{f:?} {x:e}");
            assert_eq!(f.encode(-x), want | 1 << (f.bits() - 1));
        }
    }
}

#[test]
fn powers_of_two_have_codes() {
    for code in 0..=254u8 {
        let scale = scale_from_ue8m0(code);
        assert_eq!(f64::from(scale), 2f64.powi(i32::from(code) - 127));
        assert_eq!(ue8m0_from_scale(scale), Some(code));
    }
    assert!(scale_from_ue8m0(255).is_nan());
    for bad in [0.0, -1.0, 3.0, f32::NAN, f32::INFINITY, 1e-40] {
        assert_eq!(ue8m0_from_scale(bad), None, "{bad}");
    }
}

use super::codec::{Codec, FiveSix, FiveTwo, FourThree, to_grid};
use crate::testing::{FLOATS, bits, contexts, random};
use crate::{Cx, DType, Tensor, moe};
use proptest::prelude::*;

/// Values that reach every branch: all of bf16, midpoints of each format, values that saturate, NaN.
fn probes() -> Vec<f32> {
    let bf16 = (0..=u16::MAX).map(|b| half::bf16::from_bits(b).to_f32());
    let middles = ALL.into_iter().flat_map(|f| {
        let table = values(f);
        let middles: Vec<f32> = table.windows(2).map(|w| f64::midpoint(w[0], w[1]) as f32).collect();
        middles.into_iter().flat_map(|m| [m.next_down(), m, m.next_up(), -m])
    });
    bf16.chain(middles).collect()
}

#[test]
fn branch_free_bodies_are_the_definition() {
    fn check<F: Codec>() {
        for x in probes() {
            let (code, want) = (F::code(x), u32::from(F::FORMAT.encode(x)));
            assert_eq!(code, want, "{:?} {x:e}", F::FORMAT);
            let (value, want) = (F::value(code), F::FORMAT.decode(code as u16));
            assert!(value.to_bits() == want.to_bits() || value.is_nan() && want.is_nan(), "{value:e} {want:e}");
        }
    }
    check::<FourThree>();
    check::<FiveTwo>();
    check::<FiveSix>();
    for x in probes() {
        let (grid, want) = (to_grid(x), E4M3.decode(E4M3.encode(x)));
        assert!(grid.to_bits() == want.to_bits() || grid.is_nan() && want.is_nan(), "{x:e}: {grid:e} {want:e}");
    }
}

#[test]
fn all_codes_become_bf16_on_every_path() {
    for cx in contexts() {
        for n in [1, 3, 31, 32, 33, 64, 65, 100, 256] {
            let codes: Vec<u8> = (0..n).map(|i| (i * 37) as u8).collect();
            let mut to = vec![0u16; n + 1];
            // SAFETY: both have n elements.
            unsafe { grid::to_bf16(cx.isa(), codes.as_ptr(), n, to.as_mut_ptr()) };
            for (code, to) in codes.iter().zip(&to) {
                let (value, want) = (half::bf16::from_bits(*to).to_f32(), E4M3.decode(u16::from(*code)));
                assert!(value.to_bits() == want.to_bits() || value.is_nan() && want.is_nan(), "{code:#x}");
            }
            assert_eq!(to[n], 0, "nothing is written beyond");
        }
    }
}

/// Codes and scales as defined, value by value.
pub(super) fn reference(x: &Tensor, style: Style) -> (Vec<u16>, Vec<f32>) {
    let (rows, cols, values) = (x.rows(), x.cols(), x.to_vec_f32());
    let tiles = cols.div_ceil(TILE);
    let (mut codes, mut scales) = (vec![0; rows * cols], vec![0.0; rows * tiles]);
    let high = if style.shape == Shape::Block { TILE } else { 1 };
    for r in 0..rows {
        for t in 0..tiles {
            let columns = t * TILE..((t + 1) * TILE).min(cols);
            let group = r / high * high..((r / high + 1) * high).min(rows);
            let all = group.flat_map(|r| columns.clone().map(move |c| (r, c)));
            let amax = all.fold(0f32, |m, (r, c)| m.max(values[r * cols + c].abs()));
            let mut scale = amax / style.format.max();
            scale = if amax == 0.0 { 1.0 } else { scale.max(f32::MIN_POSITIVE) };
            if style.power_of_two {
                scale = f64::from(scale).log2().ceil().exp2() as f32;
            }
            scales[r * tiles + t] = scale;
            for c in columns {
                codes[r * cols + c] = style.format.encode(values[r * cols + c] / scale);
            }
        }
    }
    (codes, scales)
}

/// Reads a code from the planes of a row.
pub(super) fn code_of(q: &Quantized, r: usize, c: usize) -> u16 {
    let row = &q.codes().u8()[r * q.codes().cols()..][..q.codes().cols()];
    let high = u16::from(row[c]);
    if q.format().bits() == 8 {
        return high;
    }
    let low = row[q.cols() + c / TILE * 64 + c % 64];
    high << 4 | u16::from(if c % TILE < 64 { low & 15 } else { low >> 4 })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn quantising_is_the_definition_and_back_is_exact(
        rows in 1usize..300, cols in 1usize..300, which in 0usize..3, power_of_two: bool, block: bool, float in 0usize..2,
        size in -30i32..30, seed: u64
    ) {
        let shape = if block { Shape::Block } else { Shape::Tile };
        let style = Style { format: ALL[which], power_of_two, shape };
        for cx in contexts() {
            let mut x = random(&cx, &[rows, cols], FLOATS[float], f64::from(size).exp2(), seed);
            if rows > 2 && float == 0 {
                x.f32_mut()[cols..2 * cols].fill(0.0);
            }
            let q = Quantized::new(&cx, &x, style);
            let (codes, scales) = reference(&x, style);
            prop_assert_eq!(q.scales().f32(), &scales[..]);
            let tiles = cols.div_ceil(TILE);
            let back = q.dequantize(&cx, DType::F32);
            for r in 0..rows {
                for c in 0..cols {
                    let code = code_of(&q, r, c);
                    prop_assert_eq!(code, codes[r * cols + c], "{} {}", r, c);
                    let value = style.format.decode(code) * scales[r * tiles + c / TILE];
                    prop_assert_eq!(back.f32()[r * cols + c].to_bits(), value.to_bits());
                }
            }
        }
    }
}

#[test]
fn bits_do_not_depend_on_threads_and_rows_go_where_a_plan_says() {
    for style in [Style::TILES, Style { shape: Shape::Block, ..Style::TILES }, Style { format: E5M6, ..Style::TILES }] {
        let run = |threads| {
            let cx = Cx::cpu(threads, DType::Bf16);
            let x = random(&cx, &[700, 200], DType::Bf16, 1.0, 3);
            bits(&Quantized::new(&cx, &x, style).dequantize(&cx, DType::F32))
        };
        assert!(run(1) == run(2) && run(1) == run(3));
    }
    let cx = Cx::cpu(2, DType::Bf16);
    let x = random(&cx, &[9, 150], DType::Bf16, 1.0, 4);
    let plan = moe::plan(&cx, &cx.indices(&[9, 2], &[0, 1, 2, 0, 1, 2, 0, 1, 0, 2, 2, 1, 1, 0, 0, 2, 1, 2]), 3);
    let style = Style { power_of_two: true, ..Style::TILES };
    let sent = Quantized::new(&cx, &x, style).permute(&cx, &plan).dequantize(&cx, DType::F32);
    let mut want = cx.empty(&[18, 150], DType::F32);
    moe::permute(&cx, &Quantized::new(&cx, &x, style).dequantize(&cx, DType::F32), &plan, &mut want);
    assert_eq!(bits(&sent), bits(&want));
}
