//! A sequence that is looked for in a stream: a string in bytes, or tokens in tokens.
//!
//! The state is one number: how many of the last items are the first items of the pattern (Knuth, Morris and Pratt). No
//! item is looked at twice, however the stream is cut.

/// A pattern with at least one item.
#[derive(Clone, Debug)]
pub(crate) struct Pattern<T> {
    items: Vec<T>,
    /// By `i`: the length of the longest proper beginning of the pattern that ends its first `i + 1` items.
    borders: Vec<usize>,
}

impl<T: PartialEq> Pattern<T> {
    /// `None` without items: such a pattern would be everywhere.
    pub(crate) fn new(items: Vec<T>) -> Option<Self> {
        let count = items.len();
        let mut pattern = Self { items, borders: Vec::with_capacity(count) };
        pattern.borders.extend((count > 0).then_some(0));
        for i in 1..count {
            let border = pattern.step(pattern.borders[i - 1], &pattern.items[i]);
            pattern.borders.push(border);
        }
        (count > 0).then_some(pattern)
    }

    /// Number of items.
    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    /// How many items match after one more, if `matched` did before it and the pattern was not complete.
    pub(crate) fn step(&self, mut matched: usize, item: &T) -> usize {
        while matched > 0 && self.items[matched] != *item {
            matched = self.borders[matched - 1];
        }
        matched + usize::from(self.items[matched] == *item)
    }
}
