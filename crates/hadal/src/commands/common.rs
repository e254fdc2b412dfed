//! What several commands need: finding a model's folder, opening it with its tokenizer, continuing a prompt.

use crate::cli::{ModelArgs, SampleArgs};
use anyhow::{Context, Result, bail, ensure};
use hadal_data::Tokenizer;
use hadal_infer::{Generation, generate};
use hadal_model::{Decoder, Model, ModelConfig, hf::Checkpoint};
use hadal_ops::Cx;
use hadal_train::checkpoint;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The folder with `config.json` that `path` means: itself, a run's finished model, or its newest checkpoint.
pub(crate) fn model_folder(path: &Path) -> Result<PathBuf> {
    let shown = path.display();
    if !path.is_dir() {
        let problem = if path.exists() { "is a file" } else { "does not exist" };
        bail!(
            "{shown} {problem}: give the folder of a run, of one of its checkpoints, or of a Hugging Face checkpoint"
        );
    }
    if path.join("config.json").is_file() {
        return Ok(path.to_owned());
    }
    let finished = path.join("model");
    if finished.join("config.json").is_file() {
        return Ok(finished);
    }
    if let Some(newest) = checkpoint::list(&path.join("checkpoints"))?.pop() {
        return Ok(newest);
    }
    bail!(
        "{shown} holds no model: there is no config.json, no finished model/ and nothing in checkpoints/ \
         (a run has its first checkpoint a while after its start)"
    )
}

/// A loaded model with its tokenizer.
pub(crate) struct Loaded {
    pub(crate) cx: Cx,
    pub(crate) model: Model,
    pub(crate) tokenizer: Tokenizer,
}

/// Opens what `args` names.
pub(crate) fn load(args: &ModelArgs) -> Result<Loaded> {
    load_folder(&model_folder(&args.model)?, None, Cx::cpu(args.threads, args.dtype.dtype()))
}

/// Opens the checkpoint in `folder`. Its context is what it says, or at least `context` tokens, whether it was trained for them
/// or not.
pub(crate) fn load_folder(folder: &Path, context: Option<usize>, cx: Cx) -> Result<Loaded> {
    // The small file first: its errors come before the weights' seconds.
    let tokenizer = Tokenizer::load(folder)
        .with_context(|| format!("{} has no usable tokenizer; copy its tokenizer.json there", folder.display()))?;
    let mut checkpoint = Checkpoint::open(folder)?;
    if let Some(context) = context.filter(|c| *c > checkpoint.config().max_position_embeddings) {
        let config = ModelConfig { max_position_embeddings: context, ..checkpoint.config().clone() };
        checkpoint = Checkpoint::open_with(folder, config)?;
    }
    let (tokens, rows) = (tokenizer.vocab_size(), checkpoint.config().vocab_size);
    ensure!(
        tokens <= rows,
        "{}: the tokenizer has {tokens} tokens, the model's vocabulary {rows}: they do not belong together",
        folder.display()
    );
    let model = cx.threads().run(|| Model::load(&cx, &checkpoint))?;
    Ok(Loaded { cx, model, tokenizer })
}

impl Loaded {
    /// Tokens that end a text.
    fn stop_tokens(&self) -> Vec<u32> {
        self.tokenizer.special().eos.into_iter().chain(self.model.config.eos_token_id.iter().copied()).collect()
    }

    /// Fails unless the model can continue `prompt`.
    pub(crate) fn check_prompt(&self, prompt: &[u32]) -> Result<()> {
        let longest = self.model.config.max_position_embeddings;
        ensure!(!prompt.is_empty(), "the prompt is empty, and the tokenizer has no token to begin a text with");
        ensure!(
            prompt.len() < longest,
            "the prompt has {} tokens and leaves no room in the model's context of {longest}: shorten it",
            prompt.len()
        );
        Ok(())
    }

    /// Continues `prompt`, writing the text to standard output as it comes and `after` behind it, and says on standard
    /// error how fast it was.
    pub(crate) fn continue_prompt(
        &self,
        decoder: &Decoder<'_>,
        prompt: &[u32],
        sample: &SampleArgs,
        after: &str,
    ) -> Result<()> {
        self.check_prompt(prompt)?;
        let (cx, stop) = (&self.cx, self.stop_tokens());
        let mut stream = self.tokenizer.stream();
        let mut shown = Ok(());
        let done: Generation = cx.threads().run(|| {
            generate(cx, decoder, prompt, sample.params(), &stop, sample.max_new, &mut |token| {
                shown = show(&stream.push(token));
                shown.is_ok()
            })
        });
        shown.and_then(|()| show(&(stream.finish() + after + "\n"))).context("cannot write to standard output")?;
        let (prefill, decode) = done.seconds;
        let rate = |tokens: usize, seconds: f64| tokens as f64 / seconds.max(1e-9);
        eprintln!(
            "prompt {} tokens, {:.0} tokens/s; new {} tokens, {:.1} tokens/s",
            prompt.len(),
            rate(prompt.len(), prefill),
            done.tokens.len(),
            rate(done.tokens.len(), decode)
        );
        Ok(())
    }
}

/// Text on standard output, at once.
pub(crate) fn show(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// A number of things for people: 1,234,567.
pub(crate) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let starts_group = |i: usize| i > 0 && (digits.len() - i).is_multiple_of(3);
    digits.chars().enumerate().flat_map(|(i, c)| starts_group(i).then_some(',').into_iter().chain([c])).collect()
}
