//! Processes one part of a sequence's keys for a group of rows and heads, and merges the parts.
//!
//! It works like the forward pass with heads in place of queries: S^T = C Q^T with heads as lanes, then O = alpha O + P
//! C. The heads of a row start at a multiple of 16 lanes, so that all lanes of a panel see the same keys.

use super::{HEADS, PAGE, PagedRows, SPLIT, Sizes};
use crate::DisjointMut;
use crate::attention::kernel::{AttentionElem, TileKernel, Work};
use crate::attention::lanes::Lanes;
use crate::attention::pack::{self, Part};
use crate::attention::tile::{Panels, ROWS, Rows, Start};
use crate::attention::weights::{Span, Stats, softmax};
use crate::attention::{BLOCK, Scratch};
use crate::gemm::fetch;
use std::f32::consts::LOG2_E;

/// A task is (group of rows, part, group of heads).
pub(super) struct Parts<'a, E> {
    pub(super) q: &'a [E],
    pub(super) pool: &'a [E],
    pub(super) rows: &'a PagedRows,
    pub(super) z: Sizes,
    pub(super) head_groups: usize,
    /// `[B parts, H, row]`: an output row that is not yet normalised, followed by the maximum (base 2) and the sum.
    pub(super) partial: DisjointMut<'a, f32>,
}

impl<E: AttentionElem> Work<E> for Parts<'_, E> {
    fn scratch<K: TileKernel<E = E>>(&self) -> usize {
        let z = &self.z;
        let nh_pad = HEADS;
        let (ld_d, ld_v) = ((z.dc + z.dr).next_multiple_of(16), z.dc.next_multiple_of(16));
        let wd = ld_d / K::PAIR;
        wd * (nh_pad + BLOCK) + BLOCK * nh_pad + BLOCK / K::PAIR * (nh_pad + ld_v) + nh_pad * ld_v + 3 * nh_pad
    }

    #[inline(always)]
    unsafe fn run<K: TileKernel<E = E>>(&self, task: usize, mut scratch: Scratch) {
        let z = &self.z;
        let (place, head_group) = (task / self.head_groups, task % self.head_groups);
        let (group, part) = (place / z.parts, place % z.parts);
        let (row0, rows) = self.rows.group(group);
        let (from, len) = (part * SPLIT, self.rows.group_end(group));
        if from >= len {
            return;
        }
        let end = len.min(from + SPLIT);
        let h0 = head_group * HEADS;
        let nh = HEADS.min(z.heads - h0);
        let row_pad = nh.next_multiple_of(16);
        let nh_pad = rows * row_pad;
        let d = z.dc + z.dr;
        let (ld_d, ld_v) = (d.next_multiple_of(16), z.dc.next_multiple_of(16));
        let wd = ld_d / K::PAIR;
        let qt: *mut u32 = scratch.take(wd * nh_pad);
        let k_rows: *mut u32 = scratch.take(wd * BLOCK);
        let scores: *mut f32 = scratch.take(BLOCK * nh_pad);
        let p: *mut u32 = scratch.take(BLOCK / K::PAIR * nh_pad);
        let v: *mut u32 = scratch.take(BLOCK / K::PAIR * ld_v);
        let acc: *mut f32 = scratch.take(nh_pad * ld_v);
        let (max, sum, alpha): (*mut f32, *mut f32, *mut f32) =
            (scratch.take(nh_pad), scratch.take(nh_pad), scratch.take(nh_pad));
        let table = self.rows.table(row0);
        // Rows of the pool are whole words, so the products can read them where they are.
        let direct = size_of::<E>() * K::PAIR == 4 && d.is_multiple_of(K::PAIR);
        // SAFETY: the pieces hold BLOCK keys and nh_pad lanes; the partial rows are this task's alone. Pages are in the
        // pool.
        unsafe {
            for r in 0..rows {
                let q = self.q[((row0 + r) * z.heads + h0) * d..].as_ptr();
                let part = Part { src: q, stride: d, cols: d, at: 0, to: ld_d };
                pack::lanes::<K>(part, nh, row_pad, qt.add(r * row_pad), nh_pad);
            }
            for i in 0..nh_pad {
                *max.add(i) = f32::NEG_INFINITY;
                *sum.add(i) = 0.0;
            }
            for i in 0..nh_pad * ld_v {
                *acc.add(i) = 0.0;
            }
            for k0 in (from..end).step_by(BLOCK) {
                // Only the first block has keys that are skipped.
                let first = k0.max(self.rows.skip());
                let nk = BLOCK.min(end - k0) - (first - k0);
                let nk_pad = nk.next_multiple_of(ROWS);
                let src = self.pool[(table[k0 / PAGE] as usize * PAGE + first - k0) * d..].as_ptr();
                // No lane sees the page's rows after the last key. Where keys are skipped, the page may end before the
                // strip.
                let keys = if direct && first - k0 + nk_pad <= PAGE {
                    Rows { ptr: src.cast(), rs: d / K::PAIR, cs: 1 }
                } else {
                    pack::rows::<K>(Part { src, stride: d, cols: d, at: 0, to: ld_d }, nk, nk_pad, k_rows, wd);
                    Rows { ptr: k_rows, rs: wd, cs: 1 }
                };
                // Meanwhile the next block is prefetched, a part of it with every strip.
                let next = table.get(k0 / PAGE + 1).filter(|_| k0 + BLOCK < end);
                let next = next.map(|page| self.pool[*page as usize * PAGE * d..].as_ptr().cast::<u8>());
                let strip_bytes = ROWS * d * size_of::<E>();
                pack::steps::<K>(Part { src, stride: d, cols: z.dc, at: 0, to: ld_v }, nk, nk_pad, v, ld_v);
                for r in (0..nk_pad).step_by(ROWS) {
                    if let Some(next) = next {
                        fetch(next.wrapping_add(r / ROWS * strip_bytes), strip_bytes);
                    }
                    let a = Rows { ptr: keys.ptr.add(r * keys.rs), ..keys };
                    let b = Panels { ptr: qt, bs: nh_pad, count: nh_pad / 16 };
                    K::strip(a, b, d.div_ceil(K::PAIR), scores.add(r * nh_pad), nh_pad, Start::Zero);
                }
                for lane in (0..nh_pad).step_by(16) {
                    // No lane sees the keys after its row's own, or the padded ones.
                    let seen = self.rows.end(row0 + lane / row_pad).saturating_sub(first).min(nk);
                    let span = Span { full: seen, total: nk_pad, first: seen as isize - 16 };
                    let st = Stats { max: max.add(lane), sum: sum.add(lane), alpha: alpha.add(lane) };
                    softmax::<K>(scores.add(lane), nh_pad, p.add(lane), nh_pad, span, z.scale * LOG2_E, st);
                }
                for i in (0..nh_pad).step_by(ROWS) {
                    let a = Rows { ptr: p.add(i), rs: 1, cs: nh_pad };
                    let b = Panels { ptr: v, bs: ld_v, count: ld_v / 16 };
                    K::strip(a, b, nk_pad / K::PAIR, acc.add(i * ld_v), ld_v, Start::Scale(alpha.add(i)));
                }
            }
            for (r, i) in (0..rows).flat_map(|r| (0..nh).map(move |i| (r, i))) {
                let place = (row0 + r) * z.parts + part;
                let row = self.partial.slice((place * z.heads + h0 + i) * z.row, z.row);
                let lane = r * row_pad + i;
                row[..ld_v].copy_from_slice(std::slice::from_raw_parts(acc.add(lane * ld_v), ld_v));
                row[ld_v] = *max.add(lane);
                row[ld_v + 1] = *sum.add(lane);
            }
        }
    }
}

/// A task is a row. Its parts are scaled to a common maximum and added in ascending order.
pub(super) struct Merge<'a, E> {
    pub(super) rows: &'a PagedRows,
    pub(super) z: Sizes,
    pub(super) partial: &'a [f32],
    pub(super) o: DisjointMut<'a, E>,
}

impl<E: AttentionElem> Work<E> for Merge<'_, E> {
    #[inline(always)]
    unsafe fn run<K: TileKernel<E = E>>(&self, task: usize, _: Scratch) {
        let z = &self.z;
        let n = self.rows.end(task).div_ceil(SPLIT);
        let ld_v = z.row - 16;
        for h in 0..z.heads {
            let row = |part: usize| &self.partial[((task * z.parts + part) * z.heads + h) * z.row..][..z.row];
            let max = (0..n).map(|i| row(i)[ld_v]).fold(f32::NEG_INFINITY, f32::max);
            let sum: f32 = (0..n).map(|i| row(i)[ld_v + 1] * (row(i)[ld_v] - max).exp2()).sum();
            for col in (0..z.dc).step_by(16) {
                // SAFETY: rows hold dc rounded up to sixteen values; the output row is this task's.
                unsafe {
                    let mut v = K::L::splat(0.0);
                    for i in 0..n {
                        let weight = (row(i)[ld_v] - max).exp2() / sum;
                        v = K::L::load(row(i)[col..col + 16].as_ptr()).mul_add(K::L::splat(weight), v);
                    }
                    let count = 16.min(z.dc - col);
                    let out = self.o.slice((task * z.heads + h) * z.dc + col, count).as_mut_ptr();
                    K::emit(out, count, v);
                }
            }
        }
    }
}
