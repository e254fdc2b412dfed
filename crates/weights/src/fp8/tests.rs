//! Codes, scales and values, compared with PyTorch's and with the definition.

use super::*;
use proptest::prelude::*;
use safetensors::tensor::{Dtype as TheirDtype, SafeTensors, TensorView};

/// The formats, with their names in PyTorch's results.
const FORMATS: [(&str, ScaleFormat); 2] = [("f32", ScaleFormat::F32), ("ue8m0", ScaleFormat::Ue8m0)];

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// Codes and scales of a whole matrix.
fn quantised(w: &[f32], shape: [usize; 2], format: ScaleFormat) -> (Vec<u8>, Vec<f32>) {
    let [down, across] = scale_shape(&shape).unwrap();
    let (mut codes, mut scales) = (vec![0; w.len()], vec![0.0; down * across]);
    quantise(w, shape[1], format, &mut codes, &mut scales).unwrap();
    (codes, scales)
}

fn dequantised(codes: &[u8], cols: usize, scales: &[f32]) -> Vec<f32> {
    let mut out = vec![0.0; codes.len()];
    dequantise(codes, 0, cols, scales, &mut out, |v| v).unwrap();
    out
}

#[test]
fn codes_scales_and_values_are_pytorch_s() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../model/tests/fixtures/fp8.safetensors");
    let file = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&file).unwrap();
    let tensor = |name: String| file.tensor(&name).unwrap();
    let all = floats(tensor("all.values".into()).data());
    assert!(all.iter().zip(&*VALUES).all(|(a, b)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())));
    for name in ["tall", "wide"] {
        let w = tensor(format!("{name}.weight"));
        let (shape, w) = ([w.shape()[0], w.shape()[1]], floats(w.data()));
        for (fmt, format) in FORMATS {
            let expect = |what: &str| tensor(format!("{name}.{fmt}.{what}"));
            let (codes, scales) = quantised(&w, shape, format);
            assert_eq!(expect("scales").shape(), scale_shape(&shape).unwrap());
            assert_eq!(bits(&scales), bits(&floats(expect("scales").data())), "{name} {fmt}");
            assert_eq!(codes, expect("codes").data(), "{name} {fmt}");
            let values = dequantised(&codes, shape[1], &scales);
            assert_eq!(bits(&values), bits(&floats(expect("values").data())), "{name} {fmt}");
        }
    }
}

#[test]
fn encoding_is_that_of_the_format() {
    let same = |x: f32| {
        let mut code = [0];
        encode(&[x], &[1.0], &mut code);
        assert_eq!(u16::from(code[0]), E4M3.encode(x), "{x:e} {:x}", x.to_bits());
    };
    for code in 0..=255u8 {
        let v = VALUES[usize::from(code)];
        // Values, midpoints of neighbours, and the numbers next to both.
        let next = VALUES[usize::from((code & 0x80) | ((code & 0x7f).min(0x7d) + 1))];
        for x in [v, f32::midpoint(v, next), 448.0, 464.0, f32::INFINITY, f32::MAX, f32::MIN_POSITIVE, 1e-45] {
            [x, x.next_up(), x.next_down(), -x].into_iter().for_each(same);
        }
    }
    (0..=u32::MAX / 4093).map(|i| f32::from_bits(i * 4093)).for_each(same);
}

/// Three types of scales, and the values of four codes with each.
#[test]
fn scales_are_read_from_f32_bf16_and_bytes() {
    let codes = [0x38, 0x40, 0x7e, 0xc0]; // 1, 2, 448, -2
    let config = crate::ModelConfig {
        quantization_config: Some(serde_json::json!({"quant_method": "fp8"})),
        ..crate::ModelConfig::named("small").unwrap()
    };
    let open = |dtype: TheirDtype, scale: &[u8]| {
        let dir = tempfile::tempdir().unwrap();
        let shape = vec![1, 1];
        let views = [
            ("w.weight", TensorView::new(TheirDtype::F8_E4M3, vec![2, 2], &codes).unwrap()),
            ("w.weight_scale_inv", TensorView::new(dtype, shape, scale).unwrap()),
        ];
        std::fs::write(dir.path().join("config.json"), config.to_json()).unwrap();
        std::fs::write(dir.path().join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
        (crate::Checkpoint::open(dir.path()).unwrap(), dir)
    };
    let needed = [("w.weight".to_owned(), vec![2, 2])];
    for (dtype, bytes, scale) in [
        (TheirDtype::F32, &[0x00, 0x00, 0xc1, 0x3f][..], 1.507_812_5),
        (TheirDtype::BF16, &[0xc1, 0x3f], 1.507_812_5),
        (TheirDtype::BF16, &[0x80, 0x00], f32::MIN_POSITIVE),
        (TheirDtype::F8_E8M0, &[129], 4.0),
    ] {
        let (checkpoint, _dir) = open(dtype, bytes);
        let audit = checkpoint.check(&needed).unwrap();
        assert!(audit.is_clean(), "{audit}");
        let mut read = [0f32; 4];
        checkpoint.read_f32("w.weight", &mut read).unwrap();
        assert_eq!(bits(&read), bits(&[scale, 2.0 * scale, 448.0 * scale, -2.0 * scale]), "{dtype:?}");
        assert_eq!(bits(&checkpoint.scales("w.weight").unwrap()), bits(&[scale]));
    }
    for (bytes, part) in
        [([0xc0, 0x7f], "is NaN"), ([0x80, 0x7f], "is inf"), ([0, 0], "is 0.0"), ([0xc1, 0xbf], "is -1.5")]
    {
        let (checkpoint, _dir) = open(TheirDtype::BF16, &bytes);
        let error = checkpoint.scales("w.weight").unwrap_err().to_string();
        assert!(error.contains("`w.weight_scale_inv`") && error.contains(part), "{error}");
    }
    let (half, _dir) = open(TheirDtype::F16, &[0, 0x3c]);
    assert!(
        half.scales("w.weight").unwrap_err().to_string().contains("is stored as F16; scales are read from F32, BF16")
    );
    assert!(
        half.check(&needed).unwrap().to_string().contains("w.weight_scale_inv is F16 (scales are read from F32, BF16")
    );
}

#[test]
fn scales_of_extreme_blocks() {
    for (amax, f32_scale, power) in [
        (0.0, 1.0, 1.0),
        (448.0, 1.0, 1.0),
        (449.0, 449.0 / 448.0, 2.0),
        (448f32.next_up(), 1f32.next_up(), 2.0),
        (447.0, 447.0 / 448.0, 1.0),
        (224.0, 0.5, 0.5),
        (f32::MAX, MAX_SCALE, 2f32.powi(120)),
        (1e-45, f32::MIN_POSITIVE, f32::MIN_POSITIVE),
    ] {
        assert_eq!(
            (scale_of(amax, ScaleFormat::F32), scale_of(amax, ScaleFormat::Ue8m0)),
            (f32_scale, power),
            "{amax:e}"
        );
    }
    for (scale, part) in [
        (f32::NAN, "positive finite"),
        (f32::INFINITY, "positive finite"),
        (0.0, "positive finite"),
        (-1.0, "positive finite"),
        (3e38, "infinite"),
        (MAX_SCALE.next_up(), "infinite"),
    ] {
        assert!(wrong_scale(scale).unwrap().contains(part), "{scale}");
    }
    // The next BF16 above, so that no code exceeds 448.
    for (amax, scale) in [
        (0.0, 1.0),
        (448.0, 1.0),
        (449.0, 1.007_812_5),
        (451.5, 1.007_812_5),
        (452.0, 1.015_625),
        (1e-45, f32::MIN_POSITIVE),
    ] {
        assert_eq!(scale_of(amax, ScaleFormat::Bf16), scale, "{amax:e}");
    }
    assert!(ScaleFormat::Bf16.holds(&[1.0, 1.007_812_5]) && !ScaleFormat::Bf16.holds(&[1.0, 1.001]));
    assert!([3.0, 0.25, 1e-45, MAX_SCALE].iter().all(|s| wrong_scale(*s).is_none()));
    assert!((MAX_SCALE * 448.0).is_finite() && powers_of_two(&[0.25, 2.0]) && !powers_of_two(&[0.25, 3.0]));
}

/// Values are rejected and not written if their scale would make a code infinite.
#[test]
fn values_too_large_for_a_scale_are_found() {
    for (value, format, fits) in [
        (f32::MAX, ScaleFormat::F32, true),
        (f32::MAX, ScaleFormat::Ue8m0, false),
        (2.9e38, ScaleFormat::Ue8m0, true),
        (f32::INFINITY, ScaleFormat::F32, false),
    ] {
        let (mut codes, mut scales) = ([0; 4], [0.0]);
        let done = quantise(&[0.0, 1.0, -value, 2.0], 2, format, &mut codes, &mut scales);
        assert_eq!(done, if fits { Ok(()) } else { Err(2) }, "{value:e}");
        assert!(!fits || dequantised(&codes, 2, &scales).iter().all(|v| v.is_finite()), "{value:e}");
    }
}

/// A matrix whose rows and columns have very different sizes. Some of them are zero.
fn matrix() -> impl Strategy<Value = ([usize; 2], Vec<f32>)> {
    let side = || prop_oneof![1usize..6, 126usize..131, 250usize..260];
    (side(), side(), any::<u32>(), -60i32..60).prop_map(|(rows, cols, seed, exponent)| {
        let at = |i: usize| {
            let mix = (i as u32).wrapping_mul(0x9e37_79b9).wrapping_add(seed).wrapping_mul(0x85eb_ca6b);
            let size = 2f32.powi(exponent - (mix >> 28) as i32);
            if mix.is_multiple_of(17) { 0.0 } else { (mix as f32 / 2f32.powi(31) - 1.0) * size }
        };
        ([rows, cols], (0..rows * cols).map(at).collect())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Compared with the definition, element by element. Starting at any element gives the same.
    #[test]
    fn blocks_are_where_they_should_be((shape, w) in matrix(), at in any::<prop::sample::Index>(), format in 0usize..3) {
        let format = [ScaleFormat::F32, ScaleFormat::Ue8m0, ScaleFormat::Bf16][format];
        let (codes, scales) = quantised(&w, shape, format);
        prop_assert!(format.holds(&scales) && codes.iter().all(|c| c & NAN != NAN));
        let [_, across] = scale_shape(&shape).unwrap();
        let values = dequantised(&codes, shape[1], &scales);
        for (i, v) in w.iter().enumerate() {
            let scale = scales[i / shape[1] / TILE * across + i % shape[1] / TILE];
            prop_assert_eq!(u16::from(codes[i]), E4M3.encode(v / scale));
            prop_assert_eq!(values[i].to_bits(), (E4M3.decode(u16::from(codes[i])) * scale).to_bits());
        }
        let from = at.index(w.len());
        let mut rest = vec![0.0; w.len() - from];
        dequantise(&codes[from..], from, shape[1], &scales, &mut rest, |v| v).unwrap();
        prop_assert_eq!(bits(&rest), bits(&values[from..]));
    }

    /// With f32 scales, quantising a quantised matrix changes no bit. With powers of two, it changes no value, and from
    /// the second time on codes and scales do not change either. Through BF16 the codes stay the same, and f32 scales
    /// change at most by the rounding of BF16.
    #[test]
    fn quantising_again_changes_nothing((shape, w) in matrix()) {
        let (codes, scales) = quantised(&w, shape, ScaleFormat::F32);
        let values = dequantised(&codes, shape[1], &scales);
        let again = quantised(&values, shape, ScaleFormat::F32);
        prop_assert_eq!(&again.0, &codes);
        prop_assert_eq!(bits(&again.1), bits(&scales));

        let half: Vec<f32> = values.iter().map(|v| half::bf16::from_f32(*v).to_f32()).collect();
        let through = quantised(&half, shape, ScaleFormat::F32);
        prop_assert_eq!(&through.0, &codes);
        for (a, b) in through.1.iter().zip(&scales) {
            prop_assert!((a - b).abs() <= b * (1.0 / 256.0), "{a} {b}");
        }

        let (codes, scales) = quantised(&w, shape, ScaleFormat::Ue8m0);
        let values = dequantised(&codes, shape[1], &scales);
        // They are also exact in BF16.
        prop_assert!(values.iter().all(|v| half::bf16::from_f32(*v).to_f32() == *v));
        let second = quantised(&values, shape, ScaleFormat::Ue8m0);
        let same = dequantised(&second.0, shape[1], &second.1);
        prop_assert_eq!(bits(&same), bits(&values));
        let third = quantised(&same, shape, ScaleFormat::Ue8m0);
        prop_assert_eq!(third, second);
    }
}
