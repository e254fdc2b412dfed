//! Recognises, by their first bytes, files that are not what their names say.

/// Number of bytes at the beginning of a file that [`foreign`] looks at.
pub const FIRST: usize = 64;

/// Beginnings of files that are often found in place of others: what the file is, and what to do.
const KNOWN: [(&[u8], &str); 6] = [
    (
        b"version https://git-lfs.github.com/spec/v1",
        "a Git LFS pointer in place of the file: run `git lfs pull` in its folder, or download the file itself",
    ),
    (b"GGUF", "a GGUF file, which is not read: get the model's safetensors"),
    (b"PK\x03\x04", "a zip archive, as PyTorch writes weights: convert them to safetensors"),
    (b"\x80\x02", "a Python pickle, as old versions of PyTorch write weights: convert them to safetensors"),
    (b"\x1f\x8b", "compressed by gzip: unpack it first"),
    (&[0; 8], "full of zeros at its start, like an unfinished download: download it again"),
];

/// What the file is that begins with `first`, and what to do about it, or `None` if it is not recognised. Call it only
/// for a file that could not be read as expected: a valid file may begin with any of these bytes.
pub fn foreign(first: &[u8]) -> Option<&'static str> {
    let text = first.trim_ascii_start().to_ascii_lowercase();
    if [&b"<!doctype"[..], b"<html", b"<?xml"].iter().any(|tag| text.starts_with(tag)) {
        return Some("a web page, perhaps one that asks to log in: download the file itself");
    }
    KNOWN.iter().find(|(begin, _)| first.starts_with(begin)).map(|(_, what)| *what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_known_by_their_first_bytes() {
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935\nsize 12345\n";
        for (first, part) in [
            (&pointer[..], "git lfs pull"),
            (&pointer[..FIRST], "git lfs pull"),
            (b"\n <!DOCTYPE html>", "web page"),
            (b"<html lang", "web page"),
            (b"GGUF\x03\0\0\0", "GGUF"),
            (b"PK\x03\x04\0\0\x08\x08", "zip"),
            (b"\x80\x02\x8a\nl\xfc", "pickle"),
            (b"\x1f\x8b\x08", "gzip"),
            (&[0; 9], "zeros"),
        ] {
            assert!(foreign(first).is_some_and(|what| what.contains(part)), "{part}");
        }
        for first in [&b""[..], b"{", b"version 2", &[0; 7], b"PK", b"ordinary"] {
            assert_eq!(foreign(first), None, "{first:?}");
        }
    }
}
