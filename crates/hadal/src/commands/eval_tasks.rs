//! `hadal eval MODEL TASK...`: benchmarks.

use super::common::{load, model_name};
use crate::cli::{EvalArgs, ModelArgs};
use anyhow::Result;
use hadal_data::chat::ChatTemplate;
use hadal_infer::Loaded;
use hadal_tasks::evaluate::{Against, Evaluation, Model, Progress, Report, evaluate_all};
use hadal_tasks::{Chat, Suite};
use hadal_weights::folder::model_folder;
use indicatif::{ProgressBar, ProgressStyle};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(super) fn run(args: &EvalArgs, tasks: &[PathBuf]) -> Result<()> {
    let options = args.tasks.options();
    // Mistakes in tasks appear before a model is loaded.
    let mut suite = Suite::open_all(tasks, &options)?;
    let own =
        |model: &Path| if model.is_dir() { model.join("eval") } else { Path::new("eval").join(model_name(model)) };
    let out = args.tasks.out.clone().unwrap_or_else(|| own(&args.model.model));
    let other = match &args.against {
        Some(path) => {
            let folder = args.tasks.out.as_ref().map_or_else(|| own(path), |out| out.join("against"));
            let plain = ModelArgs { model: path.clone(), ..args.model };
            Some((model_name(path), evaluate(args, &plain, &mut suite, &folder)?.1))
        }
        None => None,
    };
    let ((name, hash), evaluations) = evaluate(args, &args.model, &mut suite, &out)?;
    let settings = args.tasks.settings();
    let against = other.as_ref().map(|(model, evaluations)| Against { model, evaluations });
    let report = Report { model: &name, hash, suite: &suite, settings: &settings, evaluations: &evaluations, against };
    let written = report.write(&out, args.tasks.log_samples)?;
    say!("{}", report.table());
    say!("results: {}", written.results.display());
    written.pages.iter().for_each(|page| say!("every question: {}", page.display()));
    written.samples.iter().for_each(|path| say!("samples: {}", path.display()));
    if args.json {
        say!("{}", report.results());
    }
    Ok(())
}

/// Evaluates a model. Returns its name and hash as well.
fn evaluate(
    args: &EvalArgs,
    model: &ModelArgs,
    suite: &mut Suite,
    out: &Path,
) -> Result<((String, u64), Vec<Evaluation>)> {
    let loaded = load(model, None)?;
    let folder = model_folder(&model.model)?;
    if args.tasks.apply_chat_template {
        suite.set_chat(&chat(&loaded, &folder, args.tasks.fewshot_as_multiturn)?);
    }
    let model = Model::new(&loaded, &model_name(&model.model), &folder, model.formats()?)?;
    let style = ProgressStyle::with_template("{msg} {bar:30} {pos}/{len} answers, {per_sec}, {eta} left")?;
    let bar = ProgressBar::new(0).with_style(style);
    let mut progress = |task: &str, Progress { done, all }| {
        if bar.message() != task {
            bar.reset();
            bar.set_message(task.to_owned());
        }
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    };
    let evaluations = evaluate_all(suite, &model, &args.tasks.settings(), out, &mut progress)?;
    bar.finish_and_clear();
    Ok(((model.name.clone(), model.hash()), evaluations))
}

fn chat(loaded: &Loaded, folder: &Path, multiturn: bool) -> Result<Chat> {
    let template = ChatTemplate::load(folder, &loaded.tokenizer)?;
    eprintln!("chat template: {}", template.origin());
    Ok(Chat { template: Arc::new(template), multiturn })
}
