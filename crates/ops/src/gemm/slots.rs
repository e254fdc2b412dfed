//! Scratch for tasks: as many pieces as threads, so that its size does not depend on how tasks meet.

use crate::{Cx, DType, Tensor};
use std::sync::atomic::{AtomicU64, Ordering};

const WORDS: usize = 8;

/// Pieces of scratch memory, each used by one task at a time.
pub(crate) struct Slots {
    /// Keeps the memory; only `ptr` is used.
    _memory: Tensor,
    ptr: *mut u8,
    bytes: usize,
    count: usize,
    busy: [AtomicU64; WORDS],
}

// SAFETY: a piece is handed to one task at a time.
unsafe impl Sync for Slots {}

impl Slots {
    /// A piece of at least `bytes` bytes, aligned to 64, for each thread that can be in one parallel loop.
    pub(crate) fn new(cx: &Cx, bytes: usize) -> Self {
        let bytes = bytes.next_multiple_of(64);
        let count = cx.threads().count().min(64 * WORDS);
        let mut memory = cx.empty(&[count * bytes / 4], DType::F32);
        let ptr = memory.f32_mut().as_mut_ptr().cast();
        Self { _memory: memory, ptr, bytes, count, busy: Default::default() }
    }

    /// Runs `f` with a piece to itself. Tasks of one loop always find one, since a task does not start another loop.
    pub(crate) fn with<R>(&self, f: impl FnOnce(*mut u8) -> R) -> R {
        loop {
            for i in 0..self.count {
                let (word, bit) = (&self.busy[i / 64], 1 << (i % 64));
                if word.load(Ordering::Relaxed) & bit == 0 && word.fetch_or(bit, Ordering::Acquire) & bit == 0 {
                    // SAFETY: piece i lies inside the memory.
                    let result = f(unsafe { self.ptr.add(i * self.bytes) });
                    word.fetch_and(!bit, Ordering::Release);
                    return result;
                }
            }
            std::hint::spin_loop();
        }
    }
}
