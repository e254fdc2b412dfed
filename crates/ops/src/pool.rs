//! A pool of aligned buffers in size classes. Buffers can be returned in any order.
//!
//! After the first steps, a training step finds every buffer here and allocates nothing. To ensure this for any
//! scheduling of threads, the tasks of a parallel loop take no buffers. Otherwise, two tasks that run at the same time
//! for the first time after many steps would need an additional buffer. Their scratch is taken before the loop
//! (`slots.rs`).

use crate::team::in_task;
use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

/// Alignment of small buffers: one cache line, one AVX-512 register.
const ALIGN: usize = 64;
/// Buffers of at least this size are aligned to it, so that the kernel can back them with huge pages.
const HUGE: usize = 2 << 20;
/// Four classes for each power of two, so at most a quarter of a buffer is unused.
const CLASSES: usize = 64 * 4;

/// An owned, initialised, aligned block of memory.
pub(crate) struct Buffer {
    ptr: NonNull<u8>,
    bytes: usize,
    /// Number of bytes that were requested.
    asked: usize,
}

// SAFETY: a Buffer owns its memory exclusively, like a Box<[u8]>.
unsafe impl Send for Buffer {}
// SAFETY: as above; shared access is read-only through Tensor's borrows.
unsafe impl Sync for Buffer {}

impl Buffer {
    fn layout(bytes: usize) -> Layout {
        let align = if bytes >= HUGE { HUGE } else { ALIGN };
        Layout::from_size_align(bytes.max(ALIGN), align).expect("buffer size overflows")
    }

    fn new(bytes: usize) -> Self {
        let layout = Self::layout(bytes);
        // SAFETY: the layout's size is at least ALIGN, never zero.
        let ptr = unsafe { alloc(layout) };
        let Some(ptr) = NonNull::new(ptr) else { handle_alloc_error(layout) };
        #[cfg(target_os = "linux")]
        if bytes >= HUGE {
            // This comes before the first write, because existing pages stay small.
            // SAFETY: the range lies inside our own allocation and the advice changes no content. A refusal is harmless.
            unsafe { libc::madvise(ptr.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE) };
        }
        // SAFETY: inside the allocation.
        unsafe { ptr.write_bytes(0, layout.size()) };
        Self { ptr, bytes, asked: 0 }
    }

    /// Its capacity in bytes.
    pub(crate) fn capacity(&self) -> usize {
        self.bytes
    }
    pub(crate) fn as_ptr(&self) -> *const u8 {
        self.ptr.as_ptr()
    }
    pub(crate) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.ptr.as_ptr()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with the same layout.
        unsafe { dealloc(self.ptr.as_ptr(), Self::layout(self.bytes)) }
    }
}

/// The rounded size of a request, and its class.
fn class_of(bytes: usize) -> (usize, usize) {
    let bytes = bytes.max(256);
    let top = bytes.ilog2() as usize;
    let quarter = 1usize << (top - 2);
    let steps = (bytes - (1 << top)).div_ceil(quarter); // 0..=4
    let size = (1 << top) + steps * quarter;
    (size, top * 4 + steps)
}

#[derive(Default)]
struct Inner {
    free: Vec<Vec<Buffer>>,
    live_bytes: usize,
    peak_bytes: usize,
    asked_bytes: usize,
}

/// Shared handle of a pool.
#[derive(Clone)]
pub struct Pool(Arc<Mutex<Inner>>);

impl Default for Pool {
    fn default() -> Self {
        Self::new()
    }
}

impl Pool {
    /// An empty pool.
    pub fn new() -> Self {
        let free = (0..CLASSES + 8).map(|_| Vec::with_capacity(4)).collect();
        Self(Arc::new(Mutex::new(Inner { free, ..Inner::default() })))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A buffer of at least `bytes` bytes. Contents are initialised but unspecified.
    ///
    /// # Panics
    /// In a task of a parallel loop, under debug assertions.
    pub(crate) fn take(&self, bytes: usize) -> Buffer {
        debug_assert!(
            !in_task(),
            "pool: {bytes} bytes taken in a task: the number of buffers would depend on which tasks run at the same time"
        );
        let (size, class) = class_of(bytes);
        let mut inner = self.lock();
        inner.live_bytes += size;
        inner.asked_bytes += bytes;
        inner.peak_bytes = inner.peak_bytes.max(inner.live_bytes);
        let found = inner.free[class].pop();
        drop(inner);
        let mut buffer = found.unwrap_or_else(|| Buffer::new(size));
        buffer.asked = bytes;
        buffer
    }

    pub(crate) fn give(&self, buffer: Buffer) {
        let (_, class) = class_of(buffer.bytes);
        let mut inner = self.lock();
        inner.live_bytes -= buffer.bytes;
        inner.asked_bytes -= buffer.asked;
        inner.free[class].push(buffer);
    }

    /// Bytes in use now, and the largest number so far.
    pub fn usage(&self) -> (usize, usize) {
        let inner = self.lock();
        (inner.live_bytes, inner.peak_bytes)
    }

    /// Requested bytes in use now: the elements of all tensors, without the unused ends of buffers.
    pub fn requested(&self) -> usize {
        self.lock().asked_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_cover_requests_with_at_most_a_quarter_of_waste() {
        for bytes in (1..5000).chain([1 << 20, (1 << 20) + 1, 3 << 21, usize::MAX >> 8]) {
            let (size, class) = class_of(bytes);
            assert!(size >= bytes && (bytes < 256 || size <= bytes + bytes / 4 + 1), "{bytes} -> {size}");
            assert_eq!(class_of(size), (size, if size.is_power_of_two() { size.ilog2() as usize * 4 } else { class }));
        }
    }

    #[test]
    fn a_buffer_given_back_is_taken_again() {
        let pool = Pool::new();
        let a = pool.take(1000);
        let address = a.as_ptr();
        pool.give(a);
        let b = pool.take(900);
        assert_eq!(b.as_ptr(), address);
        assert_eq!((pool.usage(), pool.requested()), ((1024, 1024), 900));
        pool.give(b);
        assert_eq!((pool.usage(), pool.requested()), ((0, 1024), 0));
    }

    #[cfg(debug_assertions)]
    #[test]
    fn a_task_takes_nothing_on_any_number_of_threads() {
        use crate::{Cx, DType};
        use std::panic::{AssertUnwindSafe, catch_unwind};
        for (threads, tasks) in [(1, 1), (1, 3), (2, 1), (2, 3)] {
            let cx = Cx::cpu(threads, DType::F32);
            let run = || cx.threads().each(tasks, |_| drop(cx.empty(&[5], DType::F32)));
            let payload = catch_unwind(AssertUnwindSafe(run)).expect_err("must panic");
            assert!(payload.downcast_ref::<String>().is_some_and(|m| m.contains("20 bytes taken in a task")));
            // After a loop, even one that panicked, the thread may take buffers again.
            assert_eq!(cx.empty(&[5], DType::F32).len(), 5);
        }
    }
}
