//! The weights of one finished run in the precision of every run. This shows the effect of rounding without the effect
//! of chance.

use crate::error::Result;
use crate::fidelity::{Fidelity, sample};
use crate::measure::{VERSION, kept};
use crate::work::{Found, Work};
use hadal_model::Model;
use hadal_ops::{Cx, DType};
use hadal_recipe::plan::Plan;
use hadal_train::corpus::Corpus;
use hadal_weights::Checkpoint;
use hadal_weights::precision::Precision;
use serde_json::json;
use std::fmt::Write as _;
use std::path::Path;

/// Number of held-out tokens for the losses and gradients.
const TOKENS: u64 = 16_384;

/// The effect of each precision on the weights of the run called `weights`. The result is by run (one per precision)
/// and by seed.
pub(crate) fn measure(work: &Work<'_>, weights: &str) -> Result<Vec<(String, Vec<Fidelity>)>> {
    let member = |name: &str| work.experiment.run.iter().find(|r| r.name == name).expect("descriptions are checked");
    let mut all: Vec<(String, Vec<Fidelity>)> = Vec::new();
    for seed in work.seeds()? {
        let mut plans: Vec<(String, Plan)> = Vec::new();
        for run in &work.experiment.run {
            let plan = Plan::load(&work.folder(run, seed))?;
            if plans.iter().all(|p| p.1.formats() != plan.formats()) {
                plans.push((run.name.clone(), plan));
            }
        }
        let folder = work.folder(member(weights), seed);
        for (name, found) in of_seed(&folder, &plans)? {
            match all.iter_mut().find(|a| a.0 == name) {
                Some((_, seeds)) => seeds.push(found),
                None => all.push((name, vec![found])),
            }
        }
    }
    Ok(all)
}

fn of_seed(folder: &Path, plans: &[(String, Plan)]) -> Result<Vec<(String, Fidelity)>> {
    let own = Plan::load(folder)?;
    let corpus = Corpus::of_run(folder, own.text.as_deref())?;
    let tables: Vec<_> = plans.iter().map(|(name, plan)| (name, plan.precision, plan.run.precision)).collect();
    let of = json!({"version": VERSION, "plan": own, "text": corpus.validation.fingerprint(), "tables": tables});
    kept(&folder.join("fidelity.json"), &of, || {
        let set = corpus.validation(own.data.seq_len, Some(TOKENS))?;
        let checkpoint = Checkpoint::open(folder.join("model"))?;
        let cx = Cx::cpu(0, DType::F32);
        let model = Model::load_to_train(&cx, &checkpoint, Precision::COMPUTE)?;
        let exact = sample(&cx, &model, &set, None);
        let one = |(name, plan): &(String, Plan)| {
            let formats = plan.formats();
            let cx = formats.cx(0);
            let under = Model::load_to_train(&cx, &checkpoint, formats.table)?;
            let found = sample(&cx, &under, &set, Some(&exact));
            Ok((name.clone(), Fidelity::new(&model, &found, &exact)))
        };
        plans.iter().map(one).collect()
    })
}

/// The section of the report.
pub(crate) fn table(text: &mut String, found: &Found, weights: &str) -> Result<()> {
    writeln!(text, "\n## The weights of {weights} in the precision of each run, compared with f32\n")?;
    writeln!(
        text,
        "Forward and backward passes on held-out text, with the routing choices of f32. So only rounding differs.\n"
    )?;
    writeln!(text, "| precision of | loss | gradients of the layers' matrices |\n| --- | --- | --- |")?;
    let list =
        |all: &[Fidelity], cell: &dyn Fn(&Fidelity) -> String| all.iter().map(cell).collect::<Vec<_>>().join(", ");
    for (run, seeds) in &found.fidelity {
        let loss = list(seeds, &|f| format!("{:+.4}%", 100.0 * f.loss));
        let gradients = list(seeds, &|f| format!("{:.2}%", 100.0 * f.gradients));
        writeln!(text, "| {run} | {loss} | {gradients} |")?;
    }
    Ok(())
}
