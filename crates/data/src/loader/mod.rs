//! Batches for a rank. A separate thread prepares them ahead of time. A run can resume at the exact token.
//!
//! With n ranks, rank r takes rows r, r + n, ... of a single stream, counted from the start or the resumption of the
//! run. So the rows of a step are the same for every n that divides their number. Each batch carries the position after
//! it, for all ranks. Batches that were prepared but not used are simply prepared again after a resumption.

mod stream;
mod window;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, TryRecvError, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::Instant;

use crate::error::{DataError, Result};
use crate::pack::Packed;
use crate::tokenizer::Tokenizer;
pub use stream::{Cursor, RowSource, StreamOptions};
use window::Window;

/// Rows of `seq_len + 1` tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// `[rows, seq_len + 1]`: columns `..seq_len` are the inputs, columns `1..` the targets.
    pub tokens: Vec<i32>,
    /// Where each row comes from.
    pub sources: Vec<RowSource>,
    /// The position after this batch on every rank. Save it with the step that used the batch. `None` if the batch was
    /// never filled.
    pub cursor: Option<Cursor>,
}

impl Batch {
    /// Rows in the batch.
    pub fn rows(&self) -> usize {
        self.sources.len()
    }
}

/// Which part of the stream a loader delivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Number of this rank.
    pub rank: usize,
    /// Number of ranks.
    pub ranks: usize,
}

impl Share {
    /// The whole stream.
    pub const ALL: Self = Self { rank: 0, ranks: 1 };
}

struct Row {
    tokens: Vec<i32>,
    source: RowSource,
    cursor: Cursor,
}

/// Delivers batches (see the module's documentation).
pub struct Loader {
    seq_len: usize,
    cursor: Cursor,
    rows: Option<Receiver<Result<Row>>>,
    used: Sender<Vec<i32>>,
    thread: Option<JoinHandle<()>>,
    wait_seconds: f64,
    failed: bool,
}

impl Loader {
    /// Starts at `start`, or at the beginning of the stream. At most `ahead` rows are prepared in advance.
    pub fn new(
        packed: Arc<Packed>,
        tokenizer: Arc<Tokenizer>,
        options: StreamOptions,
        share: Share,
        start: Option<Cursor>,
        ahead: usize,
    ) -> Result<Self> {
        if share.rank >= share.ranks {
            return Err(DataError::Option {
                key: "rank",
                problem: format!("rank {} of {} does not exist", share.rank, share.ranks),
            });
        }
        let seq_len = options.seq_len;
        let stream = Window::new(packed, tokenizer, options, start)?;
        let cursor = stream.cursor();
        let (send, rows) = sync_channel(ahead.max(1));
        let (used, reuse) = channel();
        let thread = std::thread::Builder::new()
            .name("loader".into())
            .spawn(move || produce(stream, share, &send, &reuse))
            .map_err(DataError::io("start a thread for", std::path::Path::new("the loader")))?;
        Ok(Self { seq_len, cursor, rows: Some(rows), used, thread: Some(thread), wait_seconds: 0.0, failed: false })
    }

    /// The next `rows` rows.
    pub fn next_batch(&mut self, rows: usize) -> Result<Batch> {
        let mut batch = Batch::default();
        self.next_batch_into(rows, &mut batch)?;
        Ok(batch)
    }

    /// Writes the next `rows` rows into a batch and reuses its memory. After an error, the loader keeps returning
    /// errors.
    pub fn next_batch_into(&mut self, rows: usize, batch: &mut Batch) -> Result<()> {
        batch.tokens.clear();
        batch.sources.clear();
        batch.tokens.reserve(rows * (self.seq_len + 1));
        for _ in 0..rows {
            let row = self.receive()?;
            batch.tokens.extend_from_slice(&row.tokens);
            batch.sources.push(row.source);
            self.cursor = row.cursor;
            // The thread may have ended after an error. Then nothing needs the memory.
            let _ = self.used.send(row.tokens);
        }
        batch.cursor = Some(self.cursor);
        Ok(())
    }

    fn receive(&mut self) -> Result<Row> {
        let ended = || DataError::TooLittle("the loader has ended after an error; begin again".into());
        let rows = self.rows.as_ref().filter(|_| !self.failed).ok_or_else(ended)?;
        let received = match rows.try_recv() {
            Ok(row) => row,
            Err(TryRecvError::Disconnected) => Err(ended()),
            Err(TryRecvError::Empty) => {
                let start = Instant::now();
                let row = rows.recv().unwrap_or_else(|_| Err(ended()));
                self.wait_seconds += start.elapsed().as_secs_f64();
                row
            }
        };
        self.failed = received.is_err();
        received
    }

    /// The position after the batches given so far.
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Inputs per row.
    pub fn seq_len(&self) -> usize {
        self.seq_len
    }

    /// Seconds that callers have waited for rows so far. It is near zero if the loader keeps up.
    pub fn wait_seconds(&self) -> f64 {
        self.wait_seconds
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        // Without a receiver, the thread ends at its next row.
        self.rows = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The thread's work: this rank's row of every group of `ranks` rows, with the position after the group.
fn produce(mut stream: Window, share: Share, send: &SyncSender<Result<Row>>, reuse: &Receiver<Vec<i32>>) {
    loop {
        let mut tokens = reuse.try_recv().unwrap_or_default();
        let mut group = || -> Result<RowSource> {
            let mut own = RowSource::default();
            for rank in 0..share.ranks {
                if rank == share.rank {
                    own = stream.row(Some(&mut tokens))?;
                } else {
                    stream.row(None)?;
                }
            }
            Ok(own)
        };
        let row = group().map(|source| Row { tokens, source, cursor: stream.cursor() });
        let last = row.is_err();
        if send.send(row).is_err() || last {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
