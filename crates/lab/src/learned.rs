//! The evidence that a trained model learned: completions of held-out code before and after training, and its bits per
//! byte of the held-out text, compared with compressors.

use crate::error::{Result, refuse};
use hadal_data::baseline::{Compressor, Unigram};
use hadal_data::{Tokenizer, fim};
use hadal_infer::{Acceptance, Engine, EngineOptions, SampleParams, generate, generate_with_drafts};
use hadal_model::Model;
use hadal_ops::Cx;
use hadal_train::evaluate::evaluate;
use hadal_train::session::Session;
use hadal_train::step::Trainer;
use hadal_watch::metrics;
use std::fmt::Write as _;
use std::time::Duration;

/// Number of new tokens per completion.
const NEW_TOKENS: usize = 64;
/// Settings for the sampled completions: the defaults of `hadal generate`.
pub const SAMPLING: SampleParams =
    SampleParams { temperature: 0.8, top_k: 0, top_p: 0.95, min_p: 0.0, seed: 0, request: 0, sample: 0 };
/// Largest prompt, in bytes.
const PROMPT_BYTES: usize = 700;

/// The page mentions the time if it is more than this multiple of the planned time.
const LATE: f64 = 1.15;

/// Pieces of held-out code to complete.
pub struct Prompts {
    all: Vec<Prompt>,
}

struct Prompt {
    file: String,
    prefix: String,
    /// The text after the gap. `None` for a plain continuation.
    suffix: Option<String>,
    /// The original text.
    truth: String,
}

/// A model's completions of the prompts.
pub struct Answers {
    texts: Vec<String>,
    acceptance: Acceptance,
}

impl Prompts {
    /// Chooses two continuations of a function's head and two gaps of a few lines, from four files spread over the
    /// held-out text.
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

    /// The model's answers to the prompts. For greedy answers, it also counts how many of their tokens MTP would have
    /// drafted correctly.
    pub fn answer(
        &self,
        cx: &Cx,
        model: &Model,
        tokenizer: &Tokenizer,
        sampling: Option<SampleParams>,
    ) -> Result<Answers> {
        let mut engine = Engine::new(cx, model, EngineOptions::default());
        let stop: Vec<u32> = tokenizer.special().eos.into_iter().collect();
        let mut answers = Answers { texts: Vec::new(), acceptance: Acceptance::default() };
        for (request, prompt) in (0..).zip(&self.all) {
            let mut ids: Vec<u32> = tokenizer.special().bos.into_iter().collect();
            match &prompt.suffix {
                Some(suffix) => ids.extend(fim::prompt(tokenizer, &prompt.prefix, suffix)?),
                None => ids.extend(tokenizer.encode(&prompt.prefix)),
            }
            let done = if let Some(params) = sampling {
                generate(
                    cx,
                    model,
                    &mut engine,
                    &ids,
                    SampleParams { request, ..params },
                    &stop,
                    NEW_TOKENS,
                    &mut |_| true,
                )?
            } else {
                let (done, seen) = generate_with_drafts(cx, model, &mut engine, &ids, &stop, NEW_TOKENS)?;
                answers.acceptance += seen;
                done
            };
            answers.texts.push(tokenizer.decode(&done.tokens));
        }
        Ok(answers)
    }
}

/// The page of a finished run: the model's completions before training (greedy) and after training (greedy and
/// sampled), and its bits per byte of held-out text next to those of compressors.
pub fn page(
    session: &Session,
    trainer: &Trainer,
    prompts: &Prompts,
    [before, greedy, sampled]: [&Answers; 3],
) -> Result<String> {
    let mut page = String::from(
        "# quickstart\n\n## Completions of held-out code (unedited)\n\n\
         Greedy completions take the most likely token. Small models soon repeat themselves in them. Sampled ones draw \
         from the likely tokens (temperature 0.8, top-p 0.95).\n\n",
    );
    for (i, prompt) in prompts.all.iter().enumerate() {
        prompt.show(&mut page, [&before.texts[i], &greedy.texts[i], &sampled.texts[i]])?;
    }
    if session.corpus.validation.documents() > 0 {
        held_out(&mut page, session, trainer)?;
    }
    if let Some(rate) = greedy.acceptance.rate() {
        let drafts = greedy.acceptance.drafts;
        writeln!(page, "MTP's draft of the second next token would be accepted {:.0}% of the time", rate * 100.0)?;
        writeln!(page, "({drafts} drafts in the completions above; the report's 671B model: 85-90%).\n")?;
    }
    let last = metrics::read(&session.folder)?.pop();
    let Some(last) = last else { refuse!("the run in {} has no steps", session.folder.display()) };
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

/// The end of the page: how long the run took compared with the `planned` minutes, what its folder contains, and what
/// `program` can do next.
pub fn ending(session: &Session, program: &str, took: Duration, planned: Option<f64>) -> String {
    let (folder, minutes) = (session.folder.display(), took.as_secs_f64() / 60.0);
    let late = planned.filter(|planned| minutes > LATE * planned);
    let late = late.map_or_else(String::new, |planned| {
        format!(" That is longer than the {planned:.0} min planned: the machine became slower after it was measured.")
    });
    format!(
        "The whole quickstart took {minutes:.1} min.{late}\n\n## Files, and what to try next\n\n\
         - {folder}/training.svg, expert_load.svg, max_vio.svg: loss curve, expert load, balance\n\
         - {folder}/model: a Hugging Face deepseek_v3 checkpoint; {folder}/tensorboard; this page: report.md\n\n\
         \x20   {program} generate {folder} 'pub fn new('\n\
         \x20   {program} complete {folder}\n\
         \x20   {program} serve {folder}     # a page at http://127.0.0.1:8080\n\
         \x20   {program} eval {folder} crates/\n\
         \x20   {program} inspect {folder}/model\n"
    )
}

/// Bits per byte of held-out text: of the model, of token frequencies, and of two compressors.
fn held_out(page: &mut String, session: &Session, trainer: &Trainer) -> Result<()> {
    let set = session.corpus.validation(session.plan.data.seq_len, None)?;
    let (cx, model) = (&trainer.cx, &trainer.model);
    let ours = evaluate(cx, model, &set, &mut |_, _| true);
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
        "{} files from packages that the model never saw, {:.2} MB; perplexity {:.1} per token.\n",
        documents.len(),
        set.text_bytes as f64 / 1e6,
        ours.loss.exp()
    )?;
    Ok(())
}

/// Start of the body of a function that has some lines before and after it.
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

    fn show(&self, out: &mut String, [before, greedy, sampled]: [&str; 3]) -> std::fmt::Result {
        let kind = if self.suffix.is_some() { "fill in the middle" } else { "continue" };
        writeln!(out, "### {} ({kind})\n\n```rust\n{}", self.file, self.prefix.trim_end())?;
        match &self.suffix {
            Some(suffix) => writeln!(out, "    // <the gap>\n{}\n```\n", suffix.trim_end())?,
            None => writeln!(out, "```\n")?,
        }
        for (who, text) in [
            ("before training, greedy", before),
            ("after training, greedy", greedy),
            ("after training, sampled", sampled),
            ("the author", &self.truth),
        ] {
            writeln!(out, "{who}:\n\n```text\n{}\n```\n", text.trim_end())?;
        }
        Ok(())
    }
}
