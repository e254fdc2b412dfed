//! The precision table: FP8 against f32 with routing replayed, row by row.

use crate::fixtures::{Fixture, distance, routing};
use hadal_model::dump::{Array, Dump, dump};
use hadal_ops::{Cx, DType, Tensor};
use hadal_weights::precision::{Keep, Precision, Product};

fn values<'a>(dump: &'a Dump, name: &str) -> &'a [f32] {
    let Array::F32(_, v) = &dump[name] else { panic!("{name} is no f32 array") };
    v
}

/// A fixture in f32, and a function that runs it in bf16 with a precision table and the same routing.
fn replayed(name: &str) -> (Dump, impl Fn(Precision) -> Dump) {
    let f = Fixture::named(name);
    let run = move |dtype, precision, replay: Option<&[Tensor]>| {
        let (cx, ids) = (Cx::cpu(2, dtype), f.ids());
        let ids: Vec<&[i32]> = ids.iter().map(Vec::as_slice).collect();
        dump(&cx, &f.model_in(&cx, precision), &ids, true, replay)
    };
    let exact = run(DType::F32, Precision::COMPUTE, None);
    let replay = routing(&Cx::cpu(2, DType::F32), &exact);
    (exact, move |precision| run(DType::Bf16, precision, Some(&replay)))
}

/// All gradients as one vector.
fn gradients(dump: &Dump) -> Vec<f32> {
    dump.keys()
        .filter(|n| n.starts_with("grad.") || n.starts_with("mtp_grad."))
        .flat_map(|n| values(dump, n).iter().copied())
        .collect()
}

/// E4M3 has four significant bits and bf16 eight, so the rounding of an operand is 16 times as large. With the scale of
/// a tile, no number is far below the grid's finest steps, and the roundings of both operands add up. So a model in FP8
/// should be about 16 times as far from f32 as the same model in bf16. Weight gradients may be up to twice as far
/// again, because their saved operand is rounded twice. A wrong scale or a tile at the wrong place would cause a much
/// larger distance.
#[test]
fn fp8_is_as_far_from_f32_as_its_bits_say() {
    for name in ["yarn", "mtp2", "dense"] {
        let (exact, run) = replayed(name);
        let far = |d: &Dump, name: &str| distance(values(d, name), values(&exact, name));
        let all = |d: &Dump| distance(&gradients(d), &gradients(&exact));
        let (bf16, fp8) = (run(Precision::COMPUTE), run(Precision::FP8));
        let (logits, gradient) = (far(&fp8, "logits") / far(&bf16, "logits"), all(&fp8) / all(&bf16));
        println!("{name}: logits {logits:.1}, gradients {gradient:.1} times bf16's distance");
        assert!((4.0..32.0).contains(&logits), "{name}: logits {logits}");
        assert!((4.0..32.0).contains(&gradient), "{name}: gradients {gradient}");
    }
}

/// Every row of the table has an effect on what it names: it changes the gradients, but less than the whole table does.
#[test]
fn every_row_of_the_table_is_used() {
    let (_, dump) = replayed("mtp2");
    let run = |precision| gradients(&dump(precision));
    let (plain, base) = (run(Precision::COMPUTE), Precision::COMPUTE);
    let fp8 = Product::Fp8;
    let rows = [
        ("attn_down", Precision { attn_down: fp8, ..base }),
        ("query_up", Precision { query_up: fp8, ..base }),
        ("kv_up", Precision { kv_up: fp8, ..base }),
        ("attn_out", Precision { attn_out: fp8, ..base }),
        ("gate_up", Precision { gate_up: fp8, ..base }),
        ("down", Precision { down: fp8, ..base }),
        ("expert_gate_up", Precision { expert_gate_up: fp8, ..base }),
        ("expert_down", Precision { expert_down: fp8, ..base }),
        ("mtp_proj", Precision { mtp_proj: fp8, ..base }),
        ("dispatch", Precision { dispatch: Keep::Fp8, ..base }),
        ("swiglu_input", Precision { swiglu_input: Keep::Fp8, ..base }),
        ("attn_out_input", Precision { attn_out_input: Keep::E5m6, ..base }),
    ];
    let whole = distance(&run(Precision::FP8), &plain);
    for (name, precision) in rows {
        let moved = distance(&run(precision), &plain);
        assert!(moved > 0.0 && moved < whole, "{name}: {moved:e} of {whole:e}");
    }
}

#[test]
#[should_panic(expected = "not in e5m6")]
fn rows_are_not_sent_in_e5m6() {
    let cx = Cx::cpu(1, DType::Bf16);
    Fixture::named("yarn").model_in(&cx, Precision { dispatch: Keep::E5m6, ..Precision::FP8 });
}
