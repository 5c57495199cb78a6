//! A command as the caller describes it, and its output.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use crate::process;
use crate::{Error, Secret};

/// The default deadline of a query.
const QUERY_DEADLINE: Duration = Duration::from_secs(30);
/// The default time after which a mutation is overdue.
const MUTATION_DEADLINE: Duration = Duration::from_secs(60);

/// One program with its arguments, ready to be run.
#[derive(Debug, Clone)]
#[must_use = "a command does nothing until it is run"]
pub struct Command {
    pub(crate) program: &'static str,
    subcommand: Option<&'static str>,
    pub(crate) args: Vec<OsString>,
    /// Positions in `args` of the arguments that are not shown in command lines.
    hidden: Vec<usize>,
    pub(crate) mutation: bool,
    pub(crate) deadline: Duration,
    pub(crate) subject: Option<String>,
    pub(crate) held: Vec<Arc<OwnedFd>>,
    pub(crate) input: Option<Secret>,
    pub(crate) environment: Vec<(&'static str, &'static str)>,
    pub(crate) pid_to: Option<Sender<u32>>,
}

impl Command {
    /// A command that changes nothing, such as a report or a probe. It is killed after its deadline (default
    /// 30 s).
    pub fn query(program: &'static str) -> Self {
        Self {
            program,
            subcommand: None,
            args: Vec::new(),
            hidden: Vec::new(),
            mutation: false,
            deadline: QUERY_DEADLINE,
            subject: None,
            held: Vec::new(),
            input: None,
            environment: Vec::new(),
            pid_to: None,
        }
    }

    /// A command that changes the host. It is never killed: after its deadline (default 60 s) it is marked
    /// overdue, and Quarry keeps waiting for it.
    pub fn mutation(program: &'static str) -> Self {
        Self {
            program,
            subcommand: None,
            args: Vec::new(),
            hidden: Vec::new(),
            mutation: true,
            deadline: MUTATION_DEADLINE,
            subject: None,
            held: Vec::new(),
            input: None,
            environment: Vec::new(),
            pid_to: None,
        }
    }

    /// Adds the argument that says what the program does. The command is then counted and logged under both
    /// names: `lvm lvcreate`.
    pub fn subcommand(mut self, subcommand: &'static str) -> Self {
        self.subcommand = Some(subcommand);
        self.arg(subcommand)
    }

    /// Adds one argument.
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds arguments.
    pub fn args<I, S>(mut self, args: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<OsString>,
    {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Adds arguments that are the same in every call. The program gets them, but command lines in errors,
    /// logs and [`crate::running`] omit them, so that an operator sees only what matters.
    pub fn hidden_args<I, S>(mut self, args: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<OsString>,
    {
        for arg in args {
            self.hidden.push(self.args.len());
            self.args.push(arg.into());
        }
        self
    }

    /// Sets the time until a query is killed or a mutation is marked overdue.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Sets what the command works on, for example the volume group; [`crate::running`] shows it.
    pub fn on(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    /// Passes an open file to the started process, and to no other: a lock on the file (flock or OFD) is then
    /// held as long as the command runs, even if this process dies first.
    pub fn holding(mut self, file: OwnedFd) -> Self {
        self.held.push(Arc::new(file));
        self
    }

    /// Adds an argument that is the path of a file with a secret, for a command that needs another one than its standard
    /// input. The file is a pipe: it can be read once, and by nothing but the command. See [`Self::input`].
    ///
    /// # Errors
    /// There is no pipe, or the secret is too long for one.
    pub fn secret_argument(mut self, secret: &Secret) -> io::Result<Self> {
        let pipe = OwnedFd::from(secret.pipe()?);
        let path = format!("/proc/self/fd/{}", pipe.as_raw_fd());
        self.held.push(Arc::new(pipe));
        Ok(self.arg(path))
    }

    /// Gives the command a secret as its standard input, which it reads to the end. Nothing else shows the secret: no
    /// command line, environment, log or error.
    pub fn input(mut self, secret: Secret) -> Self {
        self.input = Some(secret);
        self
    }

    /// Sets a variable in the command's environment.
    pub fn environment(mut self, name: &'static str, value: &'static str) -> Self {
        self.environment.push((name, value));
        self
    }

    /// Sends the ID of the process as soon as it is started.
    pub fn pid_to(mut self, receiver: Sender<u32>) -> Self {
        self.pid_to = Some(receiver);
        self
    }

    /// Runs the command and waits until it ends. A non-zero exit code is a result, not an error: see
    /// [`Output::require_success`].
    ///
    /// For a mutation, this returns only when the process has ended, even long after its deadline. Dropping
    /// the future stops the wait, never the process.
    ///
    /// # Errors
    /// The program is missing, cannot be started, is terminated by a signal, or writes too much; or a query
    /// exceeds its deadline.
    pub async fn run(self) -> Result<Output, Error> {
        let command = self.line();
        let abandoned = || Error::Spawn {
            command: command.clone(),
            source: std::io::Error::other("the thread that watches the command ended unexpectedly"),
        };
        process::start(self)?.await.map_err(|_| abandoned())?
    }

    /// The name under which the command is counted and logged: the program, and its subcommand if one was set.
    pub(crate) fn label(&self) -> String {
        match self.subcommand {
            Some(subcommand) => format!("{} {subcommand}", self.program),
            None => self.program.to_owned(),
        }
    }

    /// The command line as an operator would type it.
    pub(crate) fn line(&self) -> String {
        let mut line = self.program.to_owned();
        for (_, arg) in self.args.iter().enumerate().filter(|(position, _)| !self.hidden.contains(position)) {
            line.push(' ');
            push_quoted(&mut line, arg);
        }
        line
    }
}

/// Appends an argument, quoted if it contains spaces, control characters or anything that a shell would
/// interpret.
fn push_quoted(line: &mut String, arg: &OsStr) {
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '\'' | '\\' | '`' | '$' | '*' | '?' | '(' | ')');
    match arg.to_str() {
        Some(arg) if !arg.is_empty() && arg.chars().all(plain) => line.push_str(arg),
        _ => {
            // Writing to a String cannot fail.
            let _ = write!(line, "{arg:?}");
        }
    }
}

/// The result of a command that exited.
#[derive(Debug, Clone)]
pub struct Output {
    /// The command line, for messages.
    pub command: String,
    /// The exit code.
    pub code: i32,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// The last 64 KiB of its standard error, trimmed; bytes that are not UTF-8 are replaced.
    pub stderr: String,
    /// The time from before the start until after the end.
    pub duration: Duration,
}

impl Output {
    /// Whether the exit code is zero.
    #[must_use]
    pub fn success(&self) -> bool {
        self.code == 0
    }

    /// Turns a non-zero exit code into an error.
    ///
    /// # Errors
    /// [`Error::Failed`] with the command, its code and its standard error.
    pub fn require_success(self) -> Result<Self, Error> {
        if self.success() {
            return Ok(self);
        }
        Err(Error::Failed { command: self.command, code: self.code, stderr: self.stderr })
    }
}
