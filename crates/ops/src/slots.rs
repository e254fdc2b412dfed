//! Scratch for tasks. The thread that starts a loop takes it for all tasks before they begin, with one piece for each
//! thread that may take part. So the memory taken from the pool does not depend on which tasks run at the same time.

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
    /// `count` pieces of at least `bytes` bytes, aligned to 64. There are as many as threads, or as tasks if these are
    /// fewer.
    pub(crate) fn new(cx: &Cx, count: usize, bytes: usize) -> Self {
        let bytes = bytes.next_multiple_of(64);
        let count = count.min(64 * WORDS);
        let mut memory = cx.empty(&[count * bytes / 4], DType::F32);
        let ptr = memory.f32_mut().as_mut_ptr().cast();
        Self { _memory: memory, ptr, bytes, count, busy: Default::default() }
    }

    /// Runs `f` with a piece of its own. Tasks of a loop always find one, because a task does not start another loop.
    /// The contents are unspecified (NaN under debug assertions, so that a missing write is noticed).
    pub(crate) fn with<R>(&self, f: impl FnOnce(*mut u8) -> R) -> R {
        loop {
            for i in 0..self.count {
                let (word, bit) = (&self.busy[i / 64], 1 << (i % 64));
                if word.load(Ordering::Relaxed) & bit == 0 && word.fetch_or(bit, Ordering::Acquire) & bit == 0 {
                    // SAFETY: piece i lies inside the memory.
                    let piece = unsafe { self.ptr.add(i * self.bytes) };
                    if cfg!(debug_assertions) {
                        // SAFETY: the piece has that many bytes, and nobody else has the piece.
                        unsafe { piece.write_bytes(0xff, self.bytes) };
                    }
                    let result = f(piece);
                    word.fetch_and(!bit, Ordering::Release);
                    return result;
                }
            }
            std::hint::spin_loop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    #[test]
    fn tasks_that_meet_have_pieces_of_their_own_and_take_nothing_from_the_pool() {
        let cx = Cx::cpu(3, DType::F32);
        let slots = Slots::new(&cx, 3, 100);
        let before = cx.pool().usage();
        // No task ends before all of them have a piece.
        let barrier = Barrier::new(3);
        let places = [const { AtomicU64::new(0) }; 3];
        cx.threads().each(3, |task| {
            slots.with(|piece| {
                places[task].store(piece as u64, Ordering::Relaxed);
                barrier.wait();
            });
        });
        let mut places = places.map(AtomicU64::into_inner);
        places.sort_unstable();
        assert!(places[0].is_multiple_of(64) && places.windows(2).all(|p| p[1] - p[0] == 128), "{places:?}");
        assert_eq!(cx.pool().usage(), before);
    }
}
