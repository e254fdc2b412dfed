//! Latent decode compared with the f64 reference, and its invariants.

use super::*;
use crate::{Isa, Purpose, Rng};
use hadal_testkit::attention::{Rounding, latent};
use proptest::prelude::*;

fn normal(n: usize, stream: u64, dtype: DType) -> Vec<f32> {
    let rng = Rng::new(11, Purpose::Test, stream);
    let round = |x: f32| if dtype == DType::Bf16 { bf16::from_f32(x).to_f32() } else { x };
    (0..n as u64).map(|i| round(rng.normal(i) as f32)).collect()
}

fn everywhere(f: impl Fn(Isa, DType)) {
    for isa in Isa::available() {
        f(isa, DType::F32);
        f(isa, DType::Bf16);
    }
}

struct Case {
    /// First tokens of each sequence that no row sees.
    skip: usize,
    lens: Vec<usize>,
    heads: usize,
    dc: usize,
    dr: usize,
    q: Vec<f32>,
    caches: Vec<Vec<f32>>,
}

impl Case {
    fn new(lens: &[usize], [heads, dc, dr]: [usize; 3], dtype: DType) -> Self {
        let cache = |(i, n): (usize, &usize)| normal(n * (dc + dr), 100 + i as u64, dtype);
        let caches = lens.iter().enumerate().map(cache).collect();
        Self {
            skip: 0,
            lens: lens.to_vec(),
            heads,
            dc,
            dr,
            q: normal(lens.len() * heads * (dc + dr), 1, dtype),
            caches,
        }
    }
    fn scale(&self) -> f32 {
        1.1 / ((self.dc + self.dr) as f32).sqrt()
    }
    fn skipping(self, skip: usize) -> Self {
        Self { skip, ..self }
    }
    /// The pool and the table of each sequence, with `spare` pages between them. Rows that nobody sees are NaN.
    fn pool(&self, cx: &Cx, spare: usize) -> (Tensor, Vec<Vec<u32>>) {
        let d = self.dc + self.dr;
        let pages: usize = self.lens.iter().map(|n| pages_for(*n) * (1 + spare)).sum();
        let mut values = vec![f32::NAN; pages * PAGE * d];
        // From the last page down, so that neighbours in a sequence are not neighbours in the pool.
        let mut next = pages;
        let mut tables = Vec::new();
        for cache in &self.caches {
            let table = cache.chunks(PAGE * d).map(|rows| {
                next -= 1 + spare;
                values[next * PAGE * d..][..rows.len()].copy_from_slice(rows);
                next as u32
            });
            let table: Vec<u32> = table.collect();
            values[table[0] as usize * PAGE * d..][..self.skip * d].fill(f32::NAN);
            tables.push(table);
        }
        (cx.tensor(&[pages * PAGE, d], &values, cx.compute()), tables)
    }
    fn run(&self, cx: &Cx, query: DType) -> Vec<f32> {
        let rows: Vec<_> = self.lens.iter().copied().enumerate().collect();
        self.run_rows(cx, query, 0, &rows, &self.q)
    }
    /// Runs rows `(sequence, end of what they see)` with the queries `q`.
    fn run_rows(&self, cx: &Cx, query: DType, spare: usize, rows: &[(usize, usize)], q: &[f32]) -> Vec<f32> {
        let (d, b) = (self.dc + self.dr, rows.len());
        let (pool, tables) = self.pool(cx, spare);
        let mut paged = PagedRows::new(cx);
        paged.set(self.heads, self.skip, tables.iter().map(Vec::as_slice), rows.iter().copied());
        let q = cx.tensor(&[b, self.heads * d], q, query);
        let mut o = cx.empty(&[b, self.heads * self.dc], cx.compute());
        decode(cx, &q, &pool, &paged, self.heads, self.dc, self.dr, self.scale(), &mut o);
        o.to_vec_f32()
    }
    fn check(&self, isa: Isa, dtype: DType) {
        let cx = Cx::cpu(2, dtype).with_isa(isa);
        let longest = self.lens.iter().copied().max().unwrap_or(0);
        // As derived in the tests of attention. A merge adds one more chain over the parts.
        let half = |on: bool| if on { 2f64.powi(-8) } else { 0.0 };
        let r = Rounding {
            product: (longest.max(self.dc + self.dr) + 16) as f64 * 2f64.powi(-24),
            weight: half(dtype == DType::Bf16 && isa.has_avx512()),
            output: half(dtype == DType::Bf16) + 2f64.powi(-22),
        };
        let got = self.run(&cx, dtype);
        assert_eq!(got, self.run(&cx, DType::F32), "the query's format alone changes nothing");
        let d = self.dc + self.dr;
        let wide = |v: &[f32]| v.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
        for (b, len) in self.lens.iter().enumerate() {
            let q = wide(&self.q[b * self.heads * d..(b + 1) * self.heads * d]);
            let cache = wide(&self.caches[b][self.skip * d..len * d]);
            let (want, bound) = latent(&q, &cache, self.heads, self.dc, self.dr, f64::from(self.scale()), r);
            for i in 0..want.len() {
                let got = got[b * self.heads * self.dc + i];
                let error = (f64::from(got) - want[i]).abs();
                assert!(
                    error <= bound[i],
                    "o_lat[{b}][{i}] is {got}, not {} (off by {error:e}, allowed {:e}) on {} {dtype:?}, {:?} {} {} {} {}",
                    want[i],
                    bound[i],
                    isa.name(),
                    self.lens,
                    self.skip,
                    self.heads,
                    self.dc,
                    self.dr
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn agrees_with_the_reference(
        lens in prop::collection::vec(1usize..300, 0..4),
        skip in 0usize..3,
        heads in 1usize..20,
        dc in 1usize..50,
        dr in 0usize..20,
    ) {
        let lens: Vec<usize> = lens.iter().map(|n| n + skip).collect();
        everywhere(|isa, dtype| Case::new(&lens, [heads, dc, dr], dtype).skipping(skip).check(isa, dtype));
    }
}

#[test]
fn agrees_over_several_parts_and_head_groups() {
    everywhere(|isa, dtype| {
        for skip in [0, 1, 5] {
            Case::new(&[SPLIT, 2 * SPLIT + 1, 7], [3, 32, 16], dtype).skipping(skip).check(isa, dtype);
        }
        Case::new(&[33], [HEADS + 2, 8, 4], dtype).check(isa, dtype);
        Case::new(&[100], [4, 512, 64], dtype).check(isa, dtype);
    });
}

/// The bits do not depend on the threads, the other sequences or the places of the pages.
#[test]
fn a_sequence_decides_its_own_bits() {
    everywhere(|isa, dtype| {
        let all = Case::new(&[700, 20, 1500], [3, 24, 8], dtype);
        let together = all.run(&Cx::cpu(2, dtype).with_isa(isa), dtype);
        assert_eq!(together, all.run(&Cx::cpu(1, dtype).with_isa(isa), dtype));
        for b in 0..3 {
            let mut alone = Case::new(&all.lens[b..=b], [3, 24, 8], dtype);
            alone.q = all.q[b * 96..(b + 1) * 96].to_vec();
            alone.caches[0] = all.caches[b].clone();
            let got = alone.run_rows(&Cx::cpu(3, dtype).with_isa(isa), dtype, b, &[(0, alone.lens[0])], &alone.q);
            assert_eq!(got, together[b * 72..(b + 1) * 72]);
        }
    });
}

/// The last token of a sequence gives the same as decompressed attention in the absorbed form. With the identity as
/// W_UK and W_UV and one head, both compute the same thing.
#[test]
fn equals_decompressed_attention() {
    use crate::attention::{AttnShape, Segments, forward};
    everywhere(|isa, dtype| {
        let (t, dc, dr) = (150, 32, 16);
        let case = Case::new(&[t], [1, dc, dr], dtype);
        let cx = Cx::cpu(1, dtype).with_isa(isa);
        let rows = |from: usize, n: usize| -> Vec<f32> {
            (0..t).flat_map(|r| case.caches[0][r * (dc + dr) + from..][..n].to_vec()).collect()
        };
        let latents = rows(0, dc);
        let kv: Vec<f32> = latents.chunks(dc).flat_map(|c| [c, c].concat()).collect();
        let mut q = vec![0.0; t * (dc + dr)];
        q[(t - 1) * (dc + dr)..].copy_from_slice(&case.q);
        let s = AttnShape { heads: 1, d_nope: dc, d_rope: dr, d_v: dc, scale: case.scale() };
        let (mut o, mut lse) = (cx.empty(&[t, dc], dtype), cx.empty(&[1, t], DType::F32));
        let kv = cx.tensor(&[t, 2 * dc], &kv, dtype);
        let (q, rope) = (cx.tensor(&[t, dc + dr], &q, dtype), cx.tensor(&[t, dr], &rows(dc, dr), dtype));
        forward(&cx, &q, &kv, &rope, &Segments::uniform(&cx, 1, t), &s, &mut o, &mut lse);
        let (a, b) = (case.run(&cx, dtype), o.to_vec_f32()[(t - 1) * dc..].to_vec());
        // On each side, two roundings of P to bf16 and one of the output, or a few hundred f32 operations.
        let tolerance = if dtype == DType::Bf16 { 4.0 * 2f32.powi(-8) } else { 400.0 * 2f32.powi(-24) };
        let size = case.caches[0].iter().fold(0f32, |m, x| m.max(x.abs()));
        assert!(a.iter().zip(&b).all(|(x, y)| (x - y).abs() <= tolerance * size), "{a:?} {b:?}");
    });
}

/// Several rows of a sequence see different numbers of its tokens. They have the same bits as each row alone.
#[test]
fn rows_of_one_sequence_have_their_bits_alone() {
    everywhere(|isa, dtype| {
        let cx = Cx::cpu(2, dtype).with_isa(isa);
        for heads in [3, 16, 40] {
            let (dc, dr) = (24, 8);
            let case = Case::new(&[600, 140], [heads, dc, dr], dtype);
            let seen = [1, 2, 17, 127, 128, 129, 512, 513, 599, 600];
            let rows: Vec<(usize, usize)> = seen.map(|n| (0, n)).into_iter().chain([(1, 3), (1, 140)]).collect();
            let q = normal(rows.len() * heads * (dc + dr), 9, dtype);
            let together = case.run_rows(&cx, dtype, 0, &rows, &q);
            for (i, row) in rows.iter().enumerate() {
                let q = &q[i * heads * (dc + dr)..(i + 1) * heads * (dc + dr)];
                let alone = case.run_rows(&cx, dtype, 1, &[*row], q);
                assert_eq!(alone, together[i * heads * dc..(i + 1) * heads * dc], "{heads} heads, row {i}");
            }
        }
    });
}

#[test]
#[should_panic(expected = "latent decode: row 0 sees 0 tokens")]
fn a_row_that_sees_nothing_is_refused() {
    let cx = Cx::cpu(1, DType::F32);
    PagedRows::new(&cx).set(1, 0, [&[0][..]].into_iter(), [(0, 0)].into_iter());
}

#[test]
#[should_panic(expected = "latent decode: 40 heads, and the rows were set for 1")]
fn rows_for_another_number_of_heads_are_refused() {
    let cx = Cx::cpu(1, DType::F32);
    let mut rows = PagedRows::new(&cx);
    rows.set(1, 0, [&[0][..]].into_iter(), (1..9).map(|end| (0, end)));
    let (q, pool) = (cx.zeros(&[8, 40 * 6], DType::F32), cx.zeros(&[PAGE, 6], DType::F32));
    decode(&cx, &q, &pool, &rows, 40, 4, 2, 1.0, &mut cx.empty(&[8, 40 * 4], DType::F32));
}

#[test]
#[should_panic(expected = "latent decode: pool is")]
fn a_page_outside_the_pool_is_refused() {
    let cx = Cx::cpu(1, DType::F32);
    let mut rows = PagedRows::new(&cx);
    rows.set(1, 0, [&[2][..]].into_iter(), [(0, 3)].into_iter());
    let (q, pool) = (cx.zeros(&[1, 6], DType::F32), cx.zeros(&[2 * PAGE, 6], DType::F32));
    decode(&cx, &q, &pool, &rows, 1, 4, 2, 1.0, &mut cx.empty(&[1, 4], DType::F32));
}
