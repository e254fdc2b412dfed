//! Shared by the pointwise kernels: element types, row views, and one body compiled for every instruction path.
//!
//! A kernel is a struct of operands. Its [`Pointwise::run`] is a plain loop with `inline(always)`. [`dispatch`] inlines
//! it into a function with the path's target features, where the compiler vectorises it. Elementwise loops give the
//! same bits for an element at every position (vector body or scalar tail). Sums use [`LANES`] explicit accumulators,
//! which are added in a fixed order. Paths differ from each other only by fused multiply-add.

use crate::math::{bf16_bits, bf16_value, fma};
use crate::{DType, DisjointMut, Isa, MatMut, MatRef, Tensor};
use half::bf16;
use std::ops::Range;

/// Elements per task: some 20 microseconds of memory traffic.
pub(crate) const TASK: usize = 1 << 16;

/// Accumulators of a sum: two registers of 16, four of 8.
pub(crate) const LANES: usize = 32;

/// A loop that is compiled once for each instruction path.
pub(crate) trait Pointwise {
    type Out;
    /// The loop. `FMA` says whether the path has fused multiply-add. Implementations must be `#[inline(always)]`.
    fn run<const FMA: bool>(self) -> Self::Out;
}

/// Runs a kernel on an instruction path. [`crate::Cx`] ensures that the processor has it.
#[inline]
pub(crate) fn dispatch<K: Pointwise>(isa: Isa, kernel: K) -> K::Out {
    match isa {
        Isa::Portable => kernel.run::<false>(),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `Isa::detect` and `Cx::with_isa` admit only paths whose features the processor reports.
        Isa::Avx2 => unsafe { avx2(kernel) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx512Bf16 | Isa::Amx => unsafe { avx512(kernel) },
        #[cfg(not(target_arch = "x86_64"))]
        _ => unreachable!("{} on another processor", isa.name()),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2<K: Pointwise>(kernel: K) -> K::Out {
    kernel.run::<true>()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,fma")]
fn avx512<K: Pointwise>(kernel: K) -> K::Out {
    kernel.run::<true>()
}

/// A floating-point element: computed in f32, rounded to nearest even when stored.
pub(crate) trait Elem: Copy + Send + Sync + 'static {
    fn get(self) -> f32;
    fn round(v: f32) -> Self;
    fn of<'a>(m: &'a MatRef<'_>) -> &'a [Self];
    fn of_mut<'a>(m: &'a mut MatMut<'_>) -> &'a mut [Self];
    fn of_tensor(t: &Tensor) -> &[Self];
    fn of_tensor_mut(t: &mut Tensor) -> &mut [Self];
}

impl Elem for f32 {
    #[inline(always)]
    fn get(self) -> f32 {
        self
    }
    #[inline(always)]
    fn round(v: f32) -> Self {
        v
    }
    fn of<'a>(m: &'a MatRef<'_>) -> &'a [Self] {
        m.f32()
    }
    fn of_mut<'a>(m: &'a mut MatMut<'_>) -> &'a mut [Self] {
        m.f32_mut()
    }
    fn of_tensor(t: &Tensor) -> &[Self] {
        t.f32()
    }
    fn of_tensor_mut(t: &mut Tensor) -> &mut [Self] {
        t.f32_mut()
    }
}

impl Elem for bf16 {
    #[inline(always)]
    fn get(self) -> f32 {
        bf16_value(self.to_bits())
    }
    #[inline(always)]
    fn round(v: f32) -> Self {
        Self::from_bits(bf16_bits(v))
    }
    fn of<'a>(m: &'a MatRef<'_>) -> &'a [Self] {
        m.bf16()
    }
    fn of_mut<'a>(m: &'a mut MatMut<'_>) -> &'a mut [Self] {
        m.bf16_mut()
    }
    fn of_tensor(t: &Tensor) -> &[Self] {
        t.bf16()
    }
    fn of_tensor_mut(t: &mut Tensor) -> &mut [Self] {
        t.bf16_mut()
    }
}

/// Evaluates an expression with the type alias `$t` standing for the element type of a `DType`.
macro_rules! with_elem {
    ($dtype:expr, $t:ident => $body:expr) => {
        match $dtype {
            $crate::DType::F32 => {
                type $t = f32;
                $body
            }
            $crate::DType::Bf16 => {
                type $t = half::bf16;
                $body
            }
            _ => unreachable!("a float type, as checked"),
        }
    };
}
pub(crate) use with_elem;

/// Panics unless the type is a floating-point type.
#[track_caller]
pub(crate) fn expect_float(what: &str, dtype: DType) {
    assert!(matches!(dtype, DType::F32 | DType::Bf16), "{what}: {dtype:?} elements where floating point is needed");
}

/// Rows of a matrix operand.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a, T> {
    data: &'a [T],
    stride: usize,
    cols: usize,
}

impl<'a, T: Elem> Rows<'a, T> {
    pub(crate) fn new(m: &'a MatRef<'_>) -> Self {
        Self { data: T::of(m), stride: m.stride(), cols: m.cols() }
    }
    #[inline(always)]
    pub(crate) fn row(&self, r: usize) -> &'a [T] {
        &self.data[r * self.stride..][..self.cols]
    }
}

/// Rows of an output that the tasks of one loop write.
pub(crate) struct RowsMut<'a, T> {
    data: DisjointMut<'a, T>,
    stride: usize,
    cols: usize,
}

impl<'a, T: Elem> RowsMut<'a, T> {
    pub(crate) fn new(m: &'a mut MatMut<'_>) -> Self {
        let (stride, cols) = (m.stride(), m.cols());
        Self { data: DisjointMut::new(T::of_mut(m)), stride, cols }
    }
    /// Row `r`.
    ///
    /// # Safety
    /// Live parts of different tasks must not overlap.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn row(&self, r: usize) -> &mut [T] {
        // SAFETY: the caller's promise.
        unsafe { self.data.slice(r * self.stride, self.cols) }
    }
    /// Columns `range` of row `r`.
    ///
    /// # Safety
    /// Live parts of different tasks must not overlap.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn part(&self, r: usize, range: &Range<usize>) -> &mut [T] {
        debug_assert!(range.end <= self.cols);
        // SAFETY: the caller's promise.
        unsafe { self.data.slice(r * self.stride + range.start, range.len()) }
    }
}

/// Divides `n` rows (or elements) into tasks of `block`: the number of tasks, and the range of each.
#[derive(Clone, Copy)]
pub(crate) struct Blocks {
    n: usize,
    block: usize,
}

impl Blocks {
    /// Blocks of whole rows with about [`TASK`] elements each.
    pub(crate) fn rows(rows: usize, cols: usize) -> Self {
        Self { n: rows, block: (TASK / cols.max(1)).max(1) }
    }
    /// Blocks of [`TASK`] elements.
    pub(crate) fn elements(n: usize) -> Self {
        Self { n, block: TASK }
    }
    /// Slices of columns for tasks that each go through all `rows`: about [`TASK`] elements, and at least two cache
    /// lines of f32.
    pub(crate) fn columns(rows: usize, cols: usize) -> Self {
        Self { n: cols, block: (TASK / rows.max(1)).next_multiple_of(32).max(128) }
    }
    pub(crate) fn count(&self) -> usize {
        self.n.div_ceil(self.block)
    }
    pub(crate) fn range(&self, i: usize) -> Range<usize> {
        i * self.block..((i + 1) * self.block).min(self.n)
    }
}

/// Sum of the lanes by halving. Their number is a power of two.
#[inline(always)]
pub(crate) fn sum_lanes<T: Copy + std::ops::AddAssign, const N: usize>(mut acc: [T; N]) -> T {
    let mut half = N / 2;
    while half > 0 {
        for i in 0..half {
            let other = acc[i + half];
            acc[i] += other;
        }
        half /= 2;
    }
    acc[0]
}

/// Dot product in f32. Element i goes to lane `i % LANES`, and lanes are added by halving.
#[inline(always)]
pub(crate) fn dot<const FMA: bool, A: Elem, B: Elem>(a: &[A], b: &[B]) -> f32 {
    let mut acc = [0.0f32; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let (a_rest, b_rest) = (a_chunks.remainder(), b_chunks.remainder());
    for (a, b) in a_chunks.zip(b_chunks) {
        for i in 0..LANES {
            acc[i] = fma::<FMA>(a[i].get(), b[i].get(), acc[i]);
        }
    }
    for (i, (a, b)) in a_rest.iter().zip(b_rest).enumerate() {
        acc[i] = fma::<FMA>(a.get(), b.get(), acc[i]);
    }
    sum_lanes(acc)
}
