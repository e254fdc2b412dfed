//! Reads the values of keys and says what is wrong with them.

use crate::error::{Place, Result, TaskError};
use crate::file::{Entry, Node, Yaml};

/// A mapping whose keys are taken one by one. Keys that nobody took are mistakes.
pub(crate) struct Keys<'a> {
    entries: &'a [Entry],
    /// What stands before a key in errors, such as `fewshot_config.`.
    prefix: String,
    taken: Vec<&'a str>,
    place: Place,
}

impl<'a> Keys<'a> {
    pub(crate) fn new(node: &'a Node, prefix: &str) -> Result<Self> {
        let Yaml::Map(entries) = &node.yaml else {
            let key = prefix.trim_end_matches('.').to_owned();
            return Err(TaskError::Key {
                place: node.place.clone(),
                key,
                problem: "give a mapping of keys".to_owned(),
            });
        };
        Ok(Self { entries, prefix: prefix.to_owned(), taken: Vec::new(), place: node.place.clone() })
    }

    /// Where the mapping begins.
    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// The value of a key. A function is refused by name. Null counts as absent.
    pub(crate) fn node(&mut self, key: &'static str) -> Result<Option<&'a Node>> {
        self.taken.push(key);
        let Some(entry) = self.entries.iter().find(|entry| entry.key == key) else { return Ok(None) };
        if let Yaml::Function(name) = &entry.value.yaml {
            return Err(self.wrong(key, &function_refused(name)));
        }
        Ok((entry.value.yaml != Yaml::Null).then_some(&entry.value))
    }

    /// An error about a key.
    pub(crate) fn wrong(&self, key: &str, problem: &str) -> TaskError {
        let place = self.entries.iter().find(|entry| entry.key == key).map_or(&self.place, |entry| &entry.place);
        TaskError::Key { place: place.clone(), key: format!("{}{key}", self.prefix), problem: problem.to_owned() }
    }

    pub(crate) fn text(&mut self, key: &'static str) -> Result<Option<String>> {
        match self.node(key)?.map(|node| &node.yaml) {
            None => Ok(None),
            Some(Yaml::Text(text)) => Ok(Some(text.clone())),
            Some(_) => Err(self.wrong(key, "give text; put it in quotes if it looks like a number")),
        }
    }

    pub(crate) fn bool(&mut self, key: &'static str) -> Result<Option<bool>> {
        match self.node(key)?.map(|node| &node.yaml) {
            None => Ok(None),
            Some(Yaml::Bool(value)) => Ok(Some(*value)),
            Some(_) => Err(self.wrong(key, "give true or false")),
        }
    }

    pub(crate) fn integer(&mut self, key: &'static str) -> Result<Option<i64>> {
        match self.node(key)?.map(|node| &node.yaml) {
            None => Ok(None),
            Some(Yaml::Integer(value)) => Ok(Some(*value)),
            Some(_) => Err(self.wrong(key, "give a whole number")),
        }
    }

    pub(crate) fn count(&mut self, key: &'static str) -> Result<Option<usize>> {
        match self.integer(key)? {
            None => Ok(None),
            Some(value) => usize::try_from(value).map(Some).map_err(|_| self.wrong(key, "give a number from 0 up")),
        }
    }

    pub(crate) fn float(&mut self, key: &'static str) -> Result<Option<f64>> {
        match self.node(key)?.map(|node| &node.yaml) {
            None => Ok(None),
            Some(Yaml::Float(value)) => Ok(Some(*value)),
            Some(Yaml::Integer(value)) => Ok(Some(*value as f64)),
            // YAML 1.1 reads `1e-5` as text.
            Some(Yaml::Text(text)) => text.parse().map(Some).map_err(|_| self.wrong(key, "give a number")),
            Some(_) => Err(self.wrong(key, "give a number")),
        }
    }

    /// Text, or a list of texts.
    pub(crate) fn texts(&mut self, key: &'static str) -> Result<Option<Vec<String>>> {
        let Some(node) = self.node(key)? else { return Ok(None) };
        let text = |node: &Node| match &node.yaml {
            Yaml::Text(text) => Some(text.clone()),
            Yaml::Integer(value) => Some(value.to_string()),
            _ => None,
        };
        let texts = match &node.yaml {
            Yaml::List(items) => items.iter().map(text).collect(),
            _ => text(node).map(|text| vec![text]),
        };
        texts.map(Some).ok_or_else(|| self.wrong(key, "give text or a list of texts"))
    }

    /// Reads past keys that change nothing here.
    pub(crate) fn ignore(&mut self, keys: &[&'static str]) {
        self.taken.extend(keys);
    }

    /// Refuses a key that is there.
    pub(crate) fn refuse(&mut self, key: &'static str, problem: &str) -> Result<()> {
        match self.node(key)? {
            Some(_) => Err(self.wrong(key, problem)),
            None => Ok(()),
        }
    }

    /// Refuses keys that are not known, before anything else is said about them.
    pub(crate) fn only(&mut self, known: &[&'static str]) -> Result<()> {
        let taken = std::mem::replace(&mut self.taken, known.to_vec());
        self.all_known()?;
        self.taken = taken;
        Ok(())
    }

    /// Refuses the keys that were not taken.
    pub(crate) fn finish(self) -> Result<()> {
        self.all_known()
    }

    fn all_known(&self) -> Result<()> {
        match self.entries.iter().find(|entry| !self.taken.contains(&entry.key.as_str())) {
            None => Ok(()),
            Some(entry) => {
                if let Yaml::Function(name) = &entry.value.yaml {
                    return Err(self.wrong(&entry.key, &function_refused(name)));
                }
                let known =
                    self.taken.iter().copied().filter(|key| close(key, &entry.key)).collect::<Vec<_>>().join("`, `");
                let hint = if known.is_empty() { "remove it".to_owned() } else { format!("did you mean `{known}`?") };
                Err(self.wrong(&entry.key, &format!("there is no such key; {hint}")))
            }
        }
    }
}

fn function_refused(name: &str) -> String {
    format!(
        "`!function {name}` needs Python, which task files may not run; use a template, `checker:`, or the built-in \
         task of this benchmark (`task list`)"
    )
}

/// Whether two keys differ in at most two letters. A file's key may have any length.
fn close(a: &str, b: &str) -> bool {
    a.len().abs_diff(b.len()) <= 8 && strsim::levenshtein(a, b) <= 2
}
