//! Describes runs: recipes as people write them, the plans made from them, schedules, and context extensions.

pub mod extension;
pub mod plan;
pub mod recipe;
mod removed;
mod renamed;
pub mod schedule;
pub mod sft;
pub mod trained;

pub use plan::{PLAN_FILE, Plan, PlanError};
pub use recipe::{Recipe, RecipeError};
