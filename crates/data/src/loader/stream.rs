//! The endless stream of tokens that all ranks read, and positions in it.
//!
//! Every epoch visits the documents in the order of its own keyed permutation. A document becomes `[bos] tokens [eos]`.
//! [`Fim`] rearranges one document in ten, and [`BoundarySplit`] splits combined tokens. Both choose again in each
//! epoch, as functions of (seed, epoch, document). The stream is cut into rows of `T + 1` tokens that overlap by one:
//! row i holds tokens `iT ..= iT + T`. So `T` inputs have `T` targets, and no target is lost between rows.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::boundary::BoundarySplit;
use crate::error::{DataError, Result};
use crate::fim::Fim;
use crate::hash::{Permutation, Purpose, Rng, mix};
use crate::pack::Packed;
use crate::tokenizer::Tokenizer;

/// How documents become rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamOptions {
    /// Inputs per row, T.
    pub seq_len: usize,
    /// Decides order, fill-in-middle and splits.
    pub seed: u64,
    /// Share of the documents rearranged for fill-in-middle.
    pub fim_rate: f64,
    /// Largest number of tokens in a stretch that is rearranged on its own. `None` means whole documents.
    pub fim_span: Option<usize>,
    /// Share of combined punctuation-and-line-break tokens that are split.
    pub split_rate: f64,
    /// Whether documents begin with the begin token. If so, prompts should as well.
    pub bos: bool,
    /// Number of rows in a window within which their order is shuffled, so that a batch is not a single file. 0 or 1
    /// keeps the order.
    pub shuffle_rows: usize,
    /// Length of the rows that `shuffle_rows` counts; 0 means `seq_len`. Extensions of a run have longer rows. They
    /// keep the length of the main run here, so that a window always needs the same memory.
    #[serde(default)]
    pub shuffle_len: usize,
}

impl Default for StreamOptions {
    fn default() -> Self {
        Self {
            seq_len: 4096,
            seed: 1,
            fim_rate: 0.1,
            fim_span: None,
            split_rate: 0.1,
            bos: true,
            shuffle_rows: 0,
            shuffle_len: 0,
        }
    }
}

impl StreamOptions {
    /// A hash of everything that changes the stream. The length of rows does not.
    fn fingerprint(&self) -> u64 {
        let span = self.fim_span.map_or(0, |s| s as u64 + 1);
        let parts = [
            self.seed,
            self.fim_rate.to_bits(),
            span,
            self.split_rate.to_bits(),
            u64::from(self.bos),
            self.shuffle_rows.max(1) as u64,
        ];
        parts.into_iter().fold(0, |h, part| mix(h ^ part).wrapping_add(1))
    }

    /// Number of rows in a window.
    pub(super) fn window(&self) -> usize {
        let counted = if self.shuffle_len == 0 { self.seq_len } else { self.shuffle_len };
        (self.shuffle_rows.saturating_mul(counted) / self.seq_len.max(1)).max(1)
    }
}

/// A position in the stream, exact to the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// Number of completed passes over the data.
    pub epoch: u64,
    /// Documents of this epoch that are already used.
    pub document: u64,
    /// Tokens of the current document, after transformation, that are already used.
    pub offset: u64,
    /// Rows already given from the window that begins at this document and offset.
    #[serde(default)]
    pub given: u64,
    /// Inputs per row, T.
    #[serde(default)]
    pub seq_len: u64,
    /// Rows used so far, over all ranks.
    pub rows: u64,
    /// Inputs used so far, over all ranks.
    pub tokens_seen: u64,
    /// The data that the position belongs to.
    pub data: u64,
    /// The settings that the position belongs to.
    pub settings: u64,
}

/// Where a row's tokens come from, for logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowSource {
    /// Epoch of the first token.
    pub epoch: u64,
    /// Number of the document that holds the first token.
    pub document: u64,
    /// Documents that begin in the row.
    pub begins: u32,
}

/// Produces the stream.
pub(super) struct Stream {
    packed: Arc<Packed>,
    tokenizer: Arc<Tokenizer>,
    options: StreamOptions,
    fim: Option<Fim>,
    split: BoundarySplit,
    bos: Option<u32>,
    eos: u32,
    order: Permutation,
    cursor: Cursor,
    /// The current document, transformed, and its number.
    current: Vec<u32>,
    number: u64,
    raw: Vec<u32>,
}

impl Stream {
    pub(super) fn new(
        packed: Arc<Packed>,
        tokenizer: Arc<Tokenizer>,
        options: StreamOptions,
        start: Option<Cursor>,
    ) -> Result<Self> {
        if packed.tokens() == 0 {
            return Err(DataError::TooLittle("the packed data has no tokens; pack more text".into()));
        }
        if packed.tokenizer() != tokenizer.fingerprint() {
            return Err(DataError::tokenizer(
                None,
                "the data was packed with another tokenizer; pack it again with this one",
            ));
        }
        if options.seq_len == 0 {
            return Err(DataError::Option { key: "sequence length", problem: "it is 0; 512 to 4096 are usual".into() });
        }
        let fim = Fim::new(&tokenizer, options.fim_rate, options.fim_span)?;
        if fim.is_some() && !tokenizer.is_lossless() {
            return Err(DataError::tokenizer(
                None,
                "fill-in-middle cuts text, and this tokenizer does not reproduce the exact text; set the rate of \
                 fill-in-middle to 0",
            ));
        }
        let split = BoundarySplit::new(&tokenizer, options.split_rate)?;
        let bos = tokenizer.special().bos.filter(|_| options.bos);
        if options.bos && bos.is_none() {
            return Err(DataError::tokenizer(None, "it has no begin token; turn off `bos`"));
        }
        let (data, settings) = (packed.fingerprint(), options.fingerprint());
        let seq_len = options.seq_len as u64;
        let fresh =
            Cursor { epoch: 0, document: 0, offset: 0, given: 0, seq_len, rows: 0, tokens_seen: 0, data, settings };
        let cursor = Cursor { seq_len, ..start.unwrap_or(fresh) };
        if cursor.data != data {
            return Err(DataError::Cursor("the packed text is different".into()));
        }
        if cursor.settings != settings {
            return Err(DataError::Cursor("seed, fill-in-middle, split rate or begin tokens have changed".into()));
        }
        let documents = packed.documents() as u64;
        if cursor.document >= documents {
            return Err(DataError::Cursor(format!("it is at document {} of {documents}", cursor.document)));
        }
        let eos = tokenizer.eos()?;
        let order = Self::order(&options, cursor.epoch, documents);
        let mut stream = Self {
            packed,
            tokenizer,
            options,
            fim,
            split,
            bos,
            eos,
            order,
            cursor,
            current: Vec::new(),
            number: 0,
            raw: Vec::new(),
        };
        stream.transform()?;
        if cursor.offset > stream.current.len() as u64 {
            return Err(DataError::Cursor(format!("it is at token {} of {}", cursor.offset, stream.current.len())));
        }
        Ok(stream)
    }

    fn order(options: &StreamOptions, epoch: u64, documents: u64) -> Permutation {
        Permutation::new(Rng::new(options.seed, Purpose::Shuffle, epoch), documents)
    }

    pub(super) fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Transforms the current document and stores it in `current`.
    fn transform(&mut self) -> Result<()> {
        let Cursor { epoch, document, .. } = self.cursor;
        self.number = self.order.at(document);
        self.packed.read(self.number as usize, &mut self.raw)?;
        self.current.clear();
        let fim_rng = Rng::new(self.options.seed, Purpose::Fim, epoch).substream(self.number);
        let split_rng = Rng::new(self.options.seed, Purpose::TokenSplit, epoch).substream(self.number);
        let Self { current, split, bos, eos, raw, tokenizer, .. } = self;
        match &self.fim {
            Some(fim) if fim.chooses(fim_rng) && !raw.is_empty() => {
                let mut stretch = 0;
                fim.transform(tokenizer, raw, fim_rng, |ids| {
                    current.extend(*bos);
                    split.apply(ids, split_rng.substream(stretch), current);
                    current.push(*eos);
                    stretch += 1;
                });
            }
            _ => {
                current.extend(*bos);
                split.apply(raw, split_rng, current);
                current.push(*eos);
            }
        }
        Ok(())
    }

    /// Moves to the next document if the current one is used up. Every document has an end token, so one move is
    /// enough.
    fn settle(&mut self) -> Result<()> {
        if self.cursor.offset < self.current.len() as u64 {
            return Ok(());
        }
        self.cursor.offset = 0;
        self.cursor.document += 1;
        let documents = self.packed.documents() as u64;
        if self.cursor.document == documents {
            self.cursor.document = 0;
            self.cursor.epoch += 1;
            self.order = Self::order(&self.options, self.cursor.epoch, documents);
        }
        self.transform()
    }

    /// Writes the next row's `T + 1` tokens to `row` and advances by T.
    pub(super) fn row(&mut self, row: &mut Vec<i32>) -> Result<RowSource> {
        let t = self.options.seq_len;
        row.clear();
        row.reserve(t + 1);
        self.settle()?;
        let mut source = RowSource { epoch: self.cursor.epoch, document: self.number, begins: 0 };
        source.begins = self.take(t, |ids| row.extend(ids.iter().map(|id| *id as i32)))?;
        // The last target is the next row's first input.
        self.settle()?;
        row.push(self.current[self.cursor.offset as usize] as i32);
        self.cursor.rows += 1;
        self.cursor.tokens_seen += t as u64;
        Ok(source)
    }

    /// Advances by `n` tokens and shows them to `each` in pieces. Returns how many documents began among them.
    fn take(&mut self, n: usize, mut each: impl FnMut(&[u32])) -> Result<u32> {
        let (mut done, mut begins) = (0, 0);
        while done < n {
            self.settle()?;
            begins += u32::from(self.cursor.offset == 0);
            let rest = &self.current[self.cursor.offset as usize..];
            let part = rest.len().min(n - done);
            each(&rest[..part]);
            self.cursor.offset += part as u64;
            done += part;
        }
        Ok(begins)
    }
}
