//! A model with its tokenizer, loaded from a folder.

use hadal_data::{DataError, Tokenizer, fim};
use hadal_model::Model;
use hadal_ops::Cx;
use hadal_weights::{Checkpoint, ModelConfig};
use std::path::{Path, PathBuf};

/// Why a folder could not be loaded, or a prompt not be continued.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The tokenizer.
    #[error("{} has no usable tokenizer; copy its tokenizer.json or tiktoken.model there: {error}", folder.display())]
    Tokenizer {
        /// The model's folder.
        folder: PathBuf,
        /// What is wrong.
        error: DataError,
    },
    /// Two files of different models.
    #[error(
        "{}: the tokenizer has {tokens} tokens, the model's vocabulary {rows}: they do not belong together",
        folder.display()
    )]
    Vocabulary {
        /// The model's folder.
        folder: PathBuf,
        /// Of the tokenizer.
        tokens: usize,
        /// Of the embedding.
        rows: usize,
    },
    /// The weights.
    #[error(transparent)]
    Weights(#[from] hadal_weights::Error),
    /// A prompt without a token.
    #[error("the prompt is empty, and the tokenizer has no token to begin a text with")]
    EmptyPrompt,
    /// A prompt that fills the context.
    #[error("the prompt has {tokens} tokens and leaves no room in the model's context of {longest}: shorten it")]
    LongPrompt {
        /// Of the prompt.
        tokens: usize,
        /// The model's context.
        longest: usize,
    },
}

/// A loaded model with its tokenizer.
pub struct Loaded {
    /// Threads, memory, compute format.
    pub cx: Cx,
    /// The model.
    pub model: Model,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// What someone who uses it should be told, if anything.
    pub notice: Option<String>,
}

impl Loaded {
    /// Opens the checkpoint in `folder`. Its context is what it says, or at least `context` tokens, whether it was trained
    /// for them or not.
    pub fn open(folder: &Path, context: Option<usize>, cx: Cx) -> Result<Self, LoadError> {
        // The small file first: its errors come before the weights' seconds.
        let tokenizer =
            Tokenizer::load(folder).map_err(|error| LoadError::Tokenizer { folder: folder.to_owned(), error })?;
        let mut checkpoint = Checkpoint::open(folder)?;
        let notice = checkpoint.notice().map(str::to_owned);
        if let Some(context) = context.filter(|c| *c > checkpoint.config().max_position_embeddings) {
            let config = ModelConfig { max_position_embeddings: context, ..checkpoint.config().clone() };
            checkpoint = Checkpoint::open_with(folder, config)?;
        }
        let (tokens, rows) = (tokenizer.vocab_size(), checkpoint.config().vocab_size);
        if tokens > rows {
            return Err(LoadError::Vocabulary { folder: folder.to_owned(), tokens, rows });
        }
        let model = Model::load(&cx, &checkpoint)?;
        Ok(Self { cx, model, tokenizer, notice })
    }

    /// The ids of a prompt, after the token that begins every text unless the prompt has it. Names of special tokens are
    /// these tokens, or ordinary characters if the prompt is `literal`.
    pub fn prompt(&self, text: &str, literal: bool) -> Vec<u32> {
        let ids = if literal { self.tokenizer.encode(text) } else { self.tokenizer.encode_with_special(text) };
        let begin = self.tokenizer.special().bos.filter(|bos| ids.first() != Some(bos));
        begin.into_iter().chain(ids).collect()
    }

    /// The ids that ask for what is missing between `prefix` and `suffix` (report 4.1).
    pub fn fim_prompt(&self, prefix: &str, suffix: &str) -> Result<Vec<u32>, DataError> {
        let ids = fim::prompt(&self.tokenizer, prefix, suffix)?;
        Ok(self.tokenizer.special().bos.into_iter().chain(ids).collect())
    }

    /// Tokens that end a text.
    pub fn stop_tokens(&self) -> Vec<u32> {
        self.tokenizer.special().eos.into_iter().chain(self.model.config.eos_token_id.iter().copied()).collect()
    }

    /// Fails unless the model can continue `prompt`.
    pub fn check_prompt(&self, prompt: &[u32]) -> Result<(), LoadError> {
        let longest = self.model.config.max_position_embeddings;
        match prompt.len() {
            0 => Err(LoadError::EmptyPrompt),
            tokens if tokens >= longest => Err(LoadError::LongPrompt { tokens, longest }),
            _ => Ok(()),
        }
    }
}
