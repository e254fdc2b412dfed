//! `hadal dump`: see `hadal_model::dump`.

use super::common::open;
use crate::cli::DumpArgs;
use anyhow::Result;
use hadal_model::Model;
use hadal_model::dump::{Array, dump, read_ids, read_routing, write};
use hadal_ops::Cx;
use hadal_weights::folder::model_folder;
use hadal_weights::precision::Precision;

pub(crate) fn run(args: &DumpArgs) -> Result<()> {
    let cx = Cx::cpu(args.threads, args.dtype.dtype());
    let checkpoint = open(&model_folder(&args.model)?)?;
    let ids = read_ids(&args.ids, checkpoint.config())?;
    let ids: Vec<&[i32]> = ids.iter().map(Vec::as_slice).collect();
    let tokens = ids.iter().map(|sequence| sequence.len()).sum();
    let model = Model::load_to_train(&cx, &checkpoint, Precision::COMPUTE)?;
    let replay = args.replay.as_deref().map(|path| read_routing(&cx, &model, tokens, path)).transpose()?;
    let arrays = dump(&cx, &model, &ids, args.grads, replay.as_deref());
    write(&args.out, &arrays)?;
    say!("{} tensors in {}", arrays.len(), args.out.display());
    if let Some(Array::F32(_, loss)) = arrays.get("loss") {
        say!("loss {:.6}", loss[0]);
    }
    Ok(())
}
