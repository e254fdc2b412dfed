//! Runs foreign programs where they can do no harm: `bwrap` (the package `bubblewrap`) in namespaces of their own, with
//! limits on their resources.
//!
//! Inside, there is no network, no home, no other process and no capability. `/usr` can be read. `/tmp` is memory of
//! bounded size. Everything ends when the program ends, or when its time is over.
//!
//! - Limits of one process: address space, processor time, size of files, open files (`prlimit`).
//! - The number of processes is limited for the whole sandbox. The kernel does not limit the super-user's processes, so
//!   a super-user gives up its rights first (`setpriv`).
//! - Both programs belong to `util-linux`, which every system has.

mod run;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

pub use run::{Ran, Running};

use crate::error::{Result, TaskError};
use hadal_base::IoContext;

/// What a program may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Time by the clock. Its processor time is limited to the same.
    pub time: Duration,
    /// Address space of each process, in bytes.
    pub memory: u64,
    /// The largest file, and the size of `/tmp`, in bytes.
    pub files: u64,
    /// Processes and threads.
    pub processes: u64,
    /// The longest standard output and error that are kept, in bytes. More of it is thrown away.
    pub output: usize,
}

impl Default for Limits {
    fn default() -> Self {
        let time = Duration::from_secs(10);
        Self { time, memory: 1 << 30, files: 16 << 20, processes: 32, output: 1 << 20 }
    }
}

/// A place where programs can be run.
#[derive(Clone, Debug)]
pub struct Sandbox {
    limits: Limits,
    /// A folder that can be read inside, under [`FOLDER`].
    folder: Option<PathBuf>,
}

/// Where the folder of a sandbox is seen inside.
pub const FOLDER: &str = "/task";

impl Sandbox {
    /// A sandbox, if this machine can have one. The error names what is missing.
    pub fn new(limits: Limits, folder: Option<&Path>) -> Result<Self> {
        static WORKS: OnceLock<std::result::Result<(), String>> = OnceLock::new();
        WORKS.get_or_init(works).clone().map_err(TaskError::Sandbox)?;
        let folder = match folder {
            Some(folder) => Some(folder.canonicalize().at("read", folder)?),
            None => None,
        };
        Ok(Self { limits, folder })
    }

    /// The command that runs a program inside.
    fn command(&self, program: &[&str]) -> Command {
        let Limits { time, memory, files, processes, .. } = self.limits;
        let mut words: Vec<String> = Vec::new();
        let mut add = |more: &[&str]| words.extend(more.iter().map(|word| (*word).to_owned()));
        // A session of its own, without a terminal. Its processes are a group that can be ended at once.
        add(&["setsid"]);
        if is_super_user() {
            add(&["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"]);
        }
        add(&["bwrap", "--unshare-all", "--die-with-parent", "--clearenv", "--cap-drop", "ALL"]);
        add(&["--setenv", "PATH", "/usr/bin:/bin", "--setenv", "HOME", "/tmp", "--setenv", "LANG", "C.UTF-8"]);
        add(&["--hostname", "sandbox", "--ro-bind", "/usr", "/usr", "--proc", "/proc", "--dev", "/dev"]);
        // The folders beside `/usr` are links into it, or folders of their own on older systems.
        for name in ["/bin", "/lib", "/lib64", "/sbin"] {
            match std::fs::read_link(name) {
                Ok(target) => add(&["--symlink", &target.to_string_lossy(), name]),
                Err(_) => add(&["--ro-bind-try", name, name]),
            }
        }
        add(&["--ro-bind-try", "/etc/alternatives", "/etc/alternatives"]);
        add(&["--size", &files.to_string(), "--tmpfs", "/tmp"]);
        // `/dev/shm` would be memory without a bound.
        add(&["--size", "65536", "--tmpfs", "/dev/shm"]);
        match &self.folder {
            Some(folder) => add(&["--ro-bind", &folder.to_string_lossy(), FOLDER, "--chdir", FOLDER]),
            None => add(&["--chdir", "/tmp"]),
        }
        add(&["--remount-ro", "/"]);
        // Limits are set inside, so that they do not hold for bwrap itself.
        let seconds = time.as_secs().max(1) + 1;
        add(&["--", "prlimit", &format!("--as={memory}"), &format!("--cpu={seconds}")]);
        add(&[&format!("--fsize={files}"), &format!("--nproc={processes}"), "--nofile=256", "--core=0", "--"]);
        add(program);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command
    }
}

/// Whether this process has the super-user's rights. Its own entry in `/proc` belongs to its effective user.
fn is_super_user() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

/// Runs a program that does nothing.
fn works() -> std::result::Result<(), String> {
    let sandbox = Sandbox { limits: Limits::default(), folder: None };
    let found = |name: &str| {
        std::env::var_os("PATH")
            .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(name).is_file()))
    };
    if !found("bwrap") {
        return Err(
            "foreign programs run in a sandbox, and `bwrap` is not installed; install the package `bubblewrap`, for \
                    example with `apt-get install bubblewrap`"
                .to_owned(),
        );
    }
    for name in ["prlimit", "setpriv", "setsid"] {
        if !found(name) {
            return Err(format!(
                "foreign programs run in a sandbox, and `{name}` is not installed; install the package \
                                `util-linux`"
            ));
        }
    }
    let output = sandbox.command(&["true"]).output().map_err(|e| format!("`bwrap` cannot be started: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(format!(
        "`bwrap` is installed but cannot make namespaces here ({said}); allow user namespaces (`sysctl \
         kernel.unprivileged_userns_clone=1`, or outside of the container), or leave such tasks out"
    ))
}

#[cfg(test)]
mod tests;
