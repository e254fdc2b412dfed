//! Text columns of `.parquet` files (feature `parquet`), one document per row.

use std::fs::File;
use std::path::Path;

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};
use parquet::schema::types::Type;
use serde_json::{Map, Value};

use super::document::{Document, SourceOptions, Texts};
use super::left_out::Why;
use crate::error::{DataError, Result};

/// Reads the text column of a file. Rows whose text is null, empty or not UTF-8 are skipped and counted.
pub(crate) fn read(path: &Path, id: &str, options: &SourceOptions) -> Result<Texts> {
    let damaged = |problem: String| DataError::NoText { path: path.to_path_buf(), problem };
    let file = File::open(path).map_err(DataError::io("read", path))?;
    let reader = SerializedFileReader::new(file).map_err(|e| damaged(format!("not a parquet file ({e})")))?;
    let schema = reader.metadata().file_metadata().schema();
    let wanted = |name: &str| name == options.text_field || options.group_field.as_deref() == Some(name);
    let columns: Vec<_> = schema.get_fields().iter().filter(|f| wanted(f.name())).cloned().collect();
    if !columns.iter().any(|f| f.name() == options.text_field) {
        let names: Vec<&str> = schema.get_fields().iter().map(|f| f.name()).collect();
        let (path, field) = (path.to_path_buf(), options.text_field.clone());
        return Err(DataError::NoField { path, field, has: names.join(", ") });
    }
    let projection = Type::group_type_builder(schema.name())
        .with_fields(columns)
        .build()
        .map_err(|e| damaged(format!("its schema cannot be read ({e})")))?;
    let rows = reader.get_row_iter(Some(projection)).map_err(|e| damaged(format!("its rows cannot be read ({e})")))?;
    let mut texts = Texts::default();
    for (number, row) in rows.enumerate() {
        let row = row.map_err(|e| damaged(format!("row {number} cannot be read ({e})")))?;
        let id = format!("{id}:{number}");
        let (mut text, mut group) = (None, id.clone());
        let mut why = Why::NoText;
        for (name, field) in row.get_column_iter() {
            if *name == options.text_field {
                text = match field {
                    Field::Str(text) => Some(text.clone()),
                    Field::Bytes(bytes) => {
                        let read = std::str::from_utf8(bytes.data());
                        if read.is_err() {
                            why = Why::NotUtf8;
                        }
                        read.ok().map(ToOwned::to_owned)
                    }
                    Field::Null => None,
                    _ => return Err(damaged(format!("the column `{name}` does not hold text"))),
                };
            } else if !matches!(field, Field::Null) {
                group = match field {
                    Field::Str(group) => group.clone(),
                    other => other.to_string(),
                };
            }
        }
        match text {
            Some(text) if !text.is_empty() => texts.documents.push(Document { id, group, text }),
            _ => texts.left_out.add(why, || id),
        }
    }
    Ok(texts)
}

/// All columns of a file, one object per row. Lists and groups become arrays and objects.
pub(crate) fn records(path: &Path) -> Result<Vec<Map<String, Value>>> {
    let damaged = |problem: String| DataError::NoText { path: path.to_path_buf(), problem };
    let file = File::open(path).map_err(DataError::io("read", path))?;
    let reader = SerializedFileReader::new(file).map_err(|e| damaged(format!("not a parquet file ({e})")))?;
    let rows = reader.get_row_iter(None).map_err(|e| damaged(format!("its rows cannot be read ({e})")))?;
    let mut records = Vec::new();
    for (number, row) in rows.enumerate() {
        let row = row.map_err(|e| damaged(format!("row {number} cannot be read ({e})")))?;
        records.push(object(&row));
    }
    Ok(records)
}

fn object(row: &Row) -> Map<String, Value> {
    row.get_column_iter().map(|(name, field)| (name.clone(), json(field))).collect()
}

/// A field as JSON. Types that JSON does not have are written as text.
fn json(field: &Field) -> Value {
    match field {
        Field::Null => Value::Null,
        Field::Bool(value) => (*value).into(),
        Field::Byte(value) => (*value).into(),
        Field::Short(value) => (*value).into(),
        Field::Int(value) => (*value).into(),
        Field::Long(value) => (*value).into(),
        Field::UByte(value) => (*value).into(),
        Field::UShort(value) => (*value).into(),
        Field::UInt(value) => (*value).into(),
        Field::ULong(value) => (*value).into(),
        Field::Float(value) => f64::from(*value).into(),
        Field::Double(value) => (*value).into(),
        Field::Str(text) => text.as_str().into(),
        Field::Bytes(bytes) => String::from_utf8_lossy(bytes.data()).into_owned().into(),
        Field::Group(row) => Value::Object(object(row)),
        Field::ListInternal(list) => list.elements().iter().map(json).collect(),
        other => other.to_string().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parquet::data_type::{ByteArray, ByteArrayType};
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;
    use proptest::prelude::*;
    use std::sync::Arc;

    #[test]
    fn rows_become_objects() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parquet");
        std::fs::write(&path, file_of(&["one", "two"])).unwrap();
        let records = records(&path).unwrap();
        assert_eq!(serde_json::to_string(&records).unwrap(), r#"[{"text":"one"},{"text":"two"}]"#);
    }

    fn file_of(texts: &[&str]) -> Vec<u8> {
        let schema = parse_message_type("message m { REQUIRED BYTE_ARRAY text (UTF8); }").unwrap();
        let mut bytes = Vec::new();
        let mut writer = SerializedFileWriter::new(&mut bytes, Arc::new(schema), Arc::default()).unwrap();
        let mut rows = writer.next_row_group().unwrap();
        let mut column = rows.next_column().unwrap().unwrap();
        let values: Vec<ByteArray> = texts.iter().map(|t| ByteArray::from(*t)).collect();
        column.typed::<ByteArrayType>().write_batch(&values, None, None).unwrap();
        column.close().unwrap();
        rows.close().unwrap();
        writer.close().unwrap();
        bytes
    }

    #[test]
    fn rows_become_documents() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.parquet");
        std::fs::write(&path, file_of(&["one", "d\u{e9}j\u{e0}"])).unwrap();
        let texts = crate::read_paths(&[&path], &SourceOptions::default()).unwrap();
        assert_eq!(texts.documents.iter().map(|d| d.text.as_str()).collect::<Vec<_>>(), ["one", "d\u{e9}j\u{e0}"]);
        let options = SourceOptions { text_field: "body".into(), group_field: None };
        let error = crate::read_paths(&[&path], &options).unwrap_err().to_string();
        assert!(error.contains("no document has a field `body` (the first has: text)"), "{error}");
        // In a folder the file is skipped and counted.
        std::fs::write(dir.path().join("y.txt"), "text enough").unwrap();
        let texts = crate::read_paths(&[dir.path()], &options).unwrap();
        assert_eq!((texts.documents.len(), texts.left_out.count(Why::NoField)), (1, 1));
    }

    proptest! {
        #[test]
        fn cut_files_are_errors(cut in 0usize..200) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("x.parquet");
            let bytes = file_of(&["one", "two"]);
            std::fs::write(&path, &bytes[..cut.min(bytes.len() - 1)]).unwrap();
            prop_assert!(read(&path, "x", &SourceOptions::default()).is_err());
        }
    }
}
