//! The host's side of the agent: commands, files and sockets in the guest.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::machine::console_tail;
use crate::protocol::{Exec, Exit, HELLO, Request, SEED, frame, kind, parse_header};

/// The default timeout of a command.
const COMMAND: Duration = Duration::from_secs(120);

/// How long the agent may take to greet: far longer than it needs, for a host that is busy.
const GREETING: Duration = Duration::from_secs(20);

/// A command to run in a guest.
#[derive(Clone, Debug)]
pub struct Command {
    exec: Exec,
    timeout: Duration,
}

impl Command {
    /// A program and its arguments, without a shell. The default timeout is two minutes.
    #[must_use]
    pub fn new(argv: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let argv = argv.into_iter().map(Into::into).collect();
        Self { exec: Exec { argv, ..Exec::default() }, timeout: COMMAND }
    }

    /// A shell script that stops at its first failing command.
    #[must_use]
    pub fn sh(script: impl Into<String>) -> Self {
        Self::new(["sh".to_owned(), "-ec".to_owned(), script.into()])
    }

    /// Adds a variable to the command's environment.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.exec.env.push((name.into(), value.into()));
        self
    }

    /// The folder to run in, instead of `/`.
    #[must_use]
    pub fn cwd(mut self, folder: impl Into<String>) -> Self {
        self.exec.cwd = Some(folder.into());
        self
    }

    /// What the command reads, instead of nothing.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.exec.stdin = Some(bytes.into());
        self
    }

    /// How long the command may take; then its process group is killed.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Lets the command live when the host stops listening; otherwise its process group is killed then.
    #[must_use]
    pub fn detach(mut self) -> Self {
        self.exec.detach = true;
        self
    }
}

impl<S: Into<String>, const N: usize> From<[S; N]> for Command {
    fn from(argv: [S; N]) -> Self {
        Self::new(argv)
    }
}

impl From<Vec<String>> for Command {
    fn from(argv: Vec<String>) -> Self {
        Self::new(argv)
    }
}

/// A command's output and exit status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// The exit status.
    pub exit: Exit,
    /// All of its standard output.
    pub stdout: Vec<u8>,
    /// All of its standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Standard output as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    #[must_use]
    pub fn error_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

/// What a running command does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Bytes of its standard output.
    Stdout(Vec<u8>),
    /// Bytes of its standard error.
    Stderr(Vec<u8>),
    /// It has exited. Children that it left behind may still run.
    Exit(Exit),
}

/// A way into a running guest. Clones lead to the same guest, also after it has booted again.
#[derive(Clone, Debug)]
pub struct Guest {
    port: Arc<AtomicU16>,
    /// The machine's folder, for the console's last words in messages.
    folder: PathBuf,
}

impl Guest {
    pub(crate) fn new(port: u16, folder: PathBuf) -> Self {
        Self { port: Arc::new(AtomicU16::new(port)), folder }
    }

    /// The machine was restarted and has another port.
    pub(crate) fn moved(&self, port: u16) {
        self.port.store(port, Ordering::Relaxed);
    }

    /// Waits until the agent greets. The port forward accepts connections long before that, so each try is short.
    pub(crate) async fn wait_ready(&self, limit: Duration) -> Result<()> {
        let begin = Instant::now();
        loop {
            match tokio::time::timeout(Duration::from_millis(500), self.greeted()).await {
                Ok(Ok(_)) => return Ok(()),
                _ if begin.elapsed() > limit => {
                    bail!("the guest did not answer within {limit:?}; {}", console_tail(&self.folder))
                }
                _ => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }

    async fn greeted(&self) -> Result<TcpStream> {
        let mut connection = TcpStream::connect(("127.0.0.1", self.port.load(Ordering::Relaxed)))
            .await
            .context("the guest's agent cannot be reached: is the machine running?")?;
        connection.set_nodelay(true).context("cannot set up the connection to the guest's agent")?;
        let mut hello = [0; HELLO.len()];
        connection.read_exact(&mut hello).await.context("the guest's agent does not answer")?;
        if &hello != HELLO {
            bail!("something else than the guest's agent answers; clean the cache (quarry-vm cache --clean)");
        }
        Ok(connection)
    }

    async fn request(&self, request: &Request) -> Result<TcpStream> {
        let mut connection = tokio::time::timeout(GREETING, self.greeted())
            .await
            .with_context(|| format!("the guest's agent did not greet; {}", console_tail(&self.folder)))??;
        let json = serde_json::to_vec(request).context("cannot write the request to the guest's agent")?;
        send(&mut connection, kind::REQUEST, &json).await?;
        Ok(connection)
    }

    /// Starts a command and returns a handle to follow it. The command's timeout does not apply.
    ///
    /// # Errors
    /// When the guest cannot be reached, or the program cannot be started there.
    pub async fn spawn(&self, command: impl Into<Command>) -> Result<Process> {
        let command = command.into();
        let shown = command.exec.argv.join(" ");
        let mut connection =
            self.request(&Request::Exec(command.exec)).await.with_context(|| format!("running {shown}"))?;
        let (answer, payload) = receive(&mut connection).await.with_context(|| format!("starting {shown}"))?;
        match (answer, <[u8; 4]>::try_from(payload.as_slice())) {
            (kind::STARTED, Ok(pid)) => Ok(Process { connection, pid: u32::from_be_bytes(pid), shown }),
            _ => bail!("{}", String::from_utf8_lossy(&payload)),
        }
    }

    /// Runs a command to its end, calling `on_event` for all it says on the way.
    ///
    /// # Errors
    /// When it cannot be started, when the guest is lost, or when it takes too long: then it is killed.
    pub async fn run(&self, command: impl Into<Command>, mut on_event: impl FnMut(&Event)) -> Result<Exit> {
        let command = command.into();
        let limit = command.timeout;
        let shown = command.exec.argv.join(" ");
        let follow = async {
            let mut process = self.spawn(command).await?;
            loop {
                let event = process.next().await?;
                on_event(&event);
                if let Event::Exit(exit) = event {
                    return Ok(exit);
                }
            }
        };
        tokio::time::timeout(limit, follow).await.with_context(|| {
            format!("in the guest, {shown} did not end within {limit:?} and was killed; {}", console_tail(&self.folder))
        })?
    }

    /// Runs a command to completion and collects its output, whatever its exit status.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn exec(&self, command: impl Into<Command>) -> Result<Output> {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let exit = self
            .run(command, |event| match event {
                Event::Stdout(bytes) => stdout.extend_from_slice(bytes),
                Event::Stderr(bytes) => stderr.extend_from_slice(bytes),
                Event::Exit(_) => {}
            })
            .await?;
        Ok(Output { exit, stdout, stderr })
    }

    /// Runs a command that must succeed, and returns its standard output without the last line break.
    ///
    /// # Errors
    /// As [`Self::run`], and the command fails; the error quotes its output.
    pub async fn check(&self, command: impl Into<Command>) -> Result<String> {
        let command = command.into();
        let shown = command.exec.argv.join(" ");
        let output = self.exec(command).await?;
        if !output.exit.success() {
            let (exit, printed) = (output.exit, format!("{}{}", output.text(), output.error_text()));
            // What went wrong comes first: of a script of many lines, the end is cut off where errors are collected.
            if shown.contains('\n') {
                bail!("in the guest, a script ended with {exit}:\n{}\nthe script: {shown}", printed.trim_end());
            }
            bail!("in the guest, {shown} ended with {exit}:\n{printed}");
        }
        Ok(output.text().trim_end_matches('\n').to_owned())
    }

    /// As [`Self::check`], for a shell script that stops at its first failing command.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub async fn sh(&self, script: impl Into<String>) -> Result<String> {
        self.check(Command::sh(script)).await
    }

    /// Copies a file of the host into the guest. It appears complete, and may replace a program that runs.
    ///
    /// # Errors
    /// When the file cannot be read here or written there.
    pub async fn push(&self, local: &Path, remote: &str, mode: u32) -> Result<()> {
        let bytes = tokio::fs::read(local).await.with_context(|| format!("cannot read {}", local.display()))?;
        self.write(remote, &bytes, mode).await
    }

    /// Writes a file in the guest, as [`Self::push`] does.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub async fn write(&self, remote: &str, bytes: &[u8], mode: u32) -> Result<()> {
        let what = || format!("writing {remote} in the guest");
        let mut connection = self.request(&Request::Put { path: remote.to_owned(), mode }).await.with_context(what)?;
        for chunk in bytes.chunks(256 << 10) {
            // After a failure the agent says why before it hangs up: that is the better message.
            if send(&mut connection, kind::DATA, chunk).await.is_err() {
                break;
            }
        }
        let _ = send(&mut connection, kind::END, &[]).await;
        finished(&mut connection).await.with_context(what)
    }

    /// Copies a file of the guest to the host.
    ///
    /// # Errors
    /// When the file cannot be read there or written here.
    pub async fn pull(&self, remote: &str, local: &Path) -> Result<()> {
        let bytes = self.read(remote).await?;
        tokio::fs::write(local, bytes).await.with_context(|| format!("cannot write {}", local.display()))
    }

    /// Reads a file in the guest.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn read(&self, remote: &str) -> Result<Vec<u8>> {
        let what = || format!("reading {remote} in the guest");
        let mut connection = self.request(&Request::Get { path: remote.to_owned() }).await.with_context(what)?;
        let mut bytes = Vec::new();
        loop {
            match receive(&mut connection).await.with_context(what)? {
                (kind::DATA, chunk) => bytes.extend_from_slice(&chunk),
                (kind::END, _) => return Ok(bytes),
                (_, why) => bail!("{}: {}", what(), String::from_utf8_lossy(&why)),
            }
        }
    }

    /// Connects to a unix socket in the guest, for a client on the host.
    ///
    /// # Errors
    /// Nothing listens there.
    pub async fn connect(&self, socket: &str) -> Result<TcpStream> {
        let mut connection = self.request(&Request::Connect { path: socket.to_owned() }).await?;
        finished(&mut connection).await?;
        Ok(connection)
    }

    /// Connects to a TCP port from inside the guest, for a client on the host: a port of the guest itself (also one
    /// that listens on its loopback interface only), or of another node on its network. See [`Guest::forward`] for
    /// clients that want an address.
    ///
    /// # Errors
    /// Nothing listens there, or it does not answer.
    pub async fn connect_tcp(&self, address: SocketAddr) -> Result<TcpStream> {
        let mut connection = self.request(&Request::ConnectTcp { address }).await?;
        finished(&mut connection).await?;
        Ok(connection)
    }

    /// Moves the guest's clock forward or back by this many seconds. It continues from there until the guest
    /// boots again.
    ///
    /// # Errors
    /// When the guest cannot be reached.
    pub async fn move_clock(&self, seconds: i64) -> Result<()> {
        // In whole seconds, rounded: what the command costs is much less than what a test asks for.
        self.sh(format!("date -s @$(($(date +%s) + {seconds}))")).await.map(drop)
    }

    /// Waits until all of these paths exist in the guest, or until none does.
    ///
    /// # Errors
    /// When one is not as asked within `limit`.
    pub async fn wait_paths(&self, paths: Vec<String>, present: bool, limit: Duration) -> Result<()> {
        let milliseconds = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        let mut connection = self.request(&Request::Wait { paths, present, milliseconds }).await?;
        // The agent keeps the time; the margin is for a guest that is gone.
        tokio::time::timeout(limit + GREETING, finished(&mut connection))
            .await
            .context("the guest is gone")?
            .with_context(|| console_tail(&self.folder))
    }

    /// Gives the guest a name, the time, and randomness of its own.
    pub(crate) async fn identify(&self, hostname: &str) -> Result<()> {
        let mut seed = vec![0; SEED];
        let mut random = tokio::fs::File::open("/dev/urandom").await.context("cannot open /dev/urandom")?;
        random.read_exact(&mut seed).await.context("cannot read /dev/urandom")?;
        let machine_id = blake3::hash(&seed).to_hex().chars().take(32).collect();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the host's clock is before 1970")?;
        let identify = Request::Identify {
            hostname: hostname.to_owned(),
            machine_id,
            seed,
            seconds: now.as_secs(),
            nanoseconds: now.subsec_nanos(),
        };
        let mut connection = self.request(&identify).await?;
        tokio::time::timeout(GREETING, finished(&mut connection)).await.context("the guest is gone")?
    }
}

/// A command under way in a guest. Dropping it kills the command's process group, unless it was detached.
#[derive(Debug)]
pub struct Process {
    connection: TcpStream,
    pid: u32,
    shown: String,
}

impl Process {
    /// The process id in the guest; also the id of its process group.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits for the next event. None follows [`Event::Exit`]. Do not race it against other futures: a call
    /// that is dropped half-way may lose bytes.
    ///
    /// # Errors
    /// When the guest is lost.
    pub async fn next(&mut self) -> Result<Event> {
        let (kind, payload) =
            receive(&mut self.connection).await.with_context(|| format!("the guest was lost during {}", self.shown))?;
        match kind {
            kind::STDOUT => Ok(Event::Stdout(payload)),
            kind::STDERR => Ok(Event::Stderr(payload)),
            kind::EXIT => Ok(Event::Exit(
                serde_json::from_slice(&payload).context("the agent's word on a command's end cannot be read")?,
            )),
            _ => bail!("in the guest, {}: {}", self.shown, String::from_utf8_lossy(&payload)),
        }
    }

    /// Waits for the end and collects the output until then.
    ///
    /// # Errors
    /// When the guest is lost.
    pub async fn wait(&mut self) -> Result<Output> {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        loop {
            match self.next().await? {
                Event::Stdout(bytes) => stdout.extend_from_slice(&bytes),
                Event::Stderr(bytes) => stderr.extend_from_slice(&bytes),
                Event::Exit(exit) => return Ok(Output { exit, stdout, stderr }),
            }
        }
    }

    /// Sends a signal (its number) to the command's process group.
    ///
    /// # Errors
    /// When the guest is lost.
    pub async fn signal(&mut self, signal: i32) -> Result<()> {
        send(&mut self.connection, kind::KILL, &signal.to_be_bytes()).await
    }
}

async fn send(connection: &mut TcpStream, kind: u8, payload: &[u8]) -> Result<()> {
    connection.write_all(&frame(kind, payload)).await.context("the guest was lost")
}

async fn receive(connection: &mut TcpStream) -> Result<(u8, Vec<u8>)> {
    let mut header = [0; 5];
    connection.read_exact(&mut header).await.context("the guest was lost")?;
    let (kind, length) = parse_header(header)?;
    let mut payload = vec![0; length];
    connection.read_exact(&mut payload).await.context("the guest was lost")?;
    Ok((kind, payload))
}

/// Waits for the agent's word that a request is done.
async fn finished(connection: &mut TcpStream) -> Result<()> {
    match receive(connection).await? {
        (kind::END, _) => Ok(()),
        (_, why) => bail!("{}", String::from_utf8_lossy(&why)),
    }
}
