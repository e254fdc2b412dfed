//! Batches for a rank: prepared ahead by a thread of their own, resumable to the exact token.
//!
//! With n ranks, rank r takes rows r, r + n, ... of the one stream, counted from where the run (or its resumption)
//! begins, so the rows of a step are the same for every n that divides them. Each batch carries the position after it,
//! on all ranks: what was prepared ahead and not used is simply made again after a resumption.

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
    /// The position after this batch on every rank: save it with the step that used the batch. `None` in a batch that
    /// was never filled.
    pub cursor: Option<Cursor>,
}

impl Batch {
    /// Rows in the batch.
    pub fn rows(&self) -> usize {
        self.sources.len()
    }
}

/// Which part of the stream a loader gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// This rank.
    pub rank: usize,
    /// All ranks.
    pub ranks: usize,
}

impl Share {
    /// Everything.
    pub const ALL: Self = Self { rank: 0, ranks: 1 };
}

struct Row {
    tokens: Vec<i32>,
    source: RowSource,
    cursor: Cursor,
}

/// Gives batches; see the module.
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
    /// Begins at `start`, or at the stream's beginning. `ahead` rows at most are prepared before they are asked for.
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

    /// The next `rows` rows, into a batch whose memory is used again. After an error the loader stays at that error.
    pub fn next_batch_into(&mut self, rows: usize, batch: &mut Batch) -> Result<()> {
        batch.tokens.clear();
        batch.sources.clear();
        batch.tokens.reserve(rows * (self.seq_len + 1));
        for _ in 0..rows {
            let row = self.receive()?;
            batch.tokens.extend_from_slice(&row.tokens);
            batch.sources.push(row.source);
            self.cursor = row.cursor;
            // The thread may have ended after an error; then nobody wants the memory.
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

    /// Inputs of a row.
    pub fn seq_len(&self) -> usize {
        self.seq_len
    }

    /// Seconds that callers have waited for rows so far: near zero when the loader keeps up.
    pub fn wait_seconds(&self) -> f64 {
        self.wait_seconds
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        // Without a receiver the thread's next row ends it.
        self.rows = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The thread: this rank's row of every group of `ranks` rows, with the position after the group.
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
