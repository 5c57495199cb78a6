//! Mutual TLS between controller and node: who may talk to whom, and how certificates change while the process runs.
//!
//! A connection stands only if each side shows a certificate of an authority that the other side believes, made for
//! its role: the extended key usage and the DNS name [`CONTROLLER_NAME`] or [`NODE_NAME`]. TLS 1.3 only, one provider
//! of cryptography (ring), no resumption: every connection is looked at anew. There is no way to listen without it.
//!
//! * [`Pem`], [`Material`], [`Slot`] and [`Source`]: what one side shows and believes; the newest is used by every new
//!   handshake, without a restart;
//! * [`files`]: the same from a directory, a mounted Secret for example;
//! * [`Acceptor`], [`bind`] and [`incoming`]: the server's side, with [`Refusals`] counted and logged, and connections
//!   that end at a certain age, so that old certificates lose their effect;
//! * [`Connector`] and [`dial`]: the client's side.
//!
//! Acceptor and connector work on any stream of bytes.

pub mod files;

mod client;
mod first;
mod incoming;
mod material;
mod pem;
mod refusal;
mod role;
mod server;
mod tcp;

use std::time::Duration;

pub use client::{ClientStream, ConnectError, Connector};
pub use incoming::{Incoming, Limits, incoming};
pub use material::{Material, MaterialError, Slot, Source, slot};
pub use pem::{CONTROLLER_NAME, NODE_NAME, Pem};
pub use refusal::{Reason, Refusal, Refusals};
pub use server::{Acceptor, MAX_AGE, Peer, ServerStream};
pub use tcp::{Listener, bind, dial};

/// How long a handshake may take, from the first byte to the confirmation.
pub const HANDSHAKE_WAIT: Duration = Duration::from_secs(5);

/// What both sides agree to speak (ALPN): HTTP/2.
const PROTOCOL: &[u8] = b"h2";
