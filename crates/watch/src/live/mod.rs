//! The live view of a run: a screen in a terminal, plain lines anywhere else.
//!
//! In a terminal a thread of its own draws and listens, so that a key is answered in the middle of a long step. `q`,
//! ctrl-c, and the signals INT and TERM ask the run to stop; the trainer sees [`Live::stop_requested`] after its step, saves
//! and ends. A second ctrl-c ends the process at once. The terminal is put back on every way out, a panic included.
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

/// Plain lines come no more often than this.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// How long the screen's thread waits for a key before it looks for something new to draw.
const POLL: Duration = Duration::from_millis(100);

/// How a run is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// A screen where standard output is a terminal and `HADAL_PLAIN` is not set, lines elsewhere.
    #[default]
    Auto,
    /// Lines.
    Plain,
    /// Nothing.
    Quiet,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    stop: Arc<AtomicBool>,
    /// The screen's thread has to end ...
    done: AtomicBool,
    /// ... and has put the terminal back.
    closed: AtomicBool,
    /// Something changed since the last drawing.
    changed: AtomicBool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere must not hide the view's last words.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The running view. Dropping it is [`Live::finish`].
#[derive(Debug)]
pub struct Live {
    shared: Arc<Shared>,
    screen: Option<JoinHandle<()>>,
    quiet: bool,
    last_line: Option<Instant>,
    /// The last step has been printed as a line.
    printed: bool,
    signals: Option<Watch>,
}

impl Live {
    /// Begins to show a run of `total_tokens`.
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

    /// Says something about the run: a checkpoint, a spike, the end of a phase.
    pub fn message(&mut self, text: &str) {
        self.shared.state().say(text);
        self.shared.changed.store(true, Ordering::Release);
        if self.speaks() {
            print(text);
        }
    }

    /// True when there is no screen (any more) to show what happens.
    fn speaks(&self) -> bool {
        !self.quiet && self.screen.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// True once the user or the system asked the run to stop.
    pub fn stop_requested(&self) -> bool {
        self.shared.stop.load(Ordering::Acquire)
    }

    /// Ends the view, and leaves its messages and the last step behind as lines.
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

/// A line for standard output. That nobody reads it any more is no reason to end a run.
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
    /// `None` where the terminal does not allow it: the view falls back to lines.
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
                    // The terminal is gone; the run goes on without it.
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

    /// A panic's message has to end up on the terminal as it was: the screen closes first.
    fn leave_before_panics(shared: &Arc<Shared>) {
        let shared = Arc::downgrade(shared);
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if let Some(shared) = shared.upgrade().filter(|s| !s.closed.load(Ordering::Acquire)) {
                shared.done.store(true, Ordering::Release);
                // The thread looks up within POLL; if it is the one that panics, there is nobody to wait for.
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
