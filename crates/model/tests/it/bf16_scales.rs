//! FP8 weights whose scales are stored as BF16.

use crate::checkpoints::{FP8, Folder, UE8M0, changed, values};
use hadal_model::Model;
use hadal_ops::{Cx, DType};
use hadal_weights::{Conversion, Converted, ScaleFormat, WeightFormat};
use safetensors::tensor::Dtype as Stored;

const STORED: Conversion = Conversion { format: None, scales: None };

fn scales(format: ScaleFormat) -> Conversion {
    Conversion { format: None, scales: Some(format) }
}

/// One checkpoint twice, with scales that BF16 can hold: stored as BF16 (`half`), and as f32 (`wide`).
fn folder() -> Folder {
    let folder = Folder::new();
    folder.convert("f32", "fp8", FP8);
    for (name, dtype) in [("half", Stored::BF16), ("wide", Stored::F32)] {
        changed(&folder, "fp8", name, &|tensors, _| {
            for (_, raw) in tensors.iter_mut().filter(|(name, _)| name.ends_with("_scale_inv")) {
                let cut = |b: &[u8]| if dtype == Stored::BF16 { vec![b[2], b[3]] } else { vec![0, 0, b[2], b[3]] };
                *raw = (dtype, raw.1.clone(), raw.2.chunks(4).flat_map(cut).collect());
            }
        });
    }
    folder
}

#[test]
fn they_are_read_as_the_same_scales_in_f32() {
    let folder = folder();
    let (half, wide) = (folder.open("half"), folder.open("wide"));
    assert_eq!((half.format(), wide.format()), (WeightFormat::Fp8(ScaleFormat::Bf16), FP8));
    assert!(half.names().eq(wide.names()) && half.names().all(|name| values(&half, name) == values(&wide, name)));
    let cx = Cx::cpu(1, DType::F32);
    let read = |checkpoint| {
        let mut all = Vec::new();
        Model::load(&cx, checkpoint).unwrap().visit(&mut |p| {
            let mut values = vec![0.0; p.spec.len()];
            p.read(0, &mut values);
            all.extend(values.into_iter().map(f32::to_bits));
        });
        all
    };
    assert!(read(&half) == read(&wide));
}

#[test]
fn conversions_keep_them_widen_them_and_make_them() {
    let folder = folder();
    let config = folder.open("half").config().clone();
    for (to, conversion) in [("same", STORED), ("fp8 again", Conversion { format: Some(FP8), scales: None })] {
        let done = folder.converted("half", to, conversion);
        assert_eq!(done, Converted { tensors: done.tensors, copied: done.tensors, narrowed: 0, requantised: 0 });
        assert!(folder.tensors(to) == folder.tensors("half"), "{to}");
        assert_eq!(folder.open(to).config(), &config, "{to}");
    }
    let done = folder.converted("half", "widened", scales(ScaleFormat::F32));
    assert_eq!((done.copied, done.requantised), (done.tensors, 0));
    assert!(folder.tensors("widened") == folder.tensors("wide"));
    for (name, to) in [("to f32", WeightFormat::F32), ("to bf16", WeightFormat::Bf16), ("to powers", UE8M0)] {
        folder.convert("half", name, to);
        folder.convert("wide", &format!("wide {name}"), to);
        assert!(folder.tensors(name) == folder.tensors(&format!("wide {name}")), "{name}");
    }
    // F32 scales that BF16 can hold are copied. Tensors with other scales are quantised again.
    let done = folder.converted("wide", "narrowed", scales(ScaleFormat::Bf16));
    assert_eq!((done.copied, done.requantised), (done.tensors, 0));
    assert!(folder.tensors("narrowed") == folder.tensors("half"));
    let done = folder.converted("fp8", "made", scales(ScaleFormat::Bf16));
    assert!(done.requantised > 10, "{done:?}");
    folder.convert("fp8", "plain", WeightFormat::F32);
    folder.convert("plain", "expected", WeightFormat::Fp8(ScaleFormat::Bf16));
    let (made, expected) = (folder.tensors("made"), folder.tensors("expected"));
    let scaled = |name: &&String| name.ends_with("_scale_inv");
    assert!(made.keys().filter(scaled).all(|name| made[name].0 == Stored::BF16 && made[name] == expected[name]));
}
