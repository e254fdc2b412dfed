//! Training: recipes and what follows from them, the schedule, and what a run writes down and shows.

pub mod checkpoint;
pub mod live;
pub mod metrics;
pub mod optim;
pub mod plan;
pub mod plot;
pub mod recipe;
pub mod schedule;
pub mod spike;
pub mod step;
pub mod tensorboard;
