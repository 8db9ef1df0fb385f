//! HTTP/2, driven inside of the check's own future: no task is left behind.

use crate::http::conn::{Conn, cause_in};
use bytes::Bytes;
use h2::client::{Connection, ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use sitemon_model::{Cause, Code, Phase};
use std::future::Future;
use std::pin::{Pin, pin};
use std::task::Poll;

/// Bytes that a server may send ahead of our reading. Larger than the protocol's default, so that a distant
/// site is not measured by its window; small enough to be held for a check.
const WINDOW_BYTES: u32 = 256 << 10;

/// A connection that speaks HTTP/2.
pub(crate) struct H2 {
    send: SendRequest<Bytes>,
    connection: Connection<Conn, Bytes>,
    ended: bool,
}

impl std::fmt::Debug for H2 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("H2").field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl H2 {
    /// Sends the preface; the server's is not waited for.
    pub(crate) async fn open(conn: Conn, header_bytes: u64) -> Result<Self, Broken> {
        let header_bytes = u32::try_from(header_bytes).unwrap_or(u32::MAX);
        let (send, connection) = h2::client::Builder::new()
            .enable_push(false)
            .initial_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .max_header_list_size(header_bytes)
            .max_send_buffer_size(64 << 10)
            .handshake(conn)
            .await?;
        Ok(Self { send, connection, ended: false })
    }

    /// Whether it can be used for another request.
    pub(crate) fn is_open(&self) -> bool {
        !self.ended
    }

    /// Drives the connection until the future is done. The error is the connection's, where that ended first.
    async fn drive<T>(&mut self, future: impl Future<Output = T>) -> Result<T, Broken> {
        drive(&mut self.connection, &mut self.ended, future).await
    }

    /// Sends a request with its body. Comes back when all of it is handed on, or the server began to answer.
    pub(crate) async fn send(&mut self, request: http::Request<()>, body: Bytes) -> Result<ResponseFuture, Broken> {
        let (connection, ended) = (&mut self.connection, &mut self.ended);
        drive(connection, ended, std::future::poll_fn(|cx| self.send.poll_ready(cx))).await??;
        let (response, stream) = self.send.send_request(request, body.is_empty())?;
        if !body.is_empty() {
            // An answer before the end of the body may come with a reset that only says so.
            let _ = self.drive(send_body(stream, body)).await?;
        }
        // What is queued goes out when the connection is polled.
        self.drive(std::future::ready(())).await?;
        Ok(response)
    }

    /// Waits for the head of the answer.
    pub(crate) async fn head(&mut self, response: ResponseFuture) -> Result<http::Response<RecvStream>, Broken> {
        Ok(self.drive(response).await??)
    }

    /// The next part of the body; `None` at its end.
    pub(crate) async fn data(&mut self, body: &mut RecvStream) -> Result<Option<Bytes>, Broken> {
        let next = self.drive(std::future::poll_fn(|cx| body.poll_data(cx))).await?;
        match next {
            Some(Ok(data)) => Ok(Some(data)),
            Some(Err(error)) => Err(error.into()),
            None => {
                self.drive(std::future::poll_fn(|cx| body.poll_trailers(cx))).await??;
                Ok(None)
            }
        }
    }
}

async fn drive<T>(
    connection: &mut Connection<Conn, Bytes>,
    ended: &mut bool,
    future: impl Future<Output = T>,
) -> Result<T, Broken> {
    let mut future = pin!(future);
    let mut failure = None;
    std::future::poll_fn(|cx| {
        if !*ended && let Poll::Ready(result) = Pin::new(&mut *connection).poll(cx) {
            *ended = true;
            failure = result.err();
        }
        match future.as_mut().poll(cx) {
            Poll::Ready(value) => Poll::Ready(Ok(value)),
            Poll::Pending if *ended => Poll::Ready(Err(failure.take().map_or(Broken::Closed, Broken::Http2))),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
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

/// How a connection of HTTP/2 broke.
#[derive(Debug)]
pub(crate) enum Broken {
    Http2(h2::Error),
    /// It was closed without a word.
    Closed,
}

impl From<h2::Error> for Broken {
    fn from(error: h2::Error) -> Self {
        Self::Http2(error)
    }
}

impl Broken {
    /// Whether the connection ended under it, rather than the stream or the protocol.
    pub(crate) fn is_connection(&self) -> bool {
        match self {
            Self::Http2(error) => error.is_io(),
            Self::Closed => true,
        }
    }

    /// The cause that it stands for in a phase: a reset of the stream, the server's farewell, the connection's
    /// own errors, or a breach of RFC 9113.
    pub(crate) fn cause_in(&self, phase: Phase) -> Cause {
        let error = match self {
            Self::Closed => return Cause::new(phase.closed(), "the connection was closed"),
            Self::Http2(error) => error,
        };
        if let Some(io) = error.get_io() {
            return cause_in(io, phase);
        }
        let reason = || error.reason().map_or_else(|| error.to_string(), |reason| format!("{reason:?}"));
        if error.is_remote() && error.is_go_away() {
            return Cause::new(phase.closed(), format!("the server said farewell: {}", reason()));
        }
        if error.is_remote() && error.is_reset() {
            return Cause::new(phase.reset(), format!("the server reset the stream: {}", reason()));
        }
        Cause::new(Code::HttpMalformed, format!("a breach of HTTP/2: {error}"))
    }
}
