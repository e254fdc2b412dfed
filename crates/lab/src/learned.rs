//! The evidence that a trained model learned: completions of held-out code before and after, and what it makes of the
//! held-out text, beside compressors.

use anyhow::{Context as _, Result};
use hadal_data::baseline::{Compressor, Unigram};
use hadal_data::{DataError, Tokenizer, fim};
use hadal_infer::{Acceptance, generate_with_drafts};
use hadal_model::{Decoder, Model};
use hadal_ops::Cx;
use hadal_train::evaluate::evaluate;
use hadal_train::session::Session;
use hadal_train::step::Trainer;
use hadal_watch::metrics;
use std::fmt::Write as _;

/// New tokens of a completion.
const NEW_TOKENS: usize = 64;
/// Most prompt text, in bytes.
const PROMPT_BYTES: usize = 700;

/// Pieces of held-out code to complete.
pub struct Prompts {
    all: Vec<Prompt>,
}

struct Prompt {
    file: String,
    prefix: String,
    /// What follows the gap; none for a plain continuation.
    suffix: Option<String>,
    /// What the author wrote.
    truth: String,
}

/// A model's completions of the prompts.
pub struct Answers {
    texts: Vec<String>,
    acceptance: Acceptance,
}

impl Prompts {
    /// Two continuations of a function's head and two gaps of a few lines, from four files spread over the held-out text.
    pub fn choose(texts: &[(String, String, String)]) -> Self {
        let usable: Vec<_> = texts.iter().filter_map(|(_, name, text)| Some((name, text, function(text)?))).collect();
        let picks = [1, 3, 5, 7].map(|i| i * usable.len() / 8);
        let all = picks
            .into_iter()
            .filter_map(|i| usable.get(i))
            .enumerate()
            .map(|(n, (name, text, body))| Prompt::cut(name, text, *body, n % 2 == 1))
            .collect();
        Self { all }
    }

    /// Greedy answers to the prompts, and how many of their tokens MTP would have drafted right.
    pub fn answer(&self, cx: &Cx, model: &Model, tokenizer: &Tokenizer) -> Result<Answers, DataError> {
        let decoder = Decoder::new(cx, model);
        let stop: Vec<u32> = tokenizer.special().eos.into_iter().collect();
        let mut answers = Answers { texts: Vec::new(), acceptance: Acceptance::default() };
        for prompt in &self.all {
            let mut ids: Vec<u32> = tokenizer.special().bos.into_iter().collect();
            match &prompt.suffix {
                Some(suffix) => ids.extend(fim::prompt(tokenizer, &prompt.prefix, suffix)?),
                None => ids.extend(tokenizer.encode(&prompt.prefix)),
            }
            let (done, seen) = cx.threads().run(|| generate_with_drafts(cx, &decoder, &ids, &stop, NEW_TOKENS));
            answers.texts.push(tokenizer.decode(&done.tokens));
            answers.acceptance += seen;
        }
        Ok(answers)
    }
}

/// The page of a finished run: what its model completed before and after training, and its bits per byte of held-out text
/// beside those of compressors.
pub fn page(session: &Session, trainer: &Trainer, prompts: &Prompts, [before, after]: [&Answers; 2]) -> Result<String> {
    let mut page = String::from(
        "# quickstart\n\n## Completions of held-out code (unedited; greedy, the same prompt before and after)\n\n",
    );
    for (i, prompt) in prompts.all.iter().enumerate() {
        prompt.show(&mut page, &before.texts[i], &after.texts[i])?;
    }
    held_out(&mut page, session, trainer)?;
    if let Some(rate) = after.acceptance.rate() {
        let drafts = after.acceptance.drafts;
        writeln!(page, "MTP's draft of the second next token would be accepted {:.0}% of the time", rate * 100.0)?;
        writeln!(page, "({drafts} drafts in the completions above; the report's 671B model: 85-90%).\n")?;
    }
    let last = metrics::read(&session.folder)?.pop().context("the run has no steps")?;
    writeln!(
        page,
        "{} steps, {:.2} M tokens, {:.0} tokens/s, {:.0}% of the measured peak, {:.2} GB.\n",
        last.step,
        last.tokens as f64 / 1e6,
        last.tokens as f64 / last.elapsed.max(1e-9),
        100.0 * last.mfu,
        last.memory as f64 / 1e9,
    )?;
    Ok(page)
}

/// Bits per byte of held-out text: the model, the frequencies of tokens, two compressors.
fn held_out(page: &mut String, session: &Session, trainer: &Trainer) -> Result<()> {
    let set = session.corpus.validation(session.plan.data.seq_len, None)?;
    let (cx, model) = (&trainer.cx, &trainer.model);
    let ours = cx.threads().run(|| evaluate(cx, model, &set, &mut |_, _| true));
    let texts = session.corpus.validation_texts()?;
    let documents: Vec<&str> = texts.iter().map(|(_, _, t)| t.as_str()).collect();
    let unigram = Unigram::fit(&session.corpus.train, &session.corpus.tokenizer)?.bits_per_byte(&set);
    let zstd = Compressor::Zstd19.bits_per_byte(&documents);
    let xz = Compressor::Xz9.bits_per_byte(&documents);
    writeln!(page, "## Held-out text, bits per byte (lower is better)\n")?;
    writeln!(
        page,
        "| unigram tokens | xz -9, file by file | zstd -19, file by file | this model |\n|---|---|---|---|"
    )?;
    writeln!(page, "| {unigram:.3} | {xz:.3} | {zstd:.3} | **{:.3}** |\n", ours.bits_per_byte)?;
    writeln!(
        page,
        "{} files of packages the model never saw, {:.2} MB; perplexity {:.1} a token.\n",
        documents.len(),
        set.text_bytes as f64 / 1e6,
        ours.loss.exp()
    )?;
    Ok(())
}

/// Start of the body of a function with some lines before it and after.
fn function(text: &str) -> Option<usize> {
    let mut from = text.len() / 3;
    while !text.is_char_boundary(from) {
        from += 1;
    }
    let head = from + text[from..].find("\n    pub fn ").or_else(|| text[from..].find("\nfn "))?;
    let body = head + text[head..].find("{\n")? + 2;
    (head >= 300 && body - head < 200 && text.len() > body + 300).then_some(body)
}

fn at_most(text: &str, bytes: usize) -> &str {
    let mut end = bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

impl Prompt {
    fn cut(name: &str, text: &str, body: usize, gap: bool) -> Self {
        let mut begin = body.saturating_sub(PROMPT_BYTES);
        while !text.is_char_boundary(begin) || (begin > 0 && text.as_bytes()[begin - 1] != b'\n' && begin < body) {
            begin += 1;
        }
        let rest = &text[body..];
        // The gap: the first two lines of the body.
        let hidden = rest.match_indices('\n').nth(1).map_or(rest.len(), |(i, _)| i + 1);
        let truth = if gap { &rest[..hidden] } else { at_most(rest, 200) };
        Self {
            file: name.to_owned(),
            prefix: text[begin..body].to_owned(),
            suffix: gap.then(|| at_most(&rest[hidden..], PROMPT_BYTES / 2).to_owned()),
            truth: truth.to_owned(),
        }
    }

    fn show(&self, out: &mut String, before: &str, after: &str) -> std::fmt::Result {
        let kind = if self.suffix.is_some() { "fill in the middle" } else { "continue" };
        writeln!(out, "### {} ({kind})\n\n```rust\n{}", self.file, self.prefix.trim_end())?;
        match &self.suffix {
            Some(suffix) => writeln!(out, "    // <the gap>\n{}\n```\n", suffix.trim_end())?,
            None => writeln!(out, "```\n")?,
        }
        for (who, text) in [("before training", before), ("after training", after), ("the author", &self.truth)] {
            writeln!(out, "{who}:\n\n```text\n{}\n```\n", text.trim_end())?;
        }
        Ok(())
    }
}
