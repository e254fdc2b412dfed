//! Memory of exactly the requested size, outside of any pool: for weights, gradients and moments.
//!
//! The system provides zeroed pages when they are first touched. So allocating memory for a model needs no pass over it
//! before it is filled.

use memmap2::MmapMut;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;

/// Memory of at least this size gets its own pages. Smaller memory comes from the allocator.
const PAGES: usize = 64 << 10;
/// Alignment of memory from the allocator: a cache line, an AVX-512 register.
const ALIGN: usize = 64;
/// Huge pages are requested from this size on.
const HUGE: usize = 2 << 20;

/// An owned, zeroed block of memory, aligned to at least 64 bytes.
pub(crate) enum Fixed {
    /// From the allocator.
    Small(NonNull<u8>, Layout),
    /// Its own pages.
    Pages(MmapMut),
}

// SAFETY: a Fixed owns its memory exclusively, like a Box<[u8]>.
unsafe impl Send for Fixed {}
// SAFETY: as above; shared access is read-only through Tensor's borrows.
unsafe impl Sync for Fixed {}

impl Fixed {
    /// `bytes` bytes, all zero.
    pub(crate) fn new(bytes: usize) -> Self {
        if bytes >= PAGES {
            let map = MmapMut::map_anon(bytes)
                .unwrap_or_else(|_| handle_alloc_error(Layout::from_size_align(bytes, ALIGN).expect("size overflows")));
            #[cfg(target_os = "linux")]
            if bytes >= HUGE {
                // If the system refuses this, nothing is lost.
                drop(map.advise(memmap2::Advice::HugePage));
            }
            return Self::Pages(map);
        }
        let layout = Layout::from_size_align(bytes.max(ALIGN), ALIGN).expect("size overflows");
        // SAFETY: the layout's size is at least ALIGN, never zero.
        let ptr = unsafe { alloc_zeroed(layout) };
        Self::Small(NonNull::new(ptr).unwrap_or_else(|| handle_alloc_error(layout)), layout)
    }

    pub(crate) fn as_ptr(&self) -> *const u8 {
        match self {
            Self::Small(ptr, _) => ptr.as_ptr(),
            Self::Pages(map) => map.as_ptr(),
        }
    }
    pub(crate) fn as_mut_ptr(&mut self) -> *mut u8 {
        match self {
            Self::Small(ptr, _) => ptr.as_ptr(),
            Self::Pages(map) => map.as_mut_ptr(),
        }
    }
}

impl Drop for Fixed {
    fn drop(&mut self) {
        if let Self::Small(ptr, layout) = self {
            // SAFETY: allocated in `new` with the same layout.
            unsafe { dealloc(ptr.as_ptr(), *layout) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_zero_aligned_and_writable() {
        for bytes in [0, 1, 63, PAGES - 1, PAGES, HUGE + 5] {
            let mut memory = Fixed::new(bytes);
            assert_eq!(memory.as_ptr() as usize % ALIGN, 0, "{bytes}");
            // SAFETY: the block has so many bytes.
            let all = unsafe { std::slice::from_raw_parts_mut(memory.as_mut_ptr(), bytes) };
            assert!(all.iter().all(|b| *b == 0), "{bytes}");
            all.fill(7);
        }
    }
}
