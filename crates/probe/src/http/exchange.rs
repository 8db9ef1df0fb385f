//! The exchange: hop by hop, each from the name to the last byte of the answer.

use crate::http::body::{Head as BodyHead, Inspection, Step};
use crate::http::conn::{Conn, Filled, cause_in};
use crate::http::connect::{Dial, dial};
use crate::http::h1::{self, Chunks, Framing, Malformed, Piece};
use crate::http::h2::H2;
use crate::http::judge::Exchange;
use crate::http::pool::PoolKey;
use crate::http::proxy::{self, Target};
use crate::http::redirect::{self, Cookies, Next};
use crate::http::resolve::{LibcTurn, Lookup, Question, resolve};
use crate::http::socket::Stream;
use crate::http::spec::{HttpChoice, IpChoice, Proxy, ProxyScheme};
use crate::http::timeline::Trace;
use crate::http::tls::{self, Chain};
use crate::http::{Cut, HttpCheck, stopped};
use crate::memory::{BeyondBound, Reservation};
use crate::shared::{Rules, Shared};
use bytes::Bytes;
use sitemon_model::{Cause, Certificate, Code, HttpVersion, Phase, Site};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_rustls::TlsConnector;
use url::{Position, Url};

/// Bytes that a check holds at least: its future, its socket, what it knows so far.
pub(crate) const BASE_BYTES: usize = 6 << 10;
/// Bytes that TLS holds: a record in each direction, the handshake.
const TLS_BYTES: usize = 40 << 10;
/// Bytes that HTTP/2 holds: its tables, its streams, frames that came ahead.
const H2_BYTES: usize = 64 << 10;
/// Bytes that one header takes beside its text.
const HEADER_OVERHEAD_BYTES: usize = 80;
/// Bytes of a head that the base covers.
const HEAD_BYTES_FREE: usize = 4 << 10;
/// Bytes of a redirect's own body that are read, so that its connection can be used again.
const DISCARDED_BYTES_MAX: u64 = 64 << 10;
/// Bytes of a body that are sent together with the head.
const JOINED_BYTES: usize = 16 << 10;
/// Beyond so much past its time, a check did not run: the process was held up.
const HELD_UP: Duration = Duration::from_secs(1);

/// What a run is made for.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) check: &'a HttpCheck,
    pub(crate) site: &'a Site,
    pub(crate) shared: &'a Arc<Shared>,
    pub(crate) rules: &'a Rules,
    /// With `ip: each`: the address that is checked; its lookup is on the trace already.
    pub(crate) fixed: Option<IpAddr>,
}

/// What came of a run so far; outlives the future that does the work, so that a check whose time ran out keeps
/// what it saw.
pub(crate) struct Run {
    pub(crate) trace: Trace,
    pub(crate) exchange: Exchange,
    pub(crate) inspection: Option<Inspection>,
    pub(crate) content_type: Option<Arc<str>>,
    /// The site's own certificate: of the last hop with TLS.
    pub(crate) certificate: Option<Arc<Certificate>>,
    reservation: Reservation,
    /// Bytes that are held beside the inspection's.
    held: usize,
    waits_for_memory: bool,
    via_proxy: bool,
}

impl Run {
    pub(crate) fn new(trace: Trace, reservation: Reservation) -> Self {
        Self {
            trace,
            exchange: Exchange::default(),
            inspection: None,
            content_type: None,
            certificate: None,
            reservation,
            held: BASE_BYTES,
            waits_for_memory: false,
            via_proxy: false,
        }
    }

    /// Waits until so many bytes more than before may be held.
    async fn hold(&mut self, more: usize) -> Result<(), Cause> {
        self.held += more;
        self.reserve().await
    }

    /// As [`Run::hold`], for what the inspection asks.
    async fn grow(&mut self, more: usize) -> Result<(), Cause> {
        self.wait_for_memory(async |reservation| reservation.grow(more).await).await
    }

    /// The same when nothing is waited for any more.
    pub(crate) async fn grow_to_end(&mut self, more: usize) -> Result<(), Cause> {
        self.wait_for_memory(async |reservation| reservation.grow_to_end(more).await).await
    }

    async fn reserve(&mut self) -> Result<(), Cause> {
        let bytes = self.held + self.inspection.as_ref().map_or(0, Inspection::held_bytes);
        self.wait_for_memory(async |reservation| reservation.grow_to(bytes).await).await
    }

    async fn wait_for_memory(
        &mut self,
        ask: impl AsyncFnOnce(&mut Reservation) -> Result<(), BeyondBound>,
    ) -> Result<(), Cause> {
        let began = self.trace.now();
        self.waits_for_memory = true;
        let result = ask(&mut self.reservation).await;
        self.waits_for_memory = false;
        self.exchange.waited_us += self.trace.now().saturating_sub(began);
        result.map_err(|error| Cause::new(Code::OwnFailure, error.to_string()))
    }

    /// The cause of a check that was cut off.
    pub(crate) fn cut(&self, cut: Cut, timeout: Duration) -> Cause {
        match cut {
            Cut::Timeout => self.timed_out(timeout),
            Cut::Stopped => stopped(),
        }
    }

    /// The cause of a check whose time ran out.
    fn timed_out(&self, timeout: Duration) -> Cause {
        let took = Duration::from_micros(self.trace.now());
        if took > timeout + HELD_UP {
            let message = format!("the process was held up: {took:.1?} passed where the timeout is {timeout:?}");
            return Cause::new(Code::OwnFailure, message);
        }
        // Also one that got its memory late: the site did not have the time that it should have had.
        if self.waits_for_memory || Duration::from_micros(self.exchange.waited_us) >= timeout / 100 {
            return Cause::new(Code::OwnFailure, "no memory was free in time: limits.memory");
        }
        let phase = self.trace.phase().unwrap_or(Phase::Receive);
        let code = match phase {
            Phase::Dns | Phase::Connect if self.via_proxy => Code::ProxyUnreachable,
            phase => phase.timeout(),
        };
        Cause::new(code, format!("not done within {timeout:?}: {}", phase.as_str()))
    }
}

/// One request.
struct Ask<'a> {
    url: &'a Url,
    method: &'a Arc<str>,
    /// Whether it goes to the origin of the site's URL: only there go headers, authentication, body, client
    /// certificate and `connect_to`.
    own: bool,
    body: &'a [u8],
    cookies: Option<String>,
    /// Whether a redirect is followed.
    follow: bool,
}

impl Ask<'_> {
    fn secure(&self) -> bool {
        self.url.scheme() == "https"
    }

    fn port(&self) -> u16 {
        self.url.port_or_known_default().unwrap_or(80)
    }

    fn is_head(&self) -> bool {
        &**self.method == "HEAD"
    }
}

/// What a hop came to.
enum Landed {
    /// The answer that is judged.
    Here,
    Redirect {
        status: u16,
        location: Box<[u8]>,
        cookies: Vec<Box<[u8]>>,
    },
}

/// A connection that can be asked, and what is known of it.
#[derive(Debug)]
pub(crate) struct Line {
    speaks: Speaks,
    pub(crate) born: Instant,
    address: Option<std::net::SocketAddr>,
    chain: Option<Arc<Chain>>,
}

#[derive(Debug)]
enum Speaks {
    Http1(Conn),
    Http2(Box<H2>),
}

impl Line {
    /// Whether it seems to stand still, unused and not closed.
    pub(crate) fn is_quiet(&mut self) -> bool {
        match &mut self.speaks {
            Speaks::Http1(conn) => conn.is_quiet(),
            Speaks::Http2(h2) => h2.is_open(),
        }
    }
}

/// Does a check from its first hop to its last. What it saw is in `run`, also where it fails.
pub(crate) async fn run(ctx: Context<'_>, run: &mut Run, mut turn: Option<LibcTurn>) -> Result<(), Cause> {
    let request = &ctx.check.request;
    let start = Url::parse(&ctx.site.url)
        .map_err(|error| Cause::new(Code::OwnFailure, format!("the site's URL cannot be read: {error}")))?;
    // Where a redirect led to.
    let mut moved: Option<Url> = None;
    let mut method = request.method.clone();
    let mut with_body = true;
    let mut cookies = Cookies::default();
    let mut text = ctx.site.url.clone();
    for followed in 0u32.. {
        if followed > 0 || run.trace.hops.is_empty() {
            run.trace.hop(text, method.clone());
        }
        let url = moved.as_ref().unwrap_or(&start);
        let own = followed == 0 || redirect::same_origin(url, &start);
        let ask = Ask {
            url,
            method: &method,
            own,
            body: if own && with_body { &request.body } else { &[] },
            cookies: cookies.header(url),
            follow: request.redirects > 0,
        };
        let (status, location) = match hop(ctx, run, &ask, turn.take()).await? {
            Landed::Here => return Ok(()),
            Landed::Redirect { status, location, cookies: set } => {
                for header in &set {
                    cookies.set(url, header);
                }
                (status, location)
            }
        };
        if followed >= request.redirects {
            let message = format!("more than {} redirects", request.redirects);
            return Err(Cause::new(Code::HttpRedirectLimit, message));
        }
        let next = redirect::next(url, &method, with_body, status, &location)?;
        if request.proxy.is_none() {
            redirect::family(&next.url, request.ip)?;
        }
        text = next.url.as_str().into();
        Next { method, with_body, .. } = next;
        moved = Some(next.url);
    }
    Ok(())
}

async fn hop(ctx: Context<'_>, run: &mut Run, ask: &Ask<'_>, turn: Option<LibcTurn>) -> Result<Landed, Cause> {
    let request = &ctx.check.request;
    let key = (request.reuse && ctx.fixed.is_none()).then(|| PoolKey {
        check: ctx.check.number,
        site: ctx.site.name.clone(),
        secure: ask.secure(),
        host: ask.url.host_str().unwrap_or_default().into(),
        port: ask.port(),
    });
    if let Some(key) = &key
        && let Some(mut line) = ctx.rules.pool.take(key)
    {
        let hop = run.trace.current();
        hop.reused = true;
        hop.address = line.address;
        let landed = speak(ctx, run, ask, &mut line).await;
        match landed {
            // The server closed it while it was idle: dialled anew, once, without a cause.
            Err(cause)
                if matches!(cause.code, Code::SendReset | Code::SendClosed | Code::WaitReset | Code::WaitClosed) =>
            {
                run.trace.again();
            }
            other => {
                note_chain(run, line.chain.as_ref());
                return settle(ctx, line, Some(key), other);
            }
        }
    }
    let mut line = open(ctx, run, ask, turn).await?;
    let landed = speak(ctx, run, ask, &mut line).await;
    settle(ctx, line, key.as_ref(), landed)
}

/// Keeps a connection that can be used again.
fn settle(
    ctx: Context<'_>,
    line: Line,
    key: Option<&PoolKey>,
    landed: Result<(Landed, bool), Cause>,
) -> Result<Landed, Cause> {
    let (landed, keep) = landed?;
    if keep && let Some(key) = key {
        ctx.rules.pool.give(key.clone(), line, ctx.check.request.limits.idle_connections as usize);
    }
    Ok(landed)
}

fn note_chain(run: &mut Run, chain: Option<&Arc<Chain>>) {
    run.exchange.chain.clear();
    let Some(chain) = chain else { return };
    if let Some(certificate) = &chain.certificate {
        run.certificate = Some(certificate.clone());
        run.exchange.certificates.push(certificate.clone());
    }
    run.exchange.chain.clone_from(&chain.subjects);
}

/// From the name to a connection that can be asked.
async fn open(ctx: Context<'_>, run: &mut Run, ask: &Ask<'_>, turn: Option<LibcTurn>) -> Result<Line, Cause> {
    let request = &ctx.check.request;
    run.via_proxy = request.proxy.is_some();
    let stream = match &request.proxy {
        Some(proxy) => through(ctx, run, ask, proxy, turn).await?,
        None => direct(ctx, run, ask, turn).await?,
    };
    let address = run.trace.current().address;
    let conn = Conn::Plain(stream);
    if ask.secure() || request.http == HttpChoice::Http2 || ask.body.len() > JOINED_BYTES {
        conn.set_nodelay();
    }
    let (conn, chain, h2) = if ask.secure() {
        let (conn, chain, h2) = Box::pin(secure(ctx, run, ask, conn)).await?;
        (conn, chain, h2)
    } else {
        (conn, None, request.http == HttpChoice::Http2)
    };
    let speaks = if h2 {
        run.trace.enter(Phase::Send);
        run.hold(H2_BYTES).await?;
        Speaks::Http2(Box::new(H2::open(conn, request.limits.headers).await?))
    } else {
        Speaks::Http1(conn)
    };
    Ok(Line { speaks, born: Instant::now(), address, chain })
}

/// From the name to a connection to the site itself.
async fn direct(ctx: Context<'_>, run: &mut Run, ask: &Ask<'_>, turn: Option<LibcTurn>) -> Result<Stream, Cause> {
    let request = &ctx.check.request;
    let connect_to = request.connect_to.as_ref().filter(|_| ask.own);
    let (name, port, literal) = match connect_to {
        Some(to) => (to.host.as_str(), to.port, to.host.parse().ok()),
        None => (host_text(ask.url), ask.port(), redirect::literal(ask.url)),
    };
    let fixed = ctx.fixed.filter(|_| ask.own);
    let (addresses, mut lookup) = addresses(ctx, run, literal.or(fixed), name, turn).await?;
    let stream = dial(
        Dial {
            addresses: &addresses,
            port,
            more: lookup.as_mut().map(|lookup| (lookup, &ctx.shared.names)),
            timeout: request.connect_timeout,
            policy: Some(&ctx.rules.policy),
        },
        &mut run.trace,
    );
    match stream.await {
        Ok(stream) => Ok(stream),
        Err(cause) => {
            // Where nothing was dialled, the lookup was the last that was done.
            run.trace.done();
            Err(cause)
        }
    }
}

/// The URL's host without brackets.
fn host_text(url: &Url) -> &str {
    let host = url.host_str().unwrap_or_default();
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

type Found = (smallvec::SmallVec<[IpAddr; 4]>, Option<Lookup>);

async fn addresses(
    ctx: Context<'_>,
    run: &mut Run,
    literal: Option<IpAddr>,
    name: &str,
    turn: Option<LibcTurn>,
) -> Result<Found, Cause> {
    if let Some(address) = literal {
        return Ok(([address].into_iter().collect(), None));
    }
    let request = &ctx.check.request;
    run.trace.enter(Phase::Dns);
    let question = Question { name, ip: request.ip, resolver: &request.resolver, cached: request.dns_cache };
    let (found, lookup) = resolve(&ctx.shared.names, question, turn, &mut run.trace).await?;
    Ok((found, Some(lookup)))
}

/// By a proxy: `dns` and `connect` are the proxy's, `proxy` lasts until the tunnel stands.
async fn through(
    ctx: Context<'_>,
    run: &mut Run,
    ask: &Ask<'_>,
    proxy: &Proxy,
    turn: Option<LibcTurn>,
) -> Result<Stream, Cause> {
    let request = &ctx.check.request;
    let connect_to = request.connect_to.as_ref().filter(|_| ask.own);
    let (name, port) = match connect_to {
        Some(to) => (to.host.as_str(), to.port),
        None => (host_text(ask.url), ask.port()),
    };
    let literal: Option<IpAddr> = name.parse().ok();
    let policy = &ctx.rules.policy;
    let refused = |address: IpAddr| {
        policy
            .refuses(address)
            .map(|word| Cause::new(Code::PolicyAddress, format!("{address} is refused by network.refuse: {word}")))
    };
    if let Some(cause) = literal.and_then(refused) {
        return Err(cause);
    }
    let mut turn = turn;
    let target = match literal {
        Some(address) => Target::Address(address),
        None if proxy.scheme == ProxyScheme::Socks5 => {
            let (found, _) = addresses(ctx, run, None, name, turn.take()).await?;
            // IPv4 first: few proxies speak both, and they cannot be raced.
            let mut allowed: Vec<IpAddr> =
                found.iter().copied().filter(|address| refused(*address).is_none()).collect();
            allowed.sort_by_key(IpAddr::is_ipv6);
            match (allowed.first(), found.first()) {
                (Some(address), _) => Target::Address(*address),
                (None, Some(address)) => {
                    run.trace.done();
                    return Err(refused(*address)
                        .unwrap_or_else(|| Cause::new(Code::DnsNotFound, format!("{name} has no address"))));
                }
                (None, None) => return Err(Cause::new(Code::DnsNotFound, format!("{name} has no address"))),
            }
        }
        None => Target::Name(name),
    };
    let unreachable = |cause: Cause| match cause.code {
        Code::OwnFailure => cause,
        _ => Cause::new(Code::ProxyUnreachable, format!("proxy {}:{}: {cause}", proxy.host, proxy.port)),
    };
    let (found, mut lookup): Found = if let Ok(address) = proxy.host.parse() {
        ([address].into_iter().collect(), None)
    } else {
        if run.trace.phase().is_none() {
            run.trace.enter(Phase::Dns);
        }
        let question = Question {
            name: &proxy.host,
            ip: if request.ip == IpChoice::Each { IpChoice::Any } else { request.ip },
            resolver: &request.resolver,
            cached: request.dns_cache,
        };
        let (found, lookup) =
            resolve(&ctx.shared.names, question, turn.take(), &mut run.trace).await.map_err(unreachable)?;
        (found, Some(lookup))
    };
    let mut stream = dial(
        Dial {
            addresses: &found,
            port: proxy.port,
            more: lookup.as_mut().map(|lookup| (lookup, &ctx.shared.names)),
            timeout: request.connect_timeout,
            policy: None,
        },
        &mut run.trace,
    )
    .await
    .map_err(unreachable)?;
    match proxy.scheme {
        ProxyScheme::Http if !ask.secure() => {}
        ProxyScheme::Http => {
            run.trace.enter(Phase::Proxy);
            let authority = if name.contains(':') { format!("[{name}]:{port}") } else { format!("{name}:{port}") };
            Box::pin(proxy::connect(&mut stream, proxy, &authority)).await?;
        }
        ProxyScheme::Socks5 | ProxyScheme::Socks5h => {
            run.trace.enter(Phase::Proxy);
            Box::pin(proxy::socks5(&mut stream, proxy, target, port)).await?;
        }
    }
    Ok(stream)
}

async fn secure(
    ctx: Context<'_>,
    run: &mut Run,
    ask: &Ask<'_>,
    conn: Conn,
) -> Result<(Conn, Option<Arc<Chain>>, bool), Cause> {
    let Conn::Plain(stream) = conn else { return Ok((conn, None, false)) };
    run.trace.enter(Phase::Tls);
    run.hold(TLS_BYTES).await?;
    let own = |why: String| Cause::new(Code::OwnFailure, why);
    let named = ctx.check.request.tls.server_name.as_deref().filter(|_| ask.own);
    let text = named.unwrap_or_else(|| host_text(ask.url));
    let name = tls::server_name(text).ok_or_else(|| own(format!("`{text}` is no name that TLS can verify")))?;
    let (config, verifier) =
        ctx.check.tls.handshake(&ctx.shared.certificates, ask.own).map_err(|why| own(why.into()))?;
    let result = TlsConnector::from(config).connect(name, stream).await;
    let chain = verifier.chain();
    note_chain(run, chain.as_ref());
    let stream = result.map_err(|error| cause_in(&error, Phase::Tls))?;
    let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    if !h2 && ctx.check.request.http == HttpChoice::Http2 {
        run.trace.done();
        return Err(Cause::new(Code::HttpVersion, "the server does not offer HTTP/2, expected 2"));
    }
    Ok((Conn::Tls(Box::new(stream)), chain, h2))
}

/// Asks, and reads the answer to its last byte. The second value: whether the connection may be used again.
async fn speak(ctx: Context<'_>, run: &mut Run, ask: &Ask<'_>, line: &mut Line) -> Result<(Landed, bool), Cause> {
    match &mut line.speaks {
        Speaks::Http1(conn) => speak_http1(ctx, run, ask, conn).await,
        Speaks::Http2(h2) => Box::pin(speak_http2(ctx, run, ask, h2)).await,
    }
}

async fn speak_http1(ctx: Context<'_>, run: &mut Run, ask: &Ask<'_>, conn: &mut Conn) -> Result<(Landed, bool), Cause> {
    let buffers = &ctx.shared.buffers;
    let mut unsent = None;
    run.trace.enter(Phase::Send);
    {
        let mut bytes = request_http1(ctx, ask);
        let joined = ask.body.len() <= JOINED_BYTES;
        if joined {
            bytes.extend_from_slice(ask.body);
        }
        let mut sent = conn.write_all(&bytes).await;
        if !joined && matches!(sent, Ok(true)) {
            sent = conn.write_all(ask.body).await;
        }
        if let Err(error) = sent {
            // The server may have answered before it stopped to listen.
            unsent = Some(cause_in(&error, Phase::Send));
        }
    }
    if unsent.is_none() {
        run.trace.enter(Phase::Wait);
    }
    let (head, mut filled) = read_head(ctx, run, conn, unsent).await?;
    let malformed = |Malformed(what): Malformed| Cause::new(Code::HttpMalformed, what);
    if head.status == 407 && ctx.check.request.proxy.is_some() && !ask.secure() {
        run.trace.done();
        return Err(proxy::authentication());
    }
    let (framing, transfer) = h1::framing(&head, ask.is_head()).map_err(malformed)?;
    let mut keep = ctx.check.request.reuse
        && head.version == HttpVersion::Http11
        && !head.has_word("connection", "close")
        && !matches!(framing, Framing::Close);
    let header_bytes = head.headers.iter().map(|(name, value)| name.len() + value.len() + 4).sum::<usize>() as u64;
    let trailer_bytes = ctx.check.request.limits.headers.saturating_sub(header_bytes);
    let bodyless = matches!(framing, Framing::Empty);
    let (landed, mut sink) = begin(ctx, run, ask, head, &transfer, bodyless).await?;
    let mut chunks = Chunks::new(trailer_bytes);
    let mut left = match framing {
        Framing::Empty => 0,
        Framing::Length(length) => length,
        Framing::Chunked | Framing::Close => u64::MAX,
    };
    let truncated = |why: String| Cause::new(Code::BodyTruncated, why);
    'body: while left > 0 {
        while !filled.is_empty() {
            if matches!(framing, Framing::Chunked) {
                let (framing, piece) = chunks.next(filled.bytes()).map_err(malformed)?;
                filled.consume(framing);
                match piece {
                    Piece::Data(count) => {
                        let more = sink.feed(run, &filled.bytes()[..count]).await?;
                        filled.consume(count);
                        if !more {
                            keep = false;
                            break 'body;
                        }
                    }
                    Piece::More => {}
                    Piece::End => break 'body,
                    Piece::TrailersTooLong => {
                        let limit = ctx.check.request.limits.headers;
                        let message = format!("header and trailers are longer than {limit} bytes");
                        return Err(Cause::new(Code::HttpHeaderLimit, message));
                    }
                }
                continue;
            }
            let count = usize::try_from(left).unwrap_or(usize::MAX).min(filled.bytes().len());
            let more = sink.feed(run, &filled.bytes()[..count]).await?;
            filled.consume(count);
            if matches!(framing, Framing::Length(_)) {
                left -= count as u64;
            }
            if !more {
                keep = false;
                break 'body;
            }
            if left == 0 {
                break 'body;
            }
        }
        // The end of chunks may stand just behind the last byte that was looked at.
        if matches!(framing, Framing::Chunked) && matches!(chunks.next(&[]), Ok((_, Piece::End))) {
            break;
        }
        drop(filled);
        filled = match conn.read(buffers).await {
            Ok(filled) => filled,
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                return Err(truncated("the connection was closed without TLS's close_notify".to_owned()));
            }
            Err(error) => return Err(cause_in(&error, Phase::Receive)),
        };
        if filled.is_empty() {
            match framing {
                Framing::Close => break,
                Framing::Chunked => {
                    return Err(truncated("the connection was closed before the last chunk".to_owned()));
                }
                _ => return Err(truncated(format!("the connection was closed {left} bytes before the end"))),
            }
        }
    }
    let ended = run.trace.done();
    if matches!(landed, Landed::Here) {
        run.exchange.response_time_us = Some(ended);
    }
    Ok((landed, keep && filled.is_empty()))
}

/// Reads until the head of the answer is whole; interim answers are passed over. What follows it is in the
/// buffer that comes back.
async fn read_head<'b>(
    ctx: Context<'b>,
    run: &mut Run,
    conn: &mut Conn,
    unsent: Option<Cause>,
) -> Result<(h1::Head, Filled<'b>), Cause> {
    let limit = ctx.check.request.limits.headers;
    let mut left = limit;
    let mut pending: Vec<u8> = Vec::new();
    let mut first = true;
    loop {
        let phase = run.trace.phase().unwrap_or(Phase::Wait);
        let read = conn.read(&ctx.shared.buffers).await;
        let mut filled = match (read, &unsent) {
            (Ok(filled), None) if filled.is_empty() => {
                let why = if first {
                    "the connection was closed before an answer"
                } else {
                    "the connection was closed within the header"
                };
                return Err(Cause::new(phase.closed(), why));
            }
            (Ok(filled), Some(cause)) if filled.is_empty() && first => return Err(cause.clone()),
            (Ok(filled), _) => filled,
            (Err(_), Some(cause)) if first => return Err(cause.clone()),
            (Err(error), _) => return Err(cause_in(&error, phase)),
        };
        if first {
            first = false;
            if run.trace.phase() == Some(Phase::Send) {
                // The answer came before the request was sent whole.
                run.trace.enter(Phase::Wait);
            }
            run.trace.enter(Phase::Receive);
        }
        // Several heads may stand in one buffer: interim ones and the answer's.
        while !filled.is_empty() {
            let before = pending.len();
            let end = if pending.is_empty() {
                if !h1::may_begin(filled.bytes()) {
                    return Err(Cause::new(Code::HttpMalformed, "the answer is not HTTP/1.x"));
                }
                h1::head_end(filled.bytes(), 0)
            } else {
                let count = filled.bytes().len().min((left as usize).saturating_sub(before) + 1);
                if before + count > HEAD_BYTES_FREE {
                    run.hold(count).await?;
                }
                pending.extend_from_slice(&filled.bytes()[..count]);
                if before < 7 && !h1::may_begin(&pending) {
                    return Err(Cause::new(Code::HttpMalformed, "the answer is not HTTP/1.x"));
                }
                h1::head_end(&pending, before)
            };
            let length = end.unwrap_or(before + filled.bytes().len()) as u64;
            if length > left {
                return Err(Cause::new(Code::HttpHeaderLimit, format!("the header is longer than {limit} bytes")));
            }
            let Some(end) = end else {
                if before == 0 {
                    if filled.bytes().len() > HEAD_BYTES_FREE {
                        run.hold(filled.bytes().len()).await?;
                    }
                    pending.extend_from_slice(filled.bytes());
                }
                let rest = filled.bytes().len();
                filled.consume(rest);
                break;
            };
            left -= end as u64;
            let block = if before == 0 { &filled.bytes()[..end] } else { &pending[..end] };
            if end > HEAD_BYTES_FREE {
                let lines = block.split(|byte| *byte == b'\n').count();
                run.hold(end + lines * HEADER_OVERHEAD_BYTES).await?;
            }
            let head = h1::parse_head(block).map_err(|Malformed(what)| Cause::new(Code::HttpMalformed, what))?;
            filled.consume(end - before);
            pending.clear();
            match head.status {
                101 => return Err(Cause::new(Code::HttpMalformed, "a change of protocol that was not asked for")),
                100..=199 => {}
                _ => return Ok((head, filled)),
            }
        }
    }
}

/// Takes the head in: what is told of the hop, and who gets the body.
async fn begin(
    ctx: Context<'_>,
    run: &mut Run,
    ask: &Ask<'_>,
    head: h1::Head,
    transfer: &[Box<str>],
    bodyless: bool,
) -> Result<(Landed, Sink), Cause> {
    let hop = run.trace.current();
    hop.status = Some(head.status);
    hop.http_version = Some(head.version);
    if ask.follow
        && redirect::redirects(head.status)
        && let Some(location) = head.values("location").next()
    {
        let location = location.into();
        let cookies = head.values("set-cookie").map(Into::into).collect();
        let landed = Landed::Redirect { status: head.status, location, cookies };
        return Ok((landed, Sink::Discard { bytes: 0 }));
    }
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let content_type = head.values("content-type").next().map(text);
    let mut codings: Vec<String> = head.values("content-encoding").map(text).collect();
    codings.extend(transfer.iter().map(ToString::to_string));
    let codings: Vec<&str> = codings.iter().map(String::as_str).collect();
    let inspection = ctx.check.inspector.begin(&BodyHead {
        url: ask.url.as_str(),
        content_type: content_type.as_deref(),
        content_encoding: &codings,
        bodyless,
    });
    run.content_type = content_type.map(Into::into);
    run.exchange.status = Some(head.status);
    run.exchange.http_version = Some(head.version);
    run.exchange.headers = head.headers;
    run.inspection = Some(inspection);
    run.reserve().await?;
    Ok((Landed::Here, Sink::Inspect))
}

/// Who gets the body.
enum Sink {
    /// The inspection of the run.
    Inspect,
    /// Nobody: a redirect's own body.
    Discard { bytes: u64 },
}

impl Sink {
    /// Hands content on; `false` where no more is wanted.
    async fn feed(&mut self, run: &mut Run, content: &[u8]) -> Result<bool, Cause> {
        match self {
            Self::Discard { bytes } => {
                *bytes += content.len() as u64;
                Ok(*bytes <= DISCARDED_BYTES_MAX)
            }
            Self::Inspect => {
                let Some(inspection) = &mut run.inspection else { return Ok(false) };
                let mut step = inspection.feed(content);
                loop {
                    match step {
                        Step::More => return Ok(true),
                        Step::NeedsMemory(more) => run.grow(more).await?,
                        Step::Pause => tokio::task::yield_now().await,
                        Step::Fault(cause) => return Err(cause),
                    }
                    let Some(inspection) = &mut run.inspection else { return Ok(false) };
                    step = inspection.resume();
                }
            }
        }
    }
}

/// The headers of a request but for the host, in the order in which they are sent.
fn each_header(ctx: Context<'_>, ask: &Ask<'_>, mut emit: impl FnMut(&str, &str)) {
    let check = ctx.check;
    let configured = if ask.own { check.request.headers.as_slice() } else { &[] };
    let has = |name: &str| configured.iter().any(|header| &*header.name == name);
    for (name, value) in crate::http::DEFAULT_HEADERS {
        if !has(name) {
            emit(name, value);
        }
    }
    for header in configured {
        // Of cookies there may be one header only; without a body its description is without sense.
        let skip = &*header.name == "host"
            || &*header.name == "cookie" && ask.cookies.is_some()
            || ask.body.is_empty() && !check.request.body.is_empty() && header.name.starts_with("content-");
        if !skip {
            emit(&header.name, &header.value);
        }
    }
    if let Some(cookies) = &ask.cookies {
        match configured.iter().find(|header| &*header.name == "cookie") {
            Some(header) => emit("cookie", &format!("{}; {cookies}", header.value)),
            None => emit("cookie", cookies),
        }
    }
    if let Some(authorization) = check.authorization.as_ref().filter(|_| ask.own && !has("authorization")) {
        emit("authorization", authorization);
    }
    if !ask.body.is_empty() || matches!(&**ask.method, "POST" | "PUT" | "PATCH") {
        emit("content-length", &ask.body.len().to_string());
    }
}

/// The authority that the request names: configured, or the URL's host, and its port where that is not the scheme's.
fn authority<'a>(ctx: Context<'a>, ask: &'a Ask<'_>) -> &'a str {
    let configured = ctx.check.request.headers.iter().find(|header| ask.own && &*header.name == "host");
    configured.map_or(&ask.url[Position::BeforeHost..Position::AfterPort], |header| &*header.value)
}

fn request_http1(ctx: Context<'_>, ask: &Ask<'_>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(512);
    let mut add = |parts: &[&str]| parts.iter().for_each(|part| bytes.extend_from_slice(part.as_bytes()));
    let proxy = ctx.check.request.proxy.as_ref().filter(|proxy| proxy.scheme == ProxyScheme::Http && !ask.secure());
    let target = match proxy {
        Some(_) => &ask.url[..Position::AfterQuery],
        None => &ask.url[Position::BeforePath..Position::AfterQuery],
    };
    add(&[ask.method, " ", target, " HTTP/1.1\r\nhost: ", authority(ctx, ask), "\r\n"]);
    each_header(ctx, ask, |name, value| add(&[name, ": ", value, "\r\n"]));
    if let Some(value) = proxy.and_then(proxy::authorization) {
        add(&["proxy-authorization: ", &value, "\r\n"]);
    }
    // Who does not come again says so (RFC 9112, 9.6).
    add(&[if ctx.check.request.reuse { "\r\n" } else { "connection: close\r\n\r\n" }]);
    bytes
}

fn request_http2(ctx: Context<'_>, ask: &Ask<'_>) -> Result<http::Request<()>, http::Error> {
    let uri = http::Uri::builder()
        .scheme(ask.url.scheme())
        .authority(authority(ctx, ask))
        .path_and_query(&ask.url[Position::BeforePath..Position::AfterQuery])
        .build()?;
    let mut builder = http::Request::builder().method(&**ask.method).uri(uri).version(http::Version::HTTP_2);
    each_header(ctx, ask, |name, value| {
        let taken = std::mem::take(&mut builder);
        builder = taken.header(name, value);
    });
    builder.body(())
}

async fn speak_http2(ctx: Context<'_>, run: &mut Run, ask: &Ask<'_>, h2: &mut H2) -> Result<(Landed, bool), Cause> {
    let request = request_http2(ctx, ask)
        .map_err(|error| Cause::new(Code::OwnFailure, format!("no request of HTTP/2 can be made: {error}")))?;
    if run.trace.phase() != Some(Phase::Send) {
        run.trace.enter(Phase::Send);
    }
    let response = h2.send(request, Bytes::copy_from_slice(ask.body)).await?;
    run.trace.enter(Phase::Wait);
    let trace = &mut run.trace;
    let answer = h2.head(response, |at| trace.enter_when(Phase::Receive, at)).await?;
    if run.trace.phase() == Some(Phase::Wait) {
        run.trace.enter(Phase::Receive);
    }
    let (parts, mut body) = answer.into_parts();
    let length: usize = parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
    let limit = ctx.check.request.limits.headers;
    if length as u64 > limit {
        return Err(Cause::new(Code::HttpHeaderLimit, format!("the header is longer than {limit} bytes")));
    }
    if length > HEAD_BYTES_FREE {
        run.hold(length + parts.headers.len() * HEADER_OVERHEAD_BYTES).await?;
    }
    let head = h1::Head {
        version: HttpVersion::Http2,
        status: parts.status.as_u16(),
        reason: "".into(),
        headers: parts.headers.iter().map(|(name, value)| (name.as_str().into(), value.as_bytes().into())).collect(),
    };
    let bodyless = ask.is_head() || matches!(head.status, 204 | 304);
    let (landed, mut sink) = begin(ctx, run, ask, head, &[], bodyless).await?;
    loop {
        let data = match h2.data(&mut body).await {
            Ok(data) => data,
            // The connection ended without a word: the body is cut.
            Err(cause) if cause.code == Code::ReceiveClosed && h2.is_cut() => {
                return Err(Cause::new(Code::BodyTruncated, cause.message));
            }
            Err(cause) => return Err(cause),
        };
        let Some(data) = data else { break };
        if !sink.feed(run, &data).await? {
            break;
        }
        // An error here is one of the connection, which the next reading tells.
        let _ = body.flow_control().release_capacity(data.len());
    }
    let ended = run.trace.done();
    if matches!(landed, Landed::Here) {
        run.exchange.response_time_us = Some(ended);
    }
    Ok((landed, ctx.check.request.reuse && h2.is_open()))
}
