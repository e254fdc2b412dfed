//! FP8 operations compared with PyTorch's float8 types and the conventions of DeepSeek's inference code
//! (`oracle/make_fp8.py`).

use hadal_ops::fp8::{E4M3, E5M2, MiniFloat, Quantized, Shape, Style, TILE};
use hadal_ops::linear::{self, Operand, PackedWeight};
use hadal_ops::{Acc, Cx, DType, Isa, Tensor};
use safetensors::SafeTensors;

/// The fixture.
struct Oracle(Vec<u8>);

impl Oracle {
    fn read() -> Self {
        Self(std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/fp8.safetensors")).unwrap())
    }
    fn codes(&self, name: &str) -> Vec<u8> {
        SafeTensors::deserialize(&self.0).unwrap().tensor(name).unwrap().data().to_vec()
    }
    fn floats(&self, name: &str) -> Vec<f32> {
        self.codes(name).as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }
}

fn contexts() -> Vec<Cx> {
    Isa::available().into_iter().map(|isa| Cx::cpu(2, DType::Bf16).with_isa(isa)).collect()
}

/// The script's `grid`: numbers below one with 24 bits and a sign, times 2^-6 .. 2^6 depending on the row.
fn grid(cx: &Cx, seed: u64, rows: usize, cols: usize) -> Tensor {
    let value = |i: usize| {
        let h = (i as u64 * 2654435761 + seed * 40503 + 12345) & 0xffff_ffff;
        let h = ((h ^ (h >> 15)) * 73244475) & 0xffff_ffff;
        let h = ((h ^ (h >> 13)) * 73244475) & 0xffff_ffff;
        let power = (i / cols * 5 % 13) as i32 - 6;
        (((h >> 7) as f64 / 16777216.0 - 1.0) * f64::from(power).exp2()) as f32
    };
    cx.tensor(&[rows, cols], &(0..rows * cols).map(value).collect::<Vec<_>>(), DType::F32)
}

/// Equal codes, or both NaN.
fn same(format: MiniFloat, a: u8, b: u8) -> bool {
    a == b || format.decode(u16::from(a)).is_nan() && format.decode(u16::from(b)).is_nan()
}

/// Panics unless a product agrees with the oracle's, given its operands' values. The bound covers a chain of k
/// products, scales that may each be off by one rounding, promotions, and the oracle's own rounding.
fn close(what: &str, got: f32, want: f32, k: usize, magnitude: f32) {
    let bound = (2 * k + 16) as f32 * f32::EPSILON / 2.0 * magnitude;
    assert!((got - want).abs() <= bound, "{what}: {got:e} {want:e} {bound:e}");
}

/// Quantised activations, and the product with a weight of one row of blocks.
#[test]
fn operations_are_pytorchs() {
    let oracle = Oracle::read();
    let (rows, k, n) = (6, 300, 70);
    for cx in contexts() {
        let isa = cx.isa().name();
        let x = cx.tensor(&[rows, k], &oracle.floats("act.x"), DType::F32);
        for (fmt, power_of_two) in [("f32", false), ("ue8m0", true)] {
            let q = Quantized::new(&cx, &x, Style { power_of_two, ..Style::TILES });
            assert_eq!(q.codes().u8(), oracle.codes(&format!("act.{fmt}.codes")), "{fmt} {isa}");
            assert_eq!(q.scales().f32(), oracle.floats(&format!("act.{fmt}.scales")), "{fmt} {isa}");
        }
        // The dequantised weight is quantised to the same codes again, because each block has a code of 448.
        let (codes, scales) = (oracle.codes("product.codes"), oracle.floats("product.scales"));
        let value = |i: usize| E4M3.decode(u16::from(codes[i])) * scales[i % k / TILE];
        let values: Vec<f32> = (0..n * k).map(value).collect();
        let mut weight = PackedWeight::new(&cx, 1, n, k, DType::U8, true);
        weight.pack(&cx, &cx.tensor(&[n, k], &values, DType::F32));
        let mut y = cx.zeros(&[rows, n], DType::F32);
        linear::forward(&cx, &x, &weight, &mut y, Acc::Write);
        let q = Quantized::new(&cx, &x, Style::TILES).dequantize(&cx, DType::F32);
        for (i, (got, want)) in y.f32().iter().zip(oracle.floats("product.out")).enumerate() {
            let (r, j) = (i / n, i % n);
            let magnitude: f32 = (0..k).map(|c| (q.f32()[r * k + c] * values[j * k + c]).abs()).sum();
            close(&format!("{isa} {i}"), *got, want, k, magnitude);
        }
    }
}

/// For E4M3 and E5M2: the value of every code, and the code of every value. Numbers that are too large, and infinity,
/// become the largest E4M3, also in PyTorch. In PyTorch's E5M2 they become infinity. Ours saturates, as GPUs can.
#[test]
fn formats_are_pytorchs() {
    let oracle = Oracle::read();
    for (format, name) in [(E4M3, "official.e4m3"), (E5M2, "e5m2")] {
        for (code, want) in oracle.floats(&format!("{name}.values")).into_iter().enumerate() {
            let value = format.decode(code as u16);
            assert!(value.to_bits() == want.to_bits() || value.is_nan() && want.is_nan(), "{name} {code:#x} {want}");
        }
        let (values, codes) = (oracle.floats(&format!("{name}.in")), oracle.codes(&format!("{name}.bits")));
        let mut saturated = 0;
        for (x, mut want) in values.into_iter().zip(codes) {
            if x.abs() > format.max() {
                saturated += 1;
                if format == E5M2 && want & 0x7f == 0x7c {
                    // From the midpoint between the largest value and the next value that the format would have.
                    assert!(x.abs() >= 61440.0);
                    want -= 1;
                }
            }
            let code = format.encode(x) as u8;
            assert!(same(format, code, want), "{name} {x:e}: {code:#x} {want:#x}");
        }
        assert!(saturated > 3);
    }
}

/// Tiles with tiny and huge numbers, zeros of either sign, and infinities. In a tile with a NaN, only that element
/// becomes NaN.
#[test]
fn tiles_of_special_values_are_pytorchs() {
    let (oracle, rows, cols) = (Oracle::read(), 8, 300);
    let x = oracle.floats("special.x");
    for cx in contexts() {
        for (name, format, power_of_two) in [("f32", E4M3, false), ("ue8m0", E4M3, true), ("e5m2", E5M2, false)] {
            let style = Style { format, power_of_two, ..Style::TILES };
            let q = Quantized::new(&cx, &cx.tensor(&[rows, cols], &x, DType::F32), style);
            let (codes, scales) =
                (oracle.codes(&format!("special.{name}.codes")), oracle.floats(&format!("special.{name}.scales")));
            for (i, x) in x.iter().enumerate() {
                let (tile, what) = (i / cols * 3 + i % cols / TILE, format!("{name} {i} on {}", cx.isa().name()));
                let (code, scale) = (q.codes().u8()[i], q.scales().f32()[tile]);
                if scales[tile].is_nan() {
                    assert!(scale == 1.0 && same(format, code, format.encode(*x) as u8), "{what}");
                } else {
                    assert_eq!(scale.to_bits(), scales[tile].to_bits(), "{what}");
                    assert!(same(format, code, codes[i]), "{what}: {code:#x} {:#x}", codes[i]);
                }
            }
            assert_eq!(scales.iter().filter(|s| s.is_nan()).count(), 1);
        }
    }
}

/// Tiles of 128x1, observed through a weight gradient with 448 times the unit matrix, whose scales are one. They are
/// made from floats, and from tiles of 1x128 with powers of two, which stay powers of two.
#[test]
fn columns_are_pytorchs() {
    let (oracle, rows, cols) = (Oracle::read(), 300, 20);
    for cx in contexts() {
        let mut unit = cx.zeros(&[rows, rows], DType::F32);
        unit.f32_mut().iter_mut().step_by(rows + 1).for_each(|v| *v = 448.0);
        let x = grid(&cx, 1, rows, cols);
        let tiles = Quantized::new(&cx, &x, Style { power_of_two: true, ..Style::TILES });
        for (fmt, x) in [("", Operand::from(&x)), ("ue8m0.", Operand::from(&tiles))] {
            let (codes, scales) =
                (oracle.codes(&format!("columns.{fmt}codes")), oracle.floats(&format!("columns.{fmt}scales")));
            let mut dw = cx.zeros(&[rows, cols], DType::F32);
            linear::backward_weight(&cx, &unit, x, DType::U8, &mut dw, Acc::Write);
            for (i, got) in dw.f32().iter().enumerate() {
                // The first factor is exact.
                let want = 448.0 * E4M3.decode(u16::from(codes[i])) * scales[i / cols / TILE * cols + i % cols];
                assert_eq!(*got, want, "{fmt}{i} on {}", cx.isa().name());
            }
        }
    }
}

#[test]
fn input_gradients_are_pytorchs() {
    let (oracle, rows, n, k) = (Oracle::read(), 5, 260, 140);
    for cx in contexts() {
        let (dy, w) = (grid(&cx, 2, rows, n), grid(&cx, 3, n, k));
        let q = Quantized::new(&cx, &dy, Style::TILES);
        assert_eq!(
            (q.codes().u8(), q.scales().f32()),
            (&*oracle.codes("dgrad.dy_codes"), &*oracle.floats("dgrad.dy_scales"))
        );
        let w_q = Quantized::new(&cx, &w, Style { shape: Shape::Block, ..Style::TILES });
        assert_eq!(w_q.codes().u8(), oracle.codes("dgrad.w_codes"));
        let scales: Vec<f32> = w_q.scales().f32().chunks(2).step_by(TILE).flatten().copied().collect();
        assert_eq!(scales, oracle.floats("dgrad.w_scales"));

        let mut weight = PackedWeight::new(&cx, 1, n, k, DType::U8, true);
        weight.pack(&cx, &w);
        let mut dx = cx.zeros(&[rows, k], DType::F32);
        linear::backward_input(&cx, &dy, &weight, &mut dx, Acc::Write);
        let (dy, w) = (q.dequantize(&cx, DType::F32), w_q.dequantize(&cx, DType::F32));
        for (i, (got, want)) in dx.f32().iter().zip(oracle.floats("dgrad.out")).enumerate() {
            let magnitude = (0..n).map(|j| (dy.f32()[i / k * n + j] * w.f32()[j * k + i % k]).abs()).sum();
            close(&format!("{i} on {}", cx.isa().name()), *got, want, n, magnitude);
        }
    }
}

/// Three groups: one with more rows than are contracted at a time, one with less than a tile, and an empty one.
#[test]
fn weight_gradients_of_groups_are_pytorchs() {
    let (oracle, rows, n, k) = (Oracle::read(), 670, 24, 20);
    let first = [0, 600, 670, 670];
    for cx in contexts() {
        let (dy, x) = (grid(&cx, 4, rows, n), grid(&cx, 5, rows, k));
        let mut dw = cx.tensor(&[3 * n, k], &vec![f32::NAN; 3 * n * k], DType::F32);
        let offsets = cx.indices(&[4], &first);
        linear::grouped_backward_weight(&cx, &dy, &x, &offsets, DType::U8, &mut dw, Acc::Write);
        for (i, (got, want)) in dw.f32().iter().zip(oracle.floats("wgrad.out")).enumerate() {
            let (g, j, c) = (i / (n * k), i / k % n, i % k);
            let rows = first[g] as usize..first[g + 1] as usize;
            // A number on the grid is at most twice as large as before.
            let magnitude = rows.clone().map(|r| 4.0 * (dy.f32()[r * n + j] * x.f32()[r * k + c]).abs()).sum();
            close(&format!("{i} on {}", cx.isa().name()), *got, want, rows.len(), magnitude);
        }
    }
}

/// Activations, weights and product of the inference code. The one difference: it treats a tile's largest magnitude as
/// at least 1e-4, and training does not.
#[test]
fn operations_are_those_of_inference_but_for_tiny_tiles() {
    let (oracle, rows, k, n) = (Oracle::read(), 5, 384, 200);
    let x = oracle.floats("official.act.x");
    let amax = |tile: usize| x[tile * TILE..][..TILE].iter().fold(0f32, |m, v| m.max(v.abs()));
    for cx in contexts() {
        let x_tensor = cx.tensor(&[rows, k], &x, DType::F32);
        for (fmt, power_of_two) in [("", false), ("ue8m0.", true)] {
            let q = Quantized::new(&cx, &x_tensor, Style { power_of_two, ..Style::TILES });
            let (bits, scales) =
                (oracle.codes(&format!("official.act.{fmt}bits")), oracle.floats(&format!("official.act.{fmt}scales")));
            for tile in 0..rows * k / TILE {
                let (scale, part) = (q.scales().f32()[tile], tile * TILE..(tile + 1) * TILE);
                let (codes, tiny) = (&q.codes().u8()[part.clone()], amax(tile) < 1e-4);
                // The first row, and the zeros of the second row.
                assert_eq!(tiny, tile <= 3, "{tile}");
                if tiny {
                    assert!(scales[tile] >= 1e-4 / 448.0 && scale != scales[tile], "{tile} {scale:e}");
                    let theirs = x[part.clone()].iter().map(|x| E4M3.encode(x / scales[tile]) as u8);
                    assert!(theirs.eq(bits[part].iter().copied()), "{tile}");
                } else {
                    assert_eq!((codes, scale), (&bits[part], scales[tile]), "{tile} on {}", cx.isa().name());
                }
            }
        }

        let w = cx.tensor(&[300, 64], &oracle.floats("official.block.w"), DType::F32);
        let q = Quantized::new(&cx, &w, Style { shape: Shape::Block, ..Style::TILES });
        assert_eq!(q.codes().u8(), oracle.codes("official.block.bits"));
        let scales: Vec<f32> = q.scales().f32().iter().step_by(TILE).copied().collect();
        assert_eq!(scales, oracle.floats("official.block.scales"));
        assert_eq!(q.dequantize(&cx, DType::F32).f32()[200 * 64..], oracle.floats("official.block.values"));

        // Every block of the weight has a code of 448, so its values are quantised to the same codes again.
        let (codes, scales) = (oracle.codes("official.gemm.w_bits"), oracle.floats("official.gemm.w_scales"));
        let value = |i: usize| E4M3.decode(u16::from(codes[i])) * scales[i / k / TILE * 3 + i % k / TILE];
        let w: Vec<f32> = (0..n * k).map(value).collect();
        let mut weight = PackedWeight::new(&cx, 1, n, k, DType::U8, false);
        weight.pack(&cx, &cx.tensor(&[n, k], &w, DType::F32));
        let mut y = cx.zeros(&[rows, n], DType::F32);
        linear::forward(&cx, &x_tensor, &weight, &mut y, Acc::Write);
        let xq = Quantized::new(&cx, &x_tensor, Style::TILES).dequantize(&cx, DType::F32);
        for (i, (got, want)) in y.f32().iter().zip(oracle.floats("official.gemm.out")).enumerate().skip(n) {
            let magnitude: f32 = (0..k).map(|c| (xq.f32()[i / n * k + c] * w[i % n * k + c]).abs()).sum();
            // Both are sums in f32.
            close(&format!("{i} on {}", cx.isa().name()), *got, want, 2 * k, magnitude);
        }
    }
}
