//! Where the latents of sequences are in a pool of pages, and which of them each row of a pass sees.

use super::HEADS;
use crate::attention::BLOCK;
use crate::{Cx, DType, Tensor};

/// Tokens per page. It is a block of attention, so that each block of keys is in one page.
pub const PAGE: usize = BLOCK;

/// Pages needed for `tokens` tokens.
pub fn pages_for(tokens: usize) -> usize {
    tokens.div_ceil(PAGE)
}

/// The rows of a pass over sequences whose latents are in pages. Token `j` of a sequence is in row `table[j / PAGE] *
/// PAGE + j % PAGE` of the pool.
pub struct PagedRows {
    /// The number of heads for which the rows are grouped.
    heads: usize,
    /// First tokens of every sequence that no row sees.
    skip: usize,
    /// Pages of each sequence, i32 `[S, P]`.
    tables: Tensor,
    /// For each row, i32 `[B, 2]`: its sequence, and where the sequence's tokens that the row sees end.
    rows: Tensor,
    /// Rows that are computed together, i32 `[G, 2]`: the first row, and their number. They belong to the same
    /// sequence.
    groups: Tensor,
}

impl PagedRows {
    /// No rows.
    pub fn new(cx: &Cx) -> Self {
        let ints = |cols: usize| cx.empty(&[0, cols], DType::I32);
        Self { heads: 0, skip: 0, tables: ints(1), rows: ints(2), groups: ints(2) }
    }

    /// Sets the rows `(sequence, end)`, which see the tokens `skip..end` of sequences with these tables. The memory is
    /// reused if it is large enough. Rows of the same sequence must be adjacent. `heads` is the number of heads of the
    /// attention.
    ///
    /// # Panics
    /// If a row sees no token, or more tokens than its table has pages for, or if a whole page would be skipped.
    pub fn set<'a>(
        &mut self,
        heads: usize,
        skip: usize,
        tables: impl Iterator<Item = &'a [u32]> + Clone,
        rows: impl Iterator<Item = (usize, usize)> + Clone,
    ) {
        assert!(skip < PAGE, "latent decode: {skip} tokens of a page of {PAGE} cannot be skipped");
        (self.heads, self.skip) = (heads, skip);
        let (sequences, most) = tables.clone().fold((0, 1), |(n, most), table| (n + 1, most.max(table.len())));
        self.tables.resize(&[sequences, most]);
        for (into, table) in self.tables.i32_mut().chunks_exact_mut(most).zip(tables.clone()) {
            into.fill(-1);
            into.iter_mut().zip(table).for_each(|(into, page)| *into = *page as i32);
        }
        let n = rows.clone().count();
        self.rows.resize(&[n, 2]);
        for (into, (sequence, len)) in self.rows.i32_mut().chunks_exact_mut(2).zip(rows) {
            into.copy_from_slice(&[sequence as i32, len as i32]);
        }
        let together = (HEADS / heads.next_multiple_of(16)).max(1) as i32;
        self.groups.resize(&[n, 2]);
        let mut count = 0;
        let groups = self.groups.i32_mut();
        for (i, row) in self.rows.i32().chunks_exact(2).enumerate() {
            let pages = &self.tables.i32()[row[0] as usize * most..][..most];
            let needed = pages_for(row[1] as usize);
            assert!(
                row[1] as usize > skip && needed <= most && pages[..needed].iter().all(|page| *page >= 0),
                "latent decode: row {i} sees {} tokens, its sequence has pages {pages:?}",
                (row[1] as usize).saturating_sub(skip)
            );
            let before = (i > 0).then(|| self.rows.i32()[2 * (i - 1)]);
            if count > 0 && before == Some(row[0]) && groups[2 * count - 1] < together {
                groups[2 * count - 1] += 1;
            } else {
                groups[2 * count..2 * count + 2].copy_from_slice(&[i as i32, 1]);
                count += 1;
            }
        }
        self.groups.resize(&[count, 2]);
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.dim(0)
    }
    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The number of heads for which the rows are grouped.
    pub(super) fn heads(&self) -> usize {
        self.heads
    }
    /// Number of first tokens that no row sees.
    pub(super) fn skip(&self) -> usize {
        self.skip
    }
    /// Where the tokens that row `i` sees end.
    pub(super) fn end(&self, i: usize) -> usize {
        self.rows.i32()[2 * i + 1] as usize
    }
    /// Pages of the sequence of row `i`.
    pub(super) fn table(&self, i: usize) -> &[i32] {
        let most = self.tables.cols();
        &self.tables.i32()[self.rows.i32()[2 * i] as usize * most..][..most]
    }
    /// Number of groups of rows.
    pub(super) fn groups(&self) -> usize {
        self.groups.dim(0)
    }
    /// First row and number of rows of group `i`.
    pub(super) fn group(&self, i: usize) -> (usize, usize) {
        let g = &self.groups.i32()[2 * i..2 * i + 2];
        (g[0] as usize, g[1] as usize)
    }
    /// Where the tokens that a row of group `i` sees end.
    pub(super) fn group_end(&self, i: usize) -> usize {
        let (first, count) = self.group(i);
        (first..first + count).map(|row| self.end(row)).max().unwrap_or(0)
    }
    /// Where the tokens that any row sees end.
    pub(super) fn longest(&self) -> usize {
        (0..self.len()).map(|i| self.end(i)).max().unwrap_or(0)
    }
    /// The highest page number.
    pub(super) fn last_page(&self) -> usize {
        self.tables.i32().iter().copied().max().unwrap_or(-1).max(0) as usize
    }
}
