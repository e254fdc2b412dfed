//! Files and folders that appear whole or not at all.
//!
//! Everything is written beside its final place under a different name, synced to the disk, and renamed. The rename is
//! synced as well. A process that dies at any moment leaves the old state or the new one, and at most a leftover file
//! that [`remove_leftovers`] recognises by its name.

use crate::{IoContext, IoError};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

const PREFIX: &str = ".hadal-unfinished-";
/// Number of bytes of the final name that the temporary name repeats. The limit keeps the temporary name short enough.
const REPEATED: usize = 64;
static NEXT: AtomicU64 = AtomicU64::new(0);

/// The folder of a path, and a name in that folder that no one else uses.
fn beside(path: &Path) -> Result<(PathBuf, PathBuf), IoError> {
    let no_name = || io::Error::new(io::ErrorKind::InvalidInput, "the path has no last component");
    let name = path.file_name().ok_or_else(no_name).at("write", path)?;
    let parent = match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p.to_path_buf(),
        _ => PathBuf::from("."),
    };
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let own = format!("{PREFIX}{}-{number}-{}", std::process::id(), repeated(name));
    let aside = parent.join(own);
    Ok((parent, aside))
}

/// The part of the final name that the temporary name repeats.
fn repeated(name: &OsStr) -> String {
    let mut name = name.to_string_lossy().into_owned();
    name.truncate((0..=REPEATED).rev().find(|n| name.is_char_boundary(*n)).unwrap_or(0));
    name
}

/// Syncs a folder, so that renamed and created entries survive a loss of power.
pub fn sync_dir(path: &Path) -> Result<(), IoError> {
    if cfg!(unix) { File::open(path).and_then(|d| d.sync_all()).at("sync", path) } else { Ok(()) }
}

/// Writes a file whole or not at all, and replaces an existing one.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), IoError> {
    write_file_with(path, |out| out.write_all(bytes))
}

/// Like [`write_file`], but the content comes from a function that writes it.
pub fn write_file_with(path: &Path, fill: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> Result<(), IoError> {
    let mut staged = StagedFile::new(path)?;
    fill(staged.out()).at("write", path)?;
    staged.commit()
}

/// A file under construction. It is removed if it is dropped before [`StagedFile::commit`].
#[derive(Debug)]
pub struct StagedFile {
    target: PathBuf,
    parent: PathBuf,
    aside: PathBuf,
    out: BufWriter<File>,
}

impl StagedFile {
    /// Starts a file that will become `target`.
    pub fn new(target: &Path) -> Result<Self, IoError> {
        let (parent, aside) = beside(target)?;
        let file = File::create_new(&aside).at("create", target)?;
        Ok(Self { target: target.into(), parent, aside, out: BufWriter::with_capacity(1 << 20, file) })
    }

    /// The writer for the content.
    pub fn out(&mut self) -> &mut BufWriter<File> {
        &mut self.out
    }

    /// Syncs the file and gives it its name. An existing file is replaced.
    pub fn commit(mut self) -> Result<(), IoError> {
        self.out.flush().at("write", &self.target)?;
        self.out.get_ref().sync_all().at("sync", &self.target)?;
        fs::rename(&self.aside, &self.target).at("rename into place", &self.target)?;
        sync_dir(&self.parent)
    }
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        // After a commit there is nothing to remove. If the removal fails, `remove_leftovers` does it later.
        drop(fs::remove_file(&self.aside));
    }
}

/// A folder under construction. It is removed with its contents if it is dropped before [`StagedDir::commit`].
#[derive(Debug)]
pub struct StagedDir {
    target: PathBuf,
    parent: PathBuf,
    aside: PathBuf,
}

impl StagedDir {
    /// Starts a folder that will become `target`, and creates the folders above it.
    pub fn new(target: &Path) -> Result<Self, IoError> {
        let (parent, aside) = beside(target)?;
        fs::create_dir_all(&parent).at("create", &parent)?;
        fs::create_dir(&aside).at("create a folder in", &parent)?;
        Ok(Self { target: target.into(), parent, aside })
    }

    /// The folder to write into.
    pub fn path(&self) -> &Path {
        &self.aside
    }

    /// Syncs everything inside and gives the folder its name. The name must be unused or belong to an empty folder.
    pub fn commit(self) -> Result<(), IoError> {
        sync_tree(&self.aside)?;
        let renamed = fs::rename(&self.aside, &self.target);
        let hint = "; the name must be unused or belong to an empty folder: move away what is there and try again";
        renamed.map_err(|e| io::Error::new(e.kind(), format!("{e}{hint}"))).at("rename into place", &self.target)?;
        sync_dir(&self.parent)
    }

    /// Like [`StagedDir::commit`], but replaces what has the name. On Linux the two are exchanged in one step. On other
    /// systems there is a moment between two renames when nothing has the name.
    pub fn commit_replacing(self) -> Result<(), IoError> {
        sync_tree(&self.aside)?;
        if fs::symlink_metadata(&self.target).is_err() {
            fs::rename(&self.aside, &self.target).at("rename into place", &self.target)?;
        } else if exchange(&self.aside, &self.target).is_err() {
            let (_, old) = beside(&self.target)?;
            fs::rename(&self.target, &old).at("move aside", &self.target)?;
            if let Err(e) = fs::rename(&self.aside, &self.target) {
                fs::rename(&old, &self.target).at("put back", &self.target)?;
                return Err(e).at("rename into place", &self.target);
            }
            remove(&old).at("remove", &old)?;
        }
        sync_dir(&self.parent)
        // After an exchange, the old content has the temporary name. Dropping `self` removes it.
    }
}

impl Drop for StagedDir {
    fn drop(&mut self) {
        // After a commit there is nothing to remove. If the removal fails, `remove_leftovers` does it later.
        drop(remove(&self.aside));
    }
}

#[cfg(target_os = "linux")]
fn exchange(a: &Path, b: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE)?)
}

#[cfg(not(target_os = "linux"))]
fn exchange(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

fn remove(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

/// Syncs every file and folder below `path`, and `path` itself.
fn sync_tree(path: &Path) -> Result<(), IoError> {
    for entry in fs::read_dir(path).at("list", path)? {
        let entry = entry.at("list", path)?;
        let kind = entry.file_type().at("inspect", &entry.path())?;
        if kind.is_dir() {
            sync_tree(&entry.path())?;
        } else if kind.is_file() {
            File::open(entry.path()).and_then(|f| f.sync_all()).at("sync", &entry.path())?;
        }
    }
    sync_dir(path)
}

/// Removes the unfinished files and folders that dead processes left in a folder, and returns their number. Those of
/// running processes stay. Call it only where no other machine writes: process numbers mean nothing there.
pub fn remove_leftovers(folder: &Path) -> Result<usize, IoError> {
    remove_dead(folder, |_| true)
}

/// Like [`remove_leftovers`], but only for what was going to become `target`. Its folder need not exist.
pub fn remove_leftovers_of(target: &Path) -> Result<usize, IoError> {
    let (Some(name), Some(folder)) = (target.file_name(), target.parent()) else { return Ok(0) };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let name = repeated(name);
    if folder.is_dir() { remove_dead(folder, |of| of == name) } else { Ok(0) }
}

/// Removes from a folder what dead processes left, if `wanted` accepts the final name.
fn remove_dead(folder: &Path, wanted: impl Fn(&str) -> bool) -> Result<usize, IoError> {
    let mut removed = 0;
    for entry in fs::read_dir(folder).at("list", folder)? {
        let entry = entry.at("list", folder)?;
        let name = entry.file_name();
        let mut parts = name.to_str().and_then(|n| n.strip_prefix(PREFIX)).unwrap_or_default().splitn(3, '-');
        let (owner, _, of) = (parts.next(), parts.next(), parts.next());
        let Some(owner) = owner.and_then(|n| n.parse::<u32>().ok()) else { continue };
        if !is_alive(owner) && wanted(of.unwrap_or_default()) {
            remove(&entry.path()).at("remove", &entry.path())?;
            removed += 1;
        }
    }
    Ok(removed)
}

#[cfg(target_os = "linux")]
fn is_alive(process: u32) -> bool {
    Path::new("/proc").join(process.to_string()).exists()
}

/// Without unsafe code there is no way to tell here. So everything that this process did not make counts as left over.
#[cfg(not(target_os = "linux"))]
fn is_alive(process: u32) -> bool {
    process == std::process::id()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_whole_or_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        write_file(&path, b"one").unwrap();
        write_file(&path, b"two").unwrap();
        let error = write_file_with(&path, |out| {
            out.write_all(b"half")?;
            Err(io::ErrorKind::StorageFull.into())
        });
        let text = error.unwrap_err().to_string();
        assert!(text.contains("cannot write") && text.contains("state.json"), "{text}");
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(entries(dir.path()), ["state.json"]);
    }

    #[test]
    fn a_folder_appears_on_commit_only() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("runs").join("step-1");
        let staged = StagedDir::new(&target).unwrap();
        fs::create_dir(staged.path().join("inner")).unwrap();
        fs::write(staged.path().join("inner/a"), b"a").unwrap();
        assert!(!target.exists());
        staged.commit().unwrap();
        assert_eq!(fs::read(target.join("inner/a")).unwrap(), b"a");
        assert_eq!(entries(target.parent().unwrap()), ["step-1"]);

        let dropped = StagedDir::new(&target).unwrap();
        fs::write(dropped.path().join("b"), b"b").unwrap();
        drop(dropped);
        assert_eq!(entries(target.parent().unwrap()), ["step-1"]);

        let refused = StagedDir::new(&target).unwrap();
        assert!(refused.commit().unwrap_err().to_string().contains("step-1"));
        assert_eq!(entries(&target), ["inner"]);

        let replacing = StagedDir::new(&target).unwrap();
        fs::write(replacing.path().join("c"), b"c").unwrap();
        replacing.commit_replacing().unwrap();
        assert_eq!(entries(&target), ["c"]);
        assert_eq!(entries(target.parent().unwrap()), ["step-1"]);
    }

    #[test]
    fn leftovers_of_the_dead_go_and_those_of_the_living_stay() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("x");
        let mine = StagedDir::new(&target).unwrap();
        fs::create_dir(dir.path().join(format!("{PREFIX}4294967295-0-x"))).unwrap();
        fs::write(dir.path().join(format!("{PREFIX}4294967295-1-y")), b"").unwrap();
        fs::write(dir.path().join("z"), b"").unwrap();
        // Only leftovers with the given final name are removed.
        for name in ["1-a-b", "2-a-b", "3-a"] {
            fs::write(dir.path().join(format!("{PREFIX}4294967295-{name}")), b"").unwrap();
        }
        assert_eq!(remove_leftovers_of(&dir.path().join("a-b")).unwrap(), 2);
        assert_eq!(remove_leftovers_of(&dir.path().join("x/y")).unwrap(), 0);
        assert_eq!(remove_leftovers_of(&dir.path().join("a")).unwrap(), 1);
        assert_eq!(remove_leftovers(dir.path()).unwrap(), 2);
        assert_eq!(entries(dir.path()).len(), 2);
        drop(mine);
        assert_eq!(entries(dir.path()), ["z"]);
    }

    /// Names may have 255 bytes, and temporary names are a few bytes longer.
    #[test]
    fn long_names_have_short_ones_aside() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("\u{e9}".repeat(120) + "123456789012345");
        let dead = format!("{PREFIX}4294967295-0-{}", repeated(target.file_name().unwrap()));
        fs::create_dir(dir.path().join(dead)).unwrap();
        assert_eq!(remove_leftovers_of(&target).unwrap(), 1);
        StagedDir::new(&target).unwrap().commit().unwrap();
        assert!(target.is_dir());
    }

    #[test]
    fn impossible_places_are_errors_with_a_path() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, b"").unwrap();
        assert!(StagedDir::new(&file.join("below")).unwrap_err().to_string().contains("file"));
        assert!(write_file(&file.join("below"), b"").unwrap_err().to_string().contains("below"));
        assert!(write_file(Path::new("/"), b"").is_err());
    }
}
