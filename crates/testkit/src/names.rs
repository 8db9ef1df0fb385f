//! A name server that answers, and fails, on command.
//!
//! To add a fault: write its row in [`NameFault::ALL`] and its arm in `answer`.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use hickory_proto::op::{Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use crate::background::Background;
use crate::clock::{Clock, ClockGuard, now_us};
use crate::command::Command;
use crate::fault::FAULT_ZONE;
use crate::malformed;
use crate::site::bind;

/// Queries that are kept; at the bound the log stays as it is.
const ENTRIES: usize = 1_000_000;

/// Seconds that an answer may be kept where nothing else is said.
const TTL: u64 = 60;

/// A row of the table of faults.
#[derive(Debug)]
pub struct NameFault {
    /// Its name in a command; `NAME.fault.test` fails so.
    pub name: &'static str,
    /// What it does, with its parameters and their defaults.
    pub about: &'static str,
    /// The cause code that a checker shall give, several divided by `|`; `up` where the name is found.
    pub expected: &'static str,
}

impl NameFault {
    /// Every way to answer.
    pub const ALL: &'static [Self] = NAMES;

    /// The row of this name.
    pub fn find(name: &str) -> Option<&'static Self> {
        NAMES.iter().find(|fault| fault.name == name)
    }
}

const fn row(name: &'static str, about: &'static str, expected: &'static str) -> NameFault {
    NameFault { name, about, expected }
}

const NAMES: &[NameFault] = &[
    row("dns-addresses", "a=... and aaaa=..., each as often as wanted, without any 127.0.0.1 and ::1; ttl=60", "up"),
    row("dns-v4", "a=127.0.0.1, and no AAAA", "up"),
    row("dns-v6", "aaaa=::1, and no A", "up"),
    row("dns-many", "count=40 addresses of the loopback, more than a datagram of 512 bytes holds", "up"),
    row("dns-only-a", "answers A, hangs on AAAA", "up"),
    row("dns-only-aaaa", "answers AAAA, hangs on A", "up"),
    row("dns-slow", "answers after exactly ms=200", "up"),
    row("dns-cname", "a chain of n=3 aliases that ends at the addresses", "up"),
    row("dns-cname-apart", "an alias alone, whose end must be asked for", "up"),
    row("dns-cname-loop", "two aliases of each other", "dns.server_failure"),
    row("dns-cname-dangling", "an alias of a name that does not exist", "dns.not_found"),
    row("dns-truncated", "by UDP always truncated, by TCP well", "up"),
    row("dns-truncated-close", "by UDP always truncated, by TCP closed", "dns.closed"),
    row("dns-truncated-hang", "by UDP always truncated, by TCP silent", "dns.timeout"),
    row("dns-second", "does not answer the first query of a kind, but the next", "up"),
    row("dns-decoy", "first an answer with a wrong id, then the right one", "up"),
    row("dns-nxdomain", "the name does not exist", "dns.not_found"),
    row("dns-nodata", "the name has no addresses", "dns.not_found"),
    row("dns-servfail", "SERVFAIL", "dns.server_failure"),
    row("dns-refused", "REFUSED", "dns.server_failure"),
    row("dns-notimp", "NOTIMP", "dns.server_failure"),
    row("dns-formerr", "FORMERR", "dns.server_failure"),
    // RFC 2308, 2.2: without an SOA it is still no data.
    row("dns-lame", "neither answer nor authority, as one that does not serve the zone", "dns.not_found"),
    // RFC 5452, 9.1: what does not answer our question may be a forger's, and is waited past; what has our number
    // and cannot be read is the server's failure.
    row("dns-garbage", "bytes that are no message", "dns.timeout"),
    row("dns-short", "half a message", "dns.server_failure"),
    row("dns-wrong-id", "an answer with another id", "dns.timeout"),
    row("dns-wrong-question", "an answer to another question", "dns.timeout"),
    row("dns-hang", "no answer", "dns.timeout"),
];

/// One query as the server saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asking {
    /// When it arrived: microseconds since the epoch on the system clock.
    pub at_us: u64,
    /// The name, in lower case, without the last dot.
    pub name: String,
    /// `A`, `AAAA` and so on.
    pub kind: String,
    /// By TCP.
    pub tcp: bool,
    /// Who asked.
    pub peer: SocketAddr,
}

struct State {
    clock: Clock,
    /// Commands by name; `*.SUFFIX` and `*` stand for all that nothing nearer is said of.
    commands: Mutex<HashMap<String, Command>>,
    log: Mutex<Vec<Asking>>,
}

/// The name server. Dropping it ends it.
pub struct FaultyNames {
    state: Arc<State>,
    address: SocketAddr,
    _background: Background,
    _clock: ClockGuard,
}

impl FaultyNames {
    /// Starts it on a free port of the loopback, by UDP and TCP, on both families.
    ///
    /// `NAME.fault.test` with the name of a row in [`NameFault::ALL`] fails so; all others are the loopback's, until
    /// something else is set.
    pub fn start() -> Result<Self> {
        let (clock, guard) = Clock::start().context("cannot start the clock")?;
        let background = Background::start("faulty-names", 1)?;
        let state = Arc::new(State { clock, commands: Mutex::default(), log: Mutex::default() });
        let (number, streams, datagrams) = bind_both().context("cannot bind a port of the loopback")?;
        let entered = background.handle().enter();
        for socket in streams {
            socket.listen(1024)?;
            socket.set_nonblocking(true)?;
            let listener = TcpListener::from_std(socket.into())?;
            background.spawn(serve_streams(listener, state.clone()));
        }
        for socket in datagrams {
            socket.set_nonblocking(true)?;
            let socket = Arc::new(UdpSocket::from_std(socket.into())?);
            background.spawn(serve_datagrams(socket, state.clone()));
        }
        drop(entered);
        let address = (Ipv4Addr::LOCALHOST, number).into();
        Ok(Self { state, address, _background: background, _clock: guard })
    }

    /// Where it listens, on 127.0.0.1; on `::1` it has the same number.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers a name by a command from now on: `dns-slow?ms=100&a=127.0.0.1`. The name may be `*.SUFFIX` or `*`.
    pub fn set(&self, name: &str, command: &str) -> Result<()> {
        let command = Command::parse(command);
        anyhow::ensure!(NameFault::find(&command.name).is_some(), "there is no name fault {}", command.name);
        self.state.commands().insert(normal(name), command);
        Ok(())
    }

    /// Gives a name these addresses.
    pub fn set_addresses(&self, name: &str, addresses: &[IpAddr]) -> Result<()> {
        let key = |address: &IpAddr| if address.is_ipv4() { "a" } else { "aaaa" };
        let given: Vec<String> = addresses.iter().map(|address| format!("{}={address}", key(address))).collect();
        self.set(name, &format!("dns-addresses?{}", given.join("&")))
    }

    /// All queries so far.
    pub fn log(&self) -> Vec<Asking> {
        self.state.log().clone()
    }

    /// Queries for a name.
    pub fn asked(&self, name: &str) -> Vec<Asking> {
        let name = normal(name);
        self.state.log().iter().filter(|asking| asking.name == name).cloned().collect()
    }

    /// Forgets the queries so far.
    pub fn clear_log(&self) {
        self.state.log().clear();
    }
}

impl State {
    fn commands(&self) -> MutexGuard<'_, HashMap<String, Command>> {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log(&self) -> MutexGuard<'_, Vec<Asking>> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is said of the name itself, by it (`NAME.fault.test`), of the nearest suffix, of all names.
    fn command(&self, name: &str) -> Command {
        let commands = self.commands();
        if let Some(command) = commands.get(name) {
            return command.clone();
        }
        if let Some(label) = name.strip_suffix(FAULT_ZONE)
            && NameFault::find(label).is_some()
        {
            return Command::parse(label);
        }
        let mut rest = name;
        while let Some((_, suffix)) = rest.split_once('.') {
            if let Some(command) = commands.get(&format!("*.{suffix}")) {
                return command.clone();
            }
            rest = suffix;
        }
        commands.get("*").cloned().unwrap_or_else(|| Command::parse("dns-addresses"))
    }
}

/// What is done about a query.
struct Plan {
    wait: Duration,
    /// Messages, in order; none: nothing is answered.
    messages: Vec<Vec<u8>>,
    /// By TCP: the connection is closed instead of left open.
    close: bool,
}

impl Plan {
    fn silent() -> Self {
        Self { wait: Duration::ZERO, messages: Vec::new(), close: false }
    }
}

fn plan(bytes: &[u8], tcp: bool, peer: SocketAddr, state: &State) -> Option<Plan> {
    let request = Message::from_vec(bytes).ok()?;
    let query = request.queries.first()?;
    let name = normal(&query.name().to_string());
    let kind = query.query_type();
    let asking = Asking { at_us: now_us(), name: name.clone(), kind: kind.to_string(), tcp, peer };
    let command = state.command(&name);
    let earlier = {
        let mut log = state.log();
        // Only one fault wants to know, and the log may be long.
        let counted = command.name == "dns-second";
        let earlier = if counted {
            log.iter().filter(|other| other.name == name && other.kind == asking.kind).count()
        } else {
            0
        };
        if log.len() < ENTRIES {
            log.push(asking);
        }
        earlier
    };
    Some(answer(&request, query, &command, tcp, earlier))
}

/// `earlier`: how often the same was asked before.
fn answer(request: &Message, query: &Query, command: &Command, tcp: bool, earlier: usize) -> Plan {
    let name = query.name();
    let kind = query.query_type();
    let mut plan = Plan::silent();
    let mut reply = Message::response(request.metadata.id, OpCode::Query);
    reply.metadata.recursion_desired = request.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    reply.add_query(query.clone());
    if let Some(edns) = &request.edns {
        reply.edns = Some(edns.clone());
    }
    let ttl = command.number("ttl", TTL) as u32;
    let alias = |from: &Name, to: &Name| Record::from_rdata(from.clone(), ttl, RData::CNAME(CNAME(to.clone())));
    let sibling = |label: String| name.base_name().prepend_label(label).unwrap_or_else(|_| name.clone());
    match command.name.as_str() {
        "dns-hang" => return plan,
        "dns-second" if earlier == 0 => return plan,
        "dns-only-a" if kind != RecordType::A => return plan,
        "dns-only-aaaa" if kind != RecordType::AAAA => return plan,
        "dns-truncated-hang" if tcp => return plan,
        "dns-truncated-close" if tcp => {
            plan.close = true;
            return plan;
        }
        "dns-garbage" => {
            plan.messages = vec![malformed::garbage(100)];
            return plan;
        }
        "dns-nxdomain" => negative(&mut reply, name, ResponseCode::NXDomain, ttl),
        "dns-nodata" => negative(&mut reply, name, ResponseCode::NoError, ttl),
        "dns-servfail" => reply.metadata.response_code = ResponseCode::ServFail,
        "dns-refused" => reply.metadata.response_code = ResponseCode::Refused,
        "dns-notimp" => reply.metadata.response_code = ResponseCode::NotImp,
        "dns-formerr" => reply.metadata.response_code = ResponseCode::FormErr,
        "dns-lame" => reply.metadata.recursion_available = false,
        "dns-cname" => {
            let mut from = name.clone();
            for step in 0..command.number("n", 3) {
                let to = sibling(format!("alias-{step}"));
                reply.add_answer(alias(&from, &to));
                from = to;
            }
            addresses(&mut reply, &from, kind, command, ttl);
        }
        "dns-cname-apart" => {
            reply.add_answer(alias(name, &sibling("alias-apart".to_owned())));
        }
        "dns-cname-loop" => {
            let other = sibling("alias-loop".to_owned());
            reply.add_answer(alias(name, &other));
            reply.add_answer(alias(&other, name));
        }
        "dns-cname-dangling" => {
            let gone = sibling("dns-nxdomain".to_owned());
            reply.add_answer(alias(name, &gone));
            negative(&mut reply, &gone, ResponseCode::NXDomain, ttl);
        }
        _ => addresses(&mut reply, name, kind, command, ttl),
    }
    match command.name.as_str() {
        "dns-truncated" | "dns-truncated-close" | "dns-truncated-hang" if !tcp => reply = reply.truncate(),
        "dns-slow" => plan.wait = command.ms("ms", 200.0),
        "dns-wrong-question" => reply.queries = vec![Query::query(sibling("another".to_owned()), kind)],
        _ => {}
    }
    let most = if tcp { usize::from(u16::MAX) } else { usize::from(request.max_payload()) };
    let Ok(mut bytes) = reply.to_vec() else { return plan };
    if bytes.len() > most {
        match reply.truncate().to_vec() {
            Ok(truncated) => bytes = truncated,
            Err(_) => return plan,
        }
    }
    match command.name.as_str() {
        "dns-wrong-id" => bytes[0] ^= 0xff,
        "dns-short" => bytes.truncate(bytes.len() / 2),
        "dns-decoy" => {
            let mut decoy = bytes.clone();
            decoy[0] ^= 0xff;
            plan.messages.push(decoy);
        }
        _ => {}
    }
    plan.messages.push(bytes);
    plan
}

/// The addresses that a command gives, of the kind asked for.
fn addresses(reply: &mut Message, name: &Name, kind: RecordType, command: &Command, ttl: u32) {
    let one_family = matches!(command.name.as_str(), "dns-v4" | "dns-v6");
    let given = command.get("a").is_some() || command.get("aaaa").is_some();
    let mut found: Vec<RData> = Vec::new();
    match kind {
        RecordType::A if command.name == "dns-many" => {
            let count = command.number("count", 40).min(4000) as u16;
            found.extend((0..count).map(|at| {
                let [high, low] = (at + 1).to_be_bytes();
                RData::A(A(Ipv4Addr::new(127, 0, high, low)))
            }));
        }
        RecordType::A if command.name != "dns-v6" => {
            found.extend(command.all("a").filter_map(|text| text.parse().ok()).map(|address| RData::A(A(address))));
            if !given {
                found.push(RData::A(A(Ipv4Addr::LOCALHOST)));
            }
        }
        RecordType::AAAA if !matches!(command.name.as_str(), "dns-v4" | "dns-many") => {
            let addresses = command.all("aaaa").filter_map(|text| text.parse().ok());
            found.extend(addresses.map(|address| RData::AAAA(AAAA(address))));
            if !given || (one_family && found.is_empty()) {
                found.push(RData::AAAA(AAAA(Ipv6Addr::LOCALHOST)));
            }
        }
        _ => {}
    }
    if found.is_empty() {
        negative(reply, name, ResponseCode::NoError, ttl);
    }
    for data in found {
        reply.add_answer(Record::from_rdata(name.clone(), ttl, data));
    }
}

/// No such name, or no such data: with the zone's SOA, so that resolvers know how long to believe it (RFC 2308).
fn negative(reply: &mut Message, name: &Name, code: ResponseCode, ttl: u32) {
    reply.metadata.response_code = code;
    let zone = name.base_name();
    let soa = SOA::new(zone.clone(), zone.clone(), 1, 3600, 600, 86400, ttl);
    reply.add_authority(Record::from_rdata(zone, ttl, RData::SOA(soa)));
}

async fn serve_datagrams(socket: Arc<UdpSocket>, state: Arc<State>) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Ok((length, peer)) = socket.recv_from(&mut buffer).await else {
            // An ICMP error of an earlier answer; the next datagram comes all the same.
            tokio::task::yield_now().await;
            continue;
        };
        let Some(plan) = plan(&buffer[..length], false, peer, &state) else { continue };
        let (socket, state) = (socket.clone(), state.clone());
        let send = async move {
            state.clock.sleep(plan.wait).await;
            for message in plan.messages {
                let _ = socket.send_to(&message, peer).await;
            }
        };
        if plan.wait.is_zero() { send.await } else { drop(tokio::spawn(send)) }
    }
}

async fn serve_streams(listener: TcpListener, state: Arc<State>) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let state = state.clone();
                tokio::spawn(async move {
                    // The client's end of the conversation, whatever it is, concerns nobody else.
                    let _ = serve_stream(stream, peer, &state).await;
                });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn serve_stream(mut stream: TcpStream, peer: SocketAddr, state: &State) -> io::Result<()> {
    stream.set_nodelay(true)?;
    loop {
        let length = usize::from(stream.read_u16().await?);
        let mut bytes = vec![0; length];
        stream.read_exact(&mut bytes).await?;
        let Some(plan) = plan(&bytes, true, peer, state) else { return Ok(()) };
        state.clock.sleep(plan.wait).await;
        for message in plan.messages {
            let mut framed = (message.len() as u16).to_be_bytes().to_vec();
            framed.extend(message);
            stream.write_all(&framed).await?;
        }
        if plan.close {
            return Ok(());
        }
    }
}

/// A port free for TCP and UDP alike, on the families that there are.
fn bind_both() -> io::Result<(u16, Vec<Socket>, Vec<Socket>)> {
    for _ in 0..100 {
        let (number, streams) = bind()?;
        let mut datagrams = Vec::new();
        let addresses = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
        for address in addresses.into_iter().take(streams.len()) {
            let address = SocketAddr::from((address, number));
            let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
            if address.is_ipv6() {
                socket.set_only_v6(true)?;
            }
            if socket.bind(&address.into()).is_ok() {
                datagrams.push(socket);
            }
        }
        if datagrams.len() == streams.len() {
            return Ok((number, streams, datagrams));
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}

fn normal(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}
