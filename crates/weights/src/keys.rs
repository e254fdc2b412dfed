//! Takes keys out of a JSON object, and makes one message for each key that is wrong.

use crate::config::{MAX_LAYERS, Problem};
use crate::family::Family;
use crate::yarn::Yarn;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

/// A JSON value short enough for a message.
pub(crate) fn short(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 60 { text } else { text.chars().take(57).chain("...".chars()).collect() }
}

/// The remaining keys of a file, and the problems with the keys taken from it.
#[derive(Default)]
pub(crate) struct Keys {
    pub(crate) map: Map<String, Value>,
    pub(crate) problems: Vec<Problem>,
    /// What the file asks for and the model does not compute.
    pub(crate) missing: Vec<Problem>,
    /// Keys and objects that the file has under another name, with that name.
    renamed: Vec<(String, String)>,
}

impl Keys {
    pub(crate) fn new(map: Map<String, Value>) -> Self {
        Self { map, ..Self::default() }
    }

    pub(crate) fn wrong(&mut self, key: &str, reason: impl Into<String>) {
        self.problems.push(self.as_written(Problem::new(key, reason)));
    }

    /// Adds something that the model does not compute.
    fn lacks(&mut self, key: &str, reason: impl Into<String>) {
        self.missing.push(self.as_written(Problem::new(key, reason)));
    }

    /// The problem with the name that the file uses for its key.
    pub(crate) fn as_written(&self, problem: Problem) -> Problem {
        let written = self.renamed.iter().find_map(|(key, other)| {
            let rest = problem.key.strip_prefix(key).filter(|rest| rest.is_empty() || rest.starts_with('.'))?;
            Some(format!("{other}{rest}"))
        });
        Problem { key: written.unwrap_or(problem.key), ..problem }
    }

    /// Takes `key`. If it is absent, the result is `default`. Null is an error.
    pub(crate) fn typed<T: DeserializeOwned>(&mut self, key: &str, default: T, expected: &str) -> T {
        let Some(value) = self.map.remove(key) else { return default };
        serde_json::from_value(value.clone()).unwrap_or_else(|_| {
            self.wrong(key, format!("must be {expected}, is {}", short(&value)));
            default
        })
    }

    /// Takes `key`. If it is absent, the result is `default`. Null means none.
    pub(crate) fn nullable<T: DeserializeOwned>(&mut self, key: &str, default: Option<T>, expected: &str) -> Option<T> {
        match self.map.get(key) {
            None => default,
            Some(Value::Null) => {
                self.map.remove(key);
                None
            }
            Some(_) => {
                let before = self.problems.len();
                let value = self.typed(key, None, expected);
                if self.problems.len() == before { value } else { default }
            }
        }
    }

    /// Takes `key`. If it is absent, the result is `default`; if it is null, the result is `null`.
    pub(crate) fn or_null<T: DeserializeOwned>(&mut self, key: &str, default: T, null: T, expected: &str) -> T {
        if self.map.get(key).is_some_and(Value::is_null) {
            self.map.remove(key);
            return null;
        }
        self.typed(key, default, expected)
    }

    /// Takes an object or null. Null means the same as an absent key.
    pub(crate) fn object(&mut self, key: &str) -> Option<Map<String, Value>> {
        match self.map.remove(key) {
            None | Some(Value::Null) => None,
            Some(Value::Object(map)) => Some(map),
            Some(other) => {
                self.wrong(key, format!("must be an object or null, is {}", short(&other)));
                None
            }
        }
    }

    /// Takes a whole number. If a value for null is given, null is accepted.
    pub(crate) fn size(&mut self, key: &str, default: usize, null: Option<usize>) -> usize {
        match null {
            Some(null) => self.or_null(key, default, null, "a whole number"),
            None => self.typed(key, default, "a whole number"),
        }
    }

    /// Accepts `other` as a name for `key`. If both exist and neither is null, they must be equal.
    pub(crate) fn alias(&mut self, key: &str, other: &str) {
        let Some(value) = self.map.remove(other).filter(|value| !value.is_null()) else { return };
        match self.map.get(key) {
            Some(Value::Null) | None => {
                self.map.insert(key.into(), value);
                self.renamed.push((key.into(), other.into()));
            }
            Some(first) if *first == value => {}
            Some(first) => {
                let reason = format!("is {} but its other name `{other}` is {}", short(first), short(&value));
                self.wrong(key, reason);
            }
        }
    }

    pub(crate) fn family(&mut self) -> &'static Family {
        let is = match self.map.remove("model_type") {
            Some(Value::String(name)) => match Family::of(&name) {
                Some(family) => return family,
                None => format!("is \"{}\"", name.chars().take(60).collect::<String>()),
            },
            Some(other) => format!("is {}", short(&other)),
            None => "is missing".into(),
        };
        self.wrong("model_type", format!("must be one of {}; it {is}", Family::names_read()));
        Default::default()
    }

    pub(crate) fn eos(&mut self, default: Vec<u32>) -> Vec<u32> {
        match self.map.remove("eos_token_id") {
            None => default,
            Some(Value::Null) => Vec::new(),
            Some(value) => {
                let ids = if value.is_array() { value.clone() } else { json!([value]) };
                serde_json::from_value(ids).unwrap_or_else(|_| {
                    self.wrong("eos_token_id", format!("must be a token id, a list or null, is {}", short(&value)));
                    default
                })
            }
        }
    }

    /// Features that no V2 or V3 checkpoint uses and that are not supported. Only the neutral value is accepted.
    pub(crate) fn unsupported(&mut self, heads: usize) {
        for (key, neutral) in [
            ("hidden_act", vec![json!("silu")]),
            ("attention_dropout", vec![json!(0), json!(0.0)]),
            ("partial_rotary_factor", vec![json!(1), json!(1.0)]),
            ("num_key_value_heads", vec![json!(heads)]),
            ("use_mla", vec![json!(true)]),
        ] {
            if let Some(value) = self.map.remove(key).filter(|v| !v.is_null() && !neutral.contains(v)) {
                let reason = format!("must be {}, is {}: not supported", neutral[0], short(&value));
                self.lacks(key, reason);
            }
        }
    }

    /// Takes `mlp_layer_types`, a list with "dense" or "sparse" for each layer. Returns the first layer with experts and the
    /// distance between such layers. The list may also have entries for the `modules` MTP modules.
    pub(crate) fn layer_types(&mut self, layers: usize, modules: usize) -> Option<(usize, usize)> {
        const KEY: &str = "mlp_layer_types";
        let of_modules: Option<Vec<String>> = self.nullable("mtp_mlp_layer_types", None, "a list of \"sparse\"");
        if of_modules.is_some_and(|types| types.iter().any(|t| t != "sparse")) {
            self.lacks(
                "mtp_mlp_layer_types",
                "must hold \"sparse\" only: MTP modules without experts are not supported",
            );
        }
        let types: Vec<String> = self.nullable(KEY, None, "a list of \"dense\" and \"sparse\"")?;
        if let Some(other) = types.iter().find(|t| !["dense", "sparse"].contains(&t.as_str())) {
            self.lacks(
                KEY,
                format!("must hold \"dense\" and \"sparse\", holds {}: not supported", short(&json!(other))),
            );
            return None;
        }
        if layers > MAX_LAYERS {
            return None; // refused as a number
        }
        if types.len() != layers && types.len() != layers.saturating_add(modules) {
            self.wrong(
                KEY,
                format!("must have an entry for each of num_hidden_layers ({layers}), has {}", types.len()),
            );
            return None;
        }
        let sparse: Vec<bool> = types.iter().map(|t| t == "sparse").collect();
        let Some(first) = sparse.iter().position(|s| *s) else { return Some((types.len(), 1)) };
        let routes = |every: usize| (0..sparse.len()).all(|l| sparse[l] == (l >= first && l.is_multiple_of(every)));
        let found = (1..=sparse.len()).find(|every| routes(*every));
        if found.is_none() {
            let what = "dense layers, then experts in every layer or in every n-th";
            self.lacks(KEY, format!("must be {what}: other orders are not supported"));
        }
        found.map(|every| (first, every))
    }

    /// Takes the rotary keys of both layouts: theta, YaRN, and the other keys of the object.
    pub(crate) fn rope(&mut self, theta: f64, max_positions: usize) -> (f64, Option<Yarn>, Map<String, Value>) {
        let top: Option<f64> = self.nullable("rope_theta", None, "a number");
        let old = self.rope_object("rope_scaling", max_positions);
        let new = self.rope_object("rope_parameters", max_positions);
        if let (Some(old), Some(new)) = (&old, &new)
            && old.1 != new.1
        {
            self.wrong("rope_scaling", "differs from `rope_parameters`; keep the one that is right");
        }
        let thetas = [new.as_ref().and_then(|r| r.0), old.as_ref().and_then(|r| r.0), top];
        let mut given = thetas.into_iter().flatten();
        let theta = given.next().unwrap_or(theta);
        if given.any(|t| t != theta) {
            self.wrong("rope_theta", "differs from the one in `rope_parameters`; keep the one that is right");
        }
        if top.is_none() && new.as_ref().is_some_and(|r| r.0.is_some()) {
            self.renamed.push(("rope_theta".into(), "rope_parameters.rope_theta".into()));
        }
        if old.is_none() {
            self.renamed.push(("rope_scaling".into(), "rope_parameters".into()));
        }
        let (_, yarn, rest) = old.or(new).unwrap_or_default();
        (theta, yarn, rest)
    }

    pub(crate) fn rope_object(&mut self, name: &str, max_positions: usize) -> Option<Rope> {
        // An empty object means the same as null.
        let mut keys = Self::new(self.object(name).filter(|map| !map.is_empty())?);
        let rope = keys.yarn(max_positions);
        let inside = |p: Problem| Problem::new(&format!("{name}.{}", p.key), p.reason);
        self.problems.extend(keys.problems.into_iter().map(inside));
        self.missing.extend(keys.missing.into_iter().map(inside));
        Some(rope)
    }

    /// Reads one rotary object. `self` holds its keys.
    pub(crate) fn yarn(&mut self, max_positions: usize) -> Rope {
        let theta = self.nullable("rope_theta", None, "a number");
        // DeepSeek's own name for the same function. Files of transformers have one name in `type` and the other in
        // `rope_type`.
        for name in ["rope_type", "type"] {
            if let Some(kind) = self.map.get_mut(name).filter(|kind| **kind == "deepseek_yarn") {
                *kind = json!("yarn");
            }
        }
        self.alias("rope_type", "type");
        let kind: Option<String> = self.nullable("rope_type", None, "a string");
        let kind = kind.unwrap_or_else(|| if self.map.contains_key("factor") { "" } else { "default" }.into());
        match kind.as_str() {
            "default" => return (theta, None, Map::new()),
            "yarn" => {}
            "" => self.wrong("rope_type", "is missing"),
            other => self.lacks("rope_type", format!("must be \"default\" or \"yarn\", is \"{other}\": not supported")),
        }
        for (key, neutral) in [("truncate", json!(true)), ("partial_rotary_factor", json!(1.0))] {
            if let Some(v) = self.map.remove(key).filter(|v| !v.is_null() && *v != neutral && *v != json!(1)) {
                self.lacks(key, format!("must be {neutral}, is {}: not supported", short(&v)));
            }
        }
        let d = Yarn::default();
        let original = self.size("original_max_position_embeddings", max_positions, Some(max_positions));
        let factor: Option<f64> = self.nullable("factor", None, "a number");
        let yarn = Yarn {
            factor: factor.unwrap_or(max_positions as f64 / original.max(1) as f64),
            original_max_position_embeddings: original,
            beta_fast: self.nullable("beta_fast", None, "a number").unwrap_or(d.beta_fast),
            beta_slow: self.nullable("beta_slow", None, "a number").unwrap_or(d.beta_slow),
            mscale: self.nullable("mscale", None, "a number").unwrap_or(d.mscale),
            mscale_all_dim: self.nullable("mscale_all_dim", None, "a number").unwrap_or(d.mscale_all_dim),
            attention_factor: self.nullable("attention_factor", None, "a number"),
        };
        (theta, Some(yarn), std::mem::take(&mut self.map))
    }
}

/// Theta if it is given, YaRN if it is used, and unknown keys.
type Rope = (Option<f64>, Option<Yarn>, Map<String, Value>);
