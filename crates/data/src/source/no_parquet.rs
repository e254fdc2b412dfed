//! What takes the place of `parquet.rs` in a build without that feature.

use std::path::Path;

use serde_json::{Map, Value};

use super::document::{SourceOptions, Texts};
use crate::error::{DataError, Result};

fn refused(path: &Path) -> DataError {
    let problem = "this program was built without reading .parquet; convert the file to .jsonl, or build with \
                   `--features parquet`";
    DataError::NoText { path: path.to_path_buf(), problem: problem.to_owned() }
}

pub(crate) fn read(path: &Path, _id: &str, _options: &SourceOptions) -> Result<Texts> {
    Err(refused(path))
}

pub(crate) fn records(path: &Path) -> Result<Vec<Map<String, Value>>> {
    Err(refused(path))
}
