//! Serves HTTP/2, and hands the connection over to faults that speak it by hand.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::connection::{Conversation, reply_to};
use crate::http1::BODY_BYTES;
use crate::log::Seen;
use crate::reply::{Answer, Body, Reply, Step};
use crate::request::Request;
use crate::state::State;
use crate::wire::Wire;

/// Headers that HTTP/2 does not know (RFC 9113, 8.2.2).
const OF_THE_CONNECTION: [&str; 5] = ["connection", "transfer-encoding", "keep-alive", "upgrade", "proxy-connection"];

/// What an answer does to the connection that other answers share.
enum Order {
    /// Plays these steps on the wire, which is taken away already.
    TakeOver(Wire, Vec<Step>),
    /// Takes no more requests.
    Finish,
}

/// Answers requests, side by side, until the connection ends.
pub(crate) async fn serve(wire: Wire, conversation: Conversation, state: Arc<State>) -> anyhow::Result<()> {
    let shared = SharedWire(Arc::new(Mutex::new(Some(wire))));
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(1000).max_send_buffer_size(1 << 20);
    let mut connection = builder.handshake::<_, Bytes>(shared.clone()).await?;
    let (orders, mut ordered) = mpsc::channel(4);
    let mut answering = JoinSet::new();
    let mut number = 0;
    let (wire, steps) = loop {
        tokio::select! {
            // An order may have taken the wire away, and then there is no use in asking the library any more.
            biased;
            order = ordered.recv() => match order {
                Some(Order::TakeOver(wire, steps)) => break (wire, steps),
                Some(Order::Finish) => connection.graceful_shutdown(),
                None => return Ok(()),
            },
            request = connection.accept() => match request {
                Some(Ok((request, respond))) => {
                    number += 1;
                    let (conversation, state, orders) = (conversation.clone(), state.clone(), orders.clone());
                    let shared = shared.clone();
                    answering.spawn(async move {
                        // What fails here is the client's stream; the connection goes on.
                        let _ = answer(request, respond, number, conversation, state, shared, orders).await;
                    });
                }
                other if !shared.is_taken() => return other.map_or(Ok(()), |request| request.map(drop)).map_err(Into::into),
                _ => match ordered.recv().await {
                    Some(Order::TakeOver(wire, steps)) => break (wire, steps),
                    _ => return Ok(()),
                },
            },
        }
    };
    drop((answering, connection));
    wire.play(steps, &state.clock).await?;
    Ok(())
}

async fn answer(
    incoming: http::Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    number: u64,
    conversation: Conversation,
    state: Arc<State>,
    shared: SharedWire,
    orders: mpsc::Sender<Order>,
) -> anyhow::Result<()> {
    let arrived = Instant::now();
    let (parts, body) = incoming.into_parts();
    let target = parts.uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
    let authority = parts.uri.authority().map(ToString::to_string);
    let headers: Vec<(String, Bytes)> = parts
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), Bytes::copy_from_slice(value.as_bytes())))
        .collect();
    let mut request = Request {
        method: parts.method.to_string(),
        target,
        version: "http/2",
        headers,
        body: Bytes::new(),
        host: String::new(),
        stream: Some(respond.stream_id().as_u32()),
        secure: conversation.secure,
        sni: conversation.sni.clone(),
        peer: conversation.peer.clone(),
        connection: conversation.number,
        number,
    };
    request.host =
        authority.unwrap_or_else(|| String::from_utf8_lossy(request.header("host").unwrap_or_default()).into_owned());
    let entry = state.log.request(Seen {
        connection: conversation.number,
        port: conversation.port,
        version: request.version,
        method: request.method.clone(),
        target: request.target.clone(),
        path: request.path().to_owned(),
        host: request.host.clone(),
        sni: conversation.sni.clone(),
        ..Seen::default()
    });
    let had_body = !body.is_end_stream();
    request.body = collect(body).await?;
    let arrived = if had_body { Instant::now() } else { arrived };
    match reply_to(&request, &conversation, &state).await {
        Reply::Wire(status, mut steps) => {
            state.log.status(entry, status);
            while let Some(Step::Wait(time)) = steps.first() {
                state.clock.until(arrived + *time).await;
                steps.remove(0);
            }
            if matches!(steps.first(), Some(Step::Send(_) | Step::Drip { .. } | Step::Endless { .. })) {
                state.log.answered(entry);
            }
            // Before `respond` is dropped, which the library would tell the client by a RST_STREAM of its own.
            if let Some(wire) = shared.take() {
                let _ = orders.send(Order::TakeOver(wire, steps)).await;
            }
        }
        Reply::Answer(answer) => {
            state.log.status(entry, answer.status);
            state.clock.until(arrived + answer.delay).await;
            state.log.answered(entry);
            let finish = answer.close;
            if let Some((step, _stream)) = send(*answer, &request, &mut respond, &state).await? {
                // Lets the connection's task write what is queued, and the client read it.
                state.clock.sleep(Duration::from_millis(20)).await;
                if let Some(wire) = shared.take() {
                    let _ = orders.send(Order::TakeOver(wire, vec![step])).await;
                }
            } else if finish {
                let _ = orders.send(Order::Finish).await;
            }
        }
    }
    Ok(())
}

/// Sends an answer; what comes back is to be done to the connection in the body's middle, while the stream stands.
async fn send(
    answer: Answer,
    request: &Request,
    respond: &mut SendResponse<Bytes>,
    state: &State,
) -> anyhow::Result<Option<(Step, SendStream<Bytes>)>> {
    for status in &answer.interim {
        let mut interim = Response::new(());
        *interim.status_mut() = StatusCode::from_u16(*status)?;
        respond.send_informational(interim)?;
    }
    let mut head = Response::new(());
    *head.status_mut() = StatusCode::from_u16(answer.status)?;
    for (name, value) in &answer.headers {
        let name = HeaderName::from_bytes(name.to_ascii_lowercase().as_bytes())?;
        if !OF_THE_CONNECTION.contains(&name.as_str()) {
            head.headers_mut().append(name, HeaderValue::from_bytes(value)?);
        }
    }
    let bodiless = request.method == "HEAD" || matches!(answer.status, 204 | 304);
    if let (Body::Bytes(body), true) = (&answer.body, answer.framing == crate::reply::Framing::Length)
        && !matches!(answer.status, 204 | 304)
    {
        let length = answer.declared.unwrap_or(body.len() as u64);
        head.headers_mut().insert(http::header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    let mut stream = respond.send_response(head, bodiless)?;
    if bodiless {
        return Ok(None);
    }
    state.clock.sleep(answer.body_delay).await;
    match answer.body {
        Body::Endless { chunk, every } => loop {
            push(&mut stream, chunk.clone()).await?;
            if every.is_zero() {
                tokio::task::yield_now().await;
            } else {
                state.clock.sleep(every).await;
            }
        },
        Body::Bytes(body) => {
            let length = answer.cut.as_ref().map_or(body.len(), |(at, _)| (*at).min(body.len()));
            let mut rest = body.slice(..length);
            let (size, every) = answer.drip.unwrap_or((usize::MAX, Duration::ZERO));
            let mut at = Instant::now();
            while !rest.is_empty() {
                push(&mut stream, rest.split_to(size.min(rest.len()))).await?;
                at += every;
                state.clock.until(at).await;
            }
        }
    }
    if let Some((_, step)) = answer.cut {
        return Ok(Some((step, stream)));
    }
    if answer.trailers.is_empty() {
        stream.send_data(Bytes::new(), true)?;
    } else {
        let mut trailers = HeaderMap::new();
        for (name, value) in &answer.trailers {
            trailers.append(HeaderName::from_bytes(name.as_bytes())?, HeaderValue::from_str(value)?);
        }
        stream.send_trailers(trailers)?;
    }
    Ok(None)
}

/// Sends bytes as the client's windows allow.
async fn push(stream: &mut SendStream<Bytes>, mut bytes: Bytes) -> anyhow::Result<()> {
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        let capacity = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
        let Some(capacity) = capacity.transpose()? else { anyhow::bail!("the stream is closed") };
        let part = bytes.split_to(capacity.min(bytes.len()));
        if !part.is_empty() {
            stream.send_data(part, false)?;
        }
    }
    Ok(())
}

async fn collect(mut body: RecvStream) -> anyhow::Result<Bytes> {
    let mut all = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        anyhow::ensure!(all.len() + data.len() <= BODY_BYTES, "the request's body is too long");
        all.extend_from_slice(&data);
    }
    Ok(all.freeze())
}

/// A wire that can be taken away from whoever uses it.
#[derive(Clone)]
struct SharedWire(Arc<Mutex<Option<Wire>>>);

impl SharedWire {
    fn lock(&self) -> MutexGuard<'_, Option<Wire>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_taken(&self) -> bool {
        self.lock().is_none()
    }

    fn take(&self) -> Option<Wire> {
        self.lock().take()
    }

    fn with<T>(&self, act: impl FnOnce(Pin<&mut Wire>) -> Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match self.lock().as_mut() {
            Some(wire) => act(Pin::new(wire)),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }
}

impl AsyncRead for SharedWire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.with(|wire| wire.poll_read(cx, out))
    }
}

impl AsyncWrite for SharedWire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.with(|wire| wire.poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|wire| wire.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|wire| wire.poll_shutdown(cx))
    }
}
