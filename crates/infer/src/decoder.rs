//! Growing sequences: their pages, and the passes that extend several of them at once.

use hadal_model::{AbsorbedViews, Cache, Form, LatentPool, Model, Rows, Stretch};
use hadal_ops::latent::pages_for;
use hadal_ops::{Cx, Tensor, elementwise};

/// Rows of a pass over given tokens. Long prompts are read in pieces of this size.
const PIECE: usize = 2048;

/// A sequence whose latents are in the pages of a [`Decoder`].
#[derive(Debug, Default)]
pub struct Sequence {
    pages: Vec<u32>,
    len: usize,
}

impl Sequence {
    /// Number of tokens stored.
    pub fn len(&self) -> usize {
        self.len
    }
    /// Whether no token is stored.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// New tokens of a sequence, and the form of their attention.
pub struct Part<'a> {
    /// The sequence.
    pub sequence: &'a mut Sequence,
    /// Its next tokens, at least one.
    pub tokens: &'a [i32],
    /// [`Form::Decompressed`] for given tokens, [`Form::Absorbed`] for generated ones. In a pass, the decompressed ones
    /// come first.
    pub form: Form,
}

/// The data that generation needs besides a model: pages of latents, and views of the model's weights. A call borrows
/// the model, so it may be trained between two calls.
pub struct Decoder {
    pool: LatentPool,
    views: AbsorbedViews,
    rows: Rows,
    free: Vec<u32>,
}

impl Decoder {
    /// A decoder for a model, without pages. They are allocated when they are needed.
    pub fn new(cx: &Cx, model: &Model) -> Self {
        let pool = LatentPool::new(cx, &model.config, 0);
        Self { pool, views: AbsorbedViews::new(cx, model), rows: Rows::new(cx), free: Vec::new() }
    }

    /// Ensures that there are pages for `tokens` more tokens of new sequences.
    pub fn reserve(&mut self, cx: &Cx, model: &Model, tokens: usize) {
        let missing = pages_for(tokens).saturating_sub(self.free.len());
        if missing > 0 {
            let before = self.pool.pages();
            let mut pool = LatentPool::new(cx, &model.config, before + missing);
            self.pool.move_into(cx, &mut pool);
            self.pool = pool;
            // The lowest page is taken first.
            self.free.extend((before..before + missing).rev().map(|page| page as u32));
            self.free.sort_unstable_by(|a, b| b.cmp(a));
        }
    }

    /// Runs one pass over the new tokens of several sequences. Returns the head's inputs of all new tokens `[T, D]`.
    pub fn extend(&mut self, cx: &Cx, model: &Model, parts: &mut [Part<'_>]) -> Tensor {
        self.views.refresh(cx, model);
        for part in &mut *parts {
            let end = part.sequence.len + part.tokens.len();
            let missing = pages_for(end).saturating_sub(part.sequence.pages.len());
            if missing > self.free.len() {
                self.reserve(cx, model, missing * hadal_ops::latent::PAGE);
            }
            for _ in 0..missing {
                part.sequence.pages.extend(self.free.pop());
            }
        }
        let stretches = parts.iter().map(|part| Stretch {
            tokens: part.tokens,
            before: part.sequence.len,
            table: &part.sequence.pages,
            form: part.form,
        });
        self.rows.set(model.config.num_attention_heads, stretches);
        let h = model.extend(cx, &mut Cache { pool: &mut self.pool, views: &self.views, rows: &self.rows });
        for part in parts {
            part.sequence.len += part.tokens.len();
        }
        h
    }

    /// Reads given tokens in pieces. Returns the head's input of the last one `[1, D]`.
    ///
    /// # Panics
    /// If there are no tokens.
    pub fn read(&mut self, cx: &Cx, model: &Model, sequence: &mut Sequence, tokens: &[i32]) -> Tensor {
        let mut last = None;
        for tokens in tokens.chunks(PIECE) {
            let form = Form::Decompressed;
            last = Some(self.extend(cx, model, &mut [Part { sequence: &mut *sequence, tokens, form }]));
        }
        let h = last.expect("read: no tokens");
        let row = cx.indices(&[1], &[h.rows() as i32 - 1]);
        let mut out = cx.empty(&[1, h.cols()], h.dtype());
        elementwise::gather_rows(cx, &h, &row, &mut out);
        out
    }

    /// Returns the pages of a sequence.
    pub fn release(&mut self, sequence: Sequence) {
        self.free.extend(sequence.pages);
        self.free.sort_unstable_by(|a, b| b.cmp(a));
    }
}
