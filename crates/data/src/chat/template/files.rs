//! Where a checkpoint keeps its chat templates, and what its special tokens are called in them.

use std::collections::BTreeMap;
use std::path::Path;

use minijinja::Value;
use serde_json::Value as Json;

use crate::error::{DataError, Result};
use crate::tokenizer::Tokenizer;

/// The templates of a checkpoint by name, and the special tokens by role.
pub(super) struct Sources {
    pub(super) templates: Vec<(String, String)>,
    pub(super) special: BTreeMap<String, Value>,
    pub(super) origin: String,
    /// Whether the templates are the checkpoint's own.
    pub(super) of_checkpoint: bool,
}

/// A template for each kind of markup, for checkpoints without one. The first token tells which a model has.
const PLAIN: [(&str, &str, &str); 5] = [
    (
        "<\u{ff5c}User\u{ff5c}>",
        "DeepSeek's",
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '<\u{ff5c}User\u{ff5c}>' + m.content }}\
         {% elif m.role == 'assistant' %}{{ '<\u{ff5c}Assistant\u{ff5c}>' }}{% generation %}{{ m.content + eos_token }}\
         {% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}\
         {% if add_generation_prompt %}{{ '<\u{ff5c}Assistant\u{ff5c}>' }}{% endif %}",
    ),
    (
        "<|im_middle|>",
        "Kimi's",
        "{% for m in messages %}{{ {'user': '<|im_user|>', 'assistant': '<|im_assistant|>'}.get(m.role, '<|im_system|>') \
         + m.role + '<|im_middle|>' }}{% if m.role == 'assistant' %}{% generation %}{{ m.content + '<|im_end|>' }}\
         {% endgeneration %}{% else %}{{ m.content + '<|im_end|>' }}{% endif %}{% endfor %}\
         {% if add_generation_prompt %}{{ '<|im_assistant|>assistant<|im_middle|>' }}{% endif %}",
    ),
    (
        "<|im_start|>",
        "ChatML",
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}{% if m.role == 'assistant' %}{% generation %}\
         {{ m.content + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}{% else %}{{ m.content + '<|im_end|>\\n' }}{% endif %}\
         {% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    ),
    (
        "<|start_header_id|>",
        "Llama 3's",
        "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' }}\
         {% if m.role == 'assistant' %}{% generation %}{{ m.content | trim + '<|eot_id|>' }}{% endgeneration %}\
         {% else %}{{ m.content | trim + '<|eot_id|>' }}{% endif %}{% endfor %}\
         {% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}",
    ),
    (
        "",
        "plain words (User, Assistant)",
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ 'User: ' + m.content + '\\n\\n' }}\
         {% elif m.role == 'assistant' %}{{ 'Assistant:' }}{% generation %}{{ ' ' + m.content + eos_token }}{% endgeneration %}\
         {% else %}{{ m.content + '\\n\\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}",
    ),
];

/// Roles whose tokens a template can read.
const ROLES: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

impl Sources {
    /// Reads the templates of a folder, or the one in `file` for the model in the folder.
    pub(super) fn read(folder: &Path, file: Option<&Path>, tokenizer: &Tokenizer) -> Result<Self> {
        let config = json(&folder.join("tokenizer_config.json"))?;
        let special = special(folder, config.as_ref(), tokenizer)?;
        if let Some(file) = file {
            let source = text(file)?.ok_or_else(|| wrong(file, "there is no such file"))?;
            let templates = vec![("default".to_owned(), source)];
            return Ok(Self { templates, special, origin: file.display().to_string(), of_checkpoint: true });
        }
        let mut templates = Vec::new();
        let mut origin = "chat_template.jinja";
        if let Some(source) = text(&folder.join(origin))? {
            templates.push(("default".to_owned(), source));
        }
        for (name, source) in additional(&folder.join("additional_chat_templates"))? {
            templates.push((name, source));
        }
        if templates.is_empty() {
            origin = "chat_template.json";
            let path = folder.join(origin);
            if let Some(file) = json(&path)? {
                templates = listed(file.get("chat_template").unwrap_or(&file), &path)?;
            }
        }
        if templates.is_empty() {
            origin = "tokenizer_config.json";
            if let Some(listing) = config.as_ref().and_then(|config| config.get("chat_template")) {
                templates = listed(listing, &folder.join(origin))?;
            }
        }
        if !templates.is_empty() {
            let origin = folder.join(origin).display().to_string();
            return Ok(Self { templates, special, origin, of_checkpoint: true });
        }
        let known = |token: &str| token.is_empty() || tokenizer.id_of(token).is_some();
        let (_, name, source) = PLAIN.iter().find(|(token, ..)| known(token)).unwrap_or(&PLAIN[PLAIN.len() - 1]);
        let templates = vec![("default".to_owned(), (*source).to_owned())];
        let origin = format!(
            "the checkpoint has none; {name} form without tools is used (copy its chat_template.jinja to {} for its own)",
            folder.display()
        );
        Ok(Self { templates, special, origin, of_checkpoint: false })
    }
}

/// The text of a file, if it exists.
fn text(path: &Path) -> Result<Option<String>> {
    match std::fs::read(path) {
        Ok(bytes) => {
            String::from_utf8(bytes).map(Some).map_err(|_| wrong(path, "it is not UTF-8; copy the file again"))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(DataError::io("read", path)(error)),
    }
}

fn json(path: &Path) -> Result<Option<Json>> {
    let Some(text) = text(path)? else { return Ok(None) };
    let value = serde_json::from_str(&text);
    value.map(Some).map_err(|e| wrong(path, &format!("it is not JSON ({e}); copy the file again")))
}

fn wrong(path: &Path, problem: &str) -> DataError {
    DataError::template(path.display().to_string(), None, problem, false)
}

/// Files `NAME.jinja`, in the order of their names.
fn additional(folder: &Path) -> Result<Vec<(String, String)>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(DataError::io("read", folder)(error)),
    };
    let mut templates = Vec::new();
    for entry in entries {
        let path = entry.map_err(DataError::io("read", folder))?.path();
        let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned();
        if path.extension().is_some_and(|end| end == "jinja")
            && let Some(source) = text(&path)?
        {
            templates.push((name, source));
        }
    }
    templates.sort();
    Ok(templates)
}

/// A template as a string, a list of objects with `name` and `template`, or an object by name.
fn listed(value: &Json, path: &Path) -> Result<Vec<(String, String)>> {
    let bad =
        || wrong(path, "`chat_template` is neither text nor a list of `name` and `template`; copy the file again");
    let templates: Option<Vec<(String, String)>> = match value {
        Json::Null => Some(Vec::new()),
        Json::String(source) => Some(vec![("default".to_owned(), source.clone())]),
        Json::Array(list) => list
            .iter()
            .map(|entry| Some((entry.get("name")?.as_str()?.to_owned(), entry.get("template")?.as_str()?.to_owned())))
            .collect(),
        Json::Object(map) => {
            map.iter().map(|(name, source)| Some((name.clone(), source.as_str()?.to_owned()))).collect()
        }
        _ => None,
    };
    templates.ok_or_else(bad)
}

/// The special tokens that templates can read: those that `tokenizer_config.json` names, or `special_tokens_map.json`,
/// or those that the tokenizer's file makes known.
fn special(folder: &Path, config: Option<&Json>, tokenizer: &Tokenizer) -> Result<BTreeMap<String, Value>> {
    let map = json(&folder.join("special_tokens_map.json"))?;
    let mut special = BTreeMap::new();
    for role in ROLES {
        let named = [config, map.as_ref()].into_iter().flatten().find_map(|file| file.get(role));
        let id = match role {
            "bos_token" => tokenizer.special().bos,
            "eos_token" => tokenizer.special().eos,
            _ => None,
        };
        let token = match named {
            Some(Json::String(token)) => Some(token.clone()),
            Some(Json::Object(token)) => token.get("content").and_then(Json::as_str).map(str::to_owned),
            Some(_) => None,
            None => id.map(|id| String::from_utf8_lossy(tokenizer.token_bytes(id)).into_owned()),
        };
        special.extend(token.map(|token| (role.to_owned(), Value::from(token))));
    }
    Ok(special)
}
