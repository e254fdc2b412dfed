//! The formats compared with well-known numbers, and all paths on many floats in rows that fill vectors.

use super::columns::Columns;
use super::grid::Plain;
use super::tests::{ALL, code_of};
use super::*;
use crate::kernel::dispatch;
use crate::testing::contexts;
use crate::{Cx, DType, Tensor};

#[test]
fn codes_have_their_known_values() {
    let known: [(MiniFloat, &[(u16, f64)]); 3] = [
        (E4M3, &[(0x7e, 448.0), (0x7d, 416.0), (0x38, 1.0), (0x39, 1.125), (0x08, 0.015625), (0x07, 0.013671875)]),
        (E5M2, &[(0x7b, 57344.0), (0x7a, 49152.0), (0x3c, 1.0), (0x3d, 1.25), (0x04, 6.103515625e-05)]),
        (E5M6, &[(0x7fe, 129024.0), (0x7bf, 65024.0), (0x3c0, 1.0), (0x3c1, 1.015625), (0x040, 6.103515625e-05)]),
    ];
    let smallest = [(E4M3, -9), (E5M2, -16), (E5M6, -20)].map(|(f, power)| (f, 1, 2f64.powi(power)));
    let all = known.into_iter().flat_map(|(f, list)| list.iter().map(move |(c, v)| (f, *c, *v)));
    for (f, code, value) in all.chain(smallest) {
        let sign = 1 << (f.bits() - 1);
        assert_eq!(f64::from(f.decode(code)), value, "{f:?} {code:#x}");
        assert_eq!(f64::from(f.decode(code | sign)), -value, "{f:?} {code:#x}");
        assert_eq!((f.encode(value as f32), f.encode(-value as f32)), (code, code | sign), "{f:?} {value}");
    }
    let nans: [(MiniFloat, &[u16]); 3] =
        [(E4M3, &[0x7f, 0xff]), (E5M2, &[0x7d, 0x7e, 0x7f, 0xfd, 0xfe, 0xff]), (E5M6, &[0x7ff, 0xfff])];
    for (f, codes) in nans {
        let found: Vec<u16> = (0..1u16 << f.bits()).filter(|c| f.decode(*c).is_nan()).collect();
        assert_eq!(found, codes, "{f:?}");
        let infinite: Vec<u16> = (0..1u16 << f.bits()).filter(|c| f.decode(*c).is_infinite()).collect();
        assert_eq!(infinite, if f == E5M2 { vec![0x7c, 0xfc] } else { vec![] }, "{f:?}");
    }
    assert_eq!((E5M2.decode(0x7c), E5M2.decode(0xfc)), (f32::INFINITY, f32::NEG_INFINITY));
}

/// Floats of either sign up to `max`, evenly spaced over their bits, and around every midpoint between two codes. They
/// are in rows of whole tiles (or columns, if `turned`). Each contains `max`, so its scale is one.
fn sweep(cx: &Cx, f: MiniFloat, turned: bool) -> Tensor {
    let max = f.max();
    let even = (0..=max.to_bits() / 1063).map(|i| f32::from_bits(i * 1063));
    let middles = (0..f.max_code).flat_map(|c| {
        let m = f64::midpoint(f64::from(f.decode(c)), f64::from(f.decode(c + 1))) as f32;
        [m.next_down(), m, m.next_up()]
    });
    let mut values = vec![];
    for (i, v) in even.chain(middles).enumerate() {
        if i % (TILE - 1) == 0 {
            values.push(max);
        }
        values.push(if i % 3 == 0 { -v } else { v });
    }
    let cols = 10 * TILE;
    values.resize(values.len().next_multiple_of(TILE * cols), max);
    let rows = values.len() / cols;
    if !turned {
        return cx.tensor(&[rows, cols], &values, DType::F32);
    }
    let turned: Vec<f32> = (0..values.len()).map(|i| values[i % cols * rows + i / cols]).collect();
    cx.tensor(&[rows, cols], &turned, DType::F32)
}

#[test]
fn many_floats_in_whole_vectors_are_the_definition() {
    for cx in contexts() {
        for f in ALL {
            let x = sweep(&cx, f, false);
            let q = Quantized::new(&cx, &x, Style { format: f, ..Style::TILES });
            let back = q.dequantize(&cx, DType::F32);
            assert!(q.scales().f32().iter().all(|s| *s == 1.0));
            for (i, v) in x.f32().iter().enumerate() {
                let (code, want) = (code_of(&q, i / x.cols(), i % x.cols()), f.encode(*v));
                assert_eq!(code, want, "{f:?} {v:e} on {}", cx.isa().name());
                assert_eq!(back.f32()[i].to_bits(), f.decode(want).to_bits(), "{f:?} {v:e} on {}", cx.isa().name());
            }
        }
        let x = sweep(&cx, E4M3, true);
        let columns = Columns::of_floats(&cx, &x.mat(), 1, &|_| (0, x.rows()));
        for (v, got) in x.f32().iter().zip(columns.grid.bf16()) {
            assert_eq!(got.to_f32().to_bits(), E4M3.decode(E4M3.encode(*v)).to_bits(), "{v:e} on {}", cx.isa().name());
        }
    }
}

/// The path of processors with AVX-512 but without VBMI is tested as well.
#[test]
fn all_codes_become_bf16_without_tables() {
    let codes: Vec<u8> = (0..=255).cycle().take(256 + 33).collect();
    for cx in contexts() {
        let mut to = vec![0u16; codes.len()];
        dispatch(cx.isa(), Plain { from: &codes, to: &mut to });
        for (code, to) in codes.iter().zip(&to) {
            let (value, want) = (half::bf16::from_bits(*to).to_f32(), E4M3.decode(u16::from(*code)));
            assert!(value.to_bits() == want.to_bits() || value.is_nan() && want.is_nan(), "{code:#x}");
        }
    }
}

/// Not every format with four bits of exponent and three of mantissa is E4M3.
#[test]
#[should_panic(expected = "fp8: no codes of MiniFloat { exponent_bits: 4, mantissa_bits: 3, bias: 8")]
fn other_formats_are_not_taken_for_one_of_the_three() {
    let cx = &contexts()[0];
    let style = Style { format: MiniFloat { bias: 8, ..E4M3 }, ..Style::TILES };
    let _ = Quantized::new(cx, &cx.zeros(&[1, 2], DType::F32), style);
}
