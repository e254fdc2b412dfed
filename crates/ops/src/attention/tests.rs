//! Attention compared with the f64 reference, and its invariants.

use super::lanes::Lanes;
use super::*;
use crate::{Isa, Purpose, Rng};
use hadal_testkit::attention::{Attention, Bounded, Rounding};
use proptest::prelude::*;

/// Inputs of one attention, already rounded to `dtype`.
struct Case {
    s: AttnShape,
    starts: Vec<usize>,
    q: Vec<f32>,
    kv: Vec<f32>,
    /// `[T, dr + 3]`: the rotary key is columns 2..2 + dr of a wider tensor.
    rope: Vec<f32>,
    d_o: Vec<f32>,
}

/// Everything the operation writes: o, lse, dq, dkv, dk_rope.
type Outputs = [Vec<f32>; 5];

fn normal(n: usize, stream: u64, dtype: DType) -> Vec<f32> {
    let rng = Rng::new(7, Purpose::Test, stream);
    let round = |x: f32| if dtype == DType::Bf16 { half::bf16::from_f32(x).to_f32() } else { x };
    (0..n as u64).map(|i| round(rng.normal(i) as f32)).collect()
}

impl Case {
    fn new(lens: &[usize], [heads, d_nope, d_rope, d_v]: [usize; 4], dtype: DType) -> Self {
        let s = AttnShape { heads, d_nope, d_rope, d_v, scale: 1.3 / ((d_nope + d_rope) as f32).sqrt() };
        let mut starts = vec![0];
        for n in lens {
            starts.push(starts[starts.len() - 1] + n);
        }
        let t = starts[lens.len()];
        Self {
            s,
            starts,
            q: normal(t * heads * s.d_qk(), 1, dtype),
            kv: normal(t * heads * (d_nope + d_v), 2, dtype),
            rope: normal(t * (d_rope + 3), 3, dtype),
            d_o: normal(t * heads * d_v, 4, dtype),
        }
    }
    fn tokens(&self) -> usize {
        self.starts[self.starts.len() - 1]
    }
    fn k_rope(&self) -> Vec<f32> {
        let (d, w) = (self.s.d_rope, self.s.d_rope + 3);
        (0..self.tokens()).flat_map(|t| self.rope[t * w + 2..t * w + 2 + d].to_vec()).collect()
    }

    fn run(&self, cx: &Cx) -> Outputs {
        let (s, t, dtype) = (&self.s, self.tokens(), cx.compute());
        let seg = Segments::new(cx, &self.starts);
        let (q_cols, kv_cols, o_cols) = (s.heads * s.d_qk(), s.heads * (s.d_nope + s.d_v), s.heads * s.d_v);
        let q = cx.tensor(&[t, q_cols], &self.q, dtype);
        let kv = cx.tensor(&[t, kv_cols], &self.kv, dtype);
        let rope = cx.tensor(&[t, s.d_rope + 3], &self.rope, dtype);
        let d_o = cx.tensor(&[t, o_cols], &self.d_o, dtype);
        let rotary = 2..2 + s.d_rope;
        let mut o = cx.empty(&[t, o_cols], dtype);
        let mut lse = cx.empty(&[s.heads, t], DType::F32);
        forward(cx, &q, &kv, rope.columns(rotary.clone()), &seg, s, &mut o, &mut lse);
        let mut dq = cx.empty(&[t, q_cols], dtype);
        let mut dkv = cx.empty(&[t, kv_cols], dtype);
        let mut dr = cx.zeros(&[t, s.d_rope + 3], dtype);
        let k_rope = rope.columns(rotary.clone());
        let out = dr.columns_mut(rotary);
        backward(cx, &d_o, &q, &kv, k_rope, &o, &lse, &seg, s, &mut dq, &mut dkv, out);
        let wide = dr.to_vec_f32();
        let (d, w) = (s.d_rope, s.d_rope + 3);
        assert!((0..t).all(|r| [0, 1, d + 2].iter().all(|c| wide[r * w + c] == 0.0)), "columns beside the view");
        let dr = (0..t).flat_map(|r| wide[r * w + 2..r * w + 2 + d].to_vec()).collect();
        [o.to_vec_f32(), lse.to_vec_f32(), dq.to_vec_f32(), dkv.to_vec_f32(), dr]
    }

    fn reference(&self, r: Rounding) -> [Bounded; 5] {
        let wide = |v: &[f32]| v.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
        let s = &self.s;
        let a = Attention { heads: s.heads, d_nope: s.d_nope, d_rope: s.d_rope, d_v: s.d_v, scale: f64::from(s.scale) };
        let (q, kv, kr, d_o) = (wide(&self.q), wide(&self.kv), wide(&self.k_rope()), wide(&self.d_o));
        let (o, lse) = a.forward(&q, &kv, &kr, &self.starts, r);
        let [dq, dkv, dr] = a.backward(&d_o, &q, &kv, &kr, &self.starts, r);
        [o, lse, dq, dkv, dr]
    }

    /// Compares with the reference on an instruction path.
    fn check(&self, isa: Isa, dtype: DType) {
        let cx = Cx::cpu(2, dtype).with_isa(isa);
        let longest = self.starts.windows(2).map(|w| w[1] - w[0]).max().unwrap_or(0);
        let terms = (longest * self.s.heads).max(self.s.d_qk()).max(self.s.d_v) + 8;
        // The error of a chain of n additions is at most n 2^-24 of the sum of magnitudes. dpbf16 rounds each of its
        // two additions; bf16 products are exact. bf16 rounds by at most 2^-8 of the value. On the AVX-512 path, P and
        // dS are rounded to bf16. dS is affected twice: by its own rounding, and through delta.
        let half = |on: bool| if on { 2f64.powi(-8) } else { 0.0 };
        let r = Rounding {
            product: terms as f64 * 2f64.powi(-24),
            weight: half(dtype == DType::Bf16 && isa.has_avx512()),
            output: half(dtype == DType::Bf16) + 2f64.powi(-22),
        };
        let names = ["o", "lse", "dq", "dkv", "dk_rope"];
        for ((got, (want, bound)), name) in self.run(&cx).iter().zip(self.reference(r)).zip(names) {
            assert_eq!(got.len(), want.len());
            for i in 0..got.len() {
                let error = (f64::from(got[i]) - want[i]).abs();
                assert!(
                    error <= bound[i] + 1e-30,
                    "{name}[{i}] is {}, not {} (off by {error:e}, allowed {:e}) on {} {dtype:?}, {:?} {:?}",
                    got[i],
                    want[i],
                    bound[i],
                    isa.name(),
                    self.s,
                    self.starts
                );
            }
        }
    }
}

fn everywhere(f: impl Fn(Isa, DType)) {
    for isa in Isa::available() {
        f(isa, DType::F32);
        f(isa, DType::Bf16);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn agrees_with_the_reference(
        lens in prop::collection::vec(0usize..50, 1..5),
        heads in 1usize..4,
        d_nope in 0usize..40,
        d_rope in 0usize..20,
        d_v in 1usize..40,
    ) {
        prop_assume!(d_nope + d_rope > 0);
        everywhere(|isa, dtype| Case::new(&lens, [heads, d_nope, d_rope, d_v], dtype).check(isa, dtype));
    }
}

#[test]
fn agrees_over_several_blocks() {
    everywhere(|isa, dtype| {
        Case::new(&[BLOCK + 3, 2 * BLOCK, 1], [2, 16, 8, 16], dtype).check(isa, dtype);
        Case::new(&[2 * BLOCK + 77], [1, 64, 32, 64], dtype).check(isa, dtype);
    });
}

#[test]
fn agrees_at_full_head_sizes() {
    everywhere(|isa, dtype| Case::new(&[70], [2, 128, 64, 128], dtype).check(isa, dtype));
}

#[test]
fn no_token_at_all() {
    everywhere(|isa, dtype| {
        let cx = Cx::cpu(1, dtype).with_isa(isa);
        assert!(Case::new(&[0], [2, 16, 8, 16], dtype).run(&cx).iter().all(Vec::is_empty));
    });
}

#[test]
fn thread_count_changes_no_bit() {
    everywhere(|isa, dtype| {
        let case = Case::new(&[200, 1, 40, 131], [3, 24, 8, 20], dtype);
        let one = case.run(&Cx::cpu(1, dtype).with_isa(isa));
        for threads in [2, 3] {
            assert_eq!(one, case.run(&Cx::cpu(threads, dtype).with_isa(isa)));
        }
    });
}

/// A token's output has the same bits if the tokens after it change or are removed, and if there are other segments.
#[test]
fn outputs_depend_on_the_prefix_only() {
    everywhere(|isa, dtype| {
        let cx = Cx::cpu(2, dtype).with_isa(isa);
        let dims = [2, 24, 8, 20];
        let whole = Case::new(&[300], dims, dtype);
        let [o, lse, ..] = whole.run(&cx);
        let (row_q, row_kv, row_o) = (2 * 32, 2 * 44, 2 * 20);
        for keep in [1, 2, 15, 16, 17, 127, 128, 129, 250, 299] {
            let mut cut = Case::new(&[keep], dims, dtype);
            cut.q = whole.q[..keep * row_q].to_vec();
            cut.kv = whole.kv[..keep * row_kv].to_vec();
            cut.rope = whole.rope[..keep * 11].to_vec();
            let [o_cut, lse_cut, ..] = cut.run(&cx);
            assert_eq!(o_cut, o[..keep * row_o], "cut to {keep} tokens");
            assert!((0..keep).all(|t| lse_cut[t] == lse[t] && lse_cut[keep + t] == lse[300 + t]));

            let mut changed = Case::new(&[300], dims, dtype);
            changed.q[keep * row_q..].iter_mut().for_each(|x| *x *= -2.0);
            changed.kv[keep * row_kv..].iter_mut().for_each(|x| *x *= -4.0);
            changed.rope[keep * 11..].iter_mut().for_each(|x| *x *= 8.0);
            let [o_changed, ..] = changed.run(&cx);
            assert_eq!(o_changed[..keep * row_o], o[..keep * row_o], "changed after {keep} tokens");
        }
        // Between two other segments.
        let mut among = Case::new(&[37, 300, 5], dims, dtype);
        among.q[37 * row_q..337 * row_q].copy_from_slice(&whole.q);
        among.kv[37 * row_kv..337 * row_kv].copy_from_slice(&whole.kv);
        among.rope[37 * 11..337 * 11].copy_from_slice(&whole.rope);
        among.d_o[37 * row_o..337 * row_o].copy_from_slice(&whole.d_o);
        let [o_among, _, dq_among, dkv_among, dr_among] = among.run(&cx);
        let [_, _, dq, dkv, dr] = whole.run(&cx);
        assert_eq!(o_among[37 * row_o..337 * row_o], o);
        assert_eq!(dq_among[37 * row_q..337 * row_q], dq);
        assert_eq!(dkv_among[37 * row_kv..337 * row_kv], dkv);
        assert_eq!(dr_among[37 * 8..337 * 8], dr);
    });
}

#[test]
fn not_a_number_is_not_hidden() {
    everywhere(|isa, dtype| {
        let mut case = Case::new(&[40], [1, 8, 8, 8], dtype);
        case.q[20 * 16] = f32::NAN;
        let [o, ..] = case.run(&Cx::cpu(1, dtype).with_isa(isa));
        assert!(
            o[..20 * 8].iter().chain(&o[21 * 8..]).all(|x| x.is_finite())
                && o[20 * 8..21 * 8].iter().all(|x| x.is_nan())
        );
    });
}

#[test]
#[should_panic(expected = "attention: kv is")]
fn wrong_shapes_are_named() {
    let cx = Cx::cpu(1, DType::F32);
    let s = AttnShape { heads: 1, d_nope: 4, d_rope: 2, d_v: 4, scale: 1.0 };
    let seg = Segments::uniform(&cx, 1, 3);
    let (q, kv, rope) = (cx.zeros(&[3, 6], DType::F32), cx.zeros(&[3, 7], DType::F32), cx.zeros(&[3, 2], DType::F32));
    let (mut o, mut lse) = (cx.empty(&[3, 4], DType::F32), cx.empty(&[1, 3], DType::F32));
    forward(&cx, &q, &kv, &rope, &seg, &s, &mut o, &mut lse);
}

/// The exponential of one register, applied by a kernel of each path.
struct Exp2<'a>(&'a [f32], crate::DisjointMut<'a, f32>);
impl kernel::Work<f32> for Exp2<'_> {
    #[inline(always)]
    unsafe fn run<K: kernel::TileKernel<E = f32>>(&self, task: usize, _: Scratch) {
        // SAFETY: sixteen values each, and the task's own.
        unsafe {
            let out = self.1.slice(16 * task, 16).as_mut_ptr();
            K::L::load(self.0[16 * task..16 * task + 16].as_ptr()).exp2().store(out);
        }
    }
}

#[test]
fn exp2_is_within_two_ulp() {
    let n = 1 << 18;
    let mut x: Vec<f32> = (0..n).map(|i| -126.0 + 253.0 * i as f32 / n as f32).collect();
    x[..8].copy_from_slice(&[0.0, -0.0, 1.0, -1.0, 0.5, -0.5, -1e-8, 1e-8]);
    x[8..16].copy_from_slice(&[f32::NEG_INFINITY, f32::NAN, -126.5, -1e9, -126.0, 126.99, -0.49999, 0.50001]);
    for isa in Isa::available() {
        let mut y = vec![0f32; n];
        let cx = Cx::cpu(1, DType::F32).with_isa(isa);
        kernel::each(&cx, n / 16, &Exp2(&x, crate::DisjointMut::new(&mut y)));
        let mut worst = 0f64;
        for (x, y) in x.iter().zip(&y) {
            if x.is_nan() {
                assert!(y.is_nan());
            } else if *x < -126.0 {
                assert_eq!(*y, 0.0);
            } else {
                let want = f64::from(*x).exp2();
                // One ulp of the result is 2^(floor(x) - 23).
                let ulp = 2f64.powi(want.log2().floor() as i32 - 23);
                worst = worst.max((f64::from(*y) - want).abs() / ulp);
            }
        }
        assert!(worst <= 2.0, "{}: {worst} ulp", isa.name());
        assert_eq!(y[0], 1.0);
    }
}

/// Queries that continue earlier keys have the same bits as in the whole segment, wherever it is cut.
#[test]
fn continued_segments_have_the_bits_of_whole_ones() {
    everywhere(|isa, dtype| {
        let cx = Cx::cpu(2, dtype).with_isa(isa);
        let lens = [300, 131, 40];
        let whole = Case::new(&lens, [2, 24, 8, 20], dtype);
        let [o, lse, ..] = whole.run(&cx);
        let (s, t) = (&whole.s, whole.tokens());
        let (row_q, row_o) = (s.heads * s.d_qk(), s.heads * s.d_v);
        let kv = cx.tensor(&[t, s.heads * (s.d_nope + s.d_v)], &whole.kv, dtype);
        let k_rope = cx.tensor(&[t, s.d_rope], &whole.k_rope(), dtype);
        for befores in [
            [0, 0, 0],
            [1, 0, 39],
            [15, 130, 16],
            [16, 3, 1],
            [127, 128, 0],
            [128, 1, 17],
            [129, 100, 8],
            [299, 64, 25],
        ] {
            let new: Vec<usize> = lens.iter().zip(befores).map(|(len, before)| len - before).collect();
            let mut seg = Segments::uniform(&cx, 0, 0);
            seg.set_continued(befores.into_iter().zip(new.iter().copied()));
            let rows: Vec<usize> =
                (0..lens.len()).flat_map(|i| whole.starts[i] + befores[i]..whole.starts[i + 1]).collect();
            let q: Vec<f32> = rows.iter().flat_map(|r| whole.q[r * row_q..(r + 1) * row_q].to_vec()).collect();
            let n = rows.len();
            let q = cx.tensor(&[n, row_q], &q, dtype);
            let (mut o_new, mut lse_new) = (cx.zeros(&[n, row_o], dtype), cx.zeros(&[s.heads, n], DType::F32));
            forward(&cx, &q, &kv, &k_rope, &seg, s, &mut o_new, &mut lse_new);
            let o_new = o_new.to_vec_f32();
            for (i, r) in rows.iter().enumerate() {
                let want = &o[r * row_o..(r + 1) * row_o];
                assert_eq!(&o_new[i * row_o..(i + 1) * row_o], want, "{befores:?}: row {r}");
                assert!(
                    (0..s.heads).all(|h| lse_new.f32()[h * n + i] == lse[h * t + r]),
                    "{befores:?}: lse of row {r}"
                );
            }
        }
    });
}
