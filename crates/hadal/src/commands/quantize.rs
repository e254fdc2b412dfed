//! `hadal quantize`: packs the weights of a checkpoint as they are stored while a model runs, into a folder that is
//! mapped into memory.

use super::common::open;
use super::folder::write;
use crate::cli::QuantizeArgs;
use anyhow::Result;
use hadal_model::write_packed;
use hadal_ops::Cx;
use hadal_weights::folder::model_folder;
use hadal_weights::{PackedFile, SHARD_BYTES};
use indicatif::{ProgressBar, ProgressStyle};

pub(crate) fn run(args: &QuantizeArgs) -> Result<()> {
    hadal_base::place(&args.out)?;
    let formats = args.model.formats()?;
    let folder = model_folder(&args.model.model)?;
    let checkpoint = open(&folder)?;
    let cx = Cx::cpu(args.model.threads, args.model.dtype.dtype());
    let style = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {bytes_per_sec}, {eta} left")?;
    let bar = ProgressBar::new(0).with_style(style);
    write(&folder, &args.out, SHARD_BYTES, |dir, options| {
        write_packed(&cx, &checkpoint, formats, dir, options.stop, &mut |done, total| {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        })
    })?;
    bar.finish_and_clear();
    say!("{} written to {}: {}", folder.display(), args.out.display(), PackedFile::open(&args.out)?.summary());
    Ok(())
}
