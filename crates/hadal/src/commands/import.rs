//! `hadal import`: checks and converts Hugging Face checkpoints, tensor by tensor and in little memory.

use super::common::{grouped, open};
use super::folder::{conversion, write};
use crate::cli::ImportArgs;
use anyhow::Result;
use hadal_data::tokenizer::FILES;
use hadal_model::count;
use hadal_weights::folder::model_folder;
use hadal_weights::{Audit, Checkpoint, convert_into};
use indicatif::{ProgressBar, ProgressStyle};

pub(crate) fn run(args: &ImportArgs) -> Result<()> {
    if let Some(out) = &args.out {
        hadal_base::place(out)?;
    }
    // A folder is checked as it is. A repository is fetched first.
    let folder = if args.checkpoint.is_dir() { args.checkpoint.clone() } else { model_folder(&args.checkpoint)? };
    let folder = &folder;
    let checkpoint = open(folder)?;
    let stored = checkpoint.format();
    let conversion = conversion(args.dtype, args.files, stored)?;
    let mut audit = checkpoint.audit()?;
    if args.deep && audit.is_clean() {
        deepen(&checkpoint, &mut audit)?;
    }
    if args.all {
        audit.lines().iter().for_each(|line| say!("{line}"));
        audit.ignored.iter().for_each(|name| say!("not needed: {name}"));
        audit.off_format.iter().for_each(|name| say!("not powers of two: {name}"));
    }
    let (ignored, off_format) = (audit.ignored.len(), audit.off_format.clone());
    audit.into_result()?;
    let found = count::count(checkpoint.config());
    say!(
        "{} holds the whole model as {stored}: {} parameters, {} of MTP modules, {ignored} tensors that the model does not need",
        folder.display(),
        grouped(found.main + found.mtp),
        grouped(found.mtp)
    );
    if let [first, rest @ ..] = off_format.as_slice() {
        let more = if rest.is_empty() { String::new() } else { format!(" and {} more (--all names them)", rest.len()) };
        say!(
            "config.json says `scale_fmt: ue8m0`, but these scales are not powers of two: {first}{more}; they are used as they are"
        );
    }
    if !FILES.iter().any(|name| folder.join(name).is_file()) {
        say!("it has no tokenizer.json and no tiktoken.model; generate, complete and eval need one of them");
    }
    let Some(out) = &args.out else {
        let read = if args.deep { "every value" } else { "scales and copies; --deep also reads every value" };
        say!("checked: names, shapes, types and {read}");
        return Ok(());
    };
    let converted =
        write(folder, out, args.files.shard_size, |dir, options| convert_into(&checkpoint, dir, conversion, options))?;
    say!("written to {} {}", out.display(), converted.describe(conversion));
    Ok(())
}

/// Reads every value and shows a progress bar in a terminal.
fn deepen(checkpoint: &Checkpoint, audit: &mut Audit) -> Result<()> {
    let style = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {bytes_per_sec}, {eta} left")?;
    let bar = ProgressBar::new(checkpoint.size()).with_style(style);
    checkpoint.audit_values(audit, |bytes| bar.inc(bytes as u64))?;
    bar.finish_and_clear();
    Ok(())
}
