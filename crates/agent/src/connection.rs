//! One HTTP/2 connection to a node, without reconnection: when it ends, every call on it fails.
//!
//! A channel that reconnects by itself could reach another node that has the address by then. For another
//! connection the caller dials again, and the greeting identifies the node.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::Status;
use tonic::body::Body;

use quarry_volume::{Unreachable, with_causes};

use crate::failure::Lost;

/// The flow-control window of a stream, in bytes: the memory that a stalled reader occupies.
pub(crate) const STREAM_WINDOW: u32 = 64 << 10;
/// The window of a connection, in bytes: a watch that is not read must not block the calls beside it.
pub(crate) const CONNECTION_WINDOW: u32 = 256 << 10;
/// The maximum header size, in bytes. It must hold an error's message, percent-encoded: up to three times 2
/// KiB.
pub(crate) const HEADERS: u32 = 16 << 10;
/// The send buffer of a stream, in bytes: requests are small.
const SEND_BUFFER: usize = 64 << 10;

/// The metadata of a status that the node sent instead of an answer. tonic also makes statuses on this side, with the
/// same codes, about answers that it cannot read. It never sets this.
const FROM_NODE: &str = "quarry-from-node";

/// Marks the status in the headers of a response, if there is one other than OK: a node answers a call with either a
/// status, in the headers, or a message.
pub(crate) fn mark_status(headers: &mut HeaderMap) {
    match headers.get("grpc-status") {
        Some(code) if code != "0" => drop(headers.insert(FROM_NODE, HeaderValue::from_static("true"))),
        _ => drop(headers.remove(FROM_NODE)),
    }
}

/// Whether the node sent this status instead of an answer.
pub(crate) fn is_from_node(status: &Status) -> bool {
    status.metadata().contains_key(FROM_NODE)
}

/// Keep-alive settings of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// How long a connection may be idle before the node is pinged.
    pub keep_alive_interval: Duration,
    /// How long the node may take to answer the ping; after that, the connection is dead.
    pub keep_alive_timeout: Duration,
    /// How long the node may take to accept a watch.
    pub watch_wait: Duration,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            keep_alive_interval: Duration::from_secs(10),
            keep_alive_timeout: Duration::from_secs(5),
            watch_wait: Duration::from_secs(30),
        }
    }
}

/// The connection; a clone is the same one. It closes when the last clone and its last stream are dropped.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    requests: SendRequest<Body>,
    /// Why it ended, once it has.
    ended: Arc<OnceLock<Lost>>,
}

impl Connection {
    /// Starts HTTP/2 over `io`; does not wait for the other side. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Why writing failed.
    pub(crate) async fn over<IO>(io: IO, tuning: &Tuning) -> Result<Self, String>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (requests, connection) = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(HEADERS)
            .max_send_buf_size(SEND_BUFFER)
            .keep_alive_interval(tuning.keep_alive_interval)
            .keep_alive_timeout(tuning.keep_alive_timeout)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(io))
            .await
            .map_err(|error| with_causes(&error))?;
        let ended = Arc::new(OnceLock::new());
        let end_reason = Arc::clone(&ended);
        tokio::spawn(async move {
            let why = match connection.await {
                Ok(()) => Lost { cause: Unreachable::Ended, why: "the other side closed it".to_owned() },
                // This is the keep-alive timeout: the ping was not answered.
                Err(error) if error.is_timeout() => Lost { cause: Unreachable::NoAnswer, why: with_causes(&error) },
                Err(error) => Lost { cause: Unreachable::Ended, why: with_causes(&error) },
            };
            // Only set here.
            let _ = end_reason.set(why);
        });
        Ok(Self { requests, ended })
    }

    /// Why the connection ended; `None` while it is open, and for a moment after.
    pub(crate) fn cause(&self) -> Option<&Lost> {
        self.ended.get()
    }
}

impl tower::Service<http::Request<Body>> for Connection {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.requests.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let response = self.requests.send_request(request);
        Box::pin(async move {
            let mut response = response.await?;
            mark_status(response.headers_mut());
            Ok(response)
        })
    }
}
