//! Keys that recipes and plans once had. Old files may still contain them. The value that had no effect is accepted and
//! ignored. Any other value is an error that names the key.

use serde_json::Value;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A key that was removed.
pub(crate) struct Removed {
    /// `section.key`, in recipes and in plans.
    pub(crate) key: &'static str,
    /// The value that had no effect.
    accepted: Plain<'static>,
    /// What to do instead.
    advice: &'static str,
}

/// Every removed key.
const REMOVED: [Removed; 3] = [
    Removed {
        key: "data.needle_rate",
        accepted: Plain::Number(0.0),
        advice: "needles are an objective: [objective] name = \"needles\", rate = 0.5",
    },
    Removed {
        key: "precision.accumulator",
        accepted: Plain::Text("f32"),
        advice: "`hadal bench accumulator` shows what a short accumulator loses",
    },
    Removed {
        key: "run.nudge",
        accepted: Plain::Number(0.0),
        advice: "a run of an experiment has a key `nudge` (see experiments/fp8.toml)",
    },
];

/// A value without tables and lists, in either format.
#[derive(Clone, Copy, PartialEq)]
enum Plain<'a> {
    Number(f64),
    Text(&'a str),
}

impl<'a> Plain<'a> {
    fn of_recipe(value: &'a DeValue<'_>) -> Option<Self> {
        match value {
            DeValue::Integer(n) => n.as_str().parse().ok().map(Self::Number),
            DeValue::Float(x) => x.as_str().parse().ok().map(Self::Number),
            other => other.as_str().map(Self::Text),
        }
    }

    fn of_plan(value: &'a Value) -> Option<Self> {
        value.as_f64().map(Self::Number).or_else(|| value.as_str().map(Self::Text))
    }
}

impl Removed {
    /// The message if the key has a value other than the accepted one.
    pub(crate) fn message(&self) -> String {
        format!("was removed: {}", self.advice)
    }

    fn parts(&self) -> (&'static str, &'static str) {
        self.key.split_once('.').expect("removed keys are `section.key`")
    }
}

/// Removes these keys from a recipe. The error is the first key whose value had an effect.
pub(crate) fn take_from_recipe(recipe: &mut DeTable<'_>) -> Result<(), &'static Removed> {
    for removed in &REMOVED {
        let (section, key) = removed.parts();
        let Some(DeValue::Table(section)) = recipe.get_mut(section).map(Spanned::get_mut) else { continue };
        let found = section.remove(key);
        if found.is_some_and(|v| Plain::of_recipe(v.get_ref()) != Some(removed.accepted)) {
            return Err(removed);
        }
    }
    Ok(())
}

/// Removes these keys from a stored plan and its extensions. The error is the first key whose value had an effect, with
/// its full path.
pub(crate) fn take_from_plan(plan: &mut Value) -> Result<(), (String, &'static Removed)> {
    for removed in &REMOVED {
        let (section, key) = removed.parts();
        let found = plan.get_mut(section).and_then(Value::as_object_mut).and_then(|section| section.remove(key));
        if found.is_some_and(|v| Plain::of_plan(&v) != Some(removed.accepted)) {
            return Err((removed.key.into(), removed));
        }
    }
    let extensions = plan.get_mut("extensions").and_then(Value::as_array_mut).into_iter().flatten();
    for (i, extension) in extensions.enumerate() {
        take_from_plan(extension).map_err(|(key, removed)| (format!("extensions.{i}.{key}"), removed))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::plan::{PLAN_FILE, Plan};
    use crate::recipe::Recipe;
    use serde_json::{Value, json};

    const RECIPE: &str = "[model]\nconfig = \"small\"\n\n[schedule]\ntotal_tokens = \"20M\"\npeak_lr = 1e-3\n\n[data]\n\
        seq_len = 512\n\n[[extension]]\nseq_len = 1024\ntotal_tokens = \"1M\"\n\n";

    fn plan(rest: &str, set: &[&str]) -> Result<Plan, String> {
        let set: Vec<String> = set.iter().map(ToString::to_string).collect();
        let recipe = Recipe::parse("r.toml", &format!("{RECIPE}{rest}"), &set);
        recipe.and_then(|r| Plan::new(&r, None)).map_err(|e| e.to_string())
    }

    #[test]
    fn recipes_may_write_what_asks_for_nothing() {
        let new = plan("", &[]).unwrap();
        for old in [
            "[run]\nnudge = 0\n",
            "[run]\nnudge = 0.0\n",
            "run = {nudge = 0, seed = 1}\n",
            "[precision]\naccumulator = \"f32\"\n",
        ] {
            // Written as a table of the file, or as an override.
            let found = if old.starts_with('[') { plan(old, &[]) } else { plan("", &[old.trim_end()]) };
            assert_eq!(found.unwrap(), new, "{old}");
        }
        assert_eq!(plan("[run]\nnudge = 3\n", &["run.nudge=0"]).unwrap(), new, "overrides win");
    }

    #[test]
    fn recipes_that_ask_for_something_are_refused_where_they_do() {
        let nudge = "`run.nudge`: was removed: a run of an experiment has a key `nudge` (see experiments/fp8.toml)";
        let accumulator =
            "`precision.accumulator`: was removed: `hadal bench accumulator` shows what a short accumulator loses";
        for (rest, set, says) in [
            ("[run]\nnudge = 3\n", &[][..], format!("r.toml, line 16: {nudge}")),
            ("[run]\nnudge = \"f32\"\n", &[], format!("r.toml, line 16: {nudge}")),
            (
                "[precision]\nkv_up = \"fp8\"\naccumulator = \"14-bit\"\n",
                &[],
                format!("r.toml, line 17: {accumulator}"),
            ),
            ("", &["run.nudge=1"], format!("--set run.nudge=1: {nudge}")),
            ("", &["run={nudge=1}"], format!("--set run={{nudge=1}}: {nudge}")),
            ("", &["precision.accumulator=14-bit"], format!("--set precision.accumulator=14-bit: {accumulator}")),
            ("", &["precision.accumulator=0"], format!("--set precision.accumulator=0: {accumulator}")),
        ] {
            assert_eq!(plan(rest, set).unwrap_err(), says);
        }
    }

    #[test]
    fn stored_plans_are_read_alike() {
        let folder = tempfile::tempdir().unwrap();
        let new = plan("", &[]).unwrap();
        let load = |change: &dyn Fn(&mut Value)| {
            let mut stored = serde_json::to_value(&new).unwrap();
            change(&mut stored);
            std::fs::write(folder.path().join(PLAN_FILE), stored.to_string()).unwrap();
            Plan::load(folder.path()).map_err(|e| e.to_string())
        };
        let old = |plan: &mut Value| {
            plan["run"]["nudge"] = json!(0);
            plan["precision"]["accumulator"] = json!("f32");
        };
        let both = |plan: &mut Value| {
            old(plan);
            old(&mut plan["extensions"][0]);
        };
        assert_eq!(load(&both).unwrap(), new);
        let error = load(&|plan| plan["run"]["nudge"] = json!(2)).unwrap_err();
        assert!(error.contains("plan.json: `run.nudge` was removed: a run of an experiment"), "{error}");
        let error = load(&|plan| plan["extensions"][0]["precision"]["accumulator"] = json!("14-bit")).unwrap_err();
        assert!(
            error.contains("`extensions.0.precision.accumulator` was removed: `hadal bench accumulator`"),
            "{error}"
        );
        assert!(error.contains("the program that started it"), "{error}");
    }
}
