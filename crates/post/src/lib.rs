//! Post-training: objectives of the run loop that start from a trained model.
//!
//! Supervised fine-tuning (report section 5.1), in the order in which data flows:
//!
//! - [`prepare`] reads conversations, writes them with the chat template, and stores their tokens in the run's folder.
//! - [`store`] is this storage: tokens, and which of them are trained.
//! - [`rows`] chooses the sequences of each epoch and packs them into rows.
//! - [`sft`] is the objective: it gives the rows to the run loop, and validates.
//! - [`session`] is a run's folder from its recipe to its end.

pub mod error;
pub mod prepare;
pub mod rows;
pub mod session;
pub mod sft;
pub mod store;

pub use error::SftError;
pub use session::SftSession;
pub use sft::Sft;
