//! HTTP/2, driven inside of the check's own future: no task is left behind.
//!
//! What the server did is taken from the bytes that came: the frames are walked through as they are read,
//! because the errors of the library tell neither an alert of TLS from a broken one, nor an end from a reset,
//! nor when the first byte of the answer came.

use crate::http::conn::{Conn, cause_in};
use crate::http::tls::tls_error;
use bytes::Bytes;
use h2::client::{Connection, ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use sitemon_model::{Cause, Code, Phase};
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that a server may send ahead of our reading. Larger than the protocol's default, so that a distant
/// site is not measured by its window; small enough to be held for a check.
const WINDOW_BYTES: u32 = 256 << 10;

/// Bytes of frames that carry nothing of an answer (PING, SETTINGS, empty DATA and the like), for one request;
/// more are a flood, which would cost us more than the server.
const CONTROL_BYTES_MAX: u64 = 128 << 10;

/// Header blocks before the answer's body: the library keeps interim answers until the answer comes, and each
/// takes a thousand times what it takes on the wire.
const BLOCKS_MAX: u64 = 100;

/// A connection that speaks HTTP/2.
pub(crate) struct H2 {
    send: SendRequest<Bytes>,
    connection: Connection<Tapped, Bytes>,
    tap: Arc<Mutex<Tap>>,
    ended: bool,
    /// What ended the connection, as the library tells it.
    failure: Option<h2::Error>,
}

impl std::fmt::Debug for H2 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("H2").field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl H2 {
    /// Sends the preface; the server's is not waited for.
    pub(crate) async fn open(conn: Conn, header_bytes: u64) -> Result<Self, Cause> {
        let tap = Arc::new(Mutex::new(Tap { header_bytes_max: header_bytes, ..Tap::default() }));
        let opened = h2::client::Builder::new()
            .enable_push(false)
            .initial_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .max_header_list_size(u32::try_from(header_bytes).unwrap_or(u32::MAX))
            .max_send_buffer_size(64 << 10)
            .handshake(Tapped { conn, tap: tap.clone(), unsent: None })
            .await;
        match opened {
            Ok((send, connection)) => Ok(Self { send, connection, tap, ended: false, failure: None }),
            Err(error) => Err(lock(&tap).cause(&[&error], Phase::Send)),
        }
    }

    /// Whether it can be used for another request.
    pub(crate) fn is_open(&self) -> bool {
        let tap = lock(&self.tap);
        !self.ended && !tap.eof && tap.error.is_none() && tap.farewell.is_none()
    }

    /// Sends a request with its body. Comes back when all of it is handed on, or the server began to answer.
    pub(crate) async fn send(&mut self, request: http::Request<()>, body: Bytes) -> Result<ResponseFuture, Cause> {
        {
            let mut tap = lock(&self.tap);
            tap.began = None;
            tap.waits = true;
            tap.header_bytes = 0;
            tap.header_blocks = 0;
            tap.control_bytes = 0;
        }
        let mut sender = self.send.clone();
        self.drive(std::future::poll_fn(|cx| sender.poll_ready(cx)), Phase::Send, |_| {}).await?;
        let (response, stream) = match sender.send_request(request, body.is_empty()) {
            Ok(begun) => begun,
            Err(error) => return Err(self.cause(Some(&error), Phase::Send)),
        };
        lock(&self.tap).stream = response.stream_id().as_u32();
        if !body.is_empty() {
            // An answer before the end of the body may come with a reset that only says so.
            let sending = async {
                let _ = send_body(stream, body).await;
                Ok(())
            };
            self.drive(sending, Phase::Send, |_| {}).await?;
        }
        // What is queued goes out when the connection is polled.
        self.drive(std::future::ready(Ok(())), Phase::Send, |_| {}).await?;
        Ok(response)
    }

    /// Waits for the head of the answer; `began` is told when its first byte came.
    pub(crate) async fn head(
        &mut self,
        response: ResponseFuture,
        mut began: impl FnMut(Instant),
    ) -> Result<http::Response<RecvStream>, Cause> {
        let mut first = None;
        let result = self
            .drive(response, Phase::Wait, |tap| {
                if first.is_none()
                    && let Some(at) = tap.began
                {
                    first = Some(at);
                    began(at);
                }
            })
            .await;
        if result.is_ok() {
            lock(&self.tap).waits = false;
        }
        match (result, first) {
            // The library may have taken the head in one go with what ended it.
            (Ok(response), _) => Ok(response),
            (Err(cause), None) => Err(cause),
            // Within the head, the phase is another.
            (Err(cause), Some(_)) => Err(match Phase::ALL.iter().find(|phase| phase.reset() == cause.code) {
                Some(_) => Cause::new(Code::ReceiveReset, cause.message),
                None if cause.code == Code::WaitClosed => Cause::new(Code::ReceiveClosed, cause.message),
                None => cause,
            }),
        }
    }

    /// The next part of the body; `None` at its end.
    pub(crate) async fn data(&mut self, body: &mut RecvStream) -> Result<Option<Bytes>, Cause> {
        let next = self.drive(
            async { std::future::poll_fn(|cx| body.poll_data(cx)).await.transpose() },
            Phase::Receive,
            |_| {},
        );
        let next = next.await?;
        if next.is_none() {
            self.drive(std::future::poll_fn(|cx| body.poll_trailers(cx)), Phase::Receive, |_| {}).await?;
        }
        Ok(next)
    }

    /// Drives the connection until the future is done; `look` sees what came after each step.
    async fn drive<T>(
        &mut self,
        future: impl Future<Output = Result<T, h2::Error>>,
        phase: Phase,
        mut look: impl FnMut(&Tap),
    ) -> Result<T, Cause> {
        let mut future = pin!(future);
        let result = std::future::poll_fn(|cx| {
            if !self.ended
                && let Poll::Ready(result) = Pin::new(&mut self.connection).poll(cx)
            {
                self.ended = true;
                self.failure = result.err();
            }
            {
                let tap = lock(&self.tap);
                look(&tap);
                if tap.is_too_long() || tap.control_bytes > CONTROL_BYTES_MAX {
                    return Poll::Ready(Err(None));
                }
            }
            match future.as_mut().poll(cx) {
                Poll::Ready(result) => Poll::Ready(result.map_err(Some)),
                Poll::Pending if self.ended => Poll::Ready(Err(None)),
                Poll::Pending => Poll::Pending,
            }
        })
        .await;
        result.map_err(|error| self.cause(error.as_ref(), phase))
    }

    fn cause(&self, error: Option<&h2::Error>, phase: Phase) -> Cause {
        let errors: Vec<&h2::Error> = self.failure.as_ref().into_iter().chain(error).collect();
        lock(&self.tap).cause(&errors, phase)
    }
}

async fn send_body(mut stream: SendStream<Bytes>, mut body: Bytes) -> Result<(), h2::Error> {
    while !body.is_empty() {
        stream.reserve_capacity(body.len());
        let Some(capacity) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await else { return Ok(()) };
        let part = body.split_to(capacity?.min(body.len()));
        if !part.is_empty() {
            stream.send_data(part, body.is_empty())?;
        }
    }
    Ok(())
}

/// What came on a connection, by its frames.
#[derive(Debug, Default)]
struct Tap {
    /// The frame's head that is being read, and how much of it there is.
    head: [u8; 9],
    have: usize,
    /// Bytes of the frame's content that are still to come, and those that came.
    left: usize,
    came: usize,
    /// The first bytes of its content: the codes of a reset and of a farewell stand there.
    start: [u8; 8],
    /// The stream of the request.
    stream: u32,
    /// When the first header of an answer began to come, since that was last forgotten.
    began: Option<Instant>,
    /// Whether the answer to a request has not come yet.
    waits: bool,
    /// Header blocks since the request, their bytes, and how many these may be.
    header_blocks: u64,
    header_bytes: u64,
    header_bytes_max: u64,
    /// Bytes of frames since the request that carry nothing of an answer.
    control_bytes: u64,
    reset: Option<u32>,
    farewell: Option<u32>,
    eof: bool,
    error: Option<io::Error>,
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;

/// The flag of a frame with padding.
const PADDED: u8 = 8;

impl Tap {
    fn walk(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.have < 9 {
                let count = bytes.len().min(9 - self.have);
                self.head[self.have..self.have + count].copy_from_slice(&bytes[..count]);
                self.have += count;
                bytes = &bytes[count..];
                if self.have < 9 {
                    return;
                }
                self.left =
                    usize::from(self.head[0]) << 16 | usize::from(self.head[1]) << 8 | usize::from(self.head[2]);
                self.came = 0;
                if self.left == 0 || self.is_control() {
                    self.control_bytes += 9;
                }
                if self.head[3] == HEADERS && self.is_ours() {
                    self.header_blocks += 1;
                    self.began.get_or_insert_with(Instant::now);
                }
            }
            let count = bytes.len().min(self.left);
            for byte in &bytes[..count.min(8usize.saturating_sub(self.came))] {
                self.start[self.came.min(7)] = *byte;
                self.came += 1;
            }
            if matches!(self.head[3], HEADERS | CONTINUATION) && self.is_ours() {
                self.header_bytes += count as u64;
            }
            // As they come: a frame that only claims to be long is for the library to refuse.
            if self.is_control() {
                self.control_bytes += count as u64;
            }
            self.left -= count;
            bytes = &bytes[count..];
            if self.left == 0 {
                self.have = 0;
                let code = |at: usize| u32::from_be_bytes([0, 1, 2, 3].map(|index| self.start[at + index]));
                if self.head[3] == DATA && self.head[4] & PADDED != 0 && self.came > 0 {
                    // All of it may be padding.
                    let length =
                        usize::from(self.head[0]) << 16 | usize::from(self.head[1]) << 8 | usize::from(self.head[2]);
                    if length <= 1 + usize::from(self.start[0]) {
                        self.control_bytes += 9 + length as u64;
                    }
                }
                match (self.head[3], self.came) {
                    (RST_STREAM, 4..) => self.reset = Some(code(0)),
                    (GOAWAY, 8..) => self.farewell = Some(code(4)),
                    _ => {}
                }
            }
        }
    }

    /// Whether the answer's header, with all interim ones before it, is longer than allowed.
    fn is_too_long(&self) -> bool {
        self.waits && (self.header_bytes > self.header_bytes_max || self.header_blocks > BLOCKS_MAX)
    }

    /// Whether the frame that is being read is of the request's stream; what comes for others is for the library to
    /// refuse.
    fn is_ours(&self) -> bool {
        let [.., a, b, c, d] = self.head;
        u32::from_be_bytes([a & 0x7f, b, c, d]) == self.stream
    }

    /// Whether the frame that is being read carries nothing of an answer.
    fn is_control(&self) -> bool {
        !matches!(self.head[3], DATA | HEADERS | CONTINUATION)
    }

    /// The cause of an end: our own reading of the bytes before the library's words, but for a breach, which
    /// the library found.
    fn cause(&self, errors: &[&h2::Error], phase: Phase) -> Cause {
        // What the server said before it cut the connection says more than the cut; an alert of TLS is its word, too.
        let said = self.reset.is_some() || self.farewell.is_some();
        if let Some(error) = self.error.as_ref().filter(|error| !said || tls_error(error).is_some()) {
            return cause_in(error, phase);
        }
        let breach = errors.iter().find(|error| error.is_library());
        let refused = breach.is_some_and(|breach| breach.reason() == Some(Reason::REFUSED_STREAM));
        if self.waits && refused || self.is_too_long() {
            let message = format!("the header is longer than {} bytes", self.header_bytes_max);
            return Cause::new(Code::HttpHeaderLimit, message);
        }
        // The library bounds the frames of a header, which may be few bytes each.
        if breach.is_some_and(|breach| breach.reason() == Some(Reason::ENHANCE_YOUR_CALM))
            && self.head[3] == CONTINUATION
        {
            return Cause::new(Code::HttpHeaderLimit, "the header comes in too many frames");
        }
        if self.control_bytes > CONTROL_BYTES_MAX {
            return Cause::new(Code::HttpMalformed, "a flood of frames that carry nothing");
        }
        if let Some(breach) = breach {
            return Cause::new(Code::HttpMalformed, format!("a breach of HTTP/2: {breach}"));
        }
        if let Some(code) = self.reset {
            return Cause::new(phase.reset(), format!("the server reset the stream: {:?}", Reason::from(code)));
        }
        if let Some(code) = self.farewell {
            return Cause::new(phase.closed(), format!("the server said farewell: {:?}", Reason::from(code)));
        }
        if self.eof {
            return Cause::new(phase.closed(), "the connection was closed");
        }
        match errors.first() {
            Some(error) => match error.get_io() {
                Some(io) => cause_in(io, phase),
                None => Cause::new(Code::HttpMalformed, format!("a breach of HTTP/2: {error}")),
            },
            None => Cause::new(phase.closed(), "the connection was closed"),
        }
    }

    /// Whether the connection ended without a word of HTTP/2.
    fn is_cut(&self) -> bool {
        self.eof && self.reset.is_none() && self.farewell.is_none()
    }
}

impl H2 {
    /// Whether the connection ended without a word of HTTP/2.
    pub(crate) fn is_cut(&self) -> bool {
        lock(&self.tap).is_cut()
    }
}

fn lock(tap: &Mutex<Tap>) -> MutexGuard<'_, Tap> {
    tap.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A connection whose incoming bytes are looked at.
struct Tapped {
    conn: Conn,
    tap: Arc<Mutex<Tap>>,
    /// Why writing failed, while the server's last words are listened to.
    unsent: Option<io::Error>,
}

impl Tapped {
    /// Keeps an error as it is, because the library keeps only its words.
    fn note<T>(&self, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        result.map_err(|error| {
            let kind = error.kind();
            let mut tap = lock(&self.tap);
            if kind == io::ErrorKind::UnexpectedEof {
                tap.eof = true;
            } else {
                tap.error = Some(error);
            }
            kind.into()
        })
    }
}

impl Tapped {
    /// Writing failed: what the server said before it stopped to listen (an alert of TLS, a reset, a farewell)
    /// says more than that, so it is listened to until it has no more to say, which on a connection that
    /// cannot be written to comes soon.
    fn last_words<T>(&mut self, cx: &mut Context<'_>, unsent: io::Error) -> Poll<io::Result<T>> {
        let kind = unsent.kind();
        let mut scratch = [0; 4096];
        let words = loop {
            let mut window = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.conn).poll_read(cx, &mut window) {
                Poll::Ready(Ok(())) if window.filled().is_empty() => break None,
                Poll::Ready(Ok(())) => lock(&self.tap).walk(window.filled()),
                Poll::Ready(Err(words)) => break Some(words),
                Poll::Pending => {
                    self.unsent = Some(unsent);
                    return Poll::Pending;
                }
            }
        };
        let mut tap = lock(&self.tap);
        match words.filter(|words| words.kind() != io::ErrorKind::UnexpectedEof) {
            Some(words) => tap.error = Some(words),
            None if tap.reset.is_some() || tap.farewell.is_some() => tap.eof = true,
            None => tap.error = Some(unsent),
        }
        Poll::Ready(Err(kind.into()))
    }
}

impl AsyncRead for Tapped {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let room = buf.remaining() > 0;
        if lock(&self.tap).is_too_long() {
            // Whoever drives the connection looks at that next, and ends it.
            return Poll::Pending;
        }
        let result = Pin::new(&mut self.conn).poll_read(cx, buf);
        if let Poll::Ready(Ok(())) = result {
            let mut tap = lock(&self.tap);
            tap.walk(&buf.filled()[before..]);
            tap.eof |= room && buf.filled().len() == before;
        }
        self.note(result)
    }
}

impl AsyncWrite for Tapped {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(unsent) = self.unsent.take() {
            return self.last_words(cx, unsent);
        }
        match Pin::new(&mut self.conn).poll_write(cx, buf) {
            Poll::Ready(Err(error)) => self.last_words(cx, error),
            result => result,
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(unsent) = self.unsent.take() {
            return self.last_words(cx, unsent);
        }
        match Pin::new(&mut self.conn).poll_flush(cx) {
            Poll::Ready(Err(error)) => self.last_words(cx, error),
            result => result,
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.conn).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_walked_in_all_pieces() {
        let mut bytes = vec![0, 0, 0, 4, 0, 0, 0, 0, 0];
        bytes.extend([0, 0, 3, HEADERS, 4, 0, 0, 0, 1, 9, 9, 9]);
        bytes.extend([0, 0, 10, 0, 0, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
        bytes.extend([0, 0, 4, RST_STREAM, 0, 0, 0, 0, 1, 0, 0, 0, 2]);
        bytes.extend([0, 0, 8, GOAWAY, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 11]);
        // The headers of another stream are none of this answer.
        bytes.extend([0, 0, 2, HEADERS, 4, 0, 0, 0, 3, 9, 9]);
        for size in 1..=bytes.len() {
            let mut tap = Tap { stream: 1, ..Tap::default() };
            bytes.chunks(size).for_each(|piece| tap.walk(piece));
            assert_eq!((tap.reset, tap.farewell, tap.header_bytes), (Some(2), Some(11), 3), "{size}");
            assert!(tap.began.is_some() && tap.header_blocks == 1);
        }
    }

    #[test]
    fn frames_that_carry_nothing_are_counted() {
        let counted = |frame: &[u8]| {
            let mut tap = Tap::default();
            tap.walk(frame);
            tap.control_bytes
        };
        assert_eq!(counted(&[0, 0, 0, DATA, 0, 0, 0, 0, 1]), 9);
        assert_eq!(counted(&[0, 0, 3, DATA, PADDED, 0, 0, 0, 1, 2, 0, 0]), 12);
        assert_eq!(counted(&[0, 0, 3, DATA, PADDED, 0, 0, 0, 1, 1, 7, 0]), 0);
        assert_eq!(counted(&[0, 0, 3, DATA, 0, 0, 0, 0, 1, 2, 0, 0]), 0);
        assert_eq!(counted(&[0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]), 17);
    }

    #[test]
    fn the_servers_word_goes_before_the_cut() {
        let told = |tap: &Tap| tap.cause(&[], Phase::Wait).code;
        let reset = || Some(io::Error::from(io::ErrorKind::ConnectionReset));
        assert_eq!(told(&Tap { error: reset(), ..Tap::default() }), Code::WaitReset);
        assert_eq!(told(&Tap { error: reset(), farewell: Some(0), ..Tap::default() }), Code::WaitClosed);
        assert_eq!(told(&Tap { error: reset(), reset: Some(8), ..Tap::default() }), Code::WaitReset);
    }
}
