//! Which pages of the latent pool are taken, and by how many.
//!
//! Invariants: a page is free, or has as many references as sequences and prefix nodes hold it. Only a page with one
//! reference is written. Freed pages are taken again in the order of their numbers, so that a run can be repeated.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Reference counts of a pool's pages.
#[derive(Debug)]
pub(crate) struct Pages {
    references: Vec<u32>,
    free: BinaryHeap<Reverse<u32>>,
}

impl Pages {
    /// `n` free pages.
    pub(crate) fn new(n: usize) -> Self {
        Self { references: vec![0; n], free: (0..n as u32).map(Reverse).collect() }
    }

    /// Pages in all.
    pub(crate) fn total(&self) -> usize {
        self.references.len()
    }
    /// Pages that nobody has.
    pub(crate) fn free(&self) -> usize {
        self.free.len()
    }

    /// Takes a free page.
    pub(crate) fn take(&mut self) -> Option<u32> {
        let Reverse(page) = self.free.pop()?;
        self.references[page as usize] = 1;
        Some(page)
    }

    /// One more has this page.
    pub(crate) fn share(&mut self, page: u32) {
        debug_assert!(self.references[page as usize] > 0, "page {page} is free");
        self.references[page as usize] += 1;
    }

    /// One less has this page.
    pub(crate) fn release(&mut self, page: u32) {
        let count = &mut self.references[page as usize];
        debug_assert!(*count > 0, "page {page} is free");
        *count -= 1;
        if *count == 0 {
            self.free.push(Reverse(page));
        }
    }

    /// How many have this page.
    pub(crate) fn references(&self, page: u32) -> u32 {
        self.references[page as usize]
    }
}
