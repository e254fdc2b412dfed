//! The lab repeats the report's comparisons: runs that differ in a few settings, measurements of their models, verdicts
//! on the report's claims, and plots. Nothing outside of the lab knows about experiments.

pub mod budget;
mod checks;
pub mod domains;
mod error;
pub mod experiment;
pub mod fidelity;
mod figures;
pub mod findings;
mod kinds;
pub mod learned;
mod length;
mod measure;
pub mod needles;
pub mod niah;
mod nudge;
#[cfg(test)]
mod plot_tests;
pub mod plots;
mod precisions;
mod report;
pub mod routing;
#[cfg(test)]
mod testing;
pub mod verdict;
mod work;

pub use error::LabError;
pub use experiment::{EXPERIMENTS, Experiment};
pub use needles::make as objective;
pub use work::{Options, run};
