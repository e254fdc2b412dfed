//! The Rust sources of the packages in a lock file, from Cargo's registry. Every machine that can build this program
//! has this text.
//!
//! Only `.rs` files in `$CARGO_HOME/registry/src/*/NAME-VERSION` are read. All versions of a package form one group, so
//! no package is partly in training and partly held out.

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Deserialize;

use crate::error::{DataError, Result};
use crate::source::{SourceOptions, Texts, read_folder};

/// A package of a lock file that comes from a registry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LockedPackage {
    /// Its name.
    pub name: String,
    /// Its exact version.
    pub version: String,
}

/// The packages of a lock file in the registry.
#[derive(Clone, Debug)]
pub struct CargoSources {
    /// The documents, ordered by package and path.
    pub texts: Texts,
    /// Packages found.
    pub found: Vec<LockedPackage>,
    /// Packages of the lock file that are not in the registry. Usually these are for other platforms.
    pub missing: Vec<LockedPackage>,
}

/// Packages of a `Cargo.lock` that come from a registry, sorted.
pub fn locked_packages(lock: &str) -> Result<Vec<LockedPackage>> {
    #[derive(Deserialize)]
    struct Lock {
        #[serde(default)]
        package: Vec<Package>,
    }
    #[derive(Deserialize)]
    struct Package {
        name: String,
        version: String,
        source: Option<String>,
    }
    let lock: Lock = toml::from_str(lock).map_err(|e| DataError::Lock(e.to_string().trim_end().to_owned()))?;
    let mut packages = Vec::new();
    for Package { name, version, source } in lock.package {
        let from_registry = source.is_some_and(|s| s.starts_with("registry+") || s.starts_with("sparse+"));
        if !from_registry {
            continue;
        }
        // Names and versions become part of a path, so characters that could lead elsewhere are rejected.
        let plain = |s: &str, more: &str| {
            !s.is_empty() && !s.starts_with('.') && s.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
        };
        if !plain(&name, "-_") || !plain(&version, "-_.+") {
            return Err(DataError::Lock(format!("`{name}` `{version}` is not a package's name and version")));
        }
        packages.push(LockedPackage { name, version });
    }
    packages.sort();
    packages.dedup();
    Ok(packages)
}

/// Cargo's home folder: `$CARGO_HOME`, or `.cargo` in the user's home.
pub fn cargo_home() -> Result<PathBuf> {
    match std::env::var_os("CARGO_HOME") {
        Some(path) if !path.is_empty() => Ok(PathBuf::from(path)),
        _ => std::env::home_dir().map(|home| home.join(".cargo")).ok_or_else(|| DataError::NoText {
            path: PathBuf::from("~/.cargo"),
            problem: "there is no home folder; set CARGO_HOME, or give text with `--text PATH...`".into(),
        }),
    }
}

/// Reads the `.rs` files of the lock file's packages under `cargo_home`.
pub fn read(lock: &str, cargo_home: &Path) -> Result<CargoSources> {
    let packages = locked_packages(lock)?;
    let registry = cargo_home.join("registry").join("src");
    let mut indices: Vec<PathBuf> = match std::fs::read_dir(&registry) {
        Ok(entries) => entries.filter_map(|e| Some(e.ok()?.path())).filter(|p| p.is_dir()).collect(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(DataError::io("read", &registry)(e)),
    };
    indices.sort();
    let folder_of = |p: &LockedPackage| {
        indices.iter().map(|i| i.join(format!("{}-{}", p.name, p.version))).find(|folder| folder.is_dir())
    };
    let (mut found, mut folders, mut missing) = (Vec::new(), Vec::new(), Vec::new());
    for package in packages {
        match folder_of(&package) {
            Some(folder) => {
                folders.push(folder);
                found.push(package);
            }
            None => missing.push(package),
        }
    }
    if found.is_empty() {
        return Err(DataError::NoSources { registry, packages: missing.len() });
    }
    let read: Vec<Result<Texts>> = found
        .par_iter()
        .zip(&folders)
        .map(|(package, folder)| {
            let root = format!("{}-{}", package.name, package.version);
            let rust = |path: &Path| path.extension().is_some_and(|e| e == "rs");
            let mut texts = read_folder(folder, &root, rust, &SourceOptions::default())?;
            for document in &mut texts.documents {
                document.group.clone_from(&package.name);
            }
            Ok(texts)
        })
        .collect();
    let mut texts = Texts::default();
    for one in read {
        texts.append(one?);
    }
    Ok(CargoSources { texts, found, missing })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LOCK: &str = r#"
version = 4
[[package]]
name = "ours"
version = "0.1.0"
[[package]]
name = "zeta"
version = "1.0.0"
source = "registry+https://github.com/rust-lang/crates.io-index"
[[package]]
name = "alpha"
version = "2.1.0+spec"
source = "registry+https://github.com/rust-lang/crates.io-index"
[[package]]
name = "forked"
version = "2.1.0"
source = "git+https://example.com/x"
"#;

    #[test]
    fn only_locked_rust_files_are_read() {
        let home = tempfile::tempdir().unwrap();
        for (path, text) in [
            ("zeta-1.0.0/src/lib.rs", "mod a;"),
            ("zeta-1.0.0/src/a.rs", "fn a() {}"),
            ("zeta-1.0.0/README.md", "# zeta"),
            ("zeta-1.0.1/src/lib.rs", "another version"),
            ("other-1.0.0/src/lib.rs", "another package"),
        ] {
            let path = home.path().join("registry/src/index.crates.io-1").join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let got = read(LOCK, home.path()).unwrap();
        let ids: Vec<&str> = got.texts.documents.iter().map(|d| d.id.as_str()).collect();
        assert_eq!(ids, ["zeta-1.0.0/src/a.rs", "zeta-1.0.0/src/lib.rs"]);
        assert!(got.texts.documents.iter().all(|d| d.group == "zeta"));
        assert_eq!(got.found.len(), 1);
        assert_eq!(got.missing, [LockedPackage { name: "alpha".into(), version: "2.1.0+spec".into() }]);
    }

    #[test]
    fn an_empty_registry_says_what_to_do() {
        let home = tempfile::tempdir().unwrap();
        let error = read(LOCK, home.path()).unwrap_err().to_string();
        assert!(error.contains("cargo fetch") && error.contains("--text PATH"), "{error}");
    }

    #[test]
    fn names_cannot_lead_elsewhere() {
        for name in ["../../etc", "..", "", "a/b"] {
            let lock = format!("[[package]]\nname = \"{name}\"\nversion = \"1\"\nsource = \"registry+x\"\n");
            assert!(matches!(locked_packages(&lock), Err(DataError::Lock(_))), "{name}");
        }
    }

    proptest! {
        #[test]
        fn broken_locks_never_panic(cut in 0..LOCK.len(), junk in ".{0,20}") {
            if LOCK.is_char_boundary(cut) {
                let _ = locked_packages(&format!("{}{junk}{}", &LOCK[..cut], &LOCK[cut..]));
                let _ = locked_packages(&LOCK[..cut]);
            }
        }
    }
}
