//! Compares prompts with those of `transformers` (`oracle/make_chat.py`).

use std::collections::BTreeMap;
use std::path::Path;

use hadal_data::chat::{ChatRequest, ChatTemplate, Value};
use serde::Deserialize;

/// References of one template.
#[derive(Deserialize)]
struct Reference {
    special: BTreeMap<String, String>,
    now: u64,
    cases: BTreeMap<String, Case>,
}

#[derive(Deserialize)]
struct Case {
    text: Option<String>,
    #[serde(default)]
    spans: Vec<[usize; 2]>,
    error: Option<String>,
}

/// What a comparison found.
#[derive(Default)]
pub(crate) struct Outcome {
    /// Prompts that are equal.
    pub(crate) equal: usize,
    /// Conversations that neither side can write.
    pub(crate) refused: usize,
    /// Conversations that only we can write: name and the other side's error.
    pub(crate) only_ours: Vec<String>,
    /// Prompts that leave out a message or the tools: name and our error.
    pub(crate) left_out: Vec<String>,
    /// Prompts that differ, and conversations that only the other side can write.
    pub(crate) different: Vec<String>,
}

/// Compares one template on all conversations.
pub(crate) fn compare(template: &Path, expected: &Path, conversations: &Path) -> Outcome {
    let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let reference: Reference = serde_json::from_str(&read(expected)).expect("a reference of make_chat.py");
    let requests: BTreeMap<String, ChatRequest> = serde_json::from_str(&read(conversations)).expect("conversations");
    let special: Vec<(&str, &str)> = reference.special.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let source = read(template);
    let chat = ChatTemplate::from_source(&source, &special).unwrap_or_else(|e| panic!("{}: {e}", template.display()));
    let mut outcome = Outcome::default();
    for (name, case) in &reference.cases {
        let (base, form) = name.split_once(", ").map_or((name.as_str(), None), |(base, form)| (base, Some(form)));
        let mut request = requests[base].clone();
        request.now = Some(reference.now);
        if let Some(form) = form {
            request.messages = request.messages.iter().map(|message| with_arguments(message, form)).collect();
        }
        match (chat.render(&request), &case.text) {
            (Ok(rendered), Some(text)) => {
                if let Err(error) = chat.render_all(&request) {
                    outcome.left_out.push(format!("{name}: {error}"));
                }
                let spans: Vec<_> = case.spans.iter().map(|[start, end]| *start..*end).collect();
                if rendered.text == *text && rendered.generated == spans {
                    outcome.equal += 1;
                } else {
                    let place = rendered.text.bytes().zip(text.bytes()).take_while(|(a, b)| a == b).count();
                    let from = |text: &str| -> String {
                        let start = text.floor_char_boundary(place.saturating_sub(60));
                        text[start..].chars().take(200).collect()
                    };
                    outcome.different.push(format!(
                        "{name}: differs after {place} bytes\n  ours:   {:?}\n  theirs: {:?}\n  {:?} {spans:?}",
                        from(&rendered.text),
                        from(text),
                        rendered.generated,
                    ));
                }
            }
            (Err(error), Some(_)) => outcome.different.push(format!("{name}: {error}")),
            (Ok(_), None) => outcome.only_ours.push(format!("{name}: {}", case.error.as_deref().unwrap_or_default())),
            (Err(_), None) => outcome.refused += 1,
        }
    }
    outcome
}

/// A message with the arguments of its calls as text or as objects.
fn with_arguments(message: &Value, form: &str) -> Value {
    let mut json = Tree::of(message);
    let Some(Tree::List(calls)) = json.get("tool_calls") else { return message.clone() };
    for call in calls {
        let Some(arguments) = call.get("function").and_then(|function| function.get("arguments")) else { continue };
        if form == "string" && matches!(arguments, Tree::Map(_)) {
            // In Python's layout, as the references have it.
            *arguments = Tree::Leaf(Value::from(arguments.dumped()));
        }
    }
    json.value()
}

/// A value that can be changed.
enum Tree {
    Leaf(Value),
    List(Vec<Tree>),
    Map(Vec<(String, Tree)>),
}

impl Tree {
    fn of(value: &Value) -> Self {
        match value.kind().to_string().as_str() {
            "sequence" => Self::List(value.try_iter().unwrap().map(|item| Self::of(&item)).collect()),
            "map" => Self::Map(
                value
                    .try_iter()
                    .unwrap()
                    .map(|key| (key.to_string(), Self::of(&value.get_item(&key).unwrap())))
                    .collect(),
            ),
            _ => Self::Leaf(value.clone()),
        }
    }

    fn get(&mut self, name: &str) -> Option<&mut Tree> {
        let Self::Map(fields) = self else { return None };
        fields.iter_mut().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    fn value(&self) -> Value {
        match self {
            Self::Leaf(value) => value.clone(),
            Self::List(items) => items.iter().map(Self::value).collect(),
            Self::Map(fields) => Value::from_pairs(fields.iter().map(|(key, value)| (key.clone(), value.value()))),
        }
    }

    /// As `json.dumps` writes it.
    fn dumped(&self) -> String {
        match self {
            Self::Leaf(value) => match serde_json::to_string(value).unwrap().as_str() {
                "1e20" | "100000000000000000000.0" => "1e+20".to_owned(),
                text => text.to_owned(),
            },
            Self::List(items) => format!("[{}]", items.iter().map(Self::dumped).collect::<Vec<_>>().join(", ")),
            Self::Map(fields) => {
                let fields =
                    fields.iter().map(|(k, v)| format!("{}: {}", serde_json::to_string(k).unwrap(), v.dumped()));
                format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
            }
        }
    }
}
