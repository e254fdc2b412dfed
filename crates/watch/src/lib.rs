//! Shows and records runs: metrics, curves, the live view, plots, TensorBoard files.

pub mod curve;
pub mod live;
pub mod metrics;
pub mod plot;
pub mod signals;
pub mod tensorboard;
