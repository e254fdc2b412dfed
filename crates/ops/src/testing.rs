//! Shared by the tests of pointwise operations: contexts, inputs, and comparison with a bound for each element.

use crate::{Cx, DType, Isa, Purpose, Rng, Tensor};

/// Rounding of one f32 operation, relative.
pub(crate) const F32_EPS: f64 = 1.0 / (1u64 << 24) as f64;

/// Relative rounding of a stored element. For F32 it is 0, because the arithmetic already rounds.
pub(crate) fn store_eps(dtype: DType) -> f64 {
    if dtype == DType::Bf16 { 1.0 / 256.0 } else { F32_EPS }
}

/// The float types.
pub(crate) const FLOATS: [DType; 2] = [DType::F32, DType::Bf16];

/// One context for each instruction path of this processor.
pub(crate) fn contexts() -> Vec<Cx> {
    let cx = Cx::cpu(1, DType::F32);
    Isa::available().into_iter().map(|isa| cx.clone().with_isa(isa)).collect()
}

/// The bits of a float tensor.
pub(crate) fn bits(t: &Tensor) -> Vec<u32> {
    t.to_vec_f32().iter().map(|v| v.to_bits()).collect()
}

/// Runs `f` with 1, 2 and 3 threads and checks that every tensor it returns has the same bits.
pub(crate) fn same_bits_for_any_threads(f: impl Fn(&Cx) -> Vec<Tensor>) {
    let run = |threads| f(&Cx::cpu(threads, DType::F32)).iter().map(bits).collect::<Vec<_>>();
    let one = run(1);
    assert!(one == run(2) && one == run(3));
}

/// Normal numbers times `scale`, rounded to `dtype`.
pub(crate) fn random(cx: &Cx, shape: &[usize], dtype: DType, scale: f64, seed: u64) -> Tensor {
    let rng = Rng::new(seed, Purpose::Test, 0);
    let n = shape.iter().product::<usize>() as u64;
    let values: Vec<f32> = (0..n).map(|i| (rng.normal(i) * scale) as f32).collect();
    cx.tensor(shape, &values, dtype)
}

/// The elements in f64.
pub(crate) fn f64s(t: &Tensor) -> Vec<f64> {
    t.to_vec_f32().into_iter().map(f64::from).collect()
}

/// Panics unless `|got - want| <= bound(i)` everywhere.
pub(crate) fn assert_close(what: &str, got: &Tensor, want: &[f64], bound: impl Fn(usize) -> f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (got, want)) in f64s(got).into_iter().zip(want).enumerate() {
        let bound = bound(i);
        assert!((got - want).abs() <= bound, "{what}[{i}]: {got:e} but {want:e}, bound {bound:e}");
    }
}
