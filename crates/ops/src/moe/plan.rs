//! The plan of a permutation: a stable counting sort of slots by expert.
//!
//! Blocks of tokens are counted separately. One pass over blocks and experts turns the counts into positions, and the
//! blocks fill in their entries. The result is the sorted order, whichever thread computes it.

use crate::{Acc, Cx, DType, Device, DisjointMut, Tensor};

/// Slots per block. A small batch is one block, without a hand-over to threads.
const SLOTS: usize = 8192;

/// The destination of every (token, k).
pub struct Plan {
    /// i32 [E + 1]: rows `offsets[e]..offsets[e + 1]` belong to expert e.
    pub offsets: Tensor,
    /// i32 [T * K]: slot `t * K + k` to row.
    pub row_of: Tensor,
    /// i32 [T * K]: row to token.
    pub token_of: Tensor,
    /// i32 [T * K]: row to slot.
    pub slot_of: Tensor,
    top_k: usize,
}

impl Plan {
    /// Experts, E.
    pub fn experts(&self) -> usize {
        self.offsets.len() - 1
    }
    /// Number of experts per token, K.
    pub fn top_k(&self) -> usize {
        self.top_k
    }
    /// Tokens, T.
    pub fn tokens(&self) -> usize {
        self.rows() / self.top_k
    }
    /// Rows, T * K.
    pub fn rows(&self) -> usize {
        self.row_of.len()
    }
}

/// Sorts the slots of `idx` i32 [T, K] by expert.
pub fn plan(cx: &Cx, idx: &Tensor, experts: usize) -> Plan {
    let _scope = cx.scope("moe plan", 0, 0);
    let op = "moe::plan";
    let (t, k) = (idx.rows(), idx.cols());
    assert!(idx.shape() == [t, k] && k >= 1 && experts >= 1, "{op}: idx is {idx:?} for {experts} experts");
    assert!(i32::try_from(t * k).is_ok(), "{op}: {t} tokens times {k} do not fit an i32");
    let empty = |n| cx.empty(&[n], DType::I32);
    let mut plan = Plan {
        offsets: empty(experts + 1),
        row_of: empty(t * k),
        token_of: empty(t * k),
        slot_of: empty(t * k),
        top_k: k,
    };
    match idx.device() {
        Device::Cpu => sort(cx, idx.i32(), experts, &mut plan),
    }
    plan
}

fn sort(cx: &Cx, idx: &[i32], experts: usize, plan: &mut Plan) {
    let k = plan.top_k;
    let size = (SLOTS / k).max(1) * k;
    let blocks = idx.len().div_ceil(size);
    let slots = |b: usize| b * size..((b + 1) * size).min(idx.len());
    // Number of a block's slots for each expert. Later, the next row for such a slot.
    let mut places = cx.empty(&[blocks, experts], DType::I32);
    let shared = DisjointMut::new(places.i32_mut());
    cx.threads().each(blocks, |b| {
        // SAFETY: a block has counts of its own.
        let counts = unsafe { shared.slice(b * experts, experts) };
        counts.fill(0);
        for slot in slots(b) {
            let e = idx[slot];
            // A negative number becomes a large one as usize.
            assert!((e as usize) < experts, "moe::plan: token {} chose expert {e} of {experts}", slot / k);
            counts[e as usize] += 1;
        }
    });
    let (places, offsets) = (places.i32_mut(), plan.offsets.i32_mut());
    let mut row = 0;
    for e in 0..experts {
        offsets[e] = row;
        for b in 0..blocks {
            let place = &mut places[b * experts + e];
            row += std::mem::replace(place, row);
        }
    }
    offsets[experts] = row;
    let places = DisjointMut::new(places);
    let row_of = DisjointMut::new(plan.row_of.i32_mut());
    let (token_of, slot_of) = (DisjointMut::new(plan.token_of.i32_mut()), DisjointMut::new(plan.slot_of.i32_mut()));
    cx.threads().each(blocks, |b| {
        let slots = slots(b);
        // SAFETY: a block has places and slots of its own.
        let (places, row_of) = unsafe { (places.slice(b * experts, experts), row_of.slice(slots.start, slots.len())) };
        let chosen = idx[slots.clone()].chunks_exact(k).zip(row_of.chunks_exact_mut(k));
        for (token, (experts, rows)) in (slots.start / k..).zip(chosen) {
            for (j, (e, row_of)) in experts.iter().zip(rows).enumerate() {
                let row = &mut places[*e as usize];
                *row_of = *row;
                // SAFETY: every slot has a row of its own.
                let (token_of, slot_of) =
                    unsafe { (token_of.slice(*row as usize, 1), slot_of.slice(*row as usize, 1)) };
                token_of[0] = token as i32;
                slot_of[0] = (token * k + j) as i32;
                *row += 1;
            }
        }
    });
}

/// Number of rows of each expert: `out` i32 `[E]` (acc). Integers make sums over micro-batches and ranks exact.
pub fn loads(_cx: &Cx, plan: &Plan, out: &mut Tensor, acc: Acc) {
    assert!(out.len() == plan.experts(), "moe::loads: out is {out:?} for {} experts", plan.experts());
    for (out, w) in out.i32_mut().iter_mut().zip(plan.offsets.i32().windows(2)) {
        let load = w[1] - w[0];
        *out = if acc == Acc::Add { *out + load } else { load };
    }
}
