//! Cases that take too long.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// Longest time for one case.
const LONGEST: Duration = Duration::from_mins(1);

/// Ends the process with an error if nothing is sent for too long.
pub(crate) fn watch() -> Sender<()> {
    let (done, watched) = channel::<()>();
    std::thread::spawn(move || {
        loop {
            match watched.recv_timeout(LONGEST) {
                Err(RecvTimeoutError::Timeout) => {
                    eprintln!("a case takes more than {LONGEST:?}");
                    std::process::exit(1);
                }
                Err(RecvTimeoutError::Disconnected) => return,
                Ok(()) => {}
            }
        }
    });
    done
}
