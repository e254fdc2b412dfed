//! Files as memory: read-only maps, the one place where a file becomes a slice.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::Path;

/// A file's bytes, read by the system as they are touched. An empty file is an empty slice.
///
/// Whoever cuts the file shorter while it is mapped gets this process a `SIGBUS`; replacing it by renaming another file
/// over it is safe, and that is the only way this project rewrites files.
pub struct Mapped(Option<memmap2::Mmap>);

/// Maps a file for reading.
pub fn map_file(path: &Path) -> io::Result<Mapped> {
    let file = File::open(path)?;
    let kind = file.metadata()?;
    if !kind.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "is no regular file"));
    }
    if kind.len() == 0 {
        return Ok(Mapped(None));
    }
    // SAFETY: the map is private and read-only, and only handed out as `&[u8]`, for which any bytes are valid. Another
    // process changing the file in place could change bytes under a reader; the type's documentation rules that out.
    let map = unsafe { memmap2::Mmap::map(&file)? };
    Ok(Mapped(Some(map)))
}

impl Deref for Mapped {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or(&[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_what_is_there_and_refuses_the_rest() {
        let dir = std::env::temp_dir().join(format!("hadal-mmap-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (full, empty) = (dir.join("full"), dir.join("empty"));
        std::fs::write(&full, b"deep").unwrap();
        std::fs::write(&empty, b"").unwrap();
        assert_eq!(&*map_file(&full).unwrap(), b"deep");
        assert_eq!(&*map_file(&empty).unwrap(), b"");
        assert!(map_file(&dir).is_err());
        assert!(map_file(&dir.join("absent")).is_err());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
