//! Training: recipes and what follows from them, the schedule, and what a run writes down and shows.

pub mod bench;
pub mod checkpoint;
pub mod corpus;
pub mod evaluate;
pub mod experiment;
pub mod fidelity;
pub mod live;
pub mod metrics;
pub mod optim;
pub mod plan;
pub mod plot;
pub mod recipe;
pub mod routing;
pub mod run;
pub mod schedule;
pub mod spike;
pub mod stage;
pub mod step;
pub mod tensorboard;
