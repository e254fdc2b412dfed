//! The DeepSeek-V3 model: layers with explicit forward and backward, losses, caches, counting.

mod adapter;
mod balance;
mod batch;
mod block;
mod build;
mod cached;
mod codes;
pub mod count;
mod drafts;
pub mod dump;
mod ffn;
mod kept;
mod linear;
mod load;
mod mla;
mod model;
mod moe;
mod mtp;
mod norm;
mod packed;
mod param;
mod pass;
mod router;
mod stored;
mod values;
#[cfg(test)]
mod wiring_tests;

pub use adapter::Adapter;
pub use balance::update_bias;
pub use batch::{IGNORE, Input, MtpInput, Segment, Targets};
pub use block::{Block, BlockDeferred, BlockSaved, Mlp};
pub use cached::{AbsorbedViews, Cache, Form, LatentPool, LayerCache, Rows, Stretch};
pub use ffn::Ffn;
pub use linear::Linear;
pub use load::save_parameters;
pub use mla::absorbed::Absorbed;
pub use mla::{Mla, MlaDeferred, MlaSaved, Query};
pub use model::{BalanceGroups, LossWeights, Model, Observer, Probe, StepStats, Workspace};
pub use moe::{Dispatched, Moe, MoeDeferred, MoeSaved};
pub use mtp::{Mtp, MtpDeferred, MtpSaved};
pub use packed::write_packed;
pub use param::{Grads, Param, Purpose, Shared};
pub use pass::{BalancePass, Pass};
pub use router::{Router, Routing};
pub use stored::Stored;
pub use values::{Fresh, Values, read_all};
