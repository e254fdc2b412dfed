//! Handles requests to stop: the first SIGINT or SIGTERM sets a flag, a second one ends the process. While nothing
//! watches, the first one ends the process as usual.

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{SigId, flag};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// Whether a signal ends the process. After the first watch, our handlers stay installed, so they must do what the
/// default handlers did.
static UNWATCHED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Sets a flag on the first signal, until it is dropped.
#[derive(Debug)]
pub struct Watch(Vec<SigId>);

impl Watch {
    /// Like [`new`](Self::new), but only for SIGINT (Ctrl-C). SIGTERM ends the process as usual.
    pub fn interrupts(stop: &Arc<AtomicBool>) -> Self {
        let mut watch = Self::of(&[SIGINT], stop);
        watch.0.extend(flag::register_conditional_default(SIGTERM, Arc::new(AtomicBool::new(true))));
        watch
    }

    /// Sets `stop` on the first signal. If the system does not allow handlers, signals keep their usual effect.
    pub fn new(stop: &Arc<AtomicBool>) -> Self {
        Self::of(&[SIGINT, SIGTERM], stop)
    }

    fn of(signals: &[i32], stop: &Arc<AtomicBool>) -> Self {
        let unwatched = UNWATCHED.get_or_init(|| {
            let unwatched = Arc::new(AtomicBool::new(false));
            for signal in [SIGINT, SIGTERM] {
                // This is never unregistered, so it is the first handler to run.
                let _ = flag::register_conditional_default(signal, unwatched.clone());
            }
            unwatched
        });
        unwatched.store(false, Ordering::SeqCst);
        let mut ids = Vec::new();
        for signal in signals {
            // Handlers run in the order of their registration. So at the second signal this one finds the flag set by
            // the first.
            ids.extend(flag::register_conditional_shutdown(*signal, 128 + signal, stop.clone()));
            ids.extend(flag::register(*signal, stop.clone()));
        }
        Self(ids)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(unwatched) = UNWATCHED.get() {
            unwatched.store(true, Ordering::SeqCst);
        }
        for id in self.0.drain(..) {
            signal_hook::low_level::unregister(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    const CHILD: &str = "HADAL_TEST_SIGNALS";

    /// Watches twice. In the test's own process it does nothing.
    #[test]
    fn child() {
        let Some(mode) = std::env::var_os(CHILD) else { return };
        let stop = Arc::new(AtomicBool::new(false));
        drop(Watch::new(&stop));
        let watch = if mode == "interrupts" { Watch::interrupts(&stop) } else { Watch::new(&stop) };
        if mode == "after" {
            drop(watch);
        } else {
            std::mem::forget(watch);
        }
        let pid = std::process::id().to_string();
        assert!(Command::new("kill").args(["-s", "TERM", &pid]).status().unwrap().success());
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(20) {
            if stop.load(Ordering::SeqCst) {
                std::process::exit(7);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn a_signal_stops_what_watches_and_ends_what_does_not() {
        use std::os::unix::process::ExitStatusExt;
        let run = |mode| {
            let mut child = Command::new(std::env::current_exe().unwrap());
            let child = child.args(["--exact", "signals::tests::child"]).env(CHILD, mode);
            child.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap()
        };
        assert_eq!(run("during").code(), Some(7));
        assert_eq!(run("after").signal(), Some(SIGTERM));
        assert_eq!(run("interrupts").signal(), Some(SIGTERM));
    }
}
