//! A proxy that works, and fails, on command: HTTP (CONNECT and absolute form) and SOCKS5, told apart by the
//! first byte.
//!
//! To add a fault: write its row in [`ProxyFault::ALL`] and heed its name where it strikes.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use crate::background::Background;
use crate::clock::now_us;
use crate::command::Command;
use crate::malformed;
use crate::site::bind;

/// Bytes of a request's head before the connection is given up.
const HEAD_BYTES: usize = 256 * 1024;

/// Requests that are kept; at the bound the log stays as it is.
const ENTRIES: usize = 1_000_000;

/// A row of the table of faults.
#[derive(Debug)]
pub struct ProxyFault {
    /// Its name in a command.
    pub name: &'static str,
    /// What it does, with its parameters and their defaults.
    pub about: &'static str,
    /// The cause code that a checker shall give for a site by TLS behind CONNECT and behind SOCKS5; `up` where
    /// nothing is wrong, empty where the fault does not exist.
    pub expected: [&'static str; 2],
}

impl ProxyFault {
    /// Every way to fail.
    pub const ALL: &'static [Self] = PROXIES;

    /// The row of this name.
    pub fn find(name: &str) -> Option<&'static Self> {
        PROXIES.iter().find(|fault| fault.name == name)
    }
}

const fn row(name: &'static str, about: &'static str, expected: [&'static str; 2]) -> ProxyFault {
    ProxyFault { name, about, expected }
}

const PROXIES: &[ProxyFault] = &[
    row("proxy-good", "does what is asked", ["up", "up"]),
    row("proxy-slow", "answers after ms=200", ["up", "up"]),
    row("proxy-close", "FIN on accept", ["proxy.closed", "proxy.closed"]),
    row("proxy-reset", "RST on accept", ["proxy.reset", "proxy.reset"]),
    row("proxy-hang", "never answers", ["proxy.timeout", "proxy.timeout"]),
    // What speaks neither protocol is no proxy: nothing is known of the site.
    row("proxy-garbage", "answers with bytes that are no protocol's", ["proxy.unreachable", "proxy.unreachable"]),
    row("proxy-request-close", "FIN after the request", ["proxy.closed", "proxy.closed"]),
    row("proxy-request-reset", "RST after the request", ["proxy.reset", "proxy.reset"]),
    row("proxy-request-hang", "silent after the request", ["proxy.timeout", "proxy.timeout"]),
    row("proxy-head-close", "FIN within its answer", ["proxy.closed", "proxy.closed"]),
    row("proxy-head-reset", "RST within its answer", ["proxy.reset", "proxy.reset"]),
    row("proxy-head-hang", "stops within its answer", ["proxy.timeout", "proxy.timeout"]),
    row("proxy-endless", "headers without an end", ["proxy.unreachable", ""]),
    row("proxy-refuse", "answers status=502, or the SOCKS reply reply=5", ["proxy.refused", "proxy.refused"]),
    row(
        "proxy-password",
        "takes no credentials, whichever they are: 407, or a SOCKS failure",
        ["proxy.authentication", "proxy.authentication"],
    ),
    // RFC 1928, 3: of the ways that we offered, our credentials among them, none is taken.
    row("proxy-method", "takes none of the ways to log in (SOCKS 0xff)", ["", "proxy.authentication"]),
    row("proxy-tunnel-close", "FIN once the tunnel stands", ["tls.closed", "tls.closed"]),
    row("proxy-tunnel-reset", "RST once the tunnel stands", ["tls.reset", "tls.reset"]),
    row("proxy-tunnel-hang", "carries nothing through the tunnel", ["tls.timeout", "tls.timeout"]),
];

/// One thing that the proxy was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Through {
    /// When the request had arrived: microseconds since the epoch on the system clock.
    pub at_us: u64,
    /// `CONNECT`, `SOCKS5`, or the method of a request in absolute form.
    pub method: String,
    /// `HOST:PORT`, or the URL of a request in absolute form. A SOCKS address literal stands as such.
    pub target: String,
    /// Whether SOCKS5 was given a name instead of an address.
    pub by_name: bool,
    /// `USER:PASSWORD`, as offered.
    pub credentials: Option<String>,
    /// The head of an HTTP request, as it came.
    pub head: String,
    /// Bytes carried to the server and back, noted when the tunnel ended.
    pub carried: (u64, u64),
}

struct State {
    command: Mutex<Command>,
    credentials: Option<String>,
    hosts: Mutex<HashMap<String, SocketAddr>>,
    log: Mutex<Vec<Through>>,
}

/// The proxy. Dropping it ends it with all its tunnels.
pub struct FaultyProxy {
    state: Arc<State>,
    address: SocketAddr,
    _background: Background,
}

impl FaultyProxy {
    /// A proxy that anybody may use, on a free port of the loopback.
    pub fn start() -> Result<Self> {
        Self::launch(None)
    }

    /// One that asks for these credentials: Basic by HTTP, user and password (RFC 1929) by SOCKS5.
    pub fn with_credentials(user: &str, password: &str) -> Result<Self> {
        Self::launch(Some(format!("{user}:{password}")))
    }

    fn launch(credentials: Option<String>) -> Result<Self> {
        let background = Background::start("faulty-proxy", 1)?;
        let (number, sockets) = bind().context("cannot bind a port of the loopback")?;
        let state = Arc::new(State {
            command: Mutex::new(Command::parse("proxy-good")),
            credentials,
            hosts: Mutex::default(),
            log: Mutex::default(),
        });
        let entered = background.handle().enter();
        for socket in sockets {
            socket.listen(1024)?;
            socket.set_nonblocking(true)?;
            let listener = TcpListener::from_std(socket.into())?;
            let state = state.clone();
            background.spawn(async move {
                loop {
                    match listener.accept().await {
                        Ok((stream, _)) => {
                            let state = state.clone();
                            tokio::spawn(async move {
                                // Errors are the client's or wanted.
                                let _ = Box::pin(serve(stream, &state)).await;
                            });
                        }
                        Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                    }
                }
            });
        }
        drop(entered);
        Ok(Self { state, address: (Ipv4Addr::LOCALHOST, number).into(), _background: background })
    }

    /// Where it listens, on 127.0.0.1; on `::1` it has the same number.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Fails so from the next connection on: `proxy-refuse?status=403`.
    pub fn set(&self, command: &str) -> Result<()> {
        let command = Command::parse(command);
        anyhow::ensure!(ProxyFault::find(&command.name).is_some(), "there is no proxy fault {}", command.name);
        *self.state.command.lock().unwrap_or_else(PoisonError::into_inner) = command;
        Ok(())
    }

    /// How it fails now.
    pub fn command(&self) -> Command {
        self.state.command.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where the proxy finds a host, whatever the port asked for. Others are the loopback's.
    pub fn set_host(&self, host: &str, address: SocketAddr) {
        self.state.hosts.lock().unwrap_or_else(PoisonError::into_inner).insert(host.to_owned(), address);
    }

    /// What was asked so far.
    pub fn log(&self) -> Vec<Through> {
        self.state.log().clone()
    }
}

impl State {
    fn log(&self) -> MutexGuard<'_, Vec<Through>> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, mut through: Through) -> usize {
        through.at_us = now_us();
        let mut log = self.log();
        if log.len() == ENTRIES {
            return ENTRIES;
        }
        log.push(through);
        log.len() - 1
    }

    /// Where a host is: as set, a literal as it is, every other name on the loopback.
    fn find(&self, host: &str, port: u16) -> SocketAddr {
        let hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        match (hosts.get(host), bare.parse::<IpAddr>()) {
            (Some(address), _) => *address,
            (None, Ok(address)) => (address, port).into(),
            (None, Err(_)) => (Ipv4Addr::LOCALHOST, port).into(),
        }
    }
}

async fn serve(mut client: TcpStream, state: &State) -> io::Result<()> {
    client.set_nodelay(true)?;
    let command = state.command.lock().unwrap_or_else(PoisonError::into_inner).clone();
    match command.name.as_str() {
        "proxy-close" | "proxy-reset" => {
            tokio::time::sleep(Duration::from_millis(20)).await;
            return end(client, command.name == "proxy-reset").await;
        }
        "proxy-hang" => return hang(client).await,
        _ => {}
    }
    let first = client.read_u8().await?;
    if command.name == "proxy-garbage" {
        client.write_all(&malformed::garbage(300)).await?;
        return end(client, false).await;
    }
    if first == 5 {
        serve_socks(client, &command, state).await
    } else {
        serve_http(client, first, &command, state).await
    }
}

/// After the request: whether the connection is over.
async fn after_request(client: TcpStream, command: &Command, head: &[u8]) -> io::Result<Option<TcpStream>> {
    let mut client = client;
    if command.name == "proxy-slow" {
        tokio::time::sleep(command.ms("ms", 200.0)).await;
    }
    if command.name.starts_with("proxy-head-") {
        client.write_all(head).await?;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    match command.name.as_str() {
        "proxy-request-close" | "proxy-head-close" => end(client, false).await.map(|()| None),
        "proxy-request-reset" | "proxy-head-reset" => end(client, true).await.map(|()| None),
        "proxy-request-hang" | "proxy-head-hang" => hang(client).await.map(|()| None),
        _ => Ok(Some(client)),
    }
}

/// Carries bytes both ways, or fails to.
async fn tunnel(
    mut client: TcpStream,
    mut server: TcpStream,
    entry: usize,
    command: &Command,
    state: &State,
) -> io::Result<()> {
    match command.name.as_str() {
        "proxy-tunnel-close" => return end(client, false).await,
        "proxy-tunnel-reset" => {
            // The client shall have read our answer before the RST takes it away.
            tokio::time::sleep(Duration::from_millis(20)).await;
            return end(client, true).await;
        }
        "proxy-tunnel-hang" => return hang(client).await,
        _ => {}
    }
    let carried = copy_bidirectional(&mut client, &mut server).await?;
    if let Some(through) = state.log().get_mut(entry) {
        through.carried = carried;
    }
    Ok(())
}

async fn serve_http(mut client: TcpStream, first: u8, command: &Command, state: &State) -> io::Result<()> {
    let mut head = vec![first];
    let end_of_head = loop {
        if let Some(at) = head.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        if head.len() > HEAD_BYTES || client.read_buf(&mut head).await? == 0 {
            return end(client, false).await;
        }
    };
    let rest = head.split_off(end_of_head);
    let text = String::from_utf8_lossy(&head).into_owned();
    let mut words = text.split_whitespace();
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let credentials = header(&text, "proxy-authorization")
        .and_then(|value| value.strip_prefix("Basic ").map(str::to_owned))
        .and_then(|value| from_base64(&value));
    let entry = state.note(Through {
        method: method.to_owned(),
        target: target.to_owned(),
        by_name: true,
        credentials: credentials.clone(),
        head: text.clone(),
        ..Through::default()
    });
    let Some(mut client) = after_request(client, command, b"HTTP/1.1 200 Conn").await? else { return Ok(()) };
    if command.name == "proxy-endless" {
        client.write_all(b"HTTP/1.1 200 OK\r\n").await?;
        loop {
            client.write_all(&b"x-header: value\r\n".repeat(500)).await?;
        }
    }
    let unknown = state.credentials.is_some() && state.credentials != credentials;
    if command.name == "proxy-password" || unknown {
        return refuse(client, 407, "proxy-authenticate: Basic realm=\"testkit\"\r\n").await;
    }
    if command.name == "proxy-refuse" {
        return refuse(client, command.number("status", 502), "").await;
    }
    let authority = match target.split_once("://") {
        None => target,
        Some((_, rest)) => rest.split('/').next().unwrap_or_default(),
    };
    let (host, port) = match authority.rsplit_once(':').map(|(host, port)| (host, port.parse())) {
        Some((host, Ok(port))) => (host, port),
        _ => (authority, 80),
    };
    let Ok(mut server) = TcpStream::connect(state.find(host, port)).await else {
        return refuse(client, 502, "").await;
    };
    server.set_nodelay(true)?;
    if method == "CONNECT" {
        client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
        server.write_all(&rest).await?;
    } else {
        // The request goes on in origin form; the connection then belongs to this server, so it carries one host's
        // requests alone, which is what a client in a test does.
        let path = target.splitn(4, '/').nth(3).unwrap_or_default();
        let line_end = text.find("\r\n").unwrap_or_default();
        let version = text[..line_end].rsplit(' ').next().unwrap_or("HTTP/1.1");
        let mut onward = format!("{method} /{path} {version}\r\n");
        for line in text[line_end + 2..].trim_end().split("\r\n") {
            if !line.to_ascii_lowercase().starts_with("proxy-") {
                onward.push_str(line);
                onward.push_str("\r\n");
            }
        }
        onward.push_str("\r\n");
        server.write_all(onward.as_bytes()).await?;
        server.write_all(&rest).await?;
    }
    tunnel(client, server, entry, command, state).await
}

async fn refuse(mut client: TcpStream, status: u64, headers: &str) -> io::Result<()> {
    let words = u16::try_from(status)
        .ok()
        .and_then(|status| http::StatusCode::from_u16(status).ok())
        .and_then(|status| status.canonical_reason())
        .unwrap_or("Refused");
    let body = "the proxy does not like this\n";
    let answer = format!(
        "HTTP/1.1 {status} {words}\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    client.write_all(answer.as_bytes()).await?;
    end(client, false).await
}

async fn serve_socks(mut client: TcpStream, command: &Command, state: &State) -> io::Result<()> {
    let count = usize::from(client.read_u8().await?);
    let mut methods = vec![0; count];
    client.read_exact(&mut methods).await?;
    let wants_password = state.credentials.is_some() || command.name == "proxy-password";
    let method = if wants_password { 2 } else { 0 };
    if command.name == "proxy-method" || !methods.contains(&method) {
        client.write_all(&[5, 0xff]).await?;
        return end(client, false).await;
    }
    client.write_all(&[5, method]).await?;
    let mut credentials = None;
    if wants_password {
        let _version = client.read_u8().await?;
        let user = read_text(&mut client).await?;
        let password = read_text(&mut client).await?;
        let offered = format!("{user}:{password}");
        let good = command.name != "proxy-password" && state.credentials.as_ref() == Some(&offered);
        credentials = Some(offered);
        client.write_all(&[1, u8::from(!good)]).await?;
        if !good {
            state.note(Through { method: "SOCKS5".to_owned(), credentials, ..Through::default() });
            return end(client, false).await;
        }
    }
    let mut request = [0; 4];
    client.read_exact(&mut request).await?;
    let (host, by_name) = match request[3] {
        1 => (IpAddr::from(read_array::<4>(&mut client).await?).to_string(), false),
        4 => (IpAddr::from(read_array::<16>(&mut client).await?).to_string(), false),
        3 => (read_text(&mut client).await?, true),
        _ => return end(client, false).await,
    };
    let port = client.read_u16().await?;
    let target = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let entry = state.note(Through { method: "SOCKS5".to_owned(), target, by_name, credentials, ..Through::default() });
    let Some(mut client) = after_request(client, command, &[5, 0, 0]).await? else { return Ok(()) };
    let reply = |code: u8| [5, code, 0, 1, 127, 0, 0, 1, 0, 0];
    if command.name == "proxy-refuse" {
        client.write_all(&reply(command.number("reply", 5) as u8)).await?;
        return end(client, false).await;
    }
    let Ok(server) = TcpStream::connect(state.find(&host, port)).await else {
        client.write_all(&reply(5)).await?;
        return end(client, false).await;
    };
    server.set_nodelay(true)?;
    client.write_all(&reply(0)).await?;
    tunnel(client, server, entry, command, state).await
}

async fn read_text(client: &mut TcpStream) -> io::Result<String> {
    let length = usize::from(client.read_u8().await?);
    let mut bytes = vec![0; length];
    client.read_exact(&mut bytes).await?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

async fn read_array<const N: usize>(client: &mut TcpStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    client.read_exact(&mut bytes).await?;
    Ok(bytes)
}

/// RST, or FIN and then reading until the client has closed, too.
async fn end(mut client: TcpStream, reset: bool) -> io::Result<()> {
    if reset {
        return SockRef::from(&client).set_linger(Some(Duration::ZERO));
    }
    client.shutdown().await?;
    hang(client).await
}

/// Reads until the client goes.
async fn hang(mut client: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 4096];
    while client.read(&mut buffer).await? > 0 {}
    Ok(())
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.split("\r\n")
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
}

/// Base64 with the usual alphabet (RFC 4648, 4).
fn from_base64(text: &str) -> Option<String> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bits, mut held, mut bytes) = (0_u32, 0, Vec::new());
    for byte in text.trim_end_matches('=').bytes() {
        let value = ALPHABET.iter().position(|&other| other == byte)? as u32;
        bits = bits << 6 | value;
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
        }
    }
    String::from_utf8(bytes).ok()
}
