//! The client's side: a handshake that only a node passes, over when the node has accepted us too.
//!
//! In TLS 1.3 the client is done before the server has looked at its certificate: a refusal would come with the first
//! read, long after. So [`Connector::connect`] waits for the server's first bytes, which an HTTP/2 server sends without
//! being asked (its SETTINGS), and a refusal is an error of `connect`.

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

/// Why there is no connection to a node. Each says what can be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// We have nothing to show.
    #[error("we have no certificate of our own yet, or the authorities to believe")]
    NotReady,
    /// No answer, or not to the end.
    #[error("the handshake was not done within {} s: the other side is overloaded, or silent", HANDSHAKE_WAIT.as_secs())]
    TimedOut,
    /// Something else than TLS answers.
    #[error("the other side does not speak TLS ({0}): it is not a Quarry node, or something lies between")]
    NotTls(String),
    /// TLS answers, and not HTTP/2 in it.
    #[error("the other side does not speak HTTP/2 (ALPN h2): it is not a Quarry node, or something lies between")]
    NotHttp2,
    /// The connection ended before it was confirmed.
    #[error(
        "the other side ended the connection before it was confirmed ({0}): it may have no certificate yet; its log tells"
    )]
    Closed(String),
    /// Their certificate's time is over.
    #[error("the node's certificate has expired: {0}; see why it was not renewed, or set the clocks right")]
    Expired(String),
    /// Their certificate's time has not come.
    #[error("the node's certificate is not valid yet: {0}; the clocks of the two hosts may differ")]
    NotYetValid(String),
    /// Somebody else made their certificate.
    #[error(
        "the node's certificate comes from an authority that is not believed here: {0}; it must be among ours (ca.crt)"
    )]
    OtherAuthority(String),
    /// Their certificate is valid, but not a node's.
    #[error(
        "the other side shows a certificate that is not a node's: {0}; it needs serverAuth and the DNS name literally"
    )]
    WrongRole(String),
    /// They do not accept us.
    #[error("the node refused our certificate: {0}")]
    RefusedOurs(String),
    /// Anything else.
    #[error("the handshake failed: {0}")]
    Other(String),
}

impl ConnectError {
    /// A short name for metrics.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            ConnectError::NotReady => "not_ready",
            ConnectError::TimedOut => "time_out",
            ConnectError::NotTls(_) => "plain_text",
            ConnectError::NotHttp2 => "not_http2",
            ConnectError::Closed(_) => "closed",
            ConnectError::Expired(_) => "expired",
            ConnectError::NotYetValid(_) => "not_yet_valid",
            ConnectError::OtherAuthority(_) => "unknown_authority",
            ConnectError::WrongRole(_) => "wrong_role",
            ConnectError::RefusedOurs(_) => "refused_ours",
            ConnectError::Other(_) => "other",
        }
    }

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
            A::UnknownCA => "it comes from an authority that the node does not believe",
            A::UnsupportedCertificate => "it is not a controller's (extended key usage clientAuth)",
            A::BadCertificate => "it is not a controller's (DNS name), or damaged",
            A::CertificateRequired => "none was shown",
            A::CertificateRevoked => "revoked",
            A::CertificateUnknown | A::AccessDenied | A::DecryptError => "for a reason that its log tells",
            other => return ConnectError::Other(format!("the other side sent the alert {other:?}")),
        };
        ConnectError::RefusedOurs(format!("{meaning} (alert {alert:?})"))
    }
}

/// Makes connections to nodes out of streams of bytes.
#[derive(Debug, Clone)]
pub struct Connector {
    source: Source,
    server_name: &'static str,
}

impl Connector {
    /// Shows and believes what is newest in `source`; the server must be [`super::NODE_NAME`].
    #[must_use]
    pub fn new(source: Source) -> Self {
        Self { source, server_name: super::NODE_NAME }
    }

    /// The handshake and the node's confirmation, in [`HANDSHAKE_WAIT`] at most. The other side must be a server that
    /// speaks first, as HTTP/2 has it; its first bytes are read by whoever reads the stream.
    ///
    /// # Errors
    /// [`ConnectError`], which tells apart what is wrong with them and what they find wrong with us.
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

/// A connection to a node. An alert of the other side comes out of a read as an error whose text and source is a
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
