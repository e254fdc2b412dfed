//! One YAML file as a tree in which every value knows its line.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use saphyr_parser::{Event, Parser, ScalarStyle, Tag};

use super::scalar::plain;
use crate::error::{Place, Result, TaskError};

/// The most values of a file, aliases counted as what they stand for.
const MAX_VALUES: usize = 100_000;
/// The deepest nesting.
const MAX_DEPTH: usize = 64;

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The value.
    pub yaml: Yaml,
    /// Where it begins.
    pub place: Place,
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Yaml {
    /// Nothing.
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// A number with a point.
    Float(f64),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// A mapping in the order of the file.
    Map(Vec<Entry>),
    /// The name of a Python function (`!function`).
    Function(String),
}

/// An entry of a mapping.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key stands.
    pub place: Place,
    /// Its value.
    pub value: Node,
}

impl Node {
    /// The value of a key of a mapping.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entries().iter().find(|entry| entry.key == key).map(|entry| &entry.value)
    }

    /// The entries of a mapping. Other values have none.
    pub fn entries(&self) -> &[Entry] {
        match &self.yaml {
            Yaml::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The value as JSON. A function is written as its name.
    pub fn json(&self) -> serde_json::Value {
        use serde_json::Value;
        match &self.yaml {
            Yaml::Null => Value::Null,
            Yaml::Bool(value) => (*value).into(),
            Yaml::Integer(value) => (*value).into(),
            Yaml::Float(value) => (*value).into(),
            Yaml::Text(text) | Yaml::Function(text) => text.as_str().into(),
            Yaml::List(items) => items.iter().map(Node::json).collect(),
            Yaml::Map(entries) => Value::Object(entries.iter().map(|e| (e.key.clone(), e.value.json())).collect()),
        }
    }

    /// The number of values inside of this one, itself included.
    fn size(&self) -> usize {
        match &self.yaml {
            Yaml::List(items) => 1 + items.iter().map(Node::size).sum::<usize>(),
            Yaml::Map(entries) => 1 + entries.iter().map(|e| 1 + e.value.size()).sum::<usize>(),
            _ => 1,
        }
    }
}

/// Reads the text of a file. Its top must be a mapping.
pub fn parse(text: &str, file: &Arc<Path>) -> Result<Node> {
    let mut reader = Reader { file, parser: Parser::new_from_str(text), anchors: HashMap::new(), values: 0, line: 1 };
    let mut top = None;
    while let Some(event) = reader.next()? {
        match event {
            Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing => {}
            event if top.is_none() => top = Some(reader.node(event, 0)?),
            _ => return Err(reader.problem("a task file has one document; write one file for each task")),
        }
    }
    match top {
        Some(node) if matches!(node.yaml, Yaml::Map(_)) => Ok(node),
        Some(node) => {
            let problem = "a task file is a mapping of keys to values, such as `task: my_task`".to_owned();
            Err(TaskError::Yaml { place: node.place, problem })
        }
        None => Err(reader.problem("a task file is a mapping of keys to values, such as `task: my_task`")),
    }
}

struct Reader<'a> {
    file: &'a Arc<Path>,
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    anchors: HashMap<usize, Node>,
    values: usize,
    line: usize,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<Option<Event<'a>>> {
        match self.parser.next_event() {
            None => Ok(None),
            Some(Ok((event, span))) => {
                self.line = span.start.line();
                Ok(Some(event))
            }
            Some(Err(error)) => {
                self.line = error.marker().line();
                Err(self.problem(&format!("not valid YAML: {}; correct that line", error.info())))
            }
        }
    }

    fn place(&self) -> Place {
        Place { file: Arc::clone(self.file), line: self.line }
    }

    fn problem(&self, problem: &str) -> TaskError {
        TaskError::Yaml { place: self.place(), problem: problem.to_owned() }
    }

    fn count(&mut self, values: usize) -> Result<()> {
        self.values += values;
        if self.values > MAX_VALUES {
            return Err(self.problem("the file has too many values; put data into a .jsonl file"));
        }
        Ok(())
    }

    fn node(&mut self, event: Event<'a>, depth: usize) -> Result<Node> {
        if depth > MAX_DEPTH {
            return Err(self.problem("the file is nested too deep"));
        }
        self.count(1)?;
        let place = self.place();
        let (yaml, anchor) = match event {
            Event::Alias(id) => {
                let Some(node) = self.anchors.get(&id).cloned() else {
                    return Err(self.problem("an alias stands inside of its own anchor; write the value out"));
                };
                self.count(node.size())?;
                return Ok(node);
            }
            Event::Scalar(text, style, anchor, tag) => (self.scalar(&text, style, tag.as_deref())?, anchor),
            Event::SequenceStart(anchor, tag) => {
                self.refuse_tag(tag.as_deref())?;
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        None | Some(Event::SequenceEnd) => break,
                        Some(event) => items.push(self.node(event, depth + 1)?),
                    }
                }
                (Yaml::List(items), anchor)
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse_tag(tag.as_deref())?;
                (Yaml::Map(self.mapping(depth)?), anchor)
            }
            _ => return Err(self.problem("not valid YAML here; correct that line")),
        };
        let node = Node { yaml, place };
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn mapping(&mut self, depth: usize) -> Result<Vec<Entry>> {
        let (mut entries, mut merged): (Vec<Entry>, Vec<Entry>) = (Vec::new(), Vec::new());
        loop {
            let event = match self.next()? {
                None | Some(Event::MappingEnd) => break,
                Some(event) => event,
            };
            let place = self.place();
            let Event::Scalar(key, ..) = event else {
                return Err(self.problem("a key must be text or a number"));
            };
            let Some(event) = self.next()? else { break };
            let value = self.node(event, depth + 1)?;
            if key == "<<" {
                self.merge(value, &mut merged)?;
                continue;
            }
            if entries.iter().any(|entry| entry.key == key) {
                let problem = format!("the key `{key}` stands here twice; remove one of them");
                return Err(TaskError::Yaml { place, problem });
            }
            entries.push(Entry { key: key.into_owned(), place, value });
        }
        // Keys of the mapping itself come before merged ones.
        merged.retain(|entry| !entries.iter().any(|own| own.key == entry.key));
        merged.extend(entries);
        Ok(merged)
    }

    fn merge(&self, value: Node, merged: &mut Vec<Entry>) -> Result<()> {
        let maps = match value.yaml {
            Yaml::List(items) => items,
            _ => vec![value],
        };
        for map in maps {
            let Yaml::Map(entries) = map.yaml else {
                return Err(self.problem("`<<` merges mappings only"));
            };
            for entry in entries {
                if !merged.iter().any(|old| old.key == entry.key) {
                    merged.push(entry);
                }
            }
        }
        Ok(())
    }

    fn scalar(&self, text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Yaml> {
        let Some(tag) = tag else {
            return Ok(if style == ScalarStyle::Plain { plain(text) } else { Yaml::Text(text.to_owned()) });
        };
        match (tag.is_yaml_core_schema(), tag.suffix.as_str()) {
            (true, "str") => Ok(Yaml::Text(text.to_owned())),
            (true, "int" | "float" | "bool" | "null") => Ok(plain(text)),
            (false, "function") => Ok(Yaml::Function(text.to_owned())),
            _ => Err(self.problem(&format!("the tag `{}{}` is not known; remove it", tag.handle, tag.suffix))),
        }
    }

    fn refuse_tag(&self, tag: Option<&Tag>) -> Result<()> {
        match tag {
            Some(tag) if !(tag.is_yaml_core_schema() && matches!(tag.suffix.as_str(), "map" | "seq")) => {
                Err(self.problem(&format!("the tag `{}{}` is not known; remove it", tag.handle, tag.suffix)))
            }
            _ => Ok(()),
        }
    }
}
