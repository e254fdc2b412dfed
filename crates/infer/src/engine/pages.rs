//! Reference counts of the pages of the latent pool, and for which tokens they hold latents of the MTP module.
//!
//! Invariants: a page is free, or has as many references as sequences and prefix nodes hold it. The latents of the
//! tokens in the prefix tree are never written again. The sequence that wrote them may write behind them in the same
//! page: others copy the tokens of a page that is not full. Freed pages are taken again in the order of their numbers,
//! so that a run can be repeated.

use hadal_ops::latent::{PAGE, pages_for};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Reference counts of a pool's pages.
#[derive(Debug)]
pub(crate) struct Pages {
    references: Vec<u32>,
    /// For each page, how many of its first tokens have latents of the MTP module. These depend only on the tokens of
    /// the page and those before. So all who share the page may use them, and any of them may add more.
    drafted: Vec<usize>,
    free: BinaryHeap<Reverse<u32>>,
}

impl Pages {
    /// `n` free pages.
    pub(crate) fn new(n: usize) -> Self {
        Self { references: vec![0; n], drafted: vec![0; n], free: (0..n as u32).map(Reverse).collect() }
    }

    /// Number of pages.
    pub(crate) fn total(&self) -> usize {
        self.references.len()
    }
    /// Number of free pages.
    pub(crate) fn free(&self) -> usize {
        self.free.len()
    }

    /// Takes a free page.
    pub(crate) fn take(&mut self) -> Option<u32> {
        let Reverse(page) = self.free.pop()?;
        self.references[page as usize] = 1;
        self.drafted[page as usize] = 0;
        Some(page)
    }

    /// Notes that the first `tokens` tokens of `from` were copied to `to`.
    pub(crate) fn copied(&mut self, from: u32, to: u32, tokens: usize) {
        self.drafted[to as usize] = self.drafted[from as usize].min(tokens);
    }

    /// How many first tokens of a sequence with these pages have latents of the MTP module.
    pub(crate) fn drafted(&self, table: &[u32]) -> usize {
        let full = table.iter().take_while(|page| self.drafted[**page as usize] == PAGE).count();
        full * PAGE + table.get(full).map_or(0, |page| self.drafted[*page as usize])
    }

    /// Notes that the first `tokens` tokens of such a sequence have them.
    pub(crate) fn set_drafted(&mut self, table: &[u32], tokens: usize) {
        for (i, page) in table.iter().take(pages_for(tokens)).enumerate() {
            let drafted = &mut self.drafted[*page as usize];
            *drafted = (*drafted).max((tokens - i * PAGE).min(PAGE));
        }
    }

    /// Adds a reference to a page.
    pub(crate) fn share(&mut self, page: u32) {
        debug_assert!(self.references[page as usize] > 0, "page {page} is free");
        self.references[page as usize] += 1;
    }

    /// Removes a reference. A page without references is free.
    pub(crate) fn release(&mut self, page: u32) {
        let count = &mut self.references[page as usize];
        debug_assert!(*count > 0, "page {page} is free");
        *count -= 1;
        if *count == 0 {
            self.free.push(Reverse(page));
        }
    }

    /// Number of references to a page.
    pub(crate) fn references(&self, page: u32) -> u32 {
        self.references[page as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_modules_latents_of_a_page_are_those_of_its_first_tokens() {
        let mut pages = Pages::new(4);
        let own: Vec<u32> = (0..3).filter_map(|_| pages.take()).collect();
        assert_eq!(pages.drafted(&own), 0);
        pages.set_drafted(&own, PAGE + 10);
        assert_eq!(pages.drafted(&own), PAGE + 10);
        // Another one that shares the first page, and copies a part of the second.
        let copy = pages.take().unwrap();
        pages.copied(own[1], copy, 4);
        assert_eq!(pages.drafted(&[own[0], copy]), PAGE + 4);
        pages.copied(own[1], copy, 40);
        assert_eq!(pages.drafted(&[own[0], copy]), PAGE + 10);
        // Fewer than are there change nothing.
        pages.set_drafted(&own, 3);
        assert_eq!(pages.drafted(&own), PAGE + 10);
        pages.release(own[0]);
        assert_eq!((pages.take(), pages.drafted(&own)), (Some(own[0]), 0));
    }
}
