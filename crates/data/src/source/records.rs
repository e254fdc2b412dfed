//! Objects of a file with all their fields: the questions of benchmarks.

use std::io::{BufRead, Read};
use std::path::Path;

use serde_json::{Map, Value};

use super::bytes::open_text;
use super::lines::each_line;
use super::parquet;
use crate::error::{DataError, Result};

/// The largest `.json` file, unpacked. Lines of `.jsonl` are read one by one, but the objects are kept as well.
const LARGEST: u64 = 2 << 30;

/// The objects of a `.jsonl` file (one in each line) or of a `.json` file (an array, or an object that holds the array in
/// `field`). The file may be compressed with gzip, zstd or xz.
pub fn read_records(path: &Path, field: Option<&str>) -> Result<Vec<Map<String, Value>>> {
    if path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("parquet")) {
        return parquet::records(path);
    }
    let failed = |e| DataError::io("read", path)(e);
    let no_text = |problem: &str| DataError::NoText { path: path.to_path_buf(), problem: problem.to_owned() };
    let mut reader = open_text(path)?.take(LARGEST);
    let whole = field.is_some() || first_letter(&mut reader).map_err(failed)? == Some(b'[');
    if !whole {
        return lines(path, reader);
    }
    let line_error = |e: serde_json::Error| problem_at(path, e.line(), e.to_string());
    let mut json: Value = serde_json::from_reader(reader).map_err(line_error)?;
    if let Some(field) = field {
        json = json.get_mut(field).map(Value::take).ok_or_else(|| no_text(&format!("it has no field `{field}`")))?;
    }
    let Value::Array(items) = json else { return Err(no_text("it does not hold an array of objects")) };
    let object = |(at, item): (usize, Value)| match item {
        Value::Object(object) => Ok(object),
        _ => Err(no_text(&format!("item {at} of the array is not an object"))),
    };
    items.into_iter().enumerate().map(object).collect()
}

fn problem_at(path: &Path, line: usize, problem: String) -> DataError {
    DataError::JsonLine { path: path.to_path_buf(), line, problem }
}

/// The first byte that is not white space. A byte order mark is skipped.
fn first_letter(reader: &mut impl BufRead) -> std::io::Result<Option<u8>> {
    let head = reader.fill_buf()?;
    if head.starts_with(b"\xef\xbb\xbf") {
        reader.consume(3);
    }
    let head = reader.fill_buf()?;
    Ok(head.iter().copied().find(|b| !b.is_ascii_whitespace()))
}

fn lines(path: &Path, mut reader: impl BufRead) -> Result<Vec<Map<String, Value>>> {
    let mut records = Vec::new();
    each_line(&mut reader, path, |number, line| {
        match serde_json::from_slice(line) {
            Ok(Value::Object(object)) => records.push(object),
            Ok(_) => return Err(problem_at(path, number, "not a JSON object".to_owned())),
            Err(e) => return Err(problem_at(path, number, format!("not JSON ({e})"))),
        }
        Ok(())
    })?;
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_arrays_and_fields_are_read_and_mistakes_name_their_line() {
        let folder = tempfile::tempdir().unwrap();
        let read = |text: &str, field| {
            let path = folder.path().join("a.json");
            std::fs::write(&path, text).unwrap();
            read_records(&path, field).map_err(|e| e.to_string())
        };
        let both = read("{\"a\": 1}\n\n{\"a\": 2}\n", None).unwrap();
        assert_eq!(both.len(), 2);
        assert_eq!(read("[{\"a\": 1},\n {\"a\": 2}]", None).unwrap(), both);
        assert_eq!(read("{\"rows\": [{\"a\": 1}, {\"a\": 2}]}", Some("rows")).unwrap(), both);
        assert!(read("{\"a\": 1}\n{\"a\": }\n", None).unwrap_err().contains("a.json:2"));
        assert!(read("{\"a\": 1}\n3\n", None).unwrap_err().contains("a.json:2"));
        assert!(read("[1]", None).unwrap_err().contains("item 0"));
    }
}
