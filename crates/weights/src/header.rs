//! The header of a safetensors file: eight bytes of length, then JSON that maps names to type, shape and byte range,
//! then the data.
//!
//! It is parsed here instead of by the format's own crate, so that every error names the tensor and no sum of untrusted
//! numbers can overflow. The accepted files are those that the crate accepts. Tensors must cover the data exactly, in
//! any order. Metadata is absent, null, or maps names to text. Headers are written as the crate writes them: larger
//! types first, then by name, padded with spaces to eight bytes.

use crate::fp8::ScaleFormat;
use hadal_base::{FIRST, foreign, short};
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::ops::Range;

/// Largest JSON of a header in bytes, as in the format's own implementation.
const MAX_JSON: u64 = 100_000_000;
/// Largest number of tensors in one file. The full model has fewer in total.
const MAX_TENSORS: usize = 1 << 18;
/// Largest number of dimensions of a tensor.
const MAX_RANK: usize = 16;
/// Longest name in bytes.
const MAX_NAME: usize = 500;
/// What to do about an incomplete file.
const AGAIN: &str = "copy or download it again";
/// Size in bytes of the length at the start of a file.
const LENGTH: usize = 8;

/// Element types of the format that matter here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
    /// Eight-bit float with four bits of exponent, as in DeepSeek-V3's released weights.
    F8E4M3,
    /// A power of two in eight bits, used for the scales of such weights.
    F8E8M0,
    /// Any other type, by its name in the format. Such tensors can be listed but not read.
    Other(String),
}

/// The types of the format without a variant here, and their bits.
const OTHERS: [(&str, u64); 17] = [
    ("BOOL", 8),
    ("F4", 4),
    ("F6_E2M3", 6),
    ("F6_E3M2", 6),
    ("U8", 8),
    ("I8", 8),
    ("F8_E5M2", 8),
    ("F8_E4M3FNUZ", 8),
    ("F8_E5M2FNUZ", 8),
    ("I16", 16),
    ("U16", 16),
    ("I32", 32),
    ("U32", 32),
    ("C64", 64),
    ("F64", 64),
    ("I64", 64),
    ("U64", 64),
];

impl Dtype {
    /// Bytes per element, for types that have a variant.
    pub(crate) fn bytes(&self) -> Option<usize> {
        match self {
            Self::F32 => Some(4),
            Self::F16 | Self::Bf16 => Some(2),
            Self::F8E4M3 | Self::F8E8M0 => Some(1),
            Self::Other(_) => None,
        }
    }

    fn parse(name: &str) -> Option<(Self, u64)> {
        Some(match name {
            "F32" => (Self::F32, 32),
            "F16" => (Self::F16, 16),
            "BF16" => (Self::Bf16, 16),
            "F8_E4M3" => (Self::F8E4M3, 8),
            "F8_E8M0" => (Self::F8E8M0, 8),
            _ => (Self::Other(name.into()), OTHERS.iter().find(|(n, _)| *n == name)?.1),
        })
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::F8E4M3 => "F8_E4M3",
            Self::F8E8M0 => "F8_E8M0",
            Self::Other(name) => name,
        })
    }
}

/// One tensor of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    /// The tensor's range of bytes in the file.
    pub(crate) bytes: Range<usize>,
}

impl Slot {
    /// Elements of the innermost dimension; 1 for a scalar.
    pub(crate) fn cols(&self) -> usize {
        self.shape.last().copied().unwrap_or(1).max(1)
    }
}

#[derive(Deserialize)]
struct Raw {
    dtype: String,
    #[serde(deserialize_with = "shape")]
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// Reads the extents of a tensor and limits their number.
fn shape<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u64>, D::Error> {
    struct Extents;
    impl<'de> Visitor<'de> for Extents {
        type Value = Vec<u64>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of extents")
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<u64>, A::Error> {
            let mut extents = Vec::new();
            while let Some(extent) = list.next_element()? {
                if extents.len() == MAX_RANK {
                    return Err(A::Error::custom(format!("has more than {MAX_RANK} dimensions")));
                }
                extents.push(extent);
            }
            Ok(extents)
        }
    }
    deserializer.deserialize_seq(Extents)
}

/// The metadata text in a header.
#[derive(Default)]
pub(crate) struct Metadata(pub(crate) BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Metadata;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object from names to text")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Metadata, A::Error> {
                let mut text = Metadata::default();
                while let Some((name, value)) = map.next_entry()? {
                    text.0.insert(name, value);
                }
                Ok(text)
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// The header's entries in the order of the file. A map would lose a name that occurs twice.
struct Entries(Vec<(String, Raw)>, Metadata);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Entries;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object from names to tensors")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Vec::new();
                let mut metadata = None;
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        let named = |e| A::Error::custom(format!("`__metadata__`: {e}"));
                        if metadata.replace(map.next_value::<Option<Metadata>>().map_err(named)?).is_some() {
                            return Err(A::Error::custom("`__metadata__` appears twice"));
                        }
                        continue;
                    }
                    if name.len() > MAX_NAME || name.chars().any(char::is_control) {
                        let reason = format!("must have at most {MAX_NAME} bytes and no control characters");
                        return Err(A::Error::custom(format!("a name {reason}: `{}`", short(&name))));
                    }
                    if entries.len() == MAX_TENSORS {
                        return Err(A::Error::custom(format!("more than {MAX_TENSORS} tensors in one file")));
                    }
                    let raw = map.next_value().map_err(|e| A::Error::custom(format!("tensor `{name}`: {e}")))?;
                    entries.push((name, raw));
                }
                Ok(Entries(entries, metadata.flatten().unwrap_or_default()))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// Reads the length at the start of a file of `total` bytes, and the JSON after it, through `read`. The outer error
/// comes from `read`. The inner error says what is wrong, without the file's name.
pub(crate) fn read_json<E>(
    total: usize,
    read: impl Fn(usize, &mut [u8]) -> Result<(), E>,
) -> Result<Result<Vec<u8>, String>, E> {
    let mut first = vec![0; total.min(FIRST)];
    read(0, &mut first)?;
    let Some(length) = first.first_chunk::<LENGTH>().map(|bytes| u64::from_le_bytes(*bytes)) else {
        return Ok(Err(format!("is not a safetensors file: it has only {total} bytes; {AGAIN}")));
    };
    let is_whole = length <= (total - LENGTH) as u64;
    let begins = is_whole || first.get(LENGTH).is_none_or(|byte| *byte == b'{');
    if !(1..=MAX_JSON).contains(&length) || !begins {
        return Ok(Err(match foreign(&first) {
            Some(what) => format!("is not a safetensors file: it is {what}"),
            None => format!(
                "is not a safetensors file: it begins with `{}` and claims a header of {length} bytes; {AGAIN}",
                first[..first.len().min(16)].escape_ascii()
            ),
        }));
    }
    // Memory for a header is allocated only if the file is long enough.
    if !is_whole {
        let least = LENGTH as u64 + length;
        return Ok(Err(format!("is cut off: it has {total} bytes and should have more than {least}; {AGAIN}")));
    }
    let mut json = vec![0; length as usize];
    read(LENGTH, &mut json)?;
    Ok(Ok(json))
}

/// Parses and checks the JSON of a file of `total` bytes. The error says what is wrong, without the file's name.
pub(crate) fn parse(json: &[u8], total: usize) -> Result<(Vec<(String, Slot)>, Metadata), String> {
    let data_start = LENGTH + json.len();
    let Entries(entries, metadata) =
        serde_json::from_slice(json).map_err(|e| format!("has a broken header: {}", short(&e.to_string())))?;

    let mut tensors = Vec::with_capacity(entries.len());
    let mut names = HashSet::with_capacity(entries.len());
    for (name, raw) in &entries {
        if !names.insert(name.as_str()) {
            return Err(format!("has a broken header: tensor `{name}` appears twice"));
        }
        let (begin, end) = raw.data_offsets;
        let Some((dtype, bits)) = Dtype::parse(&raw.dtype) else {
            return Err(format!("has a broken header: tensor `{name}` has the unknown type `{}`", short(&raw.dtype)));
        };
        let elements = raw.shape.iter().try_fold(1u64, |n, d| n.checked_mul(*d));
        let Some(bits) = elements.and_then(|n| n.checked_mul(bits)).filter(|b| b.is_multiple_of(8)) else {
            return Err(format!("has a broken header: tensor `{name}` has the impossible shape {:?}", raw.shape));
        };
        if end.checked_sub(begin) != Some(bits / 8) {
            let shape = &raw.shape;
            return Err(format!(
                "has a broken header: tensor `{name}` of shape {shape:?} in {dtype} needs {} bytes, but its range is {begin}..{end}",
                bits / 8
            ));
        }
        let Some(last) = (end as usize).checked_add(data_start) else {
            return Err(format!("has a broken header: tensor `{name}` has the impossible range {begin}..{end}"));
        };
        let shape = raw.shape.iter().map(|d| *d as usize).collect();
        let bytes = data_start + begin as usize..last;
        tensors.push((name.clone(), Slot { dtype, shape, bytes }));
    }
    // Every byte belongs to exactly one tensor.
    tensors.sort_by_key(|(_, slot)| (slot.bytes.start, slot.bytes.end));
    let mut at = data_start;
    for (name, slot) in &tensors {
        if slot.bytes.start != at {
            let what = if slot.bytes.start < at { "overlaps the tensor before it" } else { "leaves a gap before it" };
            return Err(format!("has a broken header: tensor `{name}` {what}; {AGAIN}"));
        }
        at = slot.bytes.end;
    }
    if at > total {
        return Err(format!("is cut off: it has {total} bytes, but its header says {at}; {AGAIN}"));
    }
    if at < total {
        return Err(format!("has {} bytes after its last tensor; {AGAIN}", total - at));
    }
    Ok((tensors, metadata))
}

/// Types that can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaveDtype {
    /// One byte, quantised in blocks. Scales of this format are written with it.
    F8E4M3(ScaleFormat),
    /// One byte that holds a power of two.
    F8E8M0,
    /// Two bytes, IEEE half precision.
    F16,
    /// Two bytes, rounded to nearest, ties to even.
    Bf16,
    /// Four bytes.
    F32,
}

impl SaveDtype {
    /// Bytes per element.
    pub fn size(self) -> usize {
        match self {
            Self::F8E4M3(_) | Self::F8E8M0 => 1,
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
        }
    }

    /// Its rank in the order of the format's own writer, and its name there.
    fn format(self) -> (usize, &'static str) {
        match self {
            Self::F8E4M3(_) => (0, "F8_E4M3"),
            Self::F8E8M0 => (1, "F8_E8M0"),
            Self::F16 => (2, "F16"),
            Self::Bf16 => (3, "BF16"),
            Self::F32 => (4, "F32"),
        }
    }
}

/// One tensor to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SaveTensor {
    /// Its name in the checkpoint.
    pub name: String,
    /// Its shape in the checkpoint.
    pub shape: Vec<usize>,
    /// The type of its stored elements.
    pub dtype: SaveDtype,
}

impl SaveTensor {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
    /// Number of bytes in the file.
    pub fn bytes(&self) -> usize {
        self.elements() * self.dtype.size()
    }
}

/// Sorts tensors as the format's own writer does. Returns the bytes before their data.
pub(crate) fn render(tensors: &mut [&SaveTensor]) -> Vec<u8> {
    tensors.sort_by(|a, b| b.dtype.format().cmp(&a.dtype.format()).then_with(|| a.name.cmp(&b.name)));
    let tensors = tensors.iter().map(|t| (t.name.as_str(), t.dtype.format().1, t.shape.as_slice(), t.bytes()));
    assemble(&[("format", "pt")], tensors, LENGTH)
}

/// The bytes before the data of tensors, given by name, type, shape and number of bytes. The data begins at a multiple
/// of `align`.
pub(crate) fn assemble<'a>(
    metadata: &[(&str, &str)],
    tensors: impl Iterator<Item = (&'a str, &'static str, &'a [usize], usize)>,
    align: usize,
) -> Vec<u8> {
    #[derive(Serialize)]
    struct Place<'a> {
        dtype: &'static str,
        shape: &'a [usize],
        data_offsets: (usize, usize),
    }
    // The text is assembled here because a JSON map type would sort the names again.
    let text = |value: &str| serde_json::to_string(value).expect("strings have a JSON form");
    let metadata: Vec<String> = metadata.iter().map(|(key, value)| format!("{}:{}", text(key), text(value))).collect();
    let mut json = format!(r#"{{"__metadata__":{{{}}}"#, metadata.join(","));
    let mut at = 0;
    for (name, dtype, shape, bytes) in tensors {
        let place = Place { dtype, shape, data_offsets: (at, at + bytes) };
        at += bytes;
        let place = serde_json::to_string(&place).expect("numbers have a JSON form");
        json.extend([",", &text(name), ":", &place]);
    }
    json.push('}');
    while !(LENGTH + json.len()).is_multiple_of(align) {
        json.push(' ');
    }
    let mut out = (json.len() as u64).to_le_bytes().to_vec();
    out.extend(json.into_bytes());
    out
}
