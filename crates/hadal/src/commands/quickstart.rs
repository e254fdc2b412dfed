//! `hadal quickstart`: from the Rust sources on this machine to a trained model that completes code, with the evidence
//! that it learned.

use crate::cli::QuickstartArgs;
use anyhow::{Context, Result, ensure};
use hadal_data::baseline::{Compressor, Unigram};
use hadal_data::{Tokenizer, fim};
use hadal_infer::{Acceptance, generate_with_drafts};
use hadal_lab::objective;
use hadal_model::{Decoder, Model, count};
use hadal_ops::Cx;
use hadal_recipe::recipe::Recipe;
use hadal_train::evaluate::evaluate;
use hadal_train::run;
use hadal_train::session::{Session, use_text};
use hadal_watch::metrics;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Instant;

/// Seconds kept for what comes after training: validation on all held-out text, the compressors, completions.
const AFTER_SECONDS: f64 = 40.0;
/// Share of the training time that its validations and checkpoints take.
const OVERHEAD: f64 = 0.05;
/// New tokens of a completion.
const NEW_TOKENS: usize = 64;
/// Most prompt text, in bytes.
const PROMPT_BYTES: usize = 700;

pub(crate) fn run(args: &QuickstartArgs) -> Result<()> {
    let start = Instant::now();
    let mut recipe = Recipe::load("quickstart", &args.set)?;
    if let Some(out) = &args.out {
        recipe.run.out = out.display().to_string();
    }
    recipe.run.threads = args.threads.unwrap_or(recipe.run.threads);
    use_text(&mut recipe, &args.text);
    say!("hadal quickstart: a DeepSeek-V3 from scratch, in about {:.0} minutes", args.minutes);
    let session = if args.resume {
        Session::resume(Path::new(&recipe.run.out))?
    } else {
        let left = || {
            let seconds = args.minutes * 60.0 - start.elapsed().as_secs_f64() - AFTER_SECONDS;
            Some((seconds * (1.0 - OVERHEAD) / 60.0).max(0.2))
        };
        Session::begin(recipe, objective, left, &crate::line)?
    };
    let (plan, tokenizer) = (&session.plan, &session.corpus.tokenizer);
    ensure!(plan.extensions.is_empty(), "`stage`: quickstart has no time for stages; train the recipe with `pretrain`");
    let counts = count::count(&plan.model);
    say!(
        "model: {:.1} M parameters, {:.1} M active a token; plan: {:.2} M tokens in {} steps, done in about {:.0} min",
        (counts.main + counts.mtp) as f64 / 1e6,
        counts.active as f64 / 1e6,
        plan.schedule.total_tokens as f64 / 1e6,
        plan.schedule.total_steps(),
        args.minutes - start.elapsed().as_secs_f64() / 60.0
    );
    let texts = session.corpus.validation_texts()?;
    let prompts = Prompts::choose(&texts);
    let trainer = run::trainer(plan, None)?;
    let before = answer(&trainer.cx, &trainer.model, tokenizer, &prompts)?;
    let (trainer, outcome) = session.train(trainer, objective, args.plain, &crate::line)?;
    if !outcome.finished {
        say!("stopped; go on with `hadal quickstart --resume`");
        return Ok(());
    }
    let (cx, model) = (&trainer.cx, &trainer.model);
    let after = answer(cx, model, tokenizer, &prompts)?;

    let mut report = String::new();
    writeln!(
        report,
        "# quickstart\n\n## Completions of held-out code (unedited; greedy, the same prompt before and after)\n"
    )?;
    for (i, prompt) in prompts.all.iter().enumerate() {
        prompt.show(&mut report, &before.texts[i], &after.texts[i])?;
    }
    let set = session.corpus.validation(plan.data.seq_len, None)?;
    let ours = cx.threads().run(|| evaluate(cx, model, &set, &mut |_, _| true));
    let documents: Vec<&str> = texts.iter().map(|(_, _, t)| t.as_str()).collect();
    let unigram = Unigram::fit(&session.corpus.train, tokenizer)?.bits_per_byte(&set);
    let zstd = Compressor::Zstd19.bits_per_byte(&documents);
    let xz = Compressor::Xz9.bits_per_byte(&documents);
    writeln!(report, "## Held-out text, bits per byte (lower is better)\n")?;
    writeln!(
        report,
        "| unigram tokens | xz -9, file by file | zstd -19, file by file | this model |\n|---|---|---|---|"
    )?;
    writeln!(report, "| {unigram:.3} | {xz:.3} | {zstd:.3} | **{:.3}** |\n", ours.bits_per_byte)?;
    writeln!(
        report,
        "{} files of packages the model never saw, {:.2} MB; perplexity {:.1} a token.\n",
        documents.len(),
        set.text_bytes as f64 / 1e6,
        ours.loss.exp()
    )?;
    if let Some(rate) = after.acceptance.rate() {
        let drafts = after.acceptance.drafts;
        writeln!(report, "MTP's draft of the second next token would be accepted {:.0}% of the time", rate * 100.0)?;
        writeln!(report, "({drafts} drafts in the completions above; the report's 671B model: 85-90%).\n")?;
    }
    let last = metrics::read(&session.folder)?.pop().context("the run has no steps")?;
    writeln!(
        report,
        "{} steps, {:.2} M tokens, {:.0} tokens/s, {:.0}% of the measured peak, {:.2} GB; whole quickstart {:.1} min.\n",
        last.step,
        last.tokens as f64 / 1e6,
        last.tokens as f64 / last.elapsed.max(1e-9),
        100.0 * last.mfu,
        last.memory as f64 / 1e9,
        start.elapsed().as_secs_f64() / 60.0
    )?;
    let folder = session.folder.display();
    next_commands(&mut report, &folder.to_string())?;
    say!("\n{}", report.trim_end());
    let path = session.folder.join("report.md");
    std::fs::write(&path, &report).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(())
}

fn next_commands(report: &mut String, folder: &str) -> std::fmt::Result {
    // As it was called: through Cargo the program is not on the path.
    let hadal = std::env::args().next().unwrap_or_else(|| "hadal".into());
    writeln!(report, "## What is there, and what to try next\n")?;
    writeln!(report, "- {folder}/training.svg, expert_load.svg, max_vio.svg: loss curve, expert load, balance")?;
    writeln!(
        report,
        "- {folder}/model: a Hugging Face deepseek_v3 checkpoint; {folder}/tensorboard; this page: report.md\n"
    )?;
    writeln!(report, "    {hadal} generate {folder} 'pub fn new('")?;
    writeln!(report, "    {hadal} complete {folder}")?;
    writeln!(report, "    {hadal} eval {folder} crates/")?;
    writeln!(report, "    {hadal} inspect {folder}/model")
}

/// Pieces of held-out code to complete.
struct Prompts {
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

struct Answers {
    texts: Vec<String>,
    acceptance: Acceptance,
}

impl Prompts {
    /// Two continuations of a function's head and two gaps of a few lines, from four files spread over the held-out text.
    fn choose(texts: &[(String, String, String)]) -> Self {
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

/// Greedy answers to the prompts, and how many of their tokens MTP would have drafted right.
fn answer(cx: &Cx, model: &Model, tokenizer: &Tokenizer, prompts: &Prompts) -> Result<Answers> {
    let decoder = Decoder::new(cx, model);
    let stop: Vec<u32> = tokenizer.special().eos.into_iter().collect();
    let mut answers = Answers { texts: Vec::new(), acceptance: Acceptance::default() };
    for prompt in &prompts.all {
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
