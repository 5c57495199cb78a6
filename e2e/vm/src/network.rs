//! A network of virtual nodes: an Ethernet switch inside this process.
//!
//! It needs no privileges, no multicast and no port of the host, and other processes of the host cannot read
//! or send frames: each node is a cable on an abstract unix socket that accepts one connection. A frame goes
//! to all other cables, as in a hub; the virtual network cards drop frames for others. A cable whose node
//! does not read loses frames, as real ones do, and blocks no other.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, SyncSender};
use std::thread;

use anyhow::{Context, Result};
use parking_lot::{Mutex, MutexGuard};

/// Where a program of the host that listens on 127.0.0.1 is found from inside a node that has a [`Network`]: at the
/// same port of this address. It is another way than the network, so it works also while the node's link is down.
pub const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);

/// The longest frame that QEMU sends: 64 KiB of payload and some headers.
const MAX_FRAME: usize = 68 << 10;

/// Frames that wait for a node to read them; what comes beyond is lost.
const QUEUE: usize = 512;

/// A network of nodes, separate from all others: pass it to [`crate::Config::network`]. Clones are the same
/// network.
///
/// Its addresses are 10.77.0.1 to 10.77.0.254, without a router: it leads nowhere else.
#[derive(Clone, Default)]
pub struct Network {
    switch: Arc<Switch>,
}

#[derive(Default)]
struct Switch {
    cables: Mutex<BTreeMap<u32, SyncSender<Arc<[u8]>>>>,
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network").field("cables", &self.switch.cables().len()).finish()
    }
}

impl Network {
    /// A new network without nodes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The address of the node of this number, 1 to 254.
    #[must_use]
    pub fn address(number: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, number)
    }

    /// The MAC address that goes with [`Self::address`]. A node that takes over an address takes this over
    /// too, so that stale ARP entries do not delay connections.
    pub(crate) fn card(number: u8) -> String {
        format!("52:54:00:4d:00:{number:02x}")
    }

    /// A new cable, whose other end is for one machine to connect to.
    pub(crate) fn cable(&self) -> Result<Cable> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("quarry-vm-{}-cable-{number}", std::process::id());
        let socket = SocketAddr::from_abstract_name(&name).context("cannot name the network cable's socket")?;
        let listener = UnixListener::bind_addr(&socket).context("cannot open the network cable's socket")?;
        let switch = self.switch.clone();
        thread::spawn(move || {
            let Ok((stream, _)) = listener.accept() else { return };
            drop(listener);
            // The machine's exit closes the connection: there is nothing to report.
            let _ = switch.serve(number, stream);
            switch.cables().remove(&number);
        });
        Ok(Cable { name })
    }
}

/// One machine's way into a [`Network`].
pub(crate) struct Cable {
    name: String,
}

impl Cable {
    /// The name of the abstract unix socket to connect to.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        // A thread without a connection would wait forever.
        if let Ok(socket) = SocketAddr::from_abstract_name(&self.name) {
            drop(UnixStream::connect_addr(&socket));
        }
    }
}

impl Switch {
    /// A panic in another thread does not corrupt the list.
    fn cables(&self) -> MutexGuard<'_, BTreeMap<u32, SyncSender<Arc<[u8]>>>> {
        self.cables.lock()
    }

    /// Passes frames on between one machine and all others, until it hangs up.
    fn serve(&self, number: u32, mut stream: UnixStream) -> io::Result<()> {
        let (sender, frames) = mpsc::sync_channel::<Arc<[u8]>>(QUEUE);
        let mut out = stream.try_clone()?;
        thread::spawn(move || {
            while let Ok(frame) = frames.recv() {
                if out.write_all(&frame).is_err() {
                    return;
                }
            }
        });
        self.cables().insert(number, sender);
        loop {
            let frame: Arc<[u8]> = read_frame(&mut stream)?.into();
            for (_, other) in self.cables().iter().filter(|(other, _)| **other != number) {
                // Lost when that machine does not keep up, or is gone.
                let _ = other.try_send(frame.clone());
            }
        }
    }
}

/// Reads one frame as QEMU writes it: its length in four bytes, big endian, then its bytes. Gives both.
fn read_frame(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut header = [0; 4];
    stream.read_exact(&mut header)?;
    let length = u32::from_be_bytes(header) as usize;
    if length > MAX_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a network frame of {length} bytes")));
    }
    let mut frame = header.to_vec();
    frame.resize(header.len() + length, 0);
    stream.read_exact(frame.get_mut(header.len()..).unwrap_or_default())?;
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn machine(network: &Network) -> UnixStream {
        let before = network.switch.cables().len();
        let cable = network.cable().unwrap();
        let socket = SocketAddr::from_abstract_name(cable.name()).unwrap();
        let stream = UnixStream::connect_addr(&socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        wait(|| network.switch.cables().len() > before);
        stream
    }

    fn wait(condition: impl Fn() -> bool) {
        let begin = Instant::now();
        while !condition() {
            assert!(begin.elapsed() < Duration::from_secs(20));
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn frame(bytes: &[u8]) -> Vec<u8> {
        [&u32::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
    }

    #[test]
    fn a_frame_reaches_all_others_of_its_network_and_no_other() {
        let (network, elsewhere) = (Network::new(), Network::new());
        let (mut one, mut two, mut three) = (machine(&network), machine(&network), machine(&network));
        let mut foreign = machine(&elsewhere);
        one.write_all(&frame(b"from one")).unwrap();
        for other in [&mut two, &mut three] {
            assert_eq!(read_frame(other).unwrap(), frame(b"from one"));
        }
        // The frame above does not return to its sender, and does not reach the other network.
        two.write_all(&frame(b"from two")).unwrap();
        assert_eq!(read_frame(&mut one).unwrap(), frame(b"from two"));
        machine(&elsewhere).write_all(&frame(b"from elsewhere")).unwrap();
        assert_eq!(read_frame(&mut foreign).unwrap(), frame(b"from elsewhere"));
        drop(three);
        wait(|| network.switch.cables().len() == 2);
    }

    #[test]
    fn a_reader_that_stalls_loses_frames_and_blocks_no_other() {
        let network = Network::new();
        let (mut one, mut two, deaf) = (machine(&network), machine(&network), machine(&network));
        let bytes = vec![7; 60_000];
        for _ in 0..2 * QUEUE {
            one.write_all(&frame(&bytes)).unwrap();
            assert_eq!(read_frame(&mut two).unwrap().len(), 60_004);
        }
        drop(deaf);
    }

    #[test]
    fn an_unused_cable_ends() {
        let network = Network::new();
        let cable = network.cable().unwrap();
        drop(cable);
        wait(|| network.switch.cables().is_empty() && Arc::strong_count(&network.switch) == 1);
    }
}
