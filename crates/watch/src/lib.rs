//! What a run leaves behind for people: metrics, curves, the live view, plots, TensorBoard's files.

pub mod curve;
pub mod live;
pub mod metrics;
pub mod plot;
pub mod signals;
pub mod tensorboard;
