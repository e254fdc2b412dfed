//! The element-wise parts: online softmax of a block of scores, and the gradient through it.
//!
//! Scores are stored transposed, `[keys][queries]`, with sixteen queries per vector. So maxima and sums over keys are
//! vertical, and every query has its own lane. Exponents have base 2: `c` is the scale times log2(e).

use super::kernel::TileKernel;
use super::lanes::Lanes;

/// The keys of a block that sixteen queries see. All lanes see `0..full`. In `full..total`, lane i sees key k if `k <=
/// first + i`. `total` is even.
#[derive(Clone, Copy)]
pub(crate) struct Span {
    /// Number of keys that all lanes see.
    pub(crate) full: usize,
    /// Number of keys that at least one lane sees, rounded up.
    pub(crate) total: usize,
    /// The last key of the block that lane 0 sees.
    pub(crate) first: isize,
}

impl Span {
    /// The lanes below this number do not see key `k`.
    #[inline(always)]
    fn hidden(self, k: usize) -> i32 {
        if k < self.full { 0 } else { (k as isize - self.first) as i32 }
    }
}

/// Running statistics of a block of queries, with sixteen values at each pointer: the maximum of the scaled scores
/// (base 2), the sum of the weights relative to it, and the factor of earlier sums for this block of keys.
#[derive(Clone, Copy)]
pub(crate) struct Stats {
    pub(crate) max: *mut f32,
    pub(crate) sum: *mut f32,
    pub(crate) alpha: *mut f32,
}

/// Turns scores `s[keys][ld]` of one panel into weights `p` (words along the keys, `[steps][ld]`).
///
/// # Safety
/// `span.total` rows of both, and the statistics, must be in bounds.
#[inline(always)]
pub(crate) unsafe fn softmax<K: TileKernel>(
    s: *const f32,
    lds: usize,
    p: *mut u32,
    ldp: usize,
    span: Span,
    c: f32,
    st: Stats,
) {
    // SAFETY: the caller's.
    unsafe {
        let inf = f32::NEG_INFINITY;
        let even = span.full & !1;
        let (mut top0, mut top1) = (K::L::splat(inf), K::L::splat(inf));
        for k in (0..even).step_by(2) {
            top0 = top0.max(K::L::load(s.add(k * lds)));
            top1 = top1.max(K::L::load(s.add((k + 1) * lds)));
        }
        for k in even..span.total {
            top0 = top0.max(K::L::load(s.add(k * lds)).keep_from(span.hidden(k), inf));
        }
        let c = K::L::splat(c);
        let old = K::L::load(st.max);
        let max = top0.max(top1).mul(c).max(old);
        let minus = K::L::splat(0.0).sub(max);
        let alpha = old.sub(max).exp2();
        max.store(st.max);
        alpha.store(st.alpha);
        let (mut sum0, mut sum1) = (K::L::splat(0.0), K::L::splat(0.0));
        for k in (0..even).step_by(2) {
            let p0 = K::L::load(s.add(k * lds)).mul_add(c, minus).exp2();
            let p1 = K::L::load(s.add((k + 1) * lds)).mul_add(c, minus).exp2();
            sum0 = sum0.add(p0);
            sum1 = sum1.add(p1);
            K::store_steps(p, ldp, k, p0, p1);
        }
        for k in (even..span.total).step_by(2) {
            let p0 = K::L::load(s.add(k * lds)).mul_add(c, minus).exp2().keep_from(span.hidden(k), 0.0);
            let p1 = K::L::load(s.add((k + 1) * lds)).mul_add(c, minus).exp2().keep_from(span.hidden(k + 1), 0.0);
            sum0 = sum0.add(p0);
            sum1 = sum1.add(p1);
            K::store_steps(p, ldp, k, p0, p1);
        }
        K::L::load(st.sum).mul_add(alpha, sum0.add(sum1)).store(st.sum);
    }
}

/// Memory for the gradient of a strip of eight keys and one panel of queries. `s`, `dp`: `[8][ld]`. `p`, `ds`:
/// row-major words with `ld` elements per row. `steps`: dS as words along the keys, `[steps][ld]`.
#[derive(Clone, Copy)]
pub(crate) struct GradTile {
    pub(crate) s: *const f32,
    pub(crate) dp: *const f32,
    pub(crate) p: *mut u32,
    pub(crate) ds: *mut u32,
    pub(crate) steps: *mut u32,
    pub(crate) ld: usize,
}

/// Row `k` of a `GradTile`: stores P and dS along the queries and returns dS.
#[inline(always)]
unsafe fn gradient_row<K: TileKernel>(
    t: GradTile,
    k: usize,
    minus: K::L,
    delta: K::L,
    c: K::L,
    hidden: Option<i32>,
) -> K::L {
    // SAFETY: the caller's.
    unsafe {
        let mut p = K::L::load(t.s.add(k * t.ld)).mul_add(c, minus).exp2();
        if let Some(first) = hidden {
            p = p.keep_from(first + k as i32, 0.0);
        }
        let ds = K::L::load(t.dp.add(k * t.ld)).sub(delta).mul(p);
        K::store_row(t.p.add(k * t.ld / K::PAIR), p);
        K::store_row(t.ds.add(k * t.ld / K::PAIR), ds);
        ds
    }
}

/// P = 2^(c s - lse2), dS = P (dP - delta). Lanes that do not see a key get 0. `lse2` and `delta` have sixteen values.
///
/// # Safety
/// All of `t` and both vectors must be in bounds.
#[inline(always)]
pub(crate) unsafe fn gradient<K: TileKernel>(
    t: GradTile,
    lse2: *const f32,
    delta: *const f32,
    c: f32,
    hidden: Option<i32>,
) {
    // SAFETY: the caller's.
    unsafe {
        let c = K::L::splat(c);
        let minus = K::L::splat(0.0).sub(K::L::load(lse2));
        let delta = K::L::load(delta);
        for k in (0..super::tile::ROWS).step_by(2) {
            let even = gradient_row::<K>(t, k, minus, delta, c, hidden);
            let odd = gradient_row::<K>(t, k + 1, minus, delta, c, hidden);
            K::store_steps(t.steps, t.ld, k, even, odd);
        }
    }
}

/// Sum of `a[i] b[i]` over `n` elements: sixteen chains, then a tree.
///
/// # Safety
/// Both must hold `n` elements.
#[inline(always)]
pub(crate) unsafe fn dot<K: TileKernel>(a: *const K::E, b: *const K::E, n: usize) -> f32 {
    // SAFETY: the caller's.
    unsafe {
        let mut acc = K::L::splat(0.0);
        for i in (0..n).step_by(16) {
            let m = 16.min(n - i);
            acc = K::widen(a.add(i), m).mul_add(K::widen(b.add(i), m), acc);
        }
        let mut x = [0f32; 16];
        acc.store(x.as_mut_ptr());
        let mut width = 8;
        while width > 0 {
            for l in 0..width {
                x[l] += x[l + width];
            }
            width /= 2;
        }
        x[0]
    }
}
