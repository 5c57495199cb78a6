//! The protocol between the host and the guest's agent, shared by both.
//!
//! One TCP connection carries one request. The agent starts with [`HELLO`], so that the host can distinguish
//! a listening guest from a port forward that is not connected yet. After that both sides send frames: one
//! byte of kind, four bytes of length (big endian), payload. The host's first frame is a [`Request`] as JSON.

use serde::{Deserialize, Serialize};

/// The port that the agent listens on inside the guest.
pub const PORT: u16 = 7070;

/// What the agent says on every new connection.
pub const HELLO: &[u8; 18] = b"quarry-vm-agent 1\n";

/// Bytes of the seed in [`Request::Identify`].
pub const SEED: usize = 64;

/// No frame is longer than this many bytes; a longer one means that the two sides lost step.
pub const MAX_FRAME: usize = 1 << 20;

/// Kinds of frames.
pub mod kind {
    /// Host: a [`super::Request`] as JSON.
    pub const REQUEST: u8 = b'r';
    /// Host: send this signal (four bytes, big endian) to the command's process group.
    pub const KILL: u8 = b'k';
    /// Either side: bytes of a file.
    pub const DATA: u8 = b'd';
    /// Either side: the file, or the request, is complete.
    pub const END: u8 = b'.';
    /// Agent: the command runs; its process id in four bytes.
    pub const STARTED: u8 = b's';
    /// Agent: bytes of the command's standard output.
    pub const STDOUT: u8 = b'o';
    /// Agent: bytes of the command's standard error.
    pub const STDERR: u8 = b'e';
    /// Agent: the command has exited; an [`super::Exit`] as JSON.
    pub const EXIT: u8 = b'x';
    /// Agent: the request failed; why, as text.
    pub const FAILED: u8 = b'f';
}

/// What the host asks the agent to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// Run a command; answers STARTED, STDOUT and STDERR, EXIT.
    Exec(Exec),
    /// Write a file: DATA frames and END follow, the answer is END. The file appears at once, complete.
    Put {
        /// Absolute path in the guest; its folder is created if missing.
        path: String,
        /// Permission bits.
        mode: u32,
    },
    /// Read a file; answers DATA frames and END.
    Get {
        /// Absolute path in the guest.
        path: String,
    },
    /// Connect to a unix socket; after END the connection is that socket.
    Connect {
        /// Absolute path in the guest.
        path: String,
    },
    /// Connect to a TCP port of the guest or of a host it can reach; after END this connection carries that
    /// one.
    ConnectTcp {
        /// Where to connect to.
        address: std::net::SocketAddr,
    },
    /// Wait until every path exists, or until none does.
    Wait {
        /// Absolute paths in the guest.
        paths: Vec<String>,
        /// Whether to wait for their presence or for their absence.
        present: bool,
        /// How long to wait, in milliseconds, before FAILED names a path in the wrong state.
        milliseconds: u64,
    },
    /// Become a machine of its own: every restored guest starts as the same one.
    Identify {
        /// The host's name.
        hostname: String,
        /// 32 hexadecimal digits.
        machine_id: String,
        /// [`SEED`] bytes for the kernel's random numbers.
        seed: Vec<u8>,
        /// Seconds since 1970.
        seconds: u64,
        /// Nanoseconds beyond `seconds`.
        nanoseconds: u32,
    },
}

/// A command to run in the guest. Its standard input is empty unless `stdin` says otherwise.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Exec {
    /// The program and its arguments; no shell is involved.
    pub argv: Vec<String>,
    /// Variables added to the agent's environment.
    pub env: Vec<(String, String)>,
    /// The folder to run in; `/` when none is given.
    pub cwd: Option<String>,
    /// What the command reads.
    pub stdin: Option<Vec<u8>>,
    /// Let the command live when the host hangs up; otherwise its process group is killed then.
    pub detach: bool,
}

/// How a command exited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The exit code, unless a signal killed it.
    pub code: Option<i32>,
    /// The signal that killed it.
    pub signal: Option<i32>,
}

impl Exit {
    /// Whether the command exited with code 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.code == Some(0)
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.code, self.signal) {
            (Some(code), _) => write!(f, "exit code {code}"),
            (None, Some(signal)) => write!(f, "signal {signal}"),
            (None, None) => f.write_str("an unknown end"),
        }
    }
}

/// A frame, ready to be sent. The payload must be at most [`MAX_FRAME`] bytes.
#[must_use]
pub fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(5 + payload.len());
    bytes.push(kind);
    bytes.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// Kind and payload length of the frame that `header` opens.
///
/// # Errors
/// When the length is beyond [`MAX_FRAME`].
pub fn parse_header(header: [u8; 5]) -> std::io::Result<(u8, usize)> {
    let [kind, length @ ..] = header;
    let length = u32::from_be_bytes(length) as usize;
    if length > MAX_FRAME {
        return Err(std::io::Error::new(
            std::io::ErrorKind::InvalidData,
            format!("the agent's connection lost step: a frame of {length} bytes"),
        ));
    }
    Ok((kind, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_back() {
        let bytes = frame(kind::STDOUT, b"hello");
        let header: [u8; 5] = bytes[..5].try_into().unwrap();
        assert_eq!(parse_header(header).unwrap(), (kind::STDOUT, 5));
        assert_eq!(&bytes[5..], b"hello");
    }

    #[test]
    fn a_senseless_length_is_refused() {
        assert!(parse_header([b'o', 0xff, 0, 0, 0]).is_err());
    }
}
