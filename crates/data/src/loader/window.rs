//! Rows in shuffled order within windows of the stream.
//!
//! The stream is one document after another. So consecutive rows come from the same file, and a batch of them would
//! teach one file at a time. Instead, a window of rows is read and given out in the order of a permutation keyed by
//! (seed, first row of the window). The order depends on nothing else, and every row is given exactly once. A position
//! is the start of the window plus the number of rows given.

use std::sync::Arc;

use super::stream::{Cursor, RowSource, Stream, StreamOptions};
use crate::error::{DataError, Result};
use crate::hash::{Permutation, Purpose, Rng};
use crate::pack::Packed;
use crate::tokenizer::Tokenizer;

/// Longest row length that a position may have.
const MAX_ROW: u64 = 1 << 26;

/// The stream with its rows shuffled.
pub(super) struct Window {
    stream: Stream,
    seed: u64,
    seq_len: u64,
    /// The stream's position where the window begins.
    start: Cursor,
    rows: Vec<(Vec<i32>, RowSource)>,
    order: Permutation,
    given: usize,
}

/// The start of the window that a position lies in.
fn start_of(c: Cursor) -> Result<Cursor> {
    if c.seq_len > MAX_ROW {
        return Err(DataError::Cursor(format!("its rows have {} tokens", c.seq_len)));
    }
    let tokens = c.given.checked_mul(c.seq_len).and_then(|t| c.tokens_seen.checked_sub(t));
    match (c.rows.checked_sub(c.given), tokens) {
        (Some(rows), Some(tokens_seen)) => Ok(Cursor { given: 0, rows, tokens_seen, ..c }),
        _ => Err(DataError::Cursor(format!("it counts {} rows in the window but {} in all", c.given, c.rows))),
    }
}

impl Window {
    pub(super) fn new(
        packed: Arc<Packed>,
        tokenizer: Arc<Tokenizer>,
        options: StreamOptions,
        from: Option<Cursor>,
    ) -> Result<Self> {
        let (seed, seq_len, size) = (options.seed, options.seq_len as u64, options.window());
        // Rows of a different length cannot continue a window. The rest of the window is skipped.
        let from = match from {
            Some(c) if c.given > 0 && c.seq_len != seq_len => {
                let old = StreamOptions { seq_len: c.seq_len as usize, ..options.clone() };
                let old_size = old.window();
                let mut stream = Stream::new(packed.clone(), tokenizer.clone(), old, Some(start_of(c)?))?;
                let mut row = Vec::new();
                (0..old_size).try_for_each(|_| stream.row(&mut row).map(|_| ()))?;
                Some(stream.cursor())
            }
            other => other,
        };
        let given = from.map_or(0, |c| c.given);
        if given >= size as u64 && given > 0 {
            return Err(DataError::Cursor(format!("it is at row {given} of a window of {size}")));
        }
        let start = from.map(start_of).transpose()?;
        let stream = Stream::new(packed, tokenizer, options, start)?;
        let start = stream.cursor();
        let rows = vec![(Vec::new(), RowSource::default()); size];
        let order = Self::order(seed, &start, size);
        let mut window = Self { stream, seed, seq_len, start, rows, order, given: 0 };
        window.fill()?;
        window.given = given as usize;
        Ok(window)
    }

    fn order(seed: u64, start: &Cursor, size: usize) -> Permutation {
        Permutation::new(Rng::new(seed, Purpose::Rows, start.rows), size as u64)
    }

    fn fill(&mut self) -> Result<()> {
        self.start = self.stream.cursor();
        self.order = Self::order(self.seed, &self.start, self.rows.len());
        for (tokens, source) in &mut self.rows {
            *source = self.stream.row(tokens)?;
        }
        self.given = 0;
        Ok(())
    }

    /// Advances by one row. Writes its `T + 1` tokens to `row` if it is given.
    pub(super) fn row(&mut self, row: Option<&mut Vec<i32>>) -> Result<RowSource> {
        if self.given == self.rows.len() {
            self.fill()?;
        }
        let (tokens, source) = &self.rows[self.order.at(self.given as u64) as usize];
        if let Some(row) = row {
            row.clone_from(tokens);
        }
        self.given += 1;
        Ok(*source)
    }

    /// The position after the rows given so far.
    pub(super) fn cursor(&self) -> Cursor {
        if self.given == self.rows.len() {
            return self.stream.cursor();
        }
        let given = self.given as u64;
        let (rows, tokens_seen) = (self.start.rows + given, self.start.tokens_seen + given * self.seq_len);
        Cursor { given, rows, tokens_seen, ..self.start }
    }
}
