//! Weights in E4M3. Blocks of 128x128 share a scale, `amax / 448` (report 3.3.2). Both packed forms have the same
//! codes.

use super::PackedWeight;
use crate::fp8::TILE;
use crate::fp8::codec::{Codec, FourThree, encode_with, scale_of};
use crate::gemm::LANES;
use crate::gemm::pack::codes_from_rows;
use crate::gemm::places::Rows;
use crate::kernel::{Elem, Pointwise, dispatch};
use crate::{Cx, DType, DisjointMut, Isa};
use half::bf16;

/// Packs all groups from rows of f32 or bf16. `before(group, row, rows)` is called for every block of rows before the
/// block is read, in the task that packs it. So an update of these rows leaves them in cache.
pub(crate) fn pack(cx: &Cx, w: &mut PackedWeight, src: Rows, before: impl Fn(usize, usize, usize) + Sync) {
    let (groups, n, k) = (w.groups(), w.n(), w.k());
    let (forward, backward, [forward_scales, backward_scales]) = w.parts_mut();
    let to = Forms {
        n,
        k,
        forward: DisjointMut::new(forward.u8_mut()),
        backward: backward.map(|b| DisjointMut::new(b.u8_mut())),
        forward_scales: DisjointMut::new(forward_scales.f32_mut()),
        backward_scales: DisjointMut::new(backward_scales.f32_mut()),
    };
    let (down, across) = (n.div_ceil(TILE), k.div_ceil(TILE));
    cx.threads().each(groups * down, |task| {
        let (group, row) = (task / down, task % down * TILE);
        before(group, row, TILE.min(n - row));
        for block in 0..across {
            // SAFETY: the caller checked the source's length; a block of rows belongs to one task.
            let from = unsafe { src.at(group * n + row, block * TILE) };
            let at = Place { group, row, rows: TILE.min(n - row), col: block * TILE, cols: TILE.min(k - block * TILE) };
            match src.dtype {
                DType::F32 => dispatch(cx.isa(), Block::<f32>::new(cx.isa(), from, at, &to)),
                _ => dispatch(cx.isa(), Block::<bf16>::new(cx.isa(), from, at, &to)),
            }
        }
    });
}

/// The packed forms.
struct Forms<'a> {
    n: usize,
    k: usize,
    forward: DisjointMut<'a, u8>,
    backward: Option<DisjointMut<'a, u8>>,
    forward_scales: DisjointMut<'a, f32>,
    backward_scales: DisjointMut<'a, f32>,
}

/// A block of a weight.
#[derive(Clone, Copy)]
struct Place {
    group: usize,
    row: usize,
    rows: usize,
    col: usize,
    cols: usize,
}

struct Block<'a, X> {
    isa: Isa,
    from: Rows,
    at: Place,
    to: &'a Forms<'a>,
    element: std::marker::PhantomData<X>,
}

impl<'a, X> Block<'a, X> {
    fn new(isa: Isa, from: Rows, at: Place, to: &'a Forms<'a>) -> Self {
        Self { isa, from, at, to, element: std::marker::PhantomData }
    }
}

/// Elements of a panel's step.
const STEP: usize = 2 * LANES;

impl<X: Elem> Pointwise for Block<'_, X> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { isa, from, at: Place { group, row, rows, col, cols }, to, .. } = self;
        let source = |r: usize| {
            // SAFETY: row r of the block exists.
            unsafe { std::slice::from_raw_parts(from.ptr.add(r * from.stride).cast::<X>(), cols) }
        };
        let most = (0..rows).map(|r| crate::fp8::amax(source(r))).fold(0, u32::max);
        let scale = scale_of(most, FourThree::value(0x7e), false);
        // Codes of the block, zero where it has no element.
        let mut codes = [[0u8; TILE]; TILE];
        for (r, codes) in codes.iter_mut().enumerate().take(rows) {
            encode_with::<X, FourThree>(isa, source(r), &[scale], &mut codes[..cols]);
        }
        let (n_lanes, k_lanes) = (to.n.next_multiple_of(LANES), to.k.next_multiple_of(LANES));
        let (n_steps, k_steps) = (to.n.div_ceil(2), to.k.div_ceil(2));
        let (padded_rows, padded_cols) = (rows.next_multiple_of(LANES), cols.next_multiple_of(LANES));
        // SAFETY: the block's panels, steps and scales are this task's alone. A panel is made from sixteen rows of the whole
        // of `codes`, which has 128 of them, 128 bytes each, with zeros where the block has no element: as many as are read,
        // in 64s.
        unsafe {
            let tiles = to.k.div_ceil(TILE);
            to.forward_scales.slice((group * tiles + col / TILE) * n_lanes + row, padded_rows).fill(scale);
            let tiles = to.n.div_ceil(TILE);
            to.backward_scales.slice((group * tiles + row / TILE) * k_lanes + col, padded_cols).fill(scale);
            let start = group * n_lanes * k_steps * 2;
            for panel in 0..padded_rows / LANES {
                let at = start + ((row / LANES + panel) * k_steps + col / 2) * STEP;
                let out = to.forward.slice(at, cols.div_ceil(2) * STEP);
                let from = codes.as_flattened()[panel * LANES * TILE..].as_ptr();
                codes_from_rows(isa, from, TILE, out.len() / STEP, out.as_mut_ptr());
            }
            let Some(backward) = &to.backward else { return };
            let start = group * k_lanes * n_steps * 2;
            for panel in 0..padded_cols / LANES {
                let at = start + ((col / LANES + panel) * n_steps + row / 2) * STEP;
                let out = backward.slice(at, rows.div_ceil(2) * STEP);
                for (s, step) in out.chunks_exact_mut(STEP).enumerate() {
                    let (even, odd) =
                        (&codes[2 * s][panel * LANES..][..LANES], &codes[2 * s + 1][panel * LANES..][..LANES]);
                    for lane in 0..LANES {
                        step[2 * lane] = even[lane];
                        step[2 * lane + 1] = odd[lane];
                    }
                }
            }
        }
    }
}
