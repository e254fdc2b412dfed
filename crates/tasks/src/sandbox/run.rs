//! Starting, watching and ending a program in a sandbox.

use std::io::{Read, Write};
use std::process::{Child, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use super::Sandbox;
use crate::error::{Result, TaskError};

/// What a program did.
#[derive(Debug)]
pub struct Ran {
    /// How it ended. Nothing if its time was over.
    pub status: Option<ExitStatus>,
    /// Its standard output, up to the limit.
    pub stdout: Vec<u8>,
    /// Its standard error, up to the limit.
    pub stderr: Vec<u8>,
}

impl Ran {
    /// Whether the program ended by itself, without an error.
    pub fn success(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }
}

/// A program that runs. It is ended when this is dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    until: Instant,
    stdout: Option<JoinHandle<Vec<u8>>>,
    stderr: Option<JoinHandle<Vec<u8>>>,
}

impl Sandbox {
    /// Runs a program with an input and waits for its end.
    pub fn run(&self, program: &[&str], input: &[u8]) -> Result<Ran> {
        let mut running = self.start(program, Stdio::piped(), Stdio::piped())?;
        let writer = running.child.stdin.take().map(|mut stdin| {
            let input = input.to_vec();
            // It is not an error if a program does not read its input. The pipe closes when it ends.
            std::thread::spawn(move || _ = stdin.write_all(&input))
        });
        let ran = running.wait()?;
        if let Some(writer) = writer {
            _ = writer.join();
        }
        Ok(ran)
    }

    /// Starts a program with its standard input and output connected to something.
    pub fn start(&self, program: &[&str], stdin: Stdio, stdout: Stdio) -> Result<Running> {
        let mut command = self.command(program);
        command.stdin(stdin).stdout(stdout).stderr(Stdio::piped());
        let mut child =
            command.spawn().map_err(|error| TaskError::Sandbox(format!("`bwrap` cannot be started: {error}")))?;
        // The command holds its ends of pipes until it is gone.
        drop(command);
        let most = self.limits.output;
        let keep =
            |reader: Option<Box<dyn Read + Send>>| reader.map(|r| std::thread::spawn(move || first_bytes(r, most)));
        let stdout = keep(child.stdout.take().map(|out| Box::new(out) as Box<dyn Read + Send>));
        let stderr = keep(child.stderr.take().map(|out| Box::new(out) as Box<dyn Read + Send>));
        Ok(Running { child, until: Instant::now() + self.limits.time, stdout, stderr })
    }
}

impl Running {
    /// Waits for the program's end, or ends it when its time is over.
    pub fn wait(mut self) -> Result<Ran> {
        let mut pause = Duration::from_micros(200);
        let status = loop {
            let status = self.child.try_wait();
            match status.map_err(|error| TaskError::Sandbox(format!("waiting for `bwrap` failed: {error}")))? {
                Some(status) => break Some(status),
                None if Instant::now() >= self.until => break None,
                None => std::thread::sleep(pause),
            }
            pause = (pause * 2).min(Duration::from_millis(20));
        };
        self.end();
        let collect = |reader: Option<JoinHandle<Vec<u8>>>| reader.map_or(Ok(Vec::new()), JoinHandle::join);
        let lost = |_| TaskError::Sandbox("reading the output of a program failed".to_owned());
        let stdout = collect(self.stdout.take()).map_err(lost)?;
        let stderr = collect(self.stderr.take()).map_err(lost)?;
        Ok(Ran { status, stdout, stderr })
    }

    /// Ends the program and all that it started, unless `bwrap` has ended: then nothing of them is left.
    ///
    /// The program's processes are in a namespace whose first process is in the group of `bwrap`. It would end with `bwrap`,
    /// but only once it has asked for that. So the group is ended as well. `bwrap` comes first, so that it starts nothing
    /// more, and nobody waits for it before that, so that its number stays its own.
    fn end(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        // Errors say that they have ended already.
        _ = self.child.kill();
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            _ = kill_process_group(group, Signal::KILL);
        }
        _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// Reads everything and keeps the first bytes, so that the program never waits for a reader.
fn first_bytes(mut reader: impl Read, most: usize) -> Vec<u8> {
    let (mut kept, mut piece) = (Vec::new(), vec![0; 1 << 16]);
    loop {
        match reader.read(&mut piece) {
            Ok(0) => return kept,
            Ok(read) => kept.extend_from_slice(&piece[..read.min(most - kept.len())]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return kept,
        }
    }
}
