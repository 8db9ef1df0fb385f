//! A connection, plain or secured, and reading from it without holding a buffer while waiting.

use crate::http::socket::Stream;
use crate::http::tls;
use crate::shared::Buffers;
use rustix::io::Errno;
use sitemon_model::{Cause, Code, Phase};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::client::TlsStream;

/// A connection to a site or a proxy.
#[derive(Debug)]
pub(crate) enum Conn {
    Plain(Stream),
    Tls(Box<TlsStream<Stream>>),
}

impl Conn {
    fn tcp(&self) -> &Stream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }

    fn tcp_mut(&mut self) -> &mut Stream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_mut().0,
        }
    }

    /// Whether a connection that was idle can be used again: the other side neither closed it nor sent anything.
    /// What was sent unasked would be taken for the answer to the next request (RFC 9112, 9.2).
    pub(crate) fn is_quiet(&mut self) -> bool {
        let mut byte = [0u8; 1];
        let flags = rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT;
        match rustix::net::recv(self.tcp(), &mut byte[..], flags) {
            Ok((0, _)) => false,
            // Tickets and the like are for TLS to read; what is behind them, or was read with the last answer, is not.
            Ok(_) => matches!(self, Self::Tls(_)) && self.says_nothing(),
            Err(errno) => errno == Errno::AGAIN && self.says_nothing(),
        }
    }

    /// Whether there is no content to be read now.
    fn says_nothing(&mut self) -> bool {
        let mut byte = [0u8; 1];
        let mut window = ReadBuf::new(&mut byte);
        let Self::Tls(stream) = self else { return true };
        Pin::new(&mut **stream).poll_read(&mut Context::from_waker(Waker::noop()), &mut window).is_pending()
    }

    /// Reads what there is. `Ok` and empty: the other side closed it in order.
    pub(crate) async fn read<'b>(&mut self, buffers: &'b Buffers) -> io::Result<Filled<'b>> {
        std::future::poll_fn(|cx| self.poll_filled(cx, buffers)).await
    }

    fn poll_filled<'b>(&mut self, cx: &mut Context<'_>, buffers: &'b Buffers) -> Poll<io::Result<Filled<'b>>> {
        let mut buffer = buffers.take();
        let mut window = ReadBuf::new(&mut buffer);
        let result = Pin::new(self).poll_read(cx, &mut window);
        let end = window.filled().len();
        match result {
            Poll::Ready(Ok(())) => Poll::Ready(Ok(Filled { buffer, start: 0, end, buffers })),
            Poll::Ready(Err(error)) => {
                buffers.give(buffer);
                Poll::Ready(Err(error))
            }
            Poll::Pending => {
                buffers.give(buffer);
                Poll::Pending
            }
        }
    }

    /// Writes all of it; `Ok(false)` where the other side began to answer before it had everything.
    pub(crate) async fn write_all(&mut self, bytes: &[u8]) -> io::Result<bool> {
        let mut written = 0;
        std::future::poll_fn(|cx| {
            while written < bytes.len() {
                match Pin::new(&mut *self).poll_write(cx, &bytes[written..]) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(Ok(count)) => written += count,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => {
                        // Only where there is much to send does an answer come before its end.
                        return match self.tcp_mut().poll_read_ready(cx) {
                            Poll::Ready(Ok(())) => Poll::Ready(Ok(false)),
                            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                            Poll::Pending => Poll::Pending,
                        };
                    }
                }
            }
            if matches!(self, Self::Tls(_)) {
                return Pin::new(&mut *self).poll_flush(cx).map_ok(|()| true);
            }
            Poll::Ready(Ok(true))
        })
        .await
    }

    pub(crate) fn set_nodelay(&self) {
        // Without it the last part of a body waits for an acknowledgement; never an error of the check.
        let _ = self.tcp().set_nodelay();
    }
}

impl AsyncRead for Conn {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Conn {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
        }
    }
}

/// Bytes that were read; the buffer goes back when it is dropped.
#[derive(Debug)]
pub(crate) struct Filled<'b> {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    buffers: &'b Buffers,
}

impl Filled<'_> {
    /// What is not consumed yet.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub(crate) fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
    }
}

impl Drop for Filled<'_> {
    fn drop(&mut self) {
        self.buffers.give(std::mem::take(&mut self.buffer));
    }
}

/// The cause that an error of the connection stands for in a phase.
pub(crate) fn cause_in(error: &io::Error, phase: Phase) -> Cause {
    if let Some(error) = tls::tls_error(error) {
        return tls::cause_of(error);
    }
    let code = match error.kind() {
        // Reset, or the network broke under a connection that stood.
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable => phase.reset(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::WriteZero => phase.closed(),
        io::ErrorKind::TimedOut => phase.timeout(),
        _ => match Errno::from_io_error(error) {
            Some(Errno::PROTO | Errno::HOSTDOWN | Errno::NETRESET | Errno::NOTCONN) => phase.reset(),
            _ => Code::OwnFailure,
        },
    };
    let message = match error.kind() {
        io::ErrorKind::UnexpectedEof => "the connection was closed".to_owned(),
        _ => super::connect::describe(error),
    };
    Cause::new(code, message)
}
