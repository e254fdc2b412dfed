//! The prompts of a completion: a text, some texts, tokens, or some lists of tokens.

use crate::app::App;
use crate::error::ApiError;
use crate::fields::{Fields, wrong};
use crate::sampling::token_id;
use crate::tokens::spell;
use hadal_infer::Loaded;
use serde_json::Value;

/// A prompt.
#[derive(Debug)]
pub(crate) struct Prompt {
    pub(crate) ids: Vec<u32>,
    /// Whether it was given as text, and whether a token that begins every text was put in front.
    from_text: bool,
    has_begin: bool,
}

impl Prompt {
    /// Its text, with the place of each token in characters. Special tokens that were written as text are shown.
    pub(crate) fn spell(&self, loaded: &Loaded, show_special: bool) -> (String, Vec<usize>) {
        let (tokenizer, show) = (&loaded.tokenizer, self.from_text || show_special);
        spell(tokenizer, &self.ids, |i, token| {
            !tokenizer.is_special(token) || (show && !(i == 0 && self.has_begin && !show_special))
        })
    }
}

/// Takes the prompts. With a `suffix`, each of them is a text before a gap.
pub(crate) fn take(fields: &mut Fields, app: &App, suffix: Option<&str>) -> Result<Vec<Prompt>, ApiError> {
    let begin = fields.flag_or("add_special_tokens", true)?;
    let value =
        fields.take("prompt").ok_or_else(|| fields.error("prompt", "`prompt` is missing: give a text or tokens"))?;
    let text = |text: &str| of_text(&app.loaded, text, suffix, begin);
    match value {
        Value::String(one) => Ok(vec![text(&one)?]),
        Value::Array(all) => match all.first() {
            None => Err(fields.error("prompt", "`prompt` is an empty list: give a text or tokens")),
            Some(Value::String(_)) => each(app, &all, |one| match one {
                Value::String(one) => text(one),
                other => Err(wrong("prompt", "a list of strings, if its first part is a string", other)),
            }),
            Some(_) if suffix.is_some() => {
                Err(fields.error("suffix", "`suffix` needs a prompt that is a text: give the prompt as text"))
            }
            Some(Value::Array(_)) => each(app, &all, |one| match one {
                Value::Array(ids) => of_ids(ids),
                other => Err(wrong("prompt", "a list of lists of ids, if its first part is a list", other)),
            }),
            Some(_) => Ok(vec![of_ids(&all)?]),
        },
        other => Err(wrong("prompt", "a string, a list of strings, a list of ids or a list of such lists", &other)),
    }
}

/// Reads each of several prompts, if the server can take so many.
fn each(app: &App, all: &[Value], read: impl Fn(&Value) -> Result<Prompt, ApiError>) -> Result<Vec<Prompt>, ApiError> {
    app.check_count(all.len())?;
    all.iter().map(read).collect()
}

fn of_text(loaded: &Loaded, text: &str, suffix: Option<&str>, begin: bool) -> Result<Prompt, ApiError> {
    if let Some(suffix) = suffix {
        let ids = loaded.fim_prompt(text, suffix);
        let ids = ids.map_err(|error| ApiError::field("suffix", error.to_string()))?;
        return Ok(Prompt { ids, from_text: true, has_begin: true });
    }
    let plain = loaded.tokenizer.encode_with_special(text);
    let ids = if begin { loaded.prompt(text, false) } else { plain.clone() };
    Ok(Prompt { has_begin: ids.len() > plain.len(), ids, from_text: true })
}

fn of_ids(ids: &[Value]) -> Result<Prompt, ApiError> {
    let ids = ids.iter().map(|id| token_id(id, "prompt")).collect::<Result<_, _>>()?;
    Ok(Prompt { ids, from_text: false, has_begin: false })
}
