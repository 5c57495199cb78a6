//! Checks the first byte, so that a peer without TLS is detected immediately and distinguished from a TLS
//! error.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The record type with which a client starts, and a server continues.
const HANDSHAKE: u8 = 0x16;
/// The record type with which a server starts a rejection.
const ALERT: u8 = 0x15;

/// The first byte does not start a TLS record.
#[derive(Debug, thiserror::Error)]
#[error("the first byte is {0:#04x}, which does not start a TLS handshake")]
pub(super) struct NotTls(u8);

/// A stream that must start with a TLS record; otherwise reading fails with [`NotTls`].
#[derive(Debug)]
pub(super) struct First<IO> {
    io: IO,
    expected: &'static [u8],
    seen: bool,
}

impl<IO> First<IO> {
    /// What a client sends.
    pub(super) fn of_client(io: IO) -> Self {
        Self { io, expected: &[HANDSHAKE], seen: false }
    }

    /// What a server sends.
    pub(super) fn of_server(io: IO) -> Self {
        Self { io, expected: &[HANDSHAKE, ALERT], seen: false }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for First<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        if !self.seen
            && let Some(&byte) = buf.filled().get(before)
        {
            self.seen = true;
            if !self.expected.contains(&byte) {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, NotTls(byte))));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for First<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
