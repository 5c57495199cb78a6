//! The client's side: a handshake that only a node passes, complete only when the node has accepted the
//! client too.
//!
//! In TLS 1.3 the client finishes before the server has checked its certificate: a rejection would arrive
//! with the first read, much later. So [`Connector::connect`] waits for the server's first bytes, which an
//! HTTP/2 server sends without a request (its SETTINGS), and a rejection is an error of `connect`.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustls::{AlertDescription, CertificateError, Error};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::first::{First, NotTls};
use super::refusal::find;
use super::{HANDSHAKE_WAIT, PROTOCOL, Source};

/// Why there is no connection to a node. Each error says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The client has no certificate.
    #[error("this side has no certificate or no trusted authorities yet")]
    NotReady,
    /// The other side did not answer, or did not finish.
    #[error("the handshake did not finish within {} s: the other side is overloaded or hung", HANDSHAKE_WAIT.as_secs())]
    TimedOut,
    /// The other side does not speak TLS.
    #[error("the other side does not speak TLS ({0}): it is not a Quarry node, or something is in between")]
    NotTls(String),
    /// The other side speaks TLS, but not HTTP/2.
    #[error("the other side does not speak HTTP/2 (ALPN h2): it is not a Quarry node, or something is in between")]
    NotHttp2,
    /// The connection ended before it was confirmed.
    #[error(
        "the other side closed the connection before confirming it ({0}): it may have no certificate yet; see its log"
    )]
    Closed(String),
    /// The node's certificate has expired.
    #[error("the node's certificate has expired: {0}; find out why it was not renewed, or correct the clocks")]
    Expired(String),
    /// The node's certificate is not valid yet.
    #[error("the node's certificate is not valid yet: {0}; compare the clocks of the two hosts")]
    NotYetValid(String),
    /// The node's certificate was issued by another authority.
    #[error(
        "the node's certificate was issued by an untrusted authority: {0}; add the authority to the controller's ca.crt"
    )]
    OtherAuthority(String),
    /// The certificate is valid, but not a node's.
    #[error("the other side's certificate is not a node's: {0}; it needs serverAuth and exactly this DNS name")]
    WrongRole(String),
    /// The node rejects the client's certificate.
    #[error("the node rejected the controller's certificate: {0}")]
    Rejected(String),
    /// Any other error.
    #[error("the handshake failed: {0}")]
    Other(String),
}

impl ConnectError {
    fn of(error: &io::Error) -> Self {
        if let Some(not_tls) = find::<NotTls>(error) {
            return ConnectError::NotTls(not_tls.to_string());
        }
        match find::<Error>(error) {
            None => ConnectError::Closed(error.to_string()),
            Some(Error::AlertReceived(alert)) => Self::of_alert(*alert),
            Some(error @ Error::InvalidCertificate(fault)) => Self::of_certificate(fault, error.to_string()),
            Some(other) => ConnectError::Other(other.to_string()),
        }
    }

    fn of_certificate(fault: &CertificateError, text: String) -> Self {
        use CertificateError as C;
        match fault {
            C::Expired | C::ExpiredContext { .. } => ConnectError::Expired(text),
            C::NotValidYet | C::NotValidYetContext { .. } => ConnectError::NotYetValid(text),
            C::UnknownIssuer | C::BadSignature => ConnectError::OtherAuthority(text),
            C::InvalidPurpose
            | C::InvalidPurposeContext { .. }
            | C::NotValidForName
            | C::NotValidForNameContext { .. } => ConnectError::WrongRole(text),
            _ => ConnectError::Other(text),
        }
    }

    fn of_alert(alert: AlertDescription) -> Self {
        use AlertDescription as A;
        let meaning = match alert {
            A::CertificateExpired => "expired, or not valid yet by the node's clock",
            A::UnknownCA => "it was issued by an authority that the node does not trust",
            A::UnsupportedCertificate => "it is not a controller's (extended key usage clientAuth)",
            A::BadCertificate => "it is not a controller's (DNS name), or damaged",
            A::CertificateRequired => "none was presented",
            A::CertificateRevoked => "revoked",
            A::CertificateUnknown | A::AccessDenied | A::DecryptError => "see its log for the reason",
            other => return ConnectError::Other(format!("the other side sent the alert {other:?}")),
        };
        ConnectError::Rejected(format!("{meaning} (alert {alert:?})"))
    }
}

/// Turns byte streams into connections to nodes.
#[derive(Debug, Clone)]
pub struct Connector {
    source: Source,
    server_name: &'static str,
}

impl Connector {
    /// Uses the newest material in `source`; the server must be [`super::NODE_NAME`].
    #[must_use]
    pub fn new(source: Source) -> Self {
        Self { source, server_name: super::NODE_NAME }
    }

    /// The handshake and the node's confirmation, within [`HANDSHAKE_WAIT`]. The other side must be a server
    /// that sends first, as in HTTP/2; its first bytes stay in the stream for the reader.
    ///
    /// # Errors
    /// [`ConnectError`], which distinguishes problems with the node's certificate from problems with the
    /// client's.
    pub async fn connect<IO>(&self, io: IO) -> Result<ClientStream<IO>, ConnectError>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let material = self.source.borrow().clone().ok_or(ConnectError::NotReady)?;
        let name = ServerName::try_from(self.server_name).map_err(|error| ConnectError::Other(error.to_string()))?;
        let connecting = async {
            let handshake = TlsConnector::from(material.client()).connect(name, First::of_server(io));
            let mut tls = handshake.await.map_err(|error| ConnectError::of(&error))?;
            if tls.get_ref().1.alpn_protocol() != Some(PROTOCOL) {
                return Err(ConnectError::NotHttp2);
            }
            match tls.fill_buf().await {
                Ok([]) => Err(ConnectError::Closed("end of stream".into())),
                Ok(_) => Ok(ClientStream(tls)),
                Err(error) => Err(ConnectError::of(&error)),
            }
        };
        timeout(HANDSHAKE_WAIT, connecting).await.unwrap_or(Err(ConnectError::TimedOut))
    }
}

/// A connection to a node. An alert from the other side appears as a read error whose text and source is a
/// [`ConnectError`].
#[derive(Debug)]
pub struct ClientStream<IO>(TlsStream<First<IO>>);

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for ClientStream<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf).map_err(|error| match find::<Error>(&error) {
            Some(Error::AlertReceived(alert)) => io::Error::new(error.kind(), ConnectError::of_alert(*alert)),
            _ => error,
        })
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ClientStream<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
