//! Serves a disk to QEMU by the NBD protocol, with the faults that a test requests.
//!
//! The server is a thread of this process. When the machine is killed, the thread's connection closes, and
//! the power cut decides what of the disk's cache is lost or kept.

use std::io::{self, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow};
use parking_lot::{Condvar, Mutex};

use crate::write_cache::CachedDisk;

/// What a disk does with requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// It serves them.
    #[default]
    None,
    /// It answers every read, write and flush with an I/O error.
    Errors,
    /// It answers nothing until another fault, or none, is set. Then it serves what waited.
    Hang,
    /// It hangs from the next flush on.
    HangAtFlush,
}

/// The longest read or write that is served; QEMU is configured to split longer ones.
const MAX_REQUEST: u32 = 32 << 20;

mod wire {
    pub(super) const OPENING: &[u8; 16] = b"NBDMAGICIHAVEOPT";
    pub(super) const FIXED_NEWSTYLE_NO_ZEROES: u16 = 3;
    pub(super) const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
    pub(super) const OPTION_ABORT: u32 = 2;
    pub(super) const OPTION_INFO: u32 = 6;
    pub(super) const OPTION_GO: u32 = 7;
    pub(super) const REPLY_ACK: u32 = 1;
    pub(super) const REPLY_INFO: u32 = 3;
    pub(super) const REPLY_UNSUPPORTED: u32 = (1 << 31) | 1;
    pub(super) const INFO_EXPORT: u16 = 0;
    pub(super) const INFO_BLOCK_SIZE: u16 = 3;
    /// The flags field is valid; flush, force unit access, trim, write zeroes.
    pub(super) const EXPORT_FLAGS: u16 = 1 | 4 | 8 | 0x20 | 0x40;
    pub(super) const REQUEST: u32 = 0x2560_9513;
    pub(super) const SIMPLE_REPLY: u32 = 0x6744_6698;
    pub(super) const READ: u16 = 0;
    pub(super) const WRITE: u16 = 1;
    pub(super) const DISCONNECT: u16 = 2;
    pub(super) const FLUSH: u16 = 3;
    pub(super) const TRIM: u16 = 4;
    pub(super) const WRITE_ZEROES: u16 = 6;
    pub(super) const FORCE_UNIT_ACCESS: u16 = 1;
    pub(super) const IO_ERROR: u32 = 5;
    pub(super) const INVALID: u32 = 22;
}

/// What the thread and its owner share.
struct Shared {
    disk: Mutex<CachedDisk>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Clone, Copy, Default)]
struct State {
    fault: Fault,
    /// The machine is dead: its unanswered requests have no effect.
    dead: bool,
}

/// A disk that QEMU may connect to, once for each call of [`Server::serve`].
pub(crate) struct Server {
    shared: Arc<Shared>,
    connection: Option<(String, JoinHandle<()>)>,
}

impl Server {
    /// Offers a disk.
    pub(crate) fn new(disk: CachedDisk) -> Self {
        let shared = Shared { disk: Mutex::new(disk), state: Mutex::default(), changed: Condvar::new() };
        Self { shared: Arc::new(shared), connection: None }
    }

    /// Waits, on a thread of its own, for one connection and serves it to its end. Gives the name of the abstract unix
    /// socket to connect to: a socket with a path could be too long for an address.
    pub(crate) fn serve(&mut self) -> Result<String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        self.finish()?;
        let name = format!("quarry-vm-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let socket = SocketAddr::from_abstract_name(&name).context("cannot name the disk's socket")?;
        let listener = UnixListener::bind_addr(&socket).context("cannot open the disk's socket")?;
        let shared = self.shared.clone();
        shared.state.lock().dead = false;
        let thread = std::thread::spawn(move || {
            let Ok((stream, _)) = listener.accept() else { return };
            drop(listener);
            // A killed machine breaks its connection: there is nothing to report.
            let _ = Connection { stream, shared: &shared }.serve();
        });
        self.connection = Some((name.clone(), thread));
        Ok(name)
    }

    /// From now on the disk does this.
    pub(crate) fn set_fault(&self, fault: Fault) {
        self.shared.state.lock().fault = fault;
        self.shared.changed.notify_all();
    }

    /// Waits until the connection has closed: QEMU must have closed it, or be dead. Hanging requests are
    /// dropped.
    pub(crate) fn finish(&mut self) -> Result<()> {
        let Some((name, thread)) = self.connection.take() else { return Ok(()) };
        self.shared.state.lock().dead = true;
        self.shared.changed.notify_all();
        // A thread without a connection would wait forever.
        if let Ok(socket) = SocketAddr::from_abstract_name(&name) {
            drop(UnixStream::connect_addr(&socket));
        }
        thread.join().map_err(|_| anyhow!("the disk's thread panicked"))
    }

    /// Gives the disk, which QEMU is not connected to, another size.
    pub(crate) fn resize(&mut self, size: u64) -> Result<()> {
        self.finish()?;
        self.shared.disk.lock().resize(size).context("cannot resize a disk's file")
    }

    /// What a power cut does to the disk, after the machine is dead. See [`CachedDisk::lose_power`].
    pub(crate) fn lose_power(&mut self, survives: impl FnMut() -> bool) -> Result<()> {
        self.finish()?;
        self.shared.disk.lock().lose_power(survives).context("cannot write a disk's file")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // An error here is a panic that the thread has printed already.
        let _ = self.finish();
    }
}

struct Connection<'a> {
    stream: UnixStream,
    shared: &'a Shared,
}

impl Connection<'_> {
    fn serve(mut self) -> io::Result<()> {
        if self.negotiate()? { self.transmit() } else { Ok(()) }
    }

    /// Agrees on the one export there is. False when the client went away instead.
    fn negotiate(&mut self) -> io::Result<bool> {
        let size = self.shared.disk.lock().size();
        self.stream.write_all(wire::OPENING)?;
        self.stream.write_all(&wire::FIXED_NEWSTYLE_NO_ZEROES.to_be_bytes())?;
        let _client_flags = self.u32()?;
        loop {
            let _magic = self.u64()?;
            let option = self.u32()?;
            let length = self.u32()?;
            self.bytes(length.min(MAX_REQUEST))?;
            match option {
                wire::OPTION_GO | wire::OPTION_INFO => {
                    let export =
                        [&wire::INFO_EXPORT.to_be_bytes()[..], &size.to_be_bytes(), &wire::EXPORT_FLAGS.to_be_bytes()];
                    self.option_reply(option, wire::REPLY_INFO, &export.concat())?;
                    let blocks = [512_u32, 4096, MAX_REQUEST].map(u32::to_be_bytes).concat();
                    let blocks = [&wire::INFO_BLOCK_SIZE.to_be_bytes()[..], &blocks].concat();
                    self.option_reply(option, wire::REPLY_INFO, &blocks)?;
                    self.option_reply(option, wire::REPLY_ACK, &[])?;
                    if option == wire::OPTION_GO {
                        return Ok(true);
                    }
                }
                wire::OPTION_ABORT => {
                    self.option_reply(option, wire::REPLY_ACK, &[])?;
                    return Ok(false);
                }
                _ => self.option_reply(option, wire::REPLY_UNSUPPORTED, &[])?,
            }
        }
    }

    fn option_reply(&mut self, option: u32, reply: u32, payload: &[u8]) -> io::Result<()> {
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let header = [option, reply, length].map(u32::to_be_bytes).concat();
        self.stream.write_all(&[&wire::OPTION_REPLY.to_be_bytes()[..], &header, payload].concat())
    }

    fn transmit(&mut self) -> io::Result<()> {
        loop {
            if self.u32()? != wire::REQUEST {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "not an NBD request"));
            }
            let flags = self.u16()?;
            let command = self.u16()?;
            let cookie = self.u64()?;
            let offset = self.u64()?;
            let length = self.u32()?;
            if command == wire::DISCONNECT {
                return Ok(());
            }
            let payload = if command == wire::WRITE { self.bytes(length)? } else { Vec::new() };
            let answer = match self.wait_while_hung(command == wire::FLUSH) {
                State { dead: true, .. } => return Ok(()),
                State { fault: Fault::Errors, .. } => Err(wire::IO_ERROR),
                _ => self.perform(command, flags, offset, length, payload),
            };
            let (error, data) = match answer {
                Ok(data) => (0, data),
                Err(code) => (code, Vec::new()),
            };
            let header = [wire::SIMPLE_REPLY, error].map(u32::to_be_bytes).concat();
            self.stream.write_all(&[&header[..], &cookie.to_be_bytes(), &data].concat())?;
        }
    }

    /// Blocks while the disk hangs; returns the behaviour afterwards.
    fn wait_while_hung(&self, flush: bool) -> State {
        let mut state = self.shared.state.lock();
        let hangs = |fault: Fault| fault == Fault::Hang || (flush && fault == Fault::HangAtFlush);
        let hung = |state: &mut State| hangs(state.fault) && !state.dead;
        self.shared.changed.wait_while(&mut state, hung);
        *state
    }

    fn perform(
        &self,
        command: u16,
        flags: u16,
        offset: u64,
        length: u32,
        payload: Vec<u8>,
    ) -> std::result::Result<Vec<u8>, u32> {
        let through = flags & wire::FORCE_UNIT_ACCESS != 0;
        let mut disk = self.shared.disk.lock();
        let mut data = Vec::new();
        let done = match command {
            wire::READ if length <= MAX_REQUEST => {
                data.resize(length as usize, 0);
                disk.read(offset, &mut data)
            }
            wire::WRITE => disk.write(offset, payload, through),
            wire::WRITE_ZEROES => disk.zero(offset, length.into(), through),
            wire::FLUSH => disk.flush(),
            // A disk may keep discarded data, and this one does: a discard is not a wipe.
            wire::TRIM => Ok(()),
            _ => return Err(wire::INVALID),
        };
        done.map(|()| data).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidInput => wire::INVALID,
            _ => wire::IO_ERROR,
        })
    }

    fn bytes(&mut self, length: u32) -> io::Result<Vec<u8>> {
        if length > MAX_REQUEST {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("an NBD request of {length} bytes")));
        }
        let mut bytes = vec![0; length as usize];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn u16(&mut self) -> io::Result<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> io::Result<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> io::Result<u64> {
        self.array().map(u64::from_be_bytes)
    }
}
