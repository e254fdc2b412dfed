//! The lines of a file.

use std::io::BufRead;
use std::path::Path;

use crate::error::{DataError, Result};

/// Passes each line with its number, from 1, to `take`. White space around it and byte order marks are removed. Empty
/// lines are passed over.
pub(crate) fn each_line(
    reader: &mut dyn BufRead,
    path: &Path,
    mut take: impl FnMut(usize, &[u8]) -> Result<()>,
) -> Result<()> {
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        if reader.read_until(b'\n', &mut line).map_err(DataError::io("read", path))? == 0 {
            break;
        }
        let text = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&line).trim_ascii();
        if !text.is_empty() {
            take(number, text)?;
        }
    }
    Ok(())
}
