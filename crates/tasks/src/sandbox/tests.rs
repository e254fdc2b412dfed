//! What programs in a sandbox cannot do. Without `bwrap` these tests say so and are skipped.

use std::io::Write as _;
use std::net::TcpListener;

use super::*;

fn sandbox(limits: Limits) -> Option<Sandbox> {
    match Sandbox::new(limits, None) {
        Ok(sandbox) => Some(sandbox),
        Err(error) => {
            // The terminal's own stream, so that it is seen in a run of all tests.
            _ = writeln!(std::io::stderr(), "skipped: {error}");
            None
        }
    }
}

fn quick() -> Limits {
    Limits { time: Duration::from_secs(5), memory: 256 << 20, files: 1 << 20, processes: 16, output: 1 << 16 }
}

fn shell(sandbox: &Sandbox, script: &str) -> (bool, String, String) {
    let ran = sandbox.run(&["sh", "-c", script], b"").unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (ran.success(), text(&ran.stdout), text(&ran.stderr))
}

/// Processes of this machine whose command line holds a word.
fn processes_with(word: &str) -> usize {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let holds = |path: PathBuf| {
        std::fs::read(path.join("cmdline")).is_ok_and(|line| {
            let own = path.file_name().is_some_and(|name| name.to_string_lossy() == std::process::id().to_string());
            !own && String::from_utf8_lossy(&line).contains(word)
        })
    };
    entries.filter(|entry| holds(entry.path())).count()
}

/// Whether the processes end whose command line holds a word. The system takes a moment for it. The programs of the tests
/// would run for more than an hour.
fn all_end(word: &str) -> bool {
    let wait = |_| {
        std::thread::sleep(Duration::from_millis(50));
        processes_with(word) == 0
    };
    (0..600).any(wait)
}

#[test]
fn a_program_gets_its_input_and_gives_its_output() {
    let Some(sandbox) = sandbox(quick()) else { return };
    let ran = sandbox.run(&["cat"], b"hello").unwrap();
    assert!(ran.success());
    assert_eq!(ran.stdout, b"hello");
    let (success, _, stderr) = shell(&sandbox, "echo no >&2; exit 3");
    assert!(!success && stderr.contains("no"));
}

#[test]
fn there_is_no_network() {
    let Some(sandbox) = sandbox(quick()) else { return };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let connect = format!("exec 3<>/dev/tcp/127.0.0.1/{port}");
    // Outside, the same line connects.
    assert!(std::process::Command::new("bash").args(["-c", &connect]).status().unwrap().success());
    let ran = sandbox.run(&["bash", "-c", &connect], b"").unwrap();
    assert!(!ran.success());
    let (_, interfaces, _) =
        shell(&sandbox, "ls /sys/class/net 2>/dev/null; cat /proc/net/dev | tail -n +3 | cut -d: -f1");
    assert_eq!(interfaces.split_whitespace().collect::<Vec<_>>(), ["lo"]);
}

#[test]
fn the_users_files_cannot_be_read() {
    let Some(sandbox) = sandbox(quick()) else { return };
    let home = tempfile::tempdir().unwrap();
    let secret = home.path().join("secret");
    std::fs::write(&secret, "a secret").unwrap();
    for path in
        [secret.to_str().unwrap(), "/etc/passwd", "/etc/shadow", "/root", "/home", "/proc/1/environ", "/sys/kernel"]
    {
        let (_, out, _) = shell(&sandbox, &format!("cat {path}; ls -A {path}"));
        assert!(out.trim().is_empty() || path == "/proc/1/environ" && !out.contains("HOME=/root"), "{path}: {out}");
    }
    let variables = shell(&sandbox, "env").1;
    assert!(variables.contains("HOME=/tmp") && !variables.contains("USER"), "{variables}");
}

#[test]
fn links_lead_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    let outside = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(outside.path(), "a secret").unwrap();
    std::os::unix::fs::symlink(outside.path(), folder.path().join("link")).unwrap();
    std::os::unix::fs::symlink("/", folder.path().join("top")).unwrap();
    std::fs::write(folder.path().join("own"), "own").unwrap();
    readable(folder.path());
    let Ok(sandbox) = Sandbox::new(quick(), Some(folder.path())) else { return };
    let (_, out, _) = shell(&sandbox, "cat own link; ls -A top/root top/home; ls -A top/work");
    assert_eq!(out, "own");
    let (success, _, _) = shell(&sandbox, &format!("ln -s {} /tmp/x && cat /tmp/x", outside.path().display()));
    assert!(!success);
    // Nothing can be written into the folder, nor through a link in it.
    let (success, _, _) = shell(&sandbox, "echo x > own || echo x > new");
    assert!(!success);
    // The link's target is a place of the sandbox's own `/tmp`, if it is one at all.
    shell(&sandbox, "echo x > link");
    assert_eq!(std::fs::read_to_string(outside.path()).unwrap(), "a secret");
}

/// Lets every user read a folder: a super-user's sandbox gives up his rights.
fn readable(folder: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_fork_bomb_ends() {
    let Some(sandbox) = sandbox(Limits { time: Duration::from_secs(2), ..quick() }) else { return };
    let word = "hadal_bomb_7361";
    let bomb = format!(": {word}; f() {{ f | f & }}; f; for i in 1 2 3 4 5 6 7 8 9; do sleep 9 & done; sleep 9");
    let running = sandbox.start(&["sh", "-c", &bomb], Stdio::null(), Stdio::piped()).unwrap();
    std::thread::sleep(Duration::from_millis(700));
    let alive = processes_with(word);
    running.wait().unwrap();
    // `bwrap` and its first process, `prlimit` before it becomes the shell, and sixteen.
    assert!(alive <= 20, "{alive} processes");
    assert_eq!(processes_with(word), 0);
}

use std::process::Stdio;

#[test]
fn memory_is_limited() {
    let Some(sandbox) = sandbox(quick()) else { return };
    // A string that doubles, in a language that every system has.
    let (success, out, _) =
        shell(&sandbox, "awk 'BEGIN { x = \"0123456789abcdef\"; for (i = 0; i < 28; i++) x = x x; print length(x) }'");
    assert!(!success && out.trim().is_empty(), "{out}");
    let small =
        shell(&sandbox, "awk 'BEGIN { x = \"0123456789abcdef\"; for (i = 0; i < 12; i++) x = x x; print length(x) }'");
    assert_eq!(small.1.trim(), "65536");
}

#[test]
fn files_are_limited() {
    let Some(sandbox) = sandbox(quick()) else { return };
    let (success, out, _) = shell(&sandbox, "head -c 5000000 /dev/zero > /tmp/a; wc -c < /tmp/a");
    let size: u64 = out.trim().parse().unwrap_or(0);
    assert!(size <= 1 << 20, "{success} {size}");
    // Many small files fill the same space.
    let (_, out, _) = shell(
        &sandbox,
        "for i in 1 2 3 4 5 6 7 8; do head -c 500000 /dev/zero > /tmp/f$i; done 2>/dev/null; cat /tmp/f* | wc -c",
    );
    assert!(out.trim().parse::<u64>().unwrap() <= 1 << 20, "{out}");
    let (success, _, _) = shell(&sandbox, "head -c 5000000 /dev/zero > /dev/shm/a");
    assert!(!success);
    for path in ["/usr/x", "/x", "/bin/x", "/etc/x", "/proc/sys/kernel/hostname"] {
        assert!(!shell(&sandbox, &format!("echo x > {path}")).0, "{path} was written");
    }
}

#[test]
fn children_do_not_survive() {
    let Some(sandbox) = sandbox(quick()) else { return };
    let word = "4711.0815";
    // The program ends at once. Its child has left the session.
    let start = std::time::Instant::now();
    let (success, out, _) =
        shell(&sandbox, &format!("setsid sleep {word} & nohup sleep {word} >/dev/null 2>&1 & echo started"));
    assert!(success && out.contains("started"));
    assert!(start.elapsed() < Duration::from_secs(4));
    assert!(all_end(word));
    // The same if its time is over, and if nobody waits for it.
    let Some(sandbox) = self::sandbox(Limits { time: Duration::from_millis(500), ..quick() }) else { return };
    assert!(sandbox.run(&["sh", "-c", &format!("setsid sleep {word} & sleep {word}")], b"").unwrap().status.is_none());
    // At any moment of its start.
    for moment in 0..20 {
        let running = sandbox.start(&["sleep", word], Stdio::null(), Stdio::null()).unwrap();
        std::thread::sleep(Duration::from_millis(moment));
        drop(running);
    }
    assert!(all_end(word));
}

#[test]
fn endless_output_is_thrown_away() {
    let Some(sandbox) = sandbox(Limits { time: Duration::from_secs(1), ..quick() }) else { return };
    let ran = sandbox.run(&["yes"], b"").unwrap();
    assert!(ran.status.is_none());
    assert_eq!(ran.stdout.len(), 1 << 16);
}

#[test]
fn a_machine_without_bubblewrap_is_told_its_name() {
    // The check itself, in a process whose path has nothing.
    if std::env::var_os("HADAL_TEST_NO_BWRAP").is_some() {
        assert!(works().unwrap_err().contains("bubblewrap"));
        return;
    }
    let test = "sandbox::tests::a_machine_without_bubblewrap_is_told_its_name";
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    let status =
        command.args(["--exact", test]).env("HADAL_TEST_NO_BWRAP", "1").env("PATH", "/nowhere").status().unwrap();
    assert!(status.success());
}
