//! The rows of x, quantised to whole numbers.

use super::fit::{magnitude, whole};
use super::format::{BLOCK, GROUP, OFFSET};
use super::tile::Meta;
use crate::kernel::{Elem, Pointwise, Rows, dispatch, with_elem};
use crate::{Cx, DType, DisjointMut, MatRef, Tensor};

/// Elements per task. Smaller inputs are not worth handing to other threads.
const TASK: usize = 1 << 15;

/// Some rows of x: codes `[T, k]`, k in whole blocks, and a scale and a correction for each group of 32 of them.
pub(super) struct Inputs {
    codes: Tensor,
    /// Pairs `[T, groups]` of a scale and the start of the integer sum, as [`Meta`].
    meta: Tensor,
}

impl Inputs {
    /// Quantises `rows` rows of x from row `first` on.
    pub(super) fn new(cx: &Cx, x: &MatRef<'_>, first: usize, rows: usize) -> Self {
        let width = x.cols().next_multiple_of(BLOCK);
        let mut codes = cx.empty(&[rows, width], DType::U8);
        let mut meta = cx.empty(&[rows, 2 * width / GROUP], DType::F32);
        {
            let (codes, meta) = (DisjointMut::new(codes.u8_mut()), DisjointMut::new(meta.f32_mut()));
            with_elem!(x.dtype(), E => {
                let from = Rows::<E>::new(x);
                let some = |range: std::ops::Range<usize>| {
                    for r in range {
                        // SAFETY: every row is written by one task.
                        let (codes, meta) = unsafe {
                            (codes.slice(r * width, width), meta.slice(r * 2 * width / GROUP, 2 * width / GROUP))
                        };
                        dispatch(cx.isa(), Row { from: from.row(first + r), codes, meta });
                    }
                };
                let each = (TASK / width.max(1)).max(1);
                if rows <= each {
                    some(0..rows);
                } else {
                    cx.threads().each(rows.div_ceil(each), |i| some(i * each..((i + 1) * each).min(rows)));
                }
            });
        }
        Self { codes, meta }
    }

    /// The first row's codes, and how many there are from one row to the next.
    pub(super) fn codes(&self) -> (*const u8, usize) {
        (self.codes.u8().as_ptr(), self.codes.cols())
    }
    /// The first row's scales and corrections, and how many there are from one row to the next.
    pub(super) fn meta(&self) -> (*const Meta, usize) {
        (self.meta.f32().as_ptr().cast(), self.meta.cols() / 2)
    }
}

/// One row.
struct Row<'a, E> {
    from: &'a [E],
    codes: &'a mut [u8],
    meta: &'a mut [f32],
}

impl<E: Elem> Pointwise for Row<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { from, codes, meta } = self;
        let (codes, _) = codes.as_chunks_mut::<GROUP>();
        let (meta, _) = meta.as_chunks_mut::<2>();
        let (whole_groups, rest) = from.as_chunks::<GROUP>();
        let mut at = 0;
        for values in whole_groups {
            let mut v = [0.0; GROUP];
            for i in 0..GROUP {
                v[i] = values[i].get();
            }
            meta[at] = group(&v, &mut codes[at]);
            at += 1;
        }
        let mut rest = rest.iter();
        while at < meta.len() {
            let mut v = [0.0; GROUP];
            v.iter_mut().zip(rest.by_ref()).for_each(|(v, from)| *v = from.get());
            meta[at] = group(&v, &mut codes[at]);
            at += 1;
        }
    }
}

/// Writes the codes of a group. Returns its scale and the start of the integer sum, as the bits of an f32.
#[inline(always)]
fn group(v: &[f32; GROUP], codes: &mut [u8; GROUP]) -> [f32; 2] {
    let mut top = 0;
    for v in v {
        top = top.max(v.to_bits() & 0x7fff_ffff);
    }
    let top = magnitude(top);
    if top == 0.0 || top.is_nan() {
        // All zero, or not all finite.
        codes.fill(0);
        return [top, f32::from_bits(0)];
    }
    let inverse = 127.0 / top;
    let mut sum = 0;
    for i in 0..GROUP {
        let code = whole(v[i] * inverse);
        sum += code;
        codes[i] = code as u8;
    }
    [top / 127.0, f32::from_bits((-OFFSET * sum) as u32)]
}
