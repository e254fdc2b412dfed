//! One file per command.

pub(crate) mod bench;
pub(crate) mod bench_accumulator;
pub(crate) mod bench_infer;
pub(crate) mod bench_train;
pub(crate) mod chat;
pub(crate) mod common;
pub(crate) mod complete;
pub(crate) mod data;
pub(crate) mod dump;
pub(crate) mod eval;
mod eval_tasks;
mod eval_text;
pub(crate) mod experiment;
pub(crate) mod export;
pub(crate) mod extend;
pub(crate) mod folder;
pub(crate) mod generate;
pub(crate) mod import;
pub(crate) mod inspect;
pub(crate) mod niah;
pub(crate) mod pretrain;
pub(crate) mod quantize;
pub(crate) mod quickstart;
pub(crate) mod serve;
pub(crate) mod sft;
pub(crate) mod task;
pub(crate) mod tokenizer;
