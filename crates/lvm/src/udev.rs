//! Whether udevd runs, to make device nodes.
//!
//! lvm leaves the nodes under `/dev` to udevd, and waits until it has made them. lvm does not detect reliably
//! whether udevd runs: without it, lvm creates volumes without a node, fails to create raids, and waits
//! forever if the control socket of a dead udevd is left behind (all seen with 2.03.16). So this module
//! checks, and lets lvm make the nodes itself if needed.

use std::os::fd::AsRawFd as _;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

/// In a container, this is the host's socket only if `/run/udev` is mounted into it. Without that mount, lvm
/// makes the nodes itself, which does no harm if udevd makes them too.
const CONTROL: &str = "/run/udev/control";

/// Whether a process listens on udevd's control socket: udevd, or the service manager that will start it.
pub(crate) fn listening() -> bool {
    listening_on(Path::new(CONTROL))
}

fn listening_on(control: &Path) -> bool {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let attempt = || -> nix::Result<()> {
        let probe = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
        connect(probe.as_raw_fd(), &UnixAddr::new(control)?)
    };
    // A listener with a full queue is a listener, too.
    matches!(attempt(), Ok(()) | Err(Errno::EAGAIN))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{Backlog, bind, listen};

    #[test]
    fn a_stale_socket_is_not_udevd() {
        let directory = tempfile::tempdir().expect("dir");
        let control = directory.path().join("control");
        assert!(!listening_on(&control), "the socket does not exist");
        std::fs::write(&control, "").expect("file");
        assert!(!listening_on(&control), "it is a file");
        std::fs::remove_file(&control).expect("remove");

        let server = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).expect("socket");
        bind(server.as_raw_fd(), &UnixAddr::new(&control).expect("address")).expect("bind");
        assert!(!listening_on(&control), "not listening yet");
        listen(&server, Backlog::new(1).expect("backlog")).expect("listen");
        for _ in 0..5 {
            assert!(listening_on(&control), "listening, although connections are not accepted");
        }
        drop(server);
        assert!(control.exists() && !listening_on(&control), "left behind");
    }
}
