//! Checks where a folder can be created, before the work that fills it begins.

use crate::{IoContext, IoError};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// The real path that a new folder `out` would have, with symbolic links followed. It is an error if `out` exists and a
/// rename cannot replace it. A rename can replace only an empty folder that is neither a mount point nor the current
/// folder.
pub fn place(out: &Path) -> Result<PathBuf, IoError> {
    let refuse = |kind: ErrorKind, reason: &str| Err(io::Error::new(kind, reason)).at("write to", out);
    let meta = match fs::symlink_metadata(out) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(out.into()),
        other => other.at("write to", out)?,
    };
    let real = match fs::canonicalize(out) {
        Err(e) if e.kind() == ErrorKind::NotFound && meta.is_symlink() => {
            return refuse(ErrorKind::NotFound, "it is a symbolic link to nothing: remove it, or create its target");
        }
        other => other.at("write to", out)?,
    };
    if !real.is_dir() || fs::read_dir(&real).at("list", &real)?.next().is_some() {
        return refuse(ErrorKind::AlreadyExists, "it already exists: choose another name or remove it");
    }
    if is_mount_point(&real).at("inspect", &real)? {
        return refuse(
            ErrorKind::ResourceBusy,
            "it is a mount point, which cannot be replaced: name a new folder inside it",
        );
    }
    if std::env::current_dir().is_ok_and(|here| here == real) {
        return refuse(ErrorKind::ResourceBusy, "it is the current folder: leave it, or name a new folder inside it");
    }
    Ok(real)
}

#[cfg(target_os = "linux")]
fn is_mount_point(path: &Path) -> io::Result<bool> {
    use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
    // Folders of the same file system can be mounted as well, so comparing device numbers is not enough.
    let found = statx(CWD, path, AtFlags::empty(), StatxFlags::empty())?;
    Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

#[cfg(not(target_os = "linux"))]
fn is_mount_point(_: &Path) -> io::Result<bool> {
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn places_are_real_and_free() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let at = |name: &str| root.join(name);
        fs::create_dir(at("empty")).unwrap();
        fs::create_dir(at("full")).unwrap();
        fs::write(at("full/file"), "").unwrap();
        symlink(at("empty"), at("link")).unwrap();
        symlink(at("nowhere"), at("dangling")).unwrap();
        for (name, real) in [("new", "new"), ("new/below", "new/below"), ("empty", "empty"), ("link", "empty")] {
            assert_eq!(place(&at(name)).unwrap(), at(real), "{name}");
        }
        for (name, part) in [
            ("full", "already exists"),
            ("full/file", "already exists"),
            ("full/file/below", "full/file/below"),
            ("dangling", "symbolic link to nothing"),
        ] {
            let error = place(&at(name)).unwrap_err().to_string();
            assert!(error.contains(part) && error.contains(name), "{error}");
        }
        assert!(place(Path::new("/")).is_err());
        assert!(place(Path::new(".")).is_err());
        if cfg!(target_os = "linux") {
            assert!(is_mount_point(Path::new("/proc")).unwrap() && !is_mount_point(&at("empty")).unwrap());
        }
    }
}
