//! One file a command.

pub(crate) mod pretrain;
pub(crate) mod quickstart;
pub(crate) mod session;
