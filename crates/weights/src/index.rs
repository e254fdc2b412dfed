//! `model.safetensors.index.json`: which file contains which tensors.

use hadal_base::{foreign, read_small, short};
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, de};
use std::collections::BTreeMap;
use std::path::Path;
use std::{fmt, io};

/// Size in bytes of the largest index. That of the full model has 8 MB.
const MAX_INDEX: u64 = 100_000_000;

/// The names of tensors by the name of their file, in the order of the index. A map of tensors would lose one that
/// occurs twice.
#[derive(Default)]
pub(crate) struct Index(pub(crate) BTreeMap<String, Vec<String>>);

impl Index {
    /// Reads an index. The inner error says what is wrong with it, without the file's name. Other keys beside
    /// `weight_map` are information for people. They may be absent or have any value.
    pub(crate) fn read(path: &Path) -> io::Result<Result<Self, String>> {
        #[derive(Deserialize)]
        struct File {
            weight_map: Index,
        }
        let text = read_small(path, MAX_INDEX)?;
        let parsed = serde_json::from_slice::<File>(&text).map(|file| file.weight_map);
        Ok(parsed.map_err(|e| match foreign(&text) {
            Some(what) => format!("is not a safetensors index: it is {what}"),
            None => format!("is not a safetensors index: {}; copy or download it again", short(&e.to_string())),
        }))
    }
}

impl<'de> Deserialize<'de> for Index {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Index;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`weight_map` to be an object from names of tensors to names of files")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Index, A::Error> {
                let mut files = BTreeMap::<String, Vec<String>>::new();
                while let Some(tensor) = map.next_key::<String>()? {
                    let named = |e| de::Error::custom(format!("tensor `{}`: {e}", short(&tensor)));
                    let file: String = map.next_value().map_err(named)?;
                    // It must be the plain name of a file in the same folder.
                    if Path::new(&file).file_name().is_none_or(|n| n != file.as_str()) {
                        let (tensor, file) = (short(&tensor), short(&file));
                        let reason =
                            format!("tensor `{tensor}`: `{file}` is not the name of a file in the same folder");
                        return Err(de::Error::custom(reason));
                    }
                    match files.get_mut(&file) {
                        Some(tensors) => tensors.push(tensor),
                        None => drop(files.insert(file, vec![tensor])),
                    }
                }
                Ok(Index(files))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}
