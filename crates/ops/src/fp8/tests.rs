use super::*;

const ALL: [MiniFloat; 3] = [E4M3, E5M2, E5M6];

/// The definition of a float, written without the code under test: (positive finite values in order).
fn values(f: MiniFloat) -> Vec<f64> {
    (0..=f.max_code)
        .map(|c| {
            let (field, m) = (i32::from(c) >> f.mantissa_bits, i32::from(c) & ((1 << f.mantissa_bits) - 1));
            let hidden = if field == 0 { 0 } else { 1 << f.mantissa_bits };
            f64::from(hidden + m) * 2f64.powi(field.max(1) - f.bias - f.mantissa_bits as i32)
        })
        .collect()
}

/// The nearest value's code by search; of two equally near the even one.
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
        // Every bf16, every midpoint of two values and its neighbours, and what lies beyond the largest.
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
