//! The live view of a run: a full screen in a terminal, plain lines elsewhere.
//!
//! In a terminal, a separate thread draws the screen and reads keys, so it reacts even during a long step. `q`, ctrl-c,
//! and the signals INT and TERM ask the run to stop. The trainer checks [`Live::stop_requested`] after each step, saves
//! and ends. A second ctrl-c ends the process at once. The terminal is restored in every case, also after a panic.
//!
//! Without a terminal, with `HADAL_PLAIN` set, or in [`Mode::Plain`], a line is printed every few seconds instead.

mod state;
mod view;

use std::io::{IsTerminal, Stdout, Write, stdout};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{EnterAlternateScreen, enable_raw_mode};

use crate::metrics::StepMetrics;
use crate::signals::Watch;
use state::State;

/// Shortest time between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// How long the screen's thread waits for a key before it checks for something new to draw.
const POLL: Duration = Duration::from_millis(100);

/// How a run is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// A screen if standard output is a terminal and `HADAL_PLAIN` is not set, lines otherwise.
    #[default]
    Auto,
    /// Plain lines.
    Plain,
    /// No output.
    Quiet,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    stop: Arc<AtomicBool>,
    /// Tells the screen's thread to end ...
    done: AtomicBool,
    /// ... and says that it has restored the terminal.
    closed: AtomicBool,
    /// Something changed since the last drawing.
    changed: AtomicBool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // A panic in another thread must not hide the last messages.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The running view. Dropping it has the effect of [`Live::finish`].
#[derive(Debug)]
pub struct Live {
    shared: Arc<Shared>,
    screen: Option<JoinHandle<()>>,
    quiet: bool,
    last_line: Option<Instant>,
    /// True if the last step was printed as a line.
    printed: bool,
    signals: Option<Watch>,
}

impl Live {
    /// Starts to show a run of `total_tokens`.
    pub fn start(title: &str, total_tokens: u64, mode: Mode) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let shared = Arc::new(Shared {
            state: Mutex::new(State::new(title, total_tokens)),
            stop: stop.clone(),
            done: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            changed: AtomicBool::new(true),
        });
        let signals = Some(Watch::new(&stop));
        let screen = (mode == Mode::Auto && has_screen()).then(|| Screen::open(shared.clone())).flatten();
        Self { shared, screen, quiet: mode == Mode::Quiet, last_line: None, printed: true, signals }
    }

    /// Shows a finished step.
    pub fn step(&mut self, m: &StepMetrics) {
        let validated = m.validation.is_some();
        let line = {
            let mut state = self.shared.state();
            state.push(m);
            self.speaks().then(|| state.line())
        };
        self.shared.changed.store(true, Ordering::Release);
        self.printed = false;
        if let Some(line) = line
            && (validated || self.last_line.is_none_or(|t| t.elapsed() >= LINE_EVERY))
        {
            print(&line);
            self.printed = true;
            self.last_line = Some(Instant::now());
        }
    }

    /// Shows a message about the run: a checkpoint, a spike, the end of a phase.
    pub fn message(&mut self, text: &str) {
        self.shared.state().say(text);
        self.shared.changed.store(true, Ordering::Release);
        if self.speaks() {
            print(text);
        }
    }

    /// True if messages are printed as lines, because there is no screen or it has closed.
    fn speaks(&self) -> bool {
        !self.quiet && self.screen.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// True once the user or the system asked the run to stop.
    pub fn stop_requested(&self) -> bool {
        self.shared.stop.load(Ordering::Acquire)
    }

    /// Ends the view. Its messages and the last step stay visible as lines.
    pub fn finish(self) {
        drop(self);
    }

    fn close(&mut self) {
        self.shared.done.store(true, Ordering::Release);
        let had_screen = self.screen.take().map(JoinHandle::join).is_some();
        drop(self.signals.take());
        if self.quiet {
            return;
        }
        let state = self.shared.state();
        if had_screen {
            state.messages().for_each(print);
        }
        if !self.printed || had_screen {
            print(&state.line());
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.close();
    }
}

/// Prints a line to standard output. A closed pipe does not end the run.
fn print(line: &str) {
    if !line.is_empty() {
        let _ = writeln!(stdout().lock(), "{line}");
    }
}

fn has_screen() -> bool {
    let plain = std::env::var_os("HADAL_PLAIN").is_some_and(|v| !v.is_empty() && v != "0");
    let dumb = std::env::var_os("TERM").is_some_and(|t| t == "dumb");
    stdout().is_terminal() && std::io::stdin().is_terminal() && !plain && !dumb
}

/// The thread that owns the terminal.
struct Screen;

impl Screen {
    /// Returns `None` if the terminal does not support it. Then the view prints lines.
    fn open(shared: Arc<Shared>) -> Option<JoinHandle<()>> {
        let mut terminal = Self::enter().map_err(|_| ratatui::try_restore()).ok()?;
        Self::leave_before_panics(&shared);
        let run = move || {
            while !shared.done.load(Ordering::Acquire) {
                if shared.changed.swap(false, Ordering::AcqRel) {
                    let state = shared.state().clone();
                    let stopping = shared.stop.load(Ordering::Acquire);
                    let _ = terminal.draw(|frame| view::draw(frame, &state, stopping));
                }
                match event::poll(POLL) {
                    Ok(true) => Self::answer(&shared),
                    Ok(false) => {}
                    // The terminal is gone. The run continues without it.
                    Err(_) => std::thread::sleep(POLL),
                }
            }
            let _ = ratatui::try_restore();
            let _ = terminal.show_cursor();
            shared.closed.store(true, Ordering::Release);
        };
        std::thread::Builder::new().name("live".into()).spawn(run).map_err(|_| ratatui::try_restore()).ok()
    }

    fn enter() -> std::io::Result<Terminal<CrosstermBackend<Stdout>>> {
        enable_raw_mode()?;
        execute!(stdout(), EnterAlternateScreen)?;
        Terminal::new(CrosstermBackend::new(stdout()))
    }

    /// The message of a panic must appear on the restored terminal, so the screen closes first.
    fn leave_before_panics(shared: &Arc<Shared>) {
        let shared = Arc::downgrade(shared);
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if let Some(shared) = shared.upgrade().filter(|s| !s.closed.load(Ordering::Acquire)) {
                shared.done.store(true, Ordering::Release);
                // The thread checks within POLL. If that thread itself panics, there is nothing to wait for.
                for _ in 0..10 {
                    if shared.closed.load(Ordering::Acquire) || std::thread::current().name() == Some("live") {
                        break;
                    }
                    std::thread::sleep(POLL / 4);
                }
                if !shared.closed.load(Ordering::Acquire) {
                    let _ = ratatui::try_restore();
                }
            }
            hook(info);
        }));
    }

    fn answer(shared: &Shared) {
        let Ok(event) = event::read() else { return };
        shared.changed.store(true, Ordering::Release);
        let Event::Key(key) = event else { return };
        if key.kind != KeyEventKind::Press {
            return;
        }
        let ctrl_c = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
        if ctrl_c && shared.stop.load(Ordering::Acquire) {
            let _ = ratatui::try_restore();
            std::process::exit(130);
        }
        if ctrl_c || matches!(key.code, KeyCode::Char('q' | 'Q')) {
            shared.stop.store(true, Ordering::Release);
            shared.state().say("stopping: the run is saved after this step (ctrl-c again ends it at once)");
        }
    }
}

#[cfg(test)]
mod tests;
