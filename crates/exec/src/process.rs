//! Runs one process, from its start to its end.
//!
//! duct starts the process and reaps it. Each command has two threads, because the wait must outlive both the
//! caller's future and the async runtime: one starts the process and blocks until it has ended; the other
//! enforces the deadline and is the only one that reaps the process. Until the process is reaped, its PID and
//! its group's cannot be reused, so a signal never reaches a foreign process. duct's own waits with a timeout
//! reap immediately, and its signals reach only the process itself and not its children. So this module
//! itself waits without reaping (waitid with WNOWAIT) and signals the group.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
#[allow(clippy::disallowed_types)] // The only module that may.
use std::process::{Command as StdCommand, ExitStatus};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

#[allow(clippy::disallowed_types)]
use duct::{Expression, Handle};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use tokio::sync::oneshot;

use crate::adopted;
use crate::orphan;
use crate::registry::{Registration, count_start};
use crate::{Command, Error, Output, tools};

/// More standard output than this is an error: a report of thousands of volumes is a few MiB.
const STDOUT_LIMIT: u64 = 64 << 20;
/// How much of the standard error is kept.
const STDERR_KEPT: u64 = 64 << 10;
/// Standard error beyond this is discarded while the command runs.
const STDERR_LIMIT: u64 = 4 << 20;
/// The time between SIGTERM and SIGKILL, and between SIGKILL and answering without waiting for the end.
const GRACE: Duration = Duration::from_secs(2);
/// How often the sizes of the outputs are checked.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);
/// The variables that a tool inherits from Quarry's environment; the search path and the locale are set
/// separately.
const INHERITED: [&str; 4] = ["TMPDIR", "LVM_SYSTEM_DIR", "DM_DISABLE_UDEV", "DM_DEV_DIR"];

type Answer = Result<Output, Error>;

/// What the starting thread sends to the watching thread.
enum Event {
    Started(io::Result<Box<Handle>>),
    Ended,
}

/// Starts a command; the receiver gets its result.
pub(crate) fn start(command: Command) -> Result<oneshot::Receiver<Answer>, Error> {
    let line = command.line();
    let Some(program) = tools::find(command.program) else {
        return Err(Error::ToolMissing { program: command.program, command: line });
    };
    let span = tracing::debug_span!("command", label = command.label(), command = line);
    let (reply, receiver) = oneshot::channel();
    let cannot = |source| Error::Spawn { command: line.clone(), source };

    let streams = Streams::new().map_err(cannot)?;
    let child = streams.attach(&command, &program).map_err(cannot)?;
    let watch = Watch {
        label: command.label(),
        place: Registration::take(&command, &line)?,
        command,
        line: line.clone(),
        streams,
    };
    thread::Builder::new()
        .name("command".to_owned())
        .spawn(move || span.in_scope(|| watch.run(child, reply)))
        .map_err(cannot)?;
    Ok(receiver)
}

/// The in-memory files that receive a command's output.
struct Streams {
    stdout: File,
    stderr: File,
}

impl Streams {
    fn new() -> io::Result<Self> {
        Ok(Self { stdout: memory_file()?, stderr: memory_file()? })
    }

    #[allow(clippy::disallowed_types, clippy::disallowed_methods)]
    fn attach(&self, command: &Command, program: &std::path::Path) -> io::Result<Expression> {
        let (name, held) = (command.program, command.held.clone());
        let expression = duct::cmd(program, &command.args).full_env(environment(command)).dir("/");
        let expression = match &command.input {
            None => expression.stdin_null(),
            Some(secret) => expression.stdin_file(secret.pipe()?),
        };
        let expression = expression
            .stdout_file(self.stdout.try_clone()?)
            .stderr_file(self.stderr.try_clone()?)
            // An exit code is an answer, not an error.
            .unchecked()
            .before_spawn(move |child| {
                child.arg0(name).process_group(0);
                held.iter().for_each(|held| keep_open(child, std::sync::Arc::clone(held)));
                Ok(())
            });
        Ok(expression)
    }
}

/// The complete environment of a command.
fn environment(command: &Command) -> HashMap<OsString, OsString> {
    let mut all: HashMap<OsString, OsString> =
        INHERITED.iter().filter_map(|name| Some((name.into(), std::env::var_os(name)?))).collect();
    all.insert("PATH".into(), tools::search_path());
    // Exit codes do not distinguish errors; the text does, so it must be the same on every host.
    all.insert("LC_ALL".into(), "C".into());
    all.insert("LVM_SUPPRESS_FD_WARNINGS".into(), "1".into());
    all.extend(command.environment.iter().map(|(name, value)| (name.into(), value.into())));
    if let (true, Some(subject)) = (command.mutation, &command.subject) {
        all.insert(orphan::MARK.into(), subject.into());
        all.insert(orphan::LINE.into(), command.line().into());
    }
    all
}

/// Keeps a file open across the exec. Every other file is closed there, so a command never holds another
/// command's file.
#[allow(clippy::disallowed_types, unsafe_code)]
fn keep_open(child: &mut StdCommand, held: std::sync::Arc<std::os::fd::OwnedFd>) {
    let keep = move || fcntl(held.as_fd(), FcntlArg::F_SETFD(FdFlag::empty())).map(drop).map_err(io::Error::from);
    // SAFETY: between fork and exec the closure makes one system call, fcntl(2), which is async-signal-safe; it
    // allocates nothing and takes no lock.
    unsafe { child.pre_exec(keep) };
}

/// O_APPEND makes it safe to truncate the file while a program writes to it.
fn memory_file() -> io::Result<File> {
    let file = File::from(memfd_create(c"quarry-exec", MFdFlags::MFD_CLOEXEC)?);
    fcntl(file.as_fd(), FcntlArg::F_SETFL(OFlag::O_APPEND))?;
    Ok(file)
}

/// The last `kept` bytes of a file.
fn tail(file: &File, kept: u64) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len();
    let from = length.saturating_sub(kept);
    let mut bytes = vec![0; usize::try_from(length - from).unwrap_or(usize::MAX)];
    file.read_exact_at(&mut bytes, from)?;
    Ok(bytes)
}

/// The state of the watching thread.
struct Watch {
    command: Command,
    label: String,
    line: String,
    place: Registration,
    streams: Streams,
}

/// Why Quarry ended a query, or discarded a command's output.
enum Cut {
    Deadline,
    TooLarge,
}

impl Watch {
    #[allow(clippy::disallowed_types)]
    fn run(self, command: Expression, reply: oneshot::Sender<Answer>) {
        let since = Instant::now();
        quarry_fault::point(|| format!("exec:{}:before", self.label));
        let (sender, events) = mpsc::channel();
        let starter =
            thread::Builder::new().name("command-wait".to_owned()).spawn(move || start_and_wait(&command, &sender));
        let started = match starter {
            Ok(_) => match events.recv() {
                Ok(Event::Started(started)) => started,
                _ => Err(io::Error::other("the thread that starts the command ended unexpectedly")),
            },
            Err(source) => Err(source),
        };
        let handle = match started {
            Ok(handle) => handle,
            Err(source) => {
                tracing::warn!(command = self.line, %source, "cannot start a command");
                drop(self.place);
                let _ = reply.send(Err(Error::Spawn { command: self.line, source }));
                return;
            }
        };
        count_start(&self.label);
        if let (Some(receiver), Some(pid)) = (&self.command.pid_to, pid(&handle)) {
            // Perhaps nothing receives it any more.
            let _ = receiver.send(pid);
        }
        let mut reply = Some(reply);
        let cut = if self.command.mutation {
            self.wait_for_mutation(&events, since)
        } else {
            self.wait_for_query(&handle, &events, since, &mut reply)
        };
        let pid = pid(&handle);
        let status = handle.wait().map(|output| output.status);
        pid.inspect(|pid| adopted::waited_for(*pid));
        quarry_fault::point(|| format!("exec:{}:after", self.label));
        drop(self.place);

        let duration = since.elapsed();
        let answer = answer(self.line, &self.command, &self.streams, status, cut, duration);
        log(&answer, &self.command, duration);
        if let Some(reply) = reply {
            // The send fails if the caller has stopped waiting.
            let _ = reply.send(answer);
        }
    }

    /// Waits for the end, without a limit.
    fn wait_for_mutation(&self, events: &Receiver<Event>, since: Instant) -> Option<Cut> {
        let mut cut = None;
        let mut warned = false;
        while let Err(RecvTimeoutError::Timeout) = events.recv_timeout(CHECK_INTERVAL) {
            if self.overflowed() {
                // The mutation continues; only its output is lost.
                let _ = self.streams.stdout.set_len(0);
                cut = Some(Cut::TooLarge);
            }
            if !warned && since.elapsed() > self.command.deadline {
                warned = true;
                tracing::warn!(
                    command = self.line,
                    subject = self.command.subject,
                    "a command is overdue; waiting for it"
                );
            }
        }
        cut
    }

    /// Waits until the deadline, then terminates the whole process group.
    fn wait_for_query(
        &self,
        handle: &Handle,
        events: &Receiver<Event>,
        since: Instant,
        reply: &mut Option<oneshot::Sender<Answer>>,
    ) -> Option<Cut> {
        let cut = loop {
            let left = self.command.deadline.saturating_sub(since.elapsed());
            match events.recv_timeout(left.min(CHECK_INTERVAL)) {
                Err(RecvTimeoutError::Timeout) if left.is_zero() => break Cut::Deadline,
                Err(RecvTimeoutError::Timeout) if self.overflowed() => break Cut::TooLarge,
                Err(RecvTimeoutError::Timeout) => {}
                _ => return None,
            }
        };
        signal_group(handle, Signal::SIGTERM);
        let ended = ended_within(events, GRACE);
        // Even if the leader has ended: its children may still run.
        signal_group(handle, Signal::SIGKILL);
        if !ended && !ended_within(events, GRACE) {
            // The process is stuck in the kernel, on a disk that does not respond. The caller must not be
            // stuck with it.
            if let Some(reply) = reply.take() {
                let _ = reply.send(Err(self.cut_error(&cut)));
            }
            let _ = events.recv();
        }
        Some(cut)
    }

    /// Bounds both outputs; returns true if the standard output exceeds its limit.
    fn overflowed(&self) -> bool {
        let length = |file: &File| file.metadata().map_or(0, |metadata| metadata.len());
        if length(&self.streams.stderr) > STDERR_LIMIT {
            let _ = self.streams.stderr.set_len(0);
        }
        length(&self.streams.stdout) > STDOUT_LIMIT
    }

    fn cut_error(&self, cut: &Cut) -> Error {
        cut_error(self.line.clone(), self.command.deadline, cut)
    }
}

/// The starting thread: starts the process and reports when it has ended, without reaping it.
#[allow(clippy::disallowed_types)]
fn start_and_wait(command: &Expression, events: &Sender<Event>) {
    let started = adopted::starting(|| command.start(), |started| started.as_ref().ok().and_then(pid));
    let number = started.as_ref().ok().and_then(process);
    // The channel cannot be closed: the watching thread receives until the end.
    let _ = events.send(Event::Started(started.map(Box::new)));
    let Some(number) = number else { return };
    while waitid(Id::Pid(number), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) == Err(Errno::EINTR) {}
    let _ = events.send(Event::Ended);
}

/// The ID of the one process behind a handle.
fn pid(handle: &Handle) -> Option<u32> {
    handle.pids().first().copied()
}

fn process(handle: &Handle) -> Option<Pid> {
    pid(handle).and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw)
}

fn ended_within(events: &Receiver<Event>, limit: Duration) -> bool {
    !matches!(events.recv_timeout(limit), Err(RecvTimeoutError::Timeout))
}

fn signal_group(handle: &Handle, signal: Signal) {
    if let Some(group) = process(handle) {
        // If the group no longer exists, there is nothing to do.
        let _ = killpg(group, signal);
    }
}

fn cut_error(command: String, deadline: Duration, cut: &Cut) -> Error {
    match cut {
        Cut::Deadline => Error::Deadline { command, deadline },
        Cut::TooLarge => Error::OutputTooLarge { command, limit: STDOUT_LIMIT },
    }
}

/// Builds the result after the process has ended.
fn answer(
    line: String,
    command: &Command,
    streams: &Streams,
    status: io::Result<ExitStatus>,
    cut: Option<Cut>,
    duration: Duration,
) -> Answer {
    if let Some(cut) = cut {
        return Err(cut_error(line, command.deadline, &cut));
    }
    let read = || -> io::Result<_> {
        let stderr = tail(&streams.stderr, STDERR_KEPT)?;
        let stderr = String::from_utf8_lossy(&stderr).trim().to_owned();
        let length = streams.stdout.metadata()?.len();
        let stdout = if length > STDOUT_LIMIT { None } else { Some(tail(&streams.stdout, length)?) };
        Ok((status?, stdout, stderr))
    };
    let (status, stdout, stderr) = match read() {
        Ok(read) => read,
        Err(source) => return Err(Error::Spawn { command: line, source }),
    };
    if let Some(signal) = status.signal() {
        return Err(Error::Signalled { command: line, signal, stderr });
    }
    let Some(stdout) = stdout else { return Err(Error::OutputTooLarge { command: line, limit: STDOUT_LIMIT }) };
    // A process that was not terminated by a signal has an exit code.
    Ok(Output { command: line, code: status.code().unwrap_or(-1), stdout, stderr, duration })
}

/// Logs one line per command: a warning if it was aborted, if a mutation failed, or if it took more than half
/// its deadline.
fn log(answer: &Answer, command: &Command, duration: Duration) {
    match answer {
        Err(error) => tracing::warn!(?duration, %error, "a command did not exit normally"),
        Ok(output) if command.mutation && !output.success() => {
            tracing::warn!(
                command = output.command,
                code = output.code,
                stderr = output.stderr,
                ?duration,
                "a command failed"
            );
        }
        Ok(output) if duration > command.deadline / 2 => {
            tracing::warn!(command = output.command, code = output.code, ?duration, "a command was slow");
        }
        Ok(output) => tracing::debug!(command = output.command, code = output.code, ?duration, "a command ended"),
    }
}
