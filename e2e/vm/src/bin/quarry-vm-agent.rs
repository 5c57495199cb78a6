//! The agent inside a virtual node: runs commands, moves files, and gives a restored guest its own identity.
//!
//! The guest's init starts it. It trusts every client of its port: the host, through its port forward, and
//! the test's other nodes on the same network. A thread per connection and blocking calls keep it small:
//! under an emulated processor every instruction counts.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)] // quarry-exec is part of what is tested here.

use std::fmt::Display;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use quarry_vm::protocol::{Exec, Exit, HELLO, PORT, Request, SEED, frame, kind, parse_header};

/// How long to keep reading a command's output after it ended: a child that it left behind may hold the pipes
/// open.
const DRAIN: Duration = Duration::from_millis(300);

/// The timeout of a TCP connection attempt; over a link that is down it never succeeds.
const CONNECT: Duration = Duration::from_secs(30);

fn main() -> io::Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", PORT))?;
    loop {
        let Ok((connection, _)) = listener.accept() else { continue };
        thread::spawn(move || {
            // The host sees a broken connection; there is no other way to report it.
            let _ = serve(connection);
        });
    }
}

fn serve(mut connection: TcpStream) -> io::Result<()> {
    connection.set_nodelay(true)?;
    connection.write_all(HELLO)?;
    let (_, payload) = read_frame(&mut connection)?;
    let request: Request = serde_json::from_slice(&payload)?;
    let done = match request {
        Request::Exec(exec) => run(&mut connection, exec),
        Request::Put { path, mode } => put(&mut connection, Path::new(&path), mode),
        Request::Get { path } => get(&mut connection, Path::new(&path)),
        Request::Connect { path } => return bridge(connection, Path::new(&path)),
        Request::ConnectTcp { address } => return bridge_tcp(connection, address),
        Request::Wait { paths, present, milliseconds } => wait(&paths, present, Duration::from_millis(milliseconds)),
        Request::Identify { hostname, machine_id, seed, seconds, nanoseconds } => {
            identify(&hostname, &machine_id, &seed, seconds, nanoseconds)
        }
    };
    match done {
        Ok(()) => connection.write_all(&frame(kind::END, &[])),
        Err(error) => connection.write_all(&frame(kind::FAILED, error.to_string().as_bytes())),
    }
}

fn read_frame(connection: &mut impl Read) -> io::Result<(u8, Vec<u8>)> {
    let mut header = [0; 5];
    connection.read_exact(&mut header)?;
    let (kind, length) = parse_header(header)?;
    let mut payload = vec![0; length];
    connection.read_exact(&mut payload)?;
    Ok((kind, payload))
}

/// What a command's threads send to the thread that writes to the connection.
enum Happened {
    Output(u8, Vec<u8>),
    Closed,
    Ended(Exit),
    HungUp,
}

fn run(connection: &mut TcpStream, exec: Exec) -> io::Result<()> {
    let Some((program, arguments)) = exec.argv.split_first() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no command given"));
    };
    let mut child = Command::new(program)
        .args(arguments)
        .envs(exec.env)
        .current_dir(exec.cwd.as_deref().unwrap_or("/"))
        .stdin(if exec.stdin.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("cannot run {program:?} in the guest: {error}")))?;
    let group = Pid::from_raw(child.id().cast_signed());
    connection.write_all(&frame(kind::STARTED, &child.id().to_be_bytes()))?;

    let (sender, happened) = mpsc::channel();
    if let (Some(mut pipe), Some(bytes)) = (child.stdin.take(), exec.stdin) {
        thread::spawn(move || pipe.write_all(&bytes));
    }
    let mut open = 0;
    if let Some(pipe) = child.stdout.take() {
        open += 1;
        forward(pipe, kind::STDOUT, sender.clone());
    }
    if let Some(pipe) = child.stderr.take() {
        open += 1;
        forward(pipe, kind::STDERR, sender.clone());
    }
    listen(connection.try_clone()?, group, sender.clone());
    thread::spawn(move || {
        let exit = match child.wait() {
            Ok(status) => Exit { code: status.code(), signal: status.signal() },
            Err(_) => Exit { code: None, signal: None },
        };
        let _ = sender.send(Happened::Ended(exit));
    });
    report(connection, &happened, open, |hung_up| {
        if hung_up && !exec.detach {
            let _ = killpg(group, Signal::SIGKILL);
        }
    })
}

/// Forwards events until the command has exited and its output is drained.
fn report(
    connection: &mut TcpStream,
    happened: &Receiver<Happened>,
    mut open: usize,
    on_hang_up: impl Fn(bool),
) -> io::Result<()> {
    let mut exit: Option<(Exit, Instant)> = None;
    let mut gone = false;
    loop {
        let event = match exit {
            None => happened.recv().ok(),
            Some((_, deadline)) if open > 0 => {
                happened.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()
            }
            Some(_) => None,
        };
        match event {
            Some(Happened::Output(kind, bytes)) if !gone => {
                if connection.write_all(&frame(kind, &bytes)).is_err() {
                    gone = true;
                    on_hang_up(true);
                }
            }
            // Nothing listens any longer; the pipes are still read so that a detached command can keep
            // writing.
            Some(Happened::Output(..)) => {}
            Some(Happened::Closed) => open -= 1,
            Some(Happened::Ended(ended)) => exit = Some((ended, Instant::now() + DRAIN)),
            Some(Happened::HungUp) => {
                gone = true;
                on_hang_up(exit.is_none());
            }
            None => break,
        }
    }
    let exit = exit.map_or(Exit { code: None, signal: None }, |(exit, _)| exit);
    connection.write_all(&frame(kind::EXIT, &serde_json::to_vec(&exit)?))
}

fn forward(mut pipe: impl Read + Send + 'static, kind: u8, sender: Sender<Happened>) {
    thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(length @ 1..) = pipe.read(&mut buffer) {
            let bytes = buffer.get(..length).unwrap_or_default().to_vec();
            if sender.send(Happened::Output(kind, bytes)).is_err() {
                // The request is over, yet a child of the command still writes: it must not die of a closed pipe.
                continue;
            }
        }
        let _ = sender.send(Happened::Closed);
    });
}

fn listen(mut connection: TcpStream, group: Pid, sender: Sender<Happened>) {
    thread::spawn(move || {
        while let Ok((kind, payload)) = read_frame(&mut connection) {
            if kind == kind::KILL
                && let Ok(number) = <[u8; 4]>::try_from(payload.as_slice())
                && let Ok(signal) = Signal::try_from(i32::from_be_bytes(number))
            {
                let _ = killpg(group, signal);
            }
        }
        let _ = sender.send(Happened::HungUp);
    });
}

fn put(connection: &mut TcpStream, path: &Path, mode: u32) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&partial)?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    let mut failed = None;
    // A full disk must not stop the reading: the host sends all of it before it listens.
    loop {
        match read_frame(connection)? {
            (kind::DATA, bytes) if failed.is_none() => failed = file.write_all(&bytes).err(),
            (kind::DATA, _) => {}
            _ => break,
        }
    }
    drop(file);
    if let Some(error) = failed {
        let _ = fs::remove_file(&partial);
        return Err(error);
    }
    // A rename also replaces a program that is running.
    fs::rename(&partial, path)
}

fn get(connection: &mut TcpStream, path: &Path) -> io::Result<()> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 256 << 10];
    loop {
        let length = file.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        connection.write_all(&frame(kind::DATA, buffer.get(..length).unwrap_or_default()))?;
    }
}

fn bridge(mut connection: TcpStream, path: &Path) -> io::Result<()> {
    match UnixStream::connect(path).and_then(|socket| Ok((socket.try_clone()?, socket))) {
        Ok((reader, writer)) => relay(connection, reader, writer, |writer| writer.shutdown(Shutdown::Write)),
        Err(error) => refused(&mut connection, &path.display(), &error),
    }
}

fn bridge_tcp(mut connection: TcpStream, address: SocketAddr) -> io::Result<()> {
    let connected = TcpStream::connect_timeout(&address, CONNECT).and_then(|socket| {
        socket.set_nodelay(true)?;
        Ok((socket.try_clone()?, socket))
    });
    match connected {
        Ok((reader, writer)) => relay(connection, reader, writer, |writer| writer.shutdown(Shutdown::Write)),
        Err(error) => refused(&mut connection, &address, &error),
    }
}

fn refused(connection: &mut TcpStream, what: &dyn Display, error: &io::Error) -> io::Result<()> {
    let reason = format!("cannot connect to {what} in the guest: {error}");
    connection.write_all(&frame(kind::FAILED, reason.as_bytes()))
}

/// Reports that the connection is established, and forwards bytes in both directions until both ends have
/// closed.
fn relay<W: Write + Send + 'static>(
    mut connection: TcpStream,
    mut reader: impl Read,
    mut writer: W,
    end: impl FnOnce(&W) -> io::Result<()> + Send + 'static,
) -> io::Result<()> {
    connection.write_all(&frame(kind::END, &[]))?;
    let mut from_host = connection.try_clone()?;
    thread::spawn(move || {
        let _ = io::copy(&mut from_host, &mut writer);
        let _ = end(&writer);
    });
    let _ = io::copy(&mut reader, &mut connection);
    connection.shutdown(Shutdown::Write)
}

fn wait(paths: &[String], present: bool, limit: Duration) -> io::Result<()> {
    let deadline = Instant::now() + limit;
    for path in paths {
        while Path::new(path).exists() != present {
            if Instant::now() > deadline {
                let state = if present { "did not appear" } else { "did not go away" };
                return Err(io::Error::new(io::ErrorKind::TimedOut, format!("{path} {state} within {limit:?}")));
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
    Ok(())
}

fn identify(hostname: &str, machine_id: &str, seed: &[u8], seconds: u64, nanoseconds: u32) -> io::Result<()> {
    let now = nix::sys::time::TimeSpec::new(seconds.cast_signed(), nanoseconds.into());
    nix::time::clock_settime(nix::time::ClockId::CLOCK_REALTIME, now)?;
    fs::write("/proc/sys/kernel/hostname", hostname)?;
    fs::write("/etc/hostname", format!("{hostname}\n"))?;
    fs::write("/etc/machine-id", format!("{machine_id}\n"))?;
    let random = OpenOptions::new().write(true).open("/dev/urandom")?;
    reseed(&random, seed)
}

/// How the kernel takes entropy: bits, bytes, and the bytes themselves.
#[repr(C)]
struct Entropy {
    bits: i32,
    bytes: i32,
    seed: [u8; SEED],
}

/// Adds entropy to the kernel and makes it use it now, not at its next reseed in some minutes.
#[allow(unsafe_code)]
fn reseed(random: &File, seed: &[u8]) -> io::Result<()> {
    // The kernel declares this call with two integers, whatever follows them.
    nix::ioctl_write_ptr!(rnd_add_entropy, b'R', 0x03, [i32; 2]);
    nix::ioctl_none!(rnd_reseed_crng, b'R', 0x07);
    let seed = <[u8; SEED]>::try_from(seed)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, format!("the seed must have {SEED} bytes")))?;
    let entropy = Entropy { bits: SEED as i32 * 8, bytes: SEED as i32, seed };
    // SAFETY: the descriptor is an open random device; the kernel reads `bytes` bytes after the two integers, and the
    // structure holds as many.
    unsafe { rnd_add_entropy(random.as_raw_fd(), std::ptr::from_ref(&entropy).cast()) }?;
    // SAFETY: the descriptor is an open random device, and the call takes no argument.
    unsafe { rnd_reseed_crng(random.as_raw_fd()) }?;
    Ok(())
}
