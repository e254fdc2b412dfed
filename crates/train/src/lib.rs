//! Training: the step, the optimiser, the run with its checkpoints, and the contents of a run's folder.

pub mod adapters;
pub mod bench;
pub mod checkpoint;
pub mod corpus;
pub mod divergence;
pub mod evaluate;
pub mod extend;
pub mod objective;
pub mod optim;
mod pace;
pub mod run;
pub mod session;
pub mod spike;
pub mod state;
pub mod step;
