//! Reads files, and text from files, that may not be what they should be and may be larger than expected.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Opens a regular file. Other kinds of files might never end, or might block when opened.
pub fn open_regular(path: &Path) -> io::Result<File> {
    // The check comes before the file is opened, because opening a pipe waits for a writer.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "is not a regular file"));
    }
    File::open(path)
}

/// Reads a regular file of at most `most` bytes.
pub fn read_small(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_regular(path)?.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        let reason = format!("is larger than {} MB, too large for such a file", most / 1_000_000);
        return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
    }
    Ok(bytes)
}

/// Text from a file in a form that a message can show: its beginning, without control characters.
pub fn short(text: &str) -> String {
    const MOST: usize = 300;
    let plain = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    let end = if text.chars().nth(MOST).is_some() { " ..." } else { "" };
    text.chars().take(MOST).map(plain).collect::<String>() + end
}

/// Fills `out` from a position in a file. It does not move the file's own position, so threads may share the file.
#[cfg(unix)]
pub fn read_exact_at(file: &File, out: &mut [u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, at)
}

/// Fills `out` from a position in a file. This moves the file's own position, which nothing uses.
#[cfg(windows)]
pub fn read_exact_at(file: &File, mut out: &mut [u8], mut at: u64) -> io::Result<()> {
    while !out.is_empty() {
        let n = std::os::windows::fs::FileExt::seek_read(file, out, at)?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        (out, at) = (&mut out[n..], at + n as u64);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_large_or_no_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, [7; 9]).unwrap();
        assert_eq!(read_small(&path, 9).unwrap(), [7; 9]);
        assert!(read_small(&path, 8).unwrap_err().to_string().contains("larger"));
        assert!(read_small(dir.path(), 8).unwrap_err().to_string().contains("not a regular file"));
        if cfg!(unix) {
            assert!(read_small(Path::new("/dev/zero"), 8).unwrap_err().to_string().contains("not a regular file"));
        }
        assert_eq!(short("a\u{1b}[2J \"b\"\n"), "a\\u{1b}[2J \"b\"\\n");
        assert_eq!(short(&"x".repeat(5_000_000)).len(), 304);
    }
}
