//! The bytes of a file: unpacked if it is compressed, and rejected if they cannot be text.
//!
//! The first bytes decide what a file is. Valid UTF-8 text cannot begin with these marks. The exception are the marks
//! of archives, but they are long enough to be unambiguous.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use super::left_out::Why;
use crate::error::{DataError, Result};

/// A file that was opened.
pub(super) enum Opened {
    /// Its bytes, unpacked.
    Text(Box<dyn BufRead>),
    /// It cannot be text: the reason, and what to do about it.
    Refused(Why, &'static str),
}

/// Opens a file. Data compressed with gzip, zstd or xz is unpacked.
pub(super) fn open(path: &Path) -> Result<Opened> {
    let failed = |e| DataError::io("read", path)(e);
    let mut reader = BufReader::with_capacity(1 << 18, File::open(path).map_err(failed)?);
    let head = reader.fill_buf().map_err(failed)?;
    let mut reader: Box<dyn BufRead> = if head.starts_with(&[0x1f, 0x8b]) {
        Box::new(BufReader::with_capacity(1 << 18, flate2::bufread::MultiGzDecoder::new(reader)))
    } else if matches!(head, [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..]) {
        let unpacked = zstd::stream::read::Decoder::with_buffer(reader).map_err(failed)?;
        Box::new(BufReader::with_capacity(1 << 18, unpacked))
    } else if head.starts_with(b"\xfd7zXZ\0") {
        Box::new(BufReader::with_capacity(1 << 18, liblzma::bufread::XzDecoder::new_multi_decoder(reader)))
    } else {
        Box::new(reader)
    };
    let refused = refuse(reader.fill_buf().map_err(failed)?);
    Ok(refused.map_or(Opened::Text(reader), |(why, problem)| Opened::Refused(why, problem)))
}

/// Opens a file that must be text.
pub(crate) fn open_text(path: &Path) -> Result<Box<dyn BufRead>> {
    match open(path)? {
        Opened::Text(reader) => Ok(reader),
        Opened::Refused(_, problem) => Err(DataError::NoText { path: path.to_path_buf(), problem: problem.into() }),
    }
}

/// The reason why bytes with this beginning cannot be text.
fn refuse(bytes: &[u8]) -> Option<(Why, &'static str)> {
    let wide: [&[u8]; 3] = [b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff"];
    if wide.iter().any(|mark| bytes.starts_with(mark)) {
        let problem = "it is in UTF-16 or UTF-32; convert it, for example with `iconv -f UTF-16 -t UTF-8`";
        return Some((Why::Utf16, problem));
    }
    if bytes.get(257..262) == Some(b"ustar") {
        return Some((Why::Archive, "it is a tar archive; unpack it and name the folder"));
    }
    let archives: [(&[u8], &str); 4] = [
        (b"PK\x03\x04", "it is a zip archive; unpack it and name what was in it"),
        (b"7z\xbc\xaf\x27\x1c", "it is a 7-Zip archive; unpack it and name what was in it"),
        (b"\x04\x22\x4d\x18", "it is compressed by lz4; unpack it first (gzip, zstd and xz are read as they are)"),
        (b"BZh91AY&SY", "it is compressed by bzip2; unpack it first (gzip, zstd and xz are read as they are)"),
    ];
    archives.iter().find(|(mark, _)| bytes.starts_with(mark)).map(|(_, problem)| (Why::Archive, *problem))
}
