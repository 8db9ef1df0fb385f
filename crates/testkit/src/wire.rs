//! A connection, plain or TLS, with bytes already read; and the player of steps on it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::clock::Clock;
use crate::reply::Step;

/// How long a closed connection is drained, so that the client's unread bytes do not turn our FIN into a RST.
const DRAIN: Duration = Duration::from_secs(30);

pub(crate) enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

pub(crate) struct Wire {
    /// Read, not yet used.
    pub(crate) buffer: BytesMut,
    io: Io,
}

impl Wire {
    pub(crate) fn new(io: Io) -> Self {
        Self { buffer: BytesMut::new(), io }
    }

    fn tcp(&self) -> &TcpStream {
        match &self.io {
            Io::Plain(tcp) => tcp,
            Io::Tls(tls) => tls.get_ref().0,
        }
    }

    /// Reads more into the buffer; 0 at the end.
    pub(crate) async fn fill(&mut self) -> io::Result<usize> {
        match &mut self.io {
            Io::Plain(tcp) => tcp.read_buf(&mut self.buffer).await,
            Io::Tls(tls) => tls.read_buf(&mut self.buffer).await,
        }
    }

    /// Sends it all, at once.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes).await?;
        self.flush().await
    }

    /// Waits until the client goes, whatever it sends.
    pub(crate) async fn until_gone(&mut self) {
        loop {
            self.buffer.clear();
            if !matches!(self.fill().await, Ok(1..)) {
                return;
            }
        }
    }

    /// RST, at once.
    pub(crate) fn reset(self) {
        let _ = SockRef::from(self.tcp()).set_linger(Some(Duration::ZERO));
    }

    /// FIN, with `close_notify` or without; then reads until the client has closed, too.
    pub(crate) async fn close(mut self, notify: bool) {
        if notify {
            let _ = self.shutdown().await;
        } else {
            let _ = SockRef::from(self.tcp()).shutdown(std::net::Shutdown::Write);
        }
        let _ = tokio::time::timeout(DRAIN, drain(&mut self.io)).await;
    }

    /// Plays steps in order. The connection comes back where the last of them leaves it usable.
    pub(crate) async fn play(mut self, steps: Vec<Step>, clock: &Clock) -> io::Result<Option<Self>> {
        for step in steps {
            match step {
                Step::Send(bytes) => self.send(&bytes).await?,
                Step::Wait(time) => clock.sleep(time).await,
                Step::Drip { bytes, size, every } => {
                    let mut at = Instant::now();
                    for part in bytes.chunks(size) {
                        self.send(part).await?;
                        at += every;
                        clock.until(at).await;
                    }
                }
                Step::Endless { bytes, every } => loop {
                    self.send(&bytes).await?;
                    if every.is_zero() {
                        // A client that reads as fast as we write must not starve the server's other tasks.
                        tokio::task::yield_now().await;
                    } else {
                        clock.sleep(every).await;
                    }
                },
                Step::Hang => {
                    self.until_gone().await;
                    return Ok(None);
                }
                Step::Close => {
                    self.close(true).await;
                    return Ok(None);
                }
                Step::Cut => {
                    self.close(false).await;
                    return Ok(None);
                }
                Step::Reset => {
                    self.reset();
                    return Ok(None);
                }
            }
        }
        Ok(Some(self))
    }
}

/// Reads the TCP stream itself: after a shutdown TLS has nothing more to say.
async fn drain(io: &mut Io) {
    let tcp = match io {
        Io::Plain(tcp) => tcp,
        Io::Tls(tls) => tls.get_mut().0,
    };
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(1..) = tcp.read(&mut buffer).await {}
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.buffer.is_empty() {
            let length = self.buffer.len().min(out.remaining());
            out.put_slice(&self.buffer[..length]);
            self.buffer.advance(length);
            return Poll::Ready(Ok(()));
        }
        match &mut self.io {
            Io::Plain(tcp) => Pin::new(tcp).poll_read(cx, out),
            Io::Tls(tls) => Pin::new(tls).poll_read(cx, out),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Plain(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Io::Tls(tls) => Pin::new(tls).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Io::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Io::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}
