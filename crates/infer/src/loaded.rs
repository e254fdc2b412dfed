//! A model with its tokenizer, loaded from a folder.

use crate::engine::{RequestError, check_length};
use crate::grammar::{Constraint, Grammar, GrammarError, Grammars};
use crate::text::TextOptions;
use hadal_data::{DataError, Tokenizer, fim};
use hadal_model::Model;
use hadal_ops::{Cx, Mapping};
use hadal_weights::precision::RunFormats;
use hadal_weights::{Checkpoint, ModelConfig, PackedFile};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// Why a folder could not be loaded, or a prompt not continued.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The tokenizer cannot be used.
    #[error("{} has no usable tokenizer; copy its tokenizer.json or tiktoken.model there: {error}", folder.display())]
    Tokenizer {
        /// The model's folder.
        folder: PathBuf,
        /// What is wrong.
        error: DataError,
    },
    /// Tokenizer and weights belong to different models.
    #[error(
        "{}: the tokenizer has {tokens} tokens, but the model's vocabulary has {rows}: they do not belong together",
        folder.display()
    )]
    Vocabulary {
        /// The model's folder.
        folder: PathBuf,
        /// Number of tokens of the tokenizer.
        tokens: usize,
        /// Rows of the embedding.
        rows: usize,
    },
    /// The weights cannot be read.
    #[error(transparent)]
    Weights(#[from] hadal_weights::Error),
    /// The prompt has no tokens.
    #[error("the prompt is empty, and the tokenizer has no token that begins a text: give a prompt")]
    EmptyPrompt,
    /// The prompt cannot be continued.
    #[error(transparent)]
    Request(#[from] RequestError),
}

/// A loaded model with its tokenizer.
pub struct Loaded {
    /// Threads, memory, compute format.
    pub cx: Cx,
    /// The model.
    pub model: Model,
    /// Its tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// A message for the user.
    pub notice: Option<String>,
    /// The file of packed weights.
    mapping: Option<Arc<Mapping>>,
    /// The vocabulary for grammars. It is built for the first one.
    grammars: OnceLock<Result<Grammars, GrammarError>>,
}

impl Loaded {
    /// Opens the model in `folder`: a checkpoint, or weights that `hadal quantize` packed. The context is the one in
    /// its configuration, or at least `context` tokens, even if it was not trained for that many. The weights of a
    /// checkpoint are stored in `formats` while the model runs. Packed weights have their own formats and stay in their
    /// file.
    pub fn open(folder: &Path, context: Option<usize>, formats: RunFormats, cx: Cx) -> Result<Self, LoadError> {
        let read =
            || Tokenizer::load(folder).map_err(|error| LoadError::Tokenizer { folder: folder.to_owned(), error });
        let check = |tokenizer: &Tokenizer, config: &ModelConfig| match (tokenizer.vocab_size(), config.vocab_size) {
            (tokens, rows) if tokens > rows => Err(LoadError::Vocabulary { folder: folder.to_owned(), tokens, rows }),
            _ => Ok(()),
        };
        let longer = |config: &ModelConfig| context.filter(|c| *c > config.max_position_embeddings);
        let (tokenizer, model, notice, mapping) = if PackedFile::is_in(folder) {
            let map = || {
                let mut file = PackedFile::open(folder)?;
                if let Some(context) = longer(file.config()) {
                    file.set_context(context);
                }
                Ok::<_, LoadError>((Model::map(&cx, &file)?, Arc::clone(file.mapping())))
            };
            // Both take a moment. The tokenizer's errors come first.
            let (tokenizer, mapped) = std::thread::scope(|scope| {
                let tokenizer = scope.spawn(read);
                let mapped = map();
                (tokenizer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), mapped)
            });
            let (tokenizer, (model, mapping)) = (tokenizer?, mapped?);
            check(&tokenizer, &model.config)?;
            // What is in memory already costs less when it is first read than all of it now.
            if !mapping.is_resident() {
                mapping.prepare(cx.threads());
            }
            (tokenizer, model, None, Some(mapping))
        } else {
            // The small file is read first, so that its errors appear before the weights are loaded.
            let tokenizer = read()?;
            let mut checkpoint = Checkpoint::open(folder)?;
            let notice = checkpoint.notice().map(str::to_owned);
            check(&tokenizer, checkpoint.config())?;
            if let Some(context) = longer(checkpoint.config()) {
                let config = ModelConfig { max_position_embeddings: context, ..checkpoint.config().clone() };
                checkpoint = Checkpoint::open_with(folder, config)?;
            }
            (tokenizer, Model::load_as(&cx, &checkpoint, formats)?, notice, None)
        };
        Ok(Self { cx, model, tokenizer: Arc::new(tokenizer), notice, mapping, grammars: OnceLock::new() })
    }

    /// Brings all packed weights into reach, so that no request waits for pages of their file.
    pub fn prepare(&self) {
        if let Some(mapping) = &self.mapping {
            mapping.prepare(self.cx.threads());
        }
    }

    /// The ids of a prompt. The token that begins every text is added if the prompt does not start with it. The names
    /// of special tokens stand for these tokens. If the prompt is `literal`, they are ordinary characters.
    pub fn prompt(&self, text: &str, literal: bool) -> Vec<u32> {
        let ids = if literal { self.tokenizer.encode(text) } else { self.tokenizer.encode_with_special(text) };
        let begin = self.tokenizer.special().bos.filter(|bos| ids.first() != Some(bos));
        begin.into_iter().chain(ids).collect()
    }

    /// The ids that ask for the text between `prefix` and `suffix` (report 4.1).
    pub fn fim_prompt(&self, prefix: &str, suffix: &str) -> Result<Vec<u32>, DataError> {
        let ids = fim::prompt(&self.tokenizer, prefix, suffix)?;
        Ok(self.tokenizer.special().bos.into_iter().chain(ids).collect())
    }

    /// A grammar for the model's continuations. It allows [`Self::stop_tokens`] at its end.
    ///
    /// # Errors
    /// If the grammar has a mistake, uses something that is not supported, or is too large.
    pub fn constraint(&self, grammar: &Grammar) -> Result<Constraint, GrammarError> {
        let new = || Grammars::new(&self.tokenizer, self.model.config.vocab_size, &self.stop_tokens());
        self.grammars.get_or_init(new).as_ref().map_err(Clone::clone)?.constraint(grammar)
    }

    /// Asks for the text of continuations, without stop strings.
    pub fn text(&self) -> TextOptions {
        TextOptions::new(Arc::clone(&self.tokenizer))
    }

    /// Tokens that end a text.
    pub fn stop_tokens(&self) -> Vec<u32> {
        self.tokenizer.special().eos.into_iter().chain(self.model.config.eos_token_id.iter().copied()).collect()
    }

    /// An error if the model cannot continue `prompt`.
    pub fn check_prompt(&self, prompt: &[u32]) -> Result<(), LoadError> {
        if prompt.is_empty() {
            return Err(LoadError::EmptyPrompt);
        }
        Ok(check_length(prompt.len(), self.model.config.max_position_embeddings)?)
    }
}
