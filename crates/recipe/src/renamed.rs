//! Keys that have new names. Recipes and stored plans with the old names stay readable.

use serde_json::Value;
use toml::Spanned;
use toml::de::DeTable;

/// The old name of `[[extension]]`. The stages of a pipeline use this word now.
const OLD: &str = "stage";
const NEW: &str = "extension";

/// Gives the keys of a recipe their new names. It is an error if the old and the new key both occur: the key, and what
/// to do.
pub(crate) fn in_recipe(recipe: &mut DeTable<'_>) -> Result<(), (&'static str, String)> {
    if !recipe.contains_key(OLD) {
        return Ok(());
    }
    if recipe.contains_key(NEW) {
        return Err((OLD, format!("is the old name of `{NEW}`: use the new name everywhere")));
    }
    if let Some((key, value)) = recipe.remove_entry(OLD) {
        recipe.insert(Spanned::new(key.span(), NEW.into()), value);
    }
    Ok(())
}

/// Gives the keys of a stored plan their new names.
pub(crate) fn in_plan(plan: &mut Value) {
    let Some(plan) = plan.as_object_mut() else { return };
    if let Some(extensions) = plan.remove("stages") {
        plan.entry("extensions").or_insert(extensions);
    }
}

#[cfg(test)]
mod tests {
    use crate::plan::{PLAN_FILE, Plan};
    use crate::recipe::Recipe;

    const MAIN: &str =
        "[model]\nconfig = \"small\"\n[schedule]\ntotal_tokens = \"1M\"\npeak_lr = 1e-3\n[data]\nseq_len = 512\n";
    const ONE: &str = "[[NAME]]\nseq_len = 1024\ntotal_tokens = \"1M\"\n";

    fn plan(text: &str) -> Result<Plan, String> {
        Recipe::parse("r.toml", text, &[]).and_then(|r| Plan::new(&r, None)).map_err(|e| e.to_string())
    }

    #[test]
    fn old_names_mean_the_same() {
        let [new, old] = ["extension", "stage"].map(|name| format!("{MAIN}{}", ONE.replace("NAME", name)));
        let plans = [&new, &old].map(|text| plan(text).unwrap());
        assert_eq!(plans[0], plans[1]);
        assert_eq!(plans[0].extensions.len(), 1);
        // Errors still name the line.
        let error = plan(&old.replace("1024", "1")).unwrap_err();
        assert!(error.contains("r.toml, line 9") && error.contains("`extension.0.seq_len`"), "{error}");
        let both = plan(&format!("{new}{}", ONE.replace("NAME", "stage"))).unwrap_err();
        assert!(both.contains("r.toml, line 11") && both.contains("`stage`: is the old name of `extension`"), "{both}");

        // An override may use either name, whichever one the file uses.
        let set = ["stage=[]".to_owned()];
        assert!(Recipe::parse("r.toml", &new, &set).unwrap().extension.is_empty());

        let folder = tempfile::tempdir().unwrap();
        plans[0].save(folder.path()).unwrap();
        let path = folder.path().join(PLAN_FILE);
        let stored = std::fs::read_to_string(&path).unwrap();
        assert!(stored.contains("\"extensions\""));
        std::fs::write(&path, stored.replace("\"extensions\"", "\"stages\"")).unwrap();
        assert_eq!(Plan::load(folder.path()).unwrap(), plans[0]);
    }
}
