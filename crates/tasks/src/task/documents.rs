//! The documents of a split: objects of local files, or a synthetic family's.

use std::collections::HashSet;
use std::path::PathBuf;

use hadal_data::source::read_records;
use serde_json::{Map, Value};

use super::config::{Config, Documents};
use super::field::Document;
use crate::error::{Place, Result, TaskError};
use crate::families::Generator;

/// The documents of a split and the names of their columns.
pub(super) fn split(config: &Config, generator: Option<&Generator>, name: &str, key: &str) -> Result<Split> {
    let wrong = |place: &Place, problem: String| TaskError::Key { place: place.clone(), key: key.to_owned(), problem };
    match &config.documents {
        Documents::Generator { node } => {
            let generator = generator.ok_or_else(|| wrong(&node.place, "there is no generator".to_owned()))?;
            Ok(Split::of(generator.documents(name)))
        }
        Documents::Files { splits, field, place } => {
            let Some((_, files)) = splits.iter().find(|(split, _)| split == name) else {
                let names: Vec<&str> = splits.iter().map(|(split, _)| split.as_str()).collect();
                let problem = format!("there is no split `{name}`; `data_files` has: {}", names.join(", "));
                return Err(wrong(&config.place, problem));
            };
            if let Some(missing) = files.iter().find(|file| !file.exists()) {
                let problem = format!(
                    "there is no file {}; give the folder that has it with --data, or put it beside the task file",
                    missing.display()
                );
                let key = "dataset_kwargs.data_files".to_owned();
                return Err(TaskError::Key { place: place.clone(), key, problem });
            }
            let split = Split::of(records(files, field.as_deref())?);
            if split.documents.is_empty() {
                return Err(wrong(place, format!("the split `{name}` has no documents; name other files")));
            }
            Ok(split)
        }
    }
}

/// The documents of a split.
pub(super) struct Split {
    pub(super) documents: Vec<Document>,
    pub(super) columns: Vec<String>,
}

impl Split {
    /// Every document has every column. What was not written is null.
    fn of(records: Vec<Map<String, Value>>) -> Self {
        let (mut columns, mut seen) = (Vec::new(), HashSet::new());
        for name in records.iter().flat_map(Map::keys) {
            if seen.insert(name.clone()) {
                columns.push(name.clone());
            }
        }
        let document = |mut record: Map<String, Value>| {
            if record.len() < columns.len() {
                for column in &columns {
                    record.entry(column.clone()).or_insert(Value::Null);
                }
            }
            Document::new(record)
        };
        Self { documents: records.into_iter().map(document).collect(), columns }
    }
}

fn records(files: &[PathBuf], field: Option<&str>) -> Result<Vec<Map<String, Value>>> {
    let mut all = Vec::new();
    for file in files {
        all.extend(read_records(file, field)?);
    }
    Ok(all)
}
