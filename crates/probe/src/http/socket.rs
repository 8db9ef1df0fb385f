//! A connection by TCP that asks the kernel first, and is watched by the runtime only where it has to wait.
//!
//! The runtime's own stream is watched from its first instant to its last, for reading and for writing. A check
//! connects, sends a request that fits at once, and reads: being told that the socket is connected, and that it can
//! be written to, is a way round the event loop for what the next system call says as well.

use rustix::io::Errno;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

/// See the module. Used by one task.
#[derive(Debug)]
pub(crate) struct Stream {
    // Declared in this order so that the runtime forgets the descriptor before it is closed.
    watch: Option<AsyncFd<RawFd>>,
    /// Whether it is watched for writing too.
    for_writing: bool,
    connecting: bool,
    /// The acknowledgement that ends the handshake waits for the first bytes.
    greeting: bool,
    socket: TcpStream,
}

impl Stream {
    /// Begins to connect; [`Stream::poll_connected`] tells when that is done.
    pub(crate) fn connect(address: SocketAddr) -> io::Result<Self> {
        let kind = Type::STREAM.nonblocking().cloexec();
        let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
        let address = SockAddr::from(address);
        acknowledge_at_once(&socket, false);
        let connecting = is_connecting(socket.connect(&address))?
            // Within the machine the other side has answered by now, which asking again tells.
            && is_connecting(socket.connect(&address))?;
        Ok(Self { watch: None, for_writing: false, connecting, greeting: true, socket: socket.into() })
    }

    /// Ready when the connection stands, or could not be made.
    pub(crate) fn poll_connected(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.connecting {
            // Ready once for good: the connection stands, or never will.
            drop(ready!(self.watch_both(cx)?.poll_write_ready(cx))?);
            if let Some(error) = self.socket.take_error()? {
                return Poll::Ready(Err(error));
            }
            self.connecting = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Ready when there is something to read, or the other side has ended. Only to be asked while a write waits.
    pub(crate) fn poll_read_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.watch_both(cx)?.poll_read_ready(cx).map_ok(|_| ())
    }

    pub(crate) fn set_nodelay(&self) -> io::Result<()> {
        self.socket.set_nodelay(true)
    }

    fn watch_both(&mut self, cx: &Context<'_>) -> io::Result<&AsyncFd<RawFd>> {
        if !self.for_writing && self.watch.take().is_some() {
            // What waited for something to read has to ask again.
            cx.waker().wake_by_ref();
        }
        self.for_writing = true;
        watched(&mut self.watch, &self.socket, Interest::READABLE | Interest::WRITABLE)
    }
}

/// The watch of a socket, begun where there is none.
fn watched<'w>(
    watch: &'w mut Option<AsyncFd<RawFd>>,
    socket: &TcpStream,
    interest: Interest,
) -> io::Result<&'w AsyncFd<RawFd>> {
    if watch.is_none() {
        #[expect(deprecated, reason = "its successor is unsafe; the socket outlives its watch, and is not replaced")]
        let new = AsyncFd::with_interest(socket.as_raw_fd(), interest)?;
        *watch = Some(new);
    }
    watch.as_ref().ok_or_else(|| io::ErrorKind::NotConnected.into())
}

/// What a call of `connect` tells: the connection stands, or is still to come.
fn is_connecting(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(false),
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::ISCONN) => Ok(false),
            Some(Errno::INPROGRESS | Errno::ALREADY | Errno::INTR) => Ok(true),
            _ => Err(error),
        },
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let watch = watched(&mut this.watch, &this.socket, Interest::READABLE)?;
        loop {
            let mut ready = ready!(watch.poll_read_ready(cx))?;
            let room = buf.initialize_unfilled();
            match this.socket.read(room) {
                Ok(count) => {
                    // Less than there was room for was all that there is; the runtime tells of what comes later.
                    if (1..room.len()).contains(&count) {
                        ready.clear_ready();
                    }
                    buf.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl Stream {
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        mut send: impl FnMut(&mut TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            match send(&mut self.socket) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // What is known of it is from before; it is tried once more after that is forgotten.
                    ready!(self.watch_both(cx)?.poll_write_ready(cx))?.clear_ready();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => {
                    if std::mem::take(&mut self.greeting) {
                        acknowledge_at_once(&self.socket, true);
                    }
                    return Poll::Ready(result);
                }
            }
        }
    }
}

/// Whether what arrives is acknowledged at once, as a new connection does (tcp(7), `TCP_QUICKACK`).
///
/// Not doing so until the first bytes are sent lets the packet that carries them end the handshake too, where it
/// would be the second: the connection stands at the same instant, one packet and one waking of the server fewer.
/// Afterwards it must be so again, or a server that sends its answer in pieces and waits for each to be acknowledged
/// would seem slow.
#[cfg(target_os = "linux")]
fn acknowledge_at_once(socket: &impl AsFd, at_once: bool) {
    // Where it cannot be set, there is a packet more.
    let _ = rustix::net::sockopt::set_tcp_quickack(socket, at_once);
}

#[cfg(not(target_os = "linux"))]
fn acknowledge_at_once(_: &impl AsFd, _: bool) {}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().poll_send(cx, |socket| socket.write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_send(cx, |socket| socket.write_vectored(parts))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.socket.shutdown(Shutdown::Write))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn connected(address: SocketAddr) -> io::Result<Stream> {
        let mut stream = Stream::connect(address)?;
        std::future::poll_fn(|cx| stream.poll_connected(cx)).await?;
        Ok(stream)
    }

    #[tokio::test]
    async fn more_than_fits_is_written_while_the_other_side_reads_and_answers() {
        const BYTES: usize = 16 << 20;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut peer, _) = listener.accept().unwrap();
            peer.write_all(b"early").unwrap();
            std::thread::sleep(std::time::Duration::from_millis(50));
            let mut taken = vec![0; BYTES];
            peer.read_exact(&mut taken).unwrap();
            assert!(taken.iter().zip(0u32..).all(|(byte, at)| *byte == at.to_le_bytes()[1]));
            peer.write_all(b"late").unwrap();
        });
        let mut stream = connected(address).await.unwrap();
        let mut early = [0; 5];
        stream.read_exact(&mut early).await.unwrap();
        assert_eq!(&early, b"early");
        let bytes: Vec<u8> = (0..BYTES as u32).map(|at| at.to_le_bytes()[1]).collect();
        stream.write_all(&bytes).await.unwrap();
        let mut late = Vec::new();
        stream.read_to_end(&mut late).await.unwrap();
        assert_eq!(late, b"late");
        server.join().unwrap();
    }

    #[tokio::test]
    async fn who_waits_to_read_is_told_while_a_write_waits() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut stream = connected(listener.local_addr().unwrap()).await.unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        let mut answer = [0; 4];
        let (mut full, mut read) = (false, false);
        let both = std::future::poll_fn(|cx| {
            let mut window = ReadBuf::new(&mut answer);
            if let Poll::Ready(result) = Pin::new(&mut stream).poll_read(cx, &mut window) {
                result.unwrap();
                read = true;
                return Poll::Ready(());
            }
            while !full {
                // Until nothing more fits, which is what changes what is watched.
                full = Pin::new(&mut stream).poll_write(cx, &[7; 8192]).is_pending();
            }
            Poll::Pending
        });
        let answering = async {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            peer.write_all(b"stop").unwrap();
        };
        tokio::time::timeout(std::time::Duration::from_secs(5), async { tokio::join!(both, answering) }).await.unwrap();
        assert!(read);
        assert_eq!(&answer, b"stop");
    }

    #[tokio::test]
    async fn an_answer_in_pieces_does_not_wait_for_us() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            for _ in 0..5 {
                let (mut peer, _) = listener.accept().unwrap();
                peer.read_exact(&mut [0; 3]).unwrap();
                // The second piece stays until the first is acknowledged (RFC 9293, 3.7.4).
                peer.write_all(b"head").unwrap();
                peer.write_all(b"body").unwrap();
            }
        });
        let mut shortest = std::time::Duration::MAX;
        for _ in 0..5 {
            let mut stream = connected(address).await.unwrap();
            stream.write_all(b"ask").await.unwrap();
            let asked = std::time::Instant::now();
            stream.read_exact(&mut [0; 8]).await.unwrap();
            shortest = shortest.min(asked.elapsed());
        }
        // An acknowledgement that is put off comes after 40 ms at the earliest.
        assert!(shortest < std::time::Duration::from_millis(30), "{shortest:?}");
        server.join().unwrap();
    }

    #[tokio::test]
    async fn a_port_where_nobody_listens_refuses() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = connected(free).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
