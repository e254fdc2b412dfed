//! The thread pool, and a way to give tasks disjoint pieces of an output.

use crate::team::Team;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The thread pool of a context.
#[derive(Clone)]
pub struct Threads(Arc<Team>);

impl Threads {
    /// A pool of `n` threads, including the calling one (0: one for each processor).
    ///
    /// # Panics
    /// If the operating system refuses to start them.
    pub fn new(n: usize) -> Self {
        let all = || std::thread::available_parallelism().map_or(1, usize::from);
        Self(Arc::new(Team::new(if n == 0 { all() } else { n })))
    }

    /// Number of threads.
    pub fn count(&self) -> usize {
        self.0.count()
    }

    /// Calls `f(0)` … `f(n - 1)`, each once, on any thread in any order. The result of a task must not depend on the
    /// thread that runs it. Tasks should take at least a few microseconds. They must not create tensors, because the
    /// amount of memory must not depend on which tasks run at the same time.
    pub fn each(&self, n: usize, f: impl Fn(usize) + Sync) {
        self.0.each(n, &f);
    }

    /// Like [`Threads::each`], for tasks that can fail. The first error ends the loop and is returned.
    pub fn try_each<E: Send>(&self, n: usize, f: impl Fn(usize) -> Result<(), E> + Sync) -> Result<(), E> {
        let (failed, error) = (AtomicBool::new(false), Mutex::new(None));
        self.each(n, |task| {
            if failed.load(Ordering::Relaxed) {
                return;
            }
            if let Err(e) = f(task) {
                failed.store(true, Ordering::Relaxed);
                error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
            }
        });
        error.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }
}

/// A mutable slice for a parallel loop. Different tasks write disjoint parts.
pub struct DisjointMut<'a, T> {
    ptr: *mut T,
    len: usize,
    life: PhantomData<&'a mut [T]>,
}

// SAFETY: access goes through `slice`, whose callers promise disjointness; T crosses threads as with `&mut [T]`.
unsafe impl<T: Send> Send for DisjointMut<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for DisjointMut<'_, T> {}

impl<'a, T> DisjointMut<'a, T> {
    /// Wraps a slice for the duration of a loop.
    pub fn new(slice: &'a mut [T]) -> Self {
        Self { ptr: slice.as_mut_ptr(), len: slice.len(), life: PhantomData }
    }

    /// Length of the whole slice.
    pub fn len(&self) -> usize {
        self.len
    }
    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The part `start..start + len`.
    ///
    /// # Safety
    /// No two live parts may overlap.
    ///
    /// # Panics
    /// If the part is out of bounds.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn slice(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start.checked_add(len).is_some_and(|end| end <= self.len), "part {start}+{len} of {}", self.len);
        // SAFETY: in bounds, and the caller promises that parts do not overlap.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(start), len) }
    }

    /// Pointer to element `start`, for kernels that write strided tiles.
    ///
    /// # Safety
    /// Tasks must write disjoint elements within the slice.
    pub unsafe fn ptr(&self, start: usize) -> *mut T {
        assert!(start <= self.len);
        // SAFETY: in bounds or one past the end.
        unsafe { self.ptr.add(start) }
    }
}

/// A mutable slice divided into consecutive chunks. Each is given out at most once, so a slice can be filled in
/// parallel safely.
pub struct Chunks<'a, T> {
    slice: DisjointMut<'a, T>,
    size: usize,
    taken: Vec<AtomicBool>,
}

impl<'a, T> Chunks<'a, T> {
    /// Chunks of `size` elements (the last may be shorter).
    pub fn new(slice: &'a mut [T], size: usize) -> Self {
        let count = slice.len().div_ceil(size);
        Self { slice: DisjointMut::new(slice), size, taken: (0..count).map(|_| AtomicBool::new(false)).collect() }
    }

    /// Chunk `i`.
    ///
    /// # Panics
    /// If it was already taken.
    #[allow(clippy::mut_from_ref)]
    pub fn take(&self, i: usize) -> &mut [T] {
        assert!(!self.taken[i].swap(true, Ordering::Relaxed), "chunk {i} taken twice");
        let start = i * self.size;
        // SAFETY: chunks do not overlap and the flag above hands each out once.
        unsafe { self.slice.slice(start, self.size.min(self.slice.len() - start)) }
    }
}
