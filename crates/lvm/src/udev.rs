//! Whether udevd is there to make device nodes.
//!
//! lvm leaves the nodes under `/dev` to udevd, and waits until it is done. Whether there is a udevd it does not find out
//! well: without one it creates volumes that have no node, fails to make raids, and where the control socket of a dead
//! one is left behind, waits for ever (all seen with 2.03.16). So we look, and tell lvm to make the nodes itself.

use std::os::fd::AsRawFd as _;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

/// In a container this is the host's only if `/run/udev` is mounted into it. Without that mount we make the nodes
/// ourselves, which does no harm where udevd makes them too.
const CONTROL: &str = "/run/udev/control";

/// Whether somebody listens on udevd's control socket: udevd, or the service manager that will start it.
pub(crate) fn listening() -> bool {
    listening_on(Path::new(CONTROL))
}

fn listening_on(control: &Path) -> bool {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let attempt = || -> nix::Result<()> {
        let probe = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
        connect(probe.as_raw_fd(), &UnixAddr::new(control)?)
    };
    // A listener whose queue is full is a listener.
    matches!(attempt(), Ok(()) | Err(Errno::EAGAIN))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{Backlog, bind, listen};

    #[test]
    fn a_socket_left_behind_is_no_udevd() {
        let directory = tempfile::tempdir().expect("dir");
        let control = directory.path().join("control");
        assert!(!listening_on(&control), "there is none");
        std::fs::write(&control, "").expect("file");
        assert!(!listening_on(&control), "it is a file");
        std::fs::remove_file(&control).expect("remove");

        let server = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).expect("socket");
        bind(server.as_raw_fd(), &UnixAddr::new(&control).expect("address")).expect("bind");
        assert!(!listening_on(&control), "nobody listens yet");
        listen(&server, Backlog::new(1).expect("backlog")).expect("listen");
        for _ in 0..5 {
            assert!(listening_on(&control), "nobody accepts, but somebody listens");
        }
        drop(server);
        assert!(control.exists() && !listening_on(&control), "left behind");
    }
}
