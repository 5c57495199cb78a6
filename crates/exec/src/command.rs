//! What a caller says about a command, and what it gets back.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use crate::Error;
use crate::process;

/// The time a query is given unless told otherwise.
const QUERY_DEADLINE: Duration = Duration::from_secs(30);
/// The time after which a mutation counts as overdue unless told otherwise.
const MUTATION_DEADLINE: Duration = Duration::from_secs(60);

/// One program with its arguments, ready to be run.
#[derive(Debug, Clone)]
#[must_use = "a command does nothing until it is run"]
pub struct Command {
    pub(crate) program: &'static str,
    pub(crate) args: Vec<OsString>,
    /// Positions in `args` of what the command line leaves out.
    unshown: Vec<usize>,
    pub(crate) mutation: bool,
    pub(crate) deadline: Duration,
    pub(crate) subject: Option<String>,
    pub(crate) held: Option<Arc<OwnedFd>>,
}

impl Command {
    /// A report or a probe: something that changes nothing, and is killed past its deadline (30 s).
    pub fn query(program: &'static str) -> Self {
        Self {
            program,
            args: Vec::new(),
            unshown: Vec::new(),
            mutation: false,
            deadline: QUERY_DEADLINE,
            subject: None,
            held: None,
        }
    }

    /// Something that changes the host. Never killed: past its deadline (60 s) it is marked overdue, and waited for.
    pub fn mutation(program: &'static str) -> Self {
        Self {
            program,
            args: Vec::new(),
            unshown: Vec::new(),
            mutation: true,
            deadline: MUTATION_DEADLINE,
            subject: None,
            held: None,
        }
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

    /// Adds arguments that are the same in every call: the program gets them, but command lines in errors, logs and
    /// [`crate::running`] leave them out, so that an operator sees what matters.
    pub fn unshown<I, S>(mut self, args: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<OsString>,
    {
        for arg in args {
            self.unshown.push(self.args.len());
            self.args.push(arg.into());
        }
        self
    }

    /// Sets the time until a query is killed or a mutation is marked overdue.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Names what the command works on, for example the volume group; [`crate::running`] shows it.
    pub fn on(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    /// Leaves a file open in the process that is started, and in it alone, until that has ended: a lock taken on the file
    /// (flock or OFD) then lives as long as the command does, even where this process dies before it.
    pub fn holding(mut self, file: OwnedFd) -> Self {
        self.held = Some(Arc::new(file));
        self
    }

    /// Runs the command to its end. A non-zero exit code is a result, not an error: see [`Output::require_success`].
    ///
    /// For a mutation this returns only when the process has ended, however long past its deadline. Dropping the future
    /// abandons the wait, never the process.
    ///
    /// # Errors
    /// The program is missing or cannot be started, dies by a signal, writes too much, or, a query, is past its deadline.
    pub async fn run(self) -> Result<Output, Error> {
        let command = self.line();
        let abandoned = || Error::Spawn {
            command: command.clone(),
            source: std::io::Error::other("the thread that watches the command is gone"),
        };
        process::start(self)?.await.map_err(|_| abandoned())?
    }

    /// What the command is counted and logged as: the program, and for lvm its subcommand as well.
    pub(crate) fn label(&self) -> String {
        let subcommand = match self.program {
            "lvm" => self.args.first().and_then(|arg| arg.to_str()),
            _ => None,
        };
        match subcommand {
            Some(subcommand) => format!("{} {subcommand}", self.program),
            None => self.program.to_owned(),
        }
    }

    /// The command line as an operator would type it.
    pub(crate) fn line(&self) -> String {
        let mut line = self.program.to_owned();
        for (_, arg) in self.args.iter().enumerate().filter(|(position, _)| !self.unshown.contains(position)) {
            line.push(' ');
            push_quoted(&mut line, arg);
        }
        line
    }
}

/// Appends an argument so that neither spaces nor control characters in it can be mistaken for something else.
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

/// What a command that ended by itself left behind.
#[derive(Debug, Clone)]
pub struct Output {
    /// The command line, for messages.
    pub command: String,
    /// The exit code.
    pub code: i32,
    /// What it wrote to its standard output.
    pub stdout: Vec<u8>,
    /// The last 64 KiB of what it wrote to its standard error, trimmed; bytes that are not UTF-8 are replaced.
    pub stderr: String,
    /// From before the start to after the end.
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
