//! A server that gives the same page as cheaply as it can, so that what a benchmark measures is its client; it counts
//! from its own side what was really done.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::Timespec;
use rustix::net::SocketFlags;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime};
use rustls::{HandshakeKind, ServerConfig, ServerConnection};
use socket2::{Domain, Protocol, Socket, Type};

use crate::answers::html;
use crate::authority::{Authority, Curve, Order, loopback_names};
use crate::clock::now_us;
use crate::log::Counts;

/// Bytes of a request's head; a longer one ends the connection.
const HEAD_BYTES: usize = 64 * 1024;
/// Requests that a thread notes; at the bound further ones are only counted.
const ENTRIES: usize = 20_000_000;
/// Bytes of paths that a thread notes; the same.
const PATH_BYTES: usize = 1 << 30;
/// Events taken from the kernel at once.
const EVENTS: usize = 256;

const TOKEN_STOP: u64 = 0;
const TOKEN_TIMER: u64 = 1;
const TOKEN_HTTP: u64 = 2;
const TOKEN_HTTPS: u64 = 3;
/// Connections have tokens from here on.
const TOKEN_CONNECTIONS: u64 = 4;

/// How it is to be started.
#[derive(Clone, Debug)]
pub struct Options {
    /// Port for HTTP, 0 for a free one; none: not served.
    pub http: Option<u16>,
    /// Port for HTTPS, 0 for a free one; none: not served.
    pub https: Option<u16>,
    /// Size of the page, whose text stands at its end.
    pub page_bytes: usize,
    /// The text at the page's end.
    pub text: String,
    /// From the request's last byte to the answer's first, exactly.
    pub delay: Duration,
    /// Threads, each with its own share of the connections.
    pub threads: usize,
    /// The chain's keys.
    pub curve: Curve,
    /// Names besides those of the loopback.
    pub names: Vec<String>,
    /// Whether requests are noted one by one.
    pub log: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            http: Some(0),
            https: Some(0),
            page_bytes: 10_000,
            text: "All is well.".to_owned(),
            delay: Duration::ZERO,
            threads: 1,
            curve: Curve::P384,
            names: Vec::new(),
            log: true,
        }
    }
}

/// The server. Dropping it ends it.
pub struct FastServer {
    http: Option<SocketAddr>,
    https: Option<SocketAddr>,
    authority: Authority,
    shared: Arc<Shared>,
    stops: Vec<OwnedFd>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stopped: AtomicBool,
    connections: AtomicU64,
    open: AtomicU64,
    requests: AtomicU64,
    full: AtomicU64,
    resumed: AtomicU64,
    failed: AtomicU64,
    noted: Vec<Mutex<Noted>>,
}

/// What a thread noted of its requests: fixed parts in a row, paths in one string.
#[derive(Default)]
struct Noted {
    entries: Vec<Entry>,
    paths: Vec<u8>,
}

#[derive(Clone, Copy)]
struct Entry {
    /// Microseconds since the epoch.
    at_us: u64,
    answered_at_us: u64,
    connection: u64,
    path_start: u32,
    path_length: u32,
    secure: bool,
}

impl FastServer {
    /// Starts it on 127.0.0.1.
    pub fn start(options: &Options) -> Result<Self> {
        let authority = Authority::with_intermediate(options.curve)?;
        let mut names = loopback_names();
        names.extend(options.names.iter().cloned());
        let config = config(&authority, &names)?;
        let page = html("A page", &options.text, 40, Some(options.page_bytes as u64));
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/html; charset=utf-8\r\ncontent-length: {}\r\n\r\n{page}",
            page.len()
        );
        let answer: Arc<[u8]> = answer.into_bytes().into();
        let threads = options.threads.max(1);
        let noted = (0..threads).map(|_| Mutex::default()).collect();
        let mut server = Self {
            http: None,
            https: None,
            authority,
            shared: Arc::new(Shared { noted, ..Shared::default() }),
            stops: Vec::new(),
            threads: Vec::new(),
        };
        for thread in 0..threads {
            // The first thread may find a free port; the others join it there.
            let http = options.http.map(|port| listen(server.http.map_or(port, |http| http.port()))).transpose()?;
            let https =
                options.https.map(|port| listen(server.https.map_or(port, |https| https.port()))).transpose()?;
            server.http = http.as_ref().map(TcpListener::local_addr).transpose()?;
            server.https = https.as_ref().map(TcpListener::local_addr).transpose()?;
            let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            server.stops.push(stop.try_clone()?);
            let mut serving = Serving {
                epoll: epoll::create(CreateFlags::CLOEXEC)?,
                timer: timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?,
                stop,
                http,
                https,
                config: config.clone(),
                answer: answer.clone(),
                delay: options.delay,
                log: options.log,
                thread,
                shared: server.shared.clone(),
                connections: Vec::new(),
                free: Vec::new(),
                waiting: BinaryHeap::new(),
                buffer: vec![0; 16 * 1024],
            };
            serving.register()?;
            server.threads.push(
                std::thread::Builder::new()
                    .name("fast-server".to_owned())
                    .spawn(move || serving.run())
                    .context("cannot start a thread")?,
            );
        }
        Ok(server)
    }

    /// Where it speaks HTTP.
    pub fn http(&self) -> Option<SocketAddr> {
        self.http
    }

    /// Where it speaks HTTPS.
    pub fn https(&self) -> Option<SocketAddr> {
        self.https
    }

    /// The root that its certificate comes from, as PEM.
    pub fn root_pem(&self) -> String {
        self.authority.root_pem()
    }

    /// What was done so far.
    pub fn counts(&self) -> Counts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            connections: get(&self.shared.connections),
            open: get(&self.shared.open),
            handshakes_full: get(&self.shared.full),
            handshakes_resumed: get(&self.shared.resumed),
            handshakes_failed: get(&self.shared.failed),
            client_certificates: 0,
            requests: get(&self.shared.requests),
        }
    }

    /// Writes all requests noted so far, a line for each: when it had arrived, when it was answered (both in
    /// microseconds since the epoch), connection, scheme, path; by threads, not sorted.
    pub fn write_log(&self, path: &Path) -> Result<()> {
        let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        let mut file = BufWriter::new(file);
        for noted in &self.shared.noted {
            let mut text = String::new();
            {
                let noted = lock(noted);
                for entry in &noted.entries {
                    let start = entry.path_start as usize;
                    let path = String::from_utf8_lossy(&noted.paths[start..start + entry.path_length as usize]);
                    let scheme = if entry.secure { "https" } else { "http" };
                    let Entry { at_us, answered_at_us, connection, .. } = entry;
                    let _ = writeln!(text, "{at_us} {answered_at_us} {connection} {scheme} {path}");
                }
            }
            file.write_all(text.as_bytes())?;
        }
        file.flush()?;
        Ok(())
    }
}

impl Drop for FastServer {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        for stop in &self.stops {
            let _ = rustix::io::write(stop, &1_u64.to_ne_bytes());
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// One thread's loop and all that it owns.
struct Serving {
    epoll: OwnedFd,
    timer: OwnedFd,
    /// Registered with epoll, which does not keep it open.
    stop: OwnedFd,
    http: Option<TcpListener>,
    https: Option<TcpListener>,
    config: Arc<ServerConfig>,
    answer: Arc<[u8]>,
    delay: Duration,
    log: bool,
    thread: usize,
    shared: Arc<Shared>,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    /// Answers that are due later: when, which connection, by its number.
    waiting: BinaryHeap<Reverse<(Instant, usize, u64)>>,
    buffer: Vec<u8>,
}

struct Connection {
    tcp: TcpStream,
    tls: Option<Box<ServerConnection>>,
    number: u64,
    /// A head that did not come in one piece.
    head: Vec<u8>,
    /// Of the answer on a plain connection, so many bytes are sent; `usize::MAX`: none is under way.
    sent: usize,
    entry: Option<usize>,
    /// Waits for room to write.
    blocked: bool,
    counted: bool,
    ending: Ending,
}

/// Whether a connection ends with its answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// There may be another request.
    Open,
    /// The other side asks that it be closed after the answer (RFC 9112, 9.6)...
    Asked,
    /// ...which is under way or given.
    Answered,
}

impl Connection {
    /// Whether it was answered for the last time, and the answer is out.
    fn is_over(&self) -> bool {
        let sent = self.tls.as_ref().map_or(self.sent == usize::MAX, |tls| !tls.wants_write());
        self.ending == Ending::Answered && sent
    }
}

impl Serving {
    fn register(&mut self) -> io::Result<()> {
        epoll::add(&self.epoll, &self.stop, EventData::new_u64(TOKEN_STOP), EventFlags::IN)?;
        epoll::add(&self.epoll, &self.timer, EventData::new_u64(TOKEN_TIMER), EventFlags::IN)?;
        for (listener, token) in [(&self.http, TOKEN_HTTP), (&self.https, TOKEN_HTTPS)] {
            if let Some(listener) = listener {
                epoll::add(&self.epoll, listener, EventData::new_u64(token), EventFlags::IN)?;
            }
        }
        Ok(())
    }

    fn run(&mut self) {
        // Exactness of delays; without it they are some 50 µs late.
        let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
        let mut events = Vec::with_capacity(EVENTS);
        while !self.shared.stopped.load(Ordering::Relaxed) {
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => return,
            }
            for event in &events {
                let token = event.data.u64();
                match token {
                    TOKEN_STOP => return,
                    TOKEN_TIMER => self.answer_due(),
                    TOKEN_HTTP => self.accept(false),
                    TOKEN_HTTPS => self.accept(true),
                    _ => self.serve((token - TOKEN_CONNECTIONS) as usize),
                }
            }
        }
    }

    fn accept(&mut self, secure: bool) {
        loop {
            let listener = if secure { &self.https } else { &self.http };
            let Some(listener) = listener else { return };
            let Ok(fd) = rustix::net::accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) else {
                return;
            };
            let number = self.shared.connections.fetch_add(1, Ordering::Relaxed) + 1;
            let tls = if secure {
                let Ok(tls) = ServerConnection::new(self.config.clone()) else { return };
                Some(Box::new(tls))
            } else {
                None
            };
            let connection = Connection {
                tcp: TcpStream::from(fd),
                tls,
                number,
                head: Vec::new(),
                sent: usize::MAX,
                entry: None,
                blocked: false,
                counted: false,
                ending: Ending::Open,
            };
            let slot = self.free.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            let data = EventData::new_u64(slot as u64 + TOKEN_CONNECTIONS);
            if epoll::add(&self.epoll, connection.tcp.as_fd(), data, EventFlags::IN).is_err() {
                self.free.push(slot);
                continue;
            }
            self.shared.open.fetch_add(1, Ordering::Relaxed);
            self.connections[slot] = Some(connection);
        }
    }

    /// Something can be read or written; a connection that has ended is dropped, which closes it.
    fn serve(&mut self, slot: usize) {
        let Some(mut connection) = self.connections.get_mut(slot).and_then(Option::take) else { return };
        let alive = if connection.tls.is_some() {
            self.serve_tls(&mut connection, slot)
        } else {
            self.serve_plain(&mut connection, slot)
        };
        self.put_back(slot, connection, alive.unwrap_or(false));
    }

    fn put_back(&mut self, slot: usize, mut connection: Connection, alive: bool) {
        if alive && !connection.is_over() && self.watch(slot, &mut connection).is_ok() {
            self.connections[slot] = Some(connection);
        } else {
            if connection.tls.as_ref().is_some_and(|tls| tls.is_handshaking()) {
                self.shared.failed.fetch_add(1, Ordering::Relaxed);
            }
            self.shared.open.fetch_sub(1, Ordering::Relaxed);
            self.free.push(slot);
        }
    }

    /// Asks for writability only while something waits to be written.
    fn watch(&self, slot: usize, connection: &mut Connection) -> io::Result<()> {
        let plain = connection.tls.is_none() && connection.sent < self.answer.len();
        let secure = connection.tls.as_ref().is_some_and(|tls| tls.wants_write());
        let blocked = plain || secure;
        if blocked != connection.blocked {
            connection.blocked = blocked;
            let flags = if blocked { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
            let data = EventData::new_u64(slot as u64 + TOKEN_CONNECTIONS);
            epoll::modify(&self.epoll, connection.tcp.as_fd(), data, flags)?;
        }
        Ok(())
    }

    fn serve_plain(&mut self, connection: &mut Connection, slot: usize) -> io::Result<bool> {
        if connection.sent < self.answer.len() {
            self.write_plain(connection)?;
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let result = loop {
            match connection.tcp.read(&mut buffer) {
                Ok(0) => break Ok(false),
                Ok(count) => {
                    if let Err(error) = self.take(connection, slot, &buffer[..count]) {
                        break Err(error);
                    }
                    if count < buffer.len() {
                        break Ok(true);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break Ok(true),
                Err(error) => break Err(error),
            }
        };
        self.buffer = buffer;
        result
    }

    fn serve_tls(&mut self, connection: &mut Connection, slot: usize) -> io::Result<bool> {
        let mut open = true;
        let mut buffer = std::mem::take(&mut self.buffer);
        let result = (|| {
            let Some(tls) = &mut connection.tls else { return Ok(false) };
            match tls.read_tls(&mut connection.tcp) {
                Ok(0) => open = false,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            if tls.process_new_packets().is_err() {
                // The alert that says why.
                let _ = tls.write_tls(&mut connection.tcp);
                return Ok(false);
            }
            if !connection.counted && !tls.is_handshaking() {
                connection.counted = true;
                let resumed = tls.handshake_kind() == Some(HandshakeKind::Resumed);
                let counter = if resumed { &self.shared.resumed } else { &self.shared.full };
                counter.fetch_add(1, Ordering::Relaxed);
            }
            loop {
                let Some(tls) = &mut connection.tls else { return Ok(false) };
                match tls.reader().read(&mut buffer) {
                    Ok(0) => open = false,
                    Ok(count) => {
                        self.take(connection, slot, &buffer[..count])?;
                        continue;
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(_) => open = false,
                }
                break;
            }
            write_tls(connection)?;
            Ok(open)
        })();
        self.buffer = buffer;
        result
    }

    /// Takes bytes of requests; answers each that is whole.
    fn take(&mut self, connection: &mut Connection, slot: usize, bytes: &[u8]) -> io::Result<()> {
        if connection.head.is_empty() && bytes.ends_with(b"\r\n\r\n") {
            return self.request(connection, slot, bytes);
        }
        connection.head.extend_from_slice(bytes);
        while let Some(end) = connection.head.windows(4).position(|four| four == b"\r\n\r\n") {
            let rest = connection.head.split_off(end + 4);
            let head = std::mem::replace(&mut connection.head, rest);
            self.request(connection, slot, &head)?;
        }
        if connection.head.len() > HEAD_BYTES { Err(ErrorKind::InvalidData.into()) } else { Ok(()) }
    }

    fn request(&mut self, connection: &mut Connection, slot: usize, head: &[u8]) -> io::Result<()> {
        self.shared.requests.fetch_add(1, Ordering::Relaxed);
        let arrived = Instant::now();
        connection.ending = if asks_to_close(head) { Ending::Asked } else { Ending::Open };
        if self.log {
            let path = head.split(|&byte| byte == b' ').nth(1).unwrap_or_default();
            let mut noted = lock(&self.shared.noted[self.thread]);
            if noted.entries.len() < ENTRIES && noted.paths.len() < PATH_BYTES {
                let entry = Entry {
                    at_us: now_us(),
                    answered_at_us: 0,
                    connection: connection.number,
                    path_start: noted.paths.len() as u32,
                    path_length: path.len() as u32,
                    secure: connection.tls.is_some(),
                };
                noted.paths.extend_from_slice(path);
                noted.entries.push(entry);
                connection.entry = Some(noted.entries.len() - 1);
            }
        }
        if self.delay.is_zero() {
            return self.respond(connection);
        }
        let due = arrived + self.delay;
        let first = self.waiting.peek().is_none_or(|Reverse((at, ..))| due < *at);
        self.waiting.push(Reverse((due, slot, connection.number)));
        if first {
            self.set_timer();
        }
        Ok(())
    }

    fn respond(&self, connection: &mut Connection) -> io::Result<()> {
        if let Some(entry) = connection.entry.take() {
            lock(&self.shared.noted[self.thread]).entries[entry].answered_at_us = now_us();
        }
        let last = connection.ending == Ending::Asked;
        if last {
            connection.ending = Ending::Answered;
        }
        if let Some(tls) = &mut connection.tls {
            tls.writer().write_all(&self.answer)?;
            if last {
                tls.send_close_notify();
            }
            return Ok(());
        }
        if connection.sent < self.answer.len() {
            // Requests in a pipeline, faster than their answers go out: no client of ours does that.
            return Err(ErrorKind::InvalidData.into());
        }
        connection.sent = 0;
        self.write_plain(connection)
    }

    fn write_plain(&self, connection: &mut Connection) -> io::Result<()> {
        while connection.sent < self.answer.len() {
            match connection.tcp.write(&self.answer[connection.sent..]) {
                Ok(count) => connection.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        connection.sent = usize::MAX;
        Ok(())
    }

    fn answer_due(&mut self) {
        let _ = rustix::io::read(&self.timer, &mut [0; 8]);
        while let Some(Reverse((at, slot, number))) = self.waiting.peek().copied() {
            if at > Instant::now() {
                break;
            }
            self.waiting.pop();
            let Some(mut connection) = self.connections.get_mut(slot).and_then(Option::take) else { continue };
            // The slot may by now hold another connection.
            if connection.number != number {
                self.connections[slot] = Some(connection);
                continue;
            }
            let alive = self.respond(&mut connection).and_then(|()| write_tls(&mut connection)).is_ok();
            self.put_back(slot, connection, alive);
        }
        self.set_timer();
    }

    fn set_timer(&self) {
        let Some(Reverse((at, ..))) = self.waiting.peek() else { return };
        // Zero would switch it off.
        let left = at.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
        let none = Timespec { tv_sec: 0, tv_nsec: 0 };
        let value = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        let _ = timerfd_settime(
            &self.timer,
            TimerfdTimerFlags::empty(),
            &Itimerspec { it_interval: none, it_value: value },
        );
    }
}

/// Whether a head has the line by which a client says that it will ask nothing more, as clients write it.
fn asks_to_close(head: &[u8]) -> bool {
    const LINE: &[u8] = b"\nconnection: close\r";
    head.windows(LINE.len()).any(|window| window.eq_ignore_ascii_case(LINE))
}

fn write_tls(connection: &mut Connection) -> io::Result<()> {
    let Some(tls) = &mut connection.tls else { return Ok(()) };
    while tls.wants_write() {
        match tls.write_tls(&mut connection.tcp) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn config(authority: &Authority, names: &[String]) -> Result<Arc<ServerConfig>> {
    let identity = authority.issue(&Order::new(names.to_vec()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(identity.chain, identity.key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // One is enough to let a client resume, and so to catch one that does.
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}

fn listen(port: u16) -> Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    // Accepted sockets inherit it.
    socket.set_tcp_nodelay(true)?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    socket.bind(&address.into()).with_context(|| format!("cannot bind {address}"))?;
    socket.listen(4096)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
