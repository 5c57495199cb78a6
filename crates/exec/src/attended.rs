//! Programs that a person's command runs for that person, such as kubectl.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
#[allow(clippy::disallowed_types)] // Beside `process`, the only module that may.
use std::process::{Child, Command as StdCommand, ExitStatus, Stdio};

use crate::{Command, Error, tools};

/// A program that runs for the person who started this process, and who can end it.
///
/// kubectl needs what a tool of a server must not depend on: its user's environment (`HOME`, `KUBECONFIG`, proxies,
/// programs that fetch credentials), terminal and working directory. It stays in this process' group, so that
/// Ctrl+C reaches both, and it has no deadline. Like a [`Command`], it has an argument vector and never a shell.
#[derive(Debug, Clone)]
#[must_use = "a program does nothing until it is run"]
pub struct Attended {
    program: &'static str,
    args: Vec<OsString>,
    input: Option<Vec<u8>>,
    is_quiet: bool,
}

impl Attended {
    /// A program without arguments.
    pub fn new(program: &'static str) -> Self {
        Self { program, args: Vec::new(), input: None, is_quiet: false }
    }

    /// For [`Attended::output`]: the program reads this from standard input, instead of what this process would read.
    pub fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = Some(input.into());
        self
    }

    /// For [`Attended::output`]: what the program writes to standard error is not shown. Only for a program that may
    /// fail.
    pub fn quiet(mut self) -> Self {
        self.is_quiet = true;
        self
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

    /// Replaces this process by the program, which then has its files, its terminal and its ID. Returns only if
    /// that fails.
    pub fn replace(self) -> Error {
        match self.prepare() {
            Ok(mut command) => self.cannot_start(command.exec()),
            Err(error) => error,
        }
    }

    /// Runs the program to its end; returns its exit code and its standard output. Standard input and standard
    /// error are those of this process, unless [`Attended::input`] and [`Attended::quiet`] say otherwise.
    ///
    /// # Errors
    /// The program is missing, or cannot be started.
    pub fn output(self) -> Result<(u8, Vec<u8>), Error> {
        let mut child = self.spawn(Stdio::piped())?;
        let mut output = Vec::new();
        std::thread::scope(|scope| {
            // In a thread, because the program may print before it has read everything. If it ends before that, its exit
            // code says what is wrong.
            if let (Some(mut stdin), Some(input)) = (child.stdin.take(), &self.input) {
                scope.spawn(move || drop(stdin.write_all(input)));
            }
            match child.stdout.take() {
                Some(mut stdout) => stdout.read_to_end(&mut output).map(drop),
                None => Ok(()),
            }
        })
        .map_err(|source| self.cannot_start(source))?;
        Ok((self.end(child)?, output))
    }

    /// Runs the program to its end, and passes each line of its standard output to `line` as it arrives; returns
    /// its exit code.
    ///
    /// # Errors
    /// The program is missing, or cannot be started.
    pub fn lines(self, mut line: impl FnMut(&str)) -> Result<u8, Error> {
        let mut child = self.spawn(Stdio::piped())?;
        if let Some(stdout) = child.stdout.take() {
            for bytes in BufReader::new(stdout).split(b'\n') {
                let bytes = bytes.map_err(|source| self.cannot_start(source))?;
                line(&String::from_utf8_lossy(&bytes));
            }
        }
        self.end(child)
    }

    /// Starts the program without its streams, and does not wait for it.
    ///
    /// # Errors
    /// The program is missing, or cannot be started.
    #[allow(clippy::disallowed_types)]
    pub fn detach(self) -> Result<(), Error> {
        let mut command = self.prepare()?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().map(drop).map_err(|source| self.cannot_start(source))
    }

    #[allow(clippy::disallowed_types)]
    fn prepare(&self) -> Result<StdCommand, Error> {
        let Some(path) = tools::find(self.program) else {
            return Err(Error::ToolMissing { program: self.program, command: self.line() });
        };
        let mut command = StdCommand::new(path);
        command.arg0(self.program).args(&self.args);
        Ok(command)
    }

    fn spawn(&self, stdout: Stdio) -> Result<Child, Error> {
        let mut command = self.prepare()?;
        if self.input.is_some() {
            command.stdin(Stdio::piped());
        }
        if self.is_quiet {
            command.stderr(Stdio::null());
        }
        command.stdout(stdout).spawn().map_err(|source| self.cannot_start(source))
    }

    fn end(&self, mut child: Child) -> Result<u8, Error> {
        child.wait().map(code).map_err(|source| self.cannot_start(source))
    }

    fn cannot_start(&self, source: std::io::Error) -> Error {
        Error::Spawn { command: self.line(), source }
    }

    fn line(&self) -> String {
        Command::query(self.program).args(self.args.iter().cloned()).line()
    }
}

/// The exit code as a shell reports it: 128 and the signal's number for a process that a signal ended.
fn code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_the_users() {
        let (code, output) = Attended::new("sh").args(["-c", "echo \"$CARGO_MANIFEST_DIR\"; exit 3"]).output().unwrap();
        assert_eq!(code, 3);
        assert_eq!(String::from_utf8(output).unwrap(), concat!(env!("CARGO_MANIFEST_DIR"), "\n"));
    }

    #[test]
    fn a_program_reads_its_input_while_it_prints() {
        // More than a pipe holds, in both directions.
        let input = vec![b'x'; 1 << 20];
        let (code, output) = Attended::new("cat").input(input.clone()).quiet().output().unwrap();
        assert_eq!((code, output.len()), (0, input.len()));
        let (code, _) = Attended::new("sh").args(["-c", "exit 4"]).input(input).output().unwrap();
        assert_eq!(code, 4, "a program that reads nothing");
    }

    #[test]
    fn lines_arrive_one_by_one_and_a_signal_is_a_code() {
        let mut lines = Vec::new();
        let code = Attended::new("sh")
            .args(["-c", "echo a; echo b c; kill -TERM $$"])
            .lines(|line| lines.push(line.to_owned()));
        assert_eq!(code.unwrap(), 128 + 15);
        assert_eq!(lines, ["a", "b c"]);
    }

    #[test]
    fn a_missing_program_is_named_with_its_command_line() {
        for error in [
            Attended::new("no-such-program").args(["get", "two words"]).replace(),
            Attended::new("no-such-program").args(["get", "two words"]).output().unwrap_err(),
        ] {
            assert!(error.to_string().contains("`no-such-program get \"two words\"`"), "{error}");
        }
    }
}
