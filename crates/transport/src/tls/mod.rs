//! Mutual TLS between controller and node: which peers may connect, and how certificates change while the
//! process runs.
//!
//! A connection requires that each side presents a certificate from an authority that the other side trusts,
//! issued for its role: the extended key usage and the DNS name [`CONTROLLER_NAME`] or [`NODE_NAME`]. TLS 1.3
//! only, one crypto provider (ring), no resumption: every connection is verified anew. There is no way to
//! listen without TLS.
//!
//! * [`Pem`], [`Material`], [`Slot`] and [`Source`]: the certificates of one side; every new handshake uses
//!   the newest ones, without a restart;
//! * [`files`]: the same from a directory, a mounted Secret for example;
//! * [`Acceptor`], [`bind`] and [`incoming`]: the server's side; [`Refusals`] are counted and logged, and
//!   connections have a maximum age, so that old certificates lose their effect;
//! * [`Connector`] and [`dial`]: the client's side.
//!
//! Acceptor and connector work on any byte stream.

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

/// The timeout of a handshake, from the first byte to the confirmation.
pub const HANDSHAKE_WAIT: Duration = Duration::from_secs(5);

/// The protocol of both sides (ALPN): HTTP/2.
const PROTOCOL: &[u8] = b"h2";
