//! Checkers: how much an answer is worth, where comparing texts is not enough.
//!
//! `checker: NAME`, `checker: {name: NAME, …}` or `checker: {command: [PROGRAM, …]}` in a task file names one.

mod command;
mod contains;
mod gsm8k;
pub mod instructions;
mod python;

use serde_json::Value;

use crate::error::Result;
use crate::families::Family;
use crate::file::{Node, Yaml};
use crate::maths;
use crate::task::keys::Keys;

/// An answer to check.
#[derive(Clone, Debug)]
pub struct Case<'a> {
    /// A name that no other case has.
    pub id: String,
    /// The document's fields.
    pub document: &'a Value,
    /// What `doc_to_target` gives.
    pub target: String,
    /// The answer.
    pub answer: &'a str,
}

/// Says how much answers are worth.
pub trait Checker: Send + Sync {
    /// The value of each answer, usually 0 or 1.
    fn check(&self, cases: &[Case]) -> Result<Vec<f64>>;
}

/// A checker that looks at one answer at a time.
pub(crate) struct Each<F>(pub(crate) F);

impl<F: Fn(&Case) -> f64 + Send + Sync> Checker for Each<F> {
    fn check(&self, cases: &[Case]) -> Result<Vec<f64>> {
        Ok(cases.iter().map(&self.0).collect())
    }
}

/// The checkers without options.
const NAMES: [&str; 5] = ["maths", "gsm8k", "contains", "instructions", "python"];

/// Reads what is written under `checker`.
pub(crate) fn read(node: &Node) -> Result<Box<dyn Checker>> {
    if let Yaml::Text(name) = &node.yaml {
        let wrapped = [("name", name)].map(|(key, name)| crate::file::Entry {
            key: key.to_owned(),
            place: node.place.clone(),
            value: Node { yaml: Yaml::Text(name.clone()), place: node.place.clone() },
        });
        return read(&Node { yaml: Yaml::Map(wrapped.to_vec()), place: node.place.clone() });
    }
    let mut keys = Keys::new(node, "checker.")?;
    if let Some(words) = keys.texts("command")? {
        let checker = command::CommandChecker::read(&mut keys, words)?;
        keys.finish()?;
        return Ok(Box::new(checker));
    }
    let Some(name) = keys.text("name")? else {
        return Err(keys.wrong("name", "is missing; name a checker, or give `command`"));
    };
    let truth = |right: bool| f64::from(u8::from(right));
    let checker: Box<dyn Checker> = match name.as_str() {
        // The target may be a solution that ends with its answer.
        "maths" => Box::new(Each(move |case: &Case| {
            let gold = maths::find_answer(&case.target).unwrap_or(&case.target);
            truth(maths::judge(gold, case.answer))
        })),
        "gsm8k" => Box::new(Each(move |case: &Case| truth(gsm8k::right(&case.target, case.answer)))),
        "contains" => Box::new(Each(move |case: &Case| truth(contains::contains(case.answer, &case.target)))),
        "instructions" => Box::new(instructions::InstructionChecker::read(&mut keys)?),
        "python" => Box::new(python::PythonChecker::read(&mut keys)?),
        family => {
            let Some(family) = Family::named(family) else {
                let families: Vec<&str> = Family::ALL.iter().map(|family| family.name()).collect();
                let known = [&NAMES[..], &families].concat().join(", ");
                return Err(keys.wrong("name", &format!("there is no checker `{name}`; use one of: {known}")));
            };
            Box::new(Each(move |case: &Case| truth(family.check(case.document, case.answer))))
        }
    };
    keys.finish()?;
    Ok(checker)
}
