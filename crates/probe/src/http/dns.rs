//! Names asked of name servers by us: one query for each family, side by side over one UDP socket for each
//! server, sent again where no answer comes, over TCP where it was cut.
//!
//! Own code rather than a resolver library, because a check must tell a name that does not exist from
//! servers that fail or hang, must cost no thread and next to no memory while it waits, and must be seen
//! through by the bound on a check.

use crate::http::connect::{Shortage, describe, shortage};
use sitemon_model::Code;
use smallvec::SmallVec;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpSocket, UdpSocket};
use tokio::time::{Instant, Sleep};

/// How long a server is waited for before the next one is asked; doubled for each round, up to
/// [`WAIT_MAX`]. A query never gives up by itself: the check's timeout ends it.
const WAIT: Duration = Duration::from_secs(1);
/// When it is first looked whether the network refused a question.
const ERROR_WAIT: Duration = Duration::from_millis(50);
const WAIT_MAX: Duration = Duration::from_secs(4);

/// Name servers that are asked at most; more in the configuration are left aside.
const SERVERS_MAX: usize = 16;

/// The addresses of one name that are used at most.
const ADDRESSES_MAX: usize = 64;

/// Aliases that are asked for one after the other, where servers do not follow them.
const ALIASES_MAX: u32 = 8;

/// Aliases in one message that are followed one after the other.
const CHAIN_MAX: usize = 16;

/// Pointers in one name, which has 127 labels at most.
const POINTERS_MAX: usize = 127;

/// Which kind of address is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    /// A (1) or AAAA (28).
    const fn record(self) -> u16 {
        match self {
            Self::V4 => 1,
            Self::V6 => 28,
        }
    }

    pub(crate) const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

pub(crate) type Addresses = SmallVec<[IpAddr; 4]>;

/// What came of asking for one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Addresses, and how long they may be kept.
    Found(Addresses, Duration),
    /// The name exists, but has no address of this family.
    Empty,
    /// The name does not exist.
    NotFound,
    /// Every server failed; the last so, in these words.
    Failed(Code, Box<str>),
    /// We could not ask.
    Own(Box<str>),
}

/// Name servers, and which of them answered last: it is asked first.
#[derive(Debug)]
pub(crate) struct Servers {
    addresses: Vec<SocketAddr>,
    preferred: AtomicUsize,
}

impl Servers {
    pub(crate) fn new(addresses: impl IntoIterator<Item = SocketAddr>) -> Arc<Self> {
        let addresses = addresses.into_iter().take(SERVERS_MAX).collect();
        Arc::new(Self { addresses, preferred: AtomicUsize::new(0) })
    }
}

/// One name under way, for one or both families.
pub(crate) struct Query {
    servers: Arc<Servers>,
    /// One socket for each server that was asked; late answers of earlier servers count.
    sockets: SmallVec<[Option<UdpSocket>; 2]>,
    wants: SmallVec<[Want; 2]>,
    /// Outcomes that are still to be told.
    outbox: SmallVec<[(Family, Outcome); 2]>,
    /// Whether something is to be sent at the next poll.
    due: bool,
    wait: Duration,
    timer: Pin<Box<Sleep>>,
}

struct Want {
    family: Family,
    /// The name, or what it turned out to be an alias of.
    name: WireName,
    aliases: u32,
    id: u16,
    /// The server that is asked next, or was asked last.
    server: usize,
    /// Servers that failed, one bit each.
    failed: u32,
    state: State,
}

enum State {
    /// To be sent to `server`.
    Due,
    /// Sent; the timer sends it again.
    Sent,
    /// The answer over UDP was cut: asked again over TCP.
    Tcp(Pin<Box<dyn Future<Output = io::Result<Vec<u8>>> + Send>>),
    Done,
}

impl Query {
    /// `None` where the text cannot be a name: a label over 63 bytes, or 255 in all.
    pub(crate) fn new(name: &str, families: &[Family], servers: Arc<Servers>, random: u64) -> Option<Self> {
        let name = encode_name(name)?;
        let server = servers.preferred.load(Ordering::Relaxed).min(servers.addresses.len().saturating_sub(1));
        let wants = families
            .iter()
            .enumerate()
            .map(|(index, family)| Want {
                family: *family,
                name: name.clone(),
                aliases: 0,
                id: (random >> (16 * index)) as u16,
                server,
                failed: 0,
                state: State::Due,
            })
            .collect();
        Some(Self {
            sockets: servers.addresses.iter().map(|_| None).collect(),
            servers,
            wants,
            outbox: SmallVec::new(),
            due: true,
            wait: Duration::ZERO,
            timer: Box::pin(tokio::time::sleep(ERROR_WAIT)),
        })
    }

    /// The next family's outcome; `None` when all have come.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<(Family, Outcome)>> {
        loop {
            if let Some(outcome) = self.outbox.pop() {
                return Poll::Ready(Some(outcome));
            }
            if self.wants.iter().all(|want| matches!(want.state, State::Done)) {
                return Poll::Ready(None);
            }
            if self.due {
                self.due = false;
                if let Some(result) = self.send_due() {
                    return Poll::Ready(Some(result));
                }
                self.look_for_errors();
                continue;
            }
            if let Poll::Ready(result) = self.poll_answers(cx) {
                if result.is_some() {
                    return Poll::Ready(result);
                }
                continue;
            }
            ready!(self.timer.as_mut().poll(cx));
            self.look_for_errors();
            if self.wait.is_zero() {
                self.wait = WAIT;
                self.timer.as_mut().reset(Instant::now() + WAIT);
                continue;
            }
            // Nobody answered in time: the next server, or the same again.
            self.wait = (self.wait * 2).min(WAIT_MAX);
            self.timer.as_mut().reset(Instant::now() + self.wait);
            let count = self.servers.addresses.len();
            for want in &mut self.wants {
                // What is asked over TCP has its time, unless another server can be asked.
                let waits = matches!(want.state, State::Sent) || count > 1 && matches!(want.state, State::Tcp(_));
                if waits {
                    want.state = State::Due;
                    want.server = next_server(want.server, want.failed, count).unwrap_or(want.server);
                    self.due = true;
                }
            }
        }
    }

    fn send_due(&mut self) -> Option<(Family, Outcome)> {
        if self.servers.addresses.is_empty() {
            let want = self.wants.iter_mut().find(|want| !matches!(want.state, State::Done))?;
            want.state = State::Done;
            self.due = true;
            return Some((want.family, Outcome::Own("no name server is configured".into())));
        }
        let mut packet = SmallVec::<[u8; 300]>::new();
        for index in 0..self.wants.len() {
            let want = &mut self.wants[index];
            if !matches!(want.state, State::Due) {
                continue;
            }
            packet.clear();
            encode_query(&want.name, want.family, want.id, &mut packet);
            let server = self.servers.addresses[want.server];
            let slot = &mut self.sockets[want.server];
            let sent = match slot {
                Some(socket) => send(socket, &packet),
                None => open(server).and_then(|socket| {
                    let sent = send(&socket, &packet);
                    *slot = Some(socket);
                    sent
                }),
            };
            want.state = State::Sent;
            match sent {
                Ok(()) => {}
                // A full buffer or a signal: the timer sends it again.
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) => {
                    self.due = true;
                    if let Some(result) = self.failed(index, &error) {
                        return Some(result);
                    }
                }
            }
        }
        None
    }

    /// A server failed for one family: the next is asked, or that was the last.
    fn failed(&mut self, index: usize, error: &io::Error) -> Option<(Family, Outcome)> {
        let server = self.servers.addresses[self.wants[index].server];
        if let Shortage::Ours(what) = shortage(error, server) {
            let want = &mut self.wants[index];
            // Another server may still be reached, for example one of the other family.
            want.failed |= 1 << want.server;
            if let Some(next) = next_server(want.server, want.failed, self.servers.addresses.len()) {
                want.server = next;
                want.state = State::Due;
                self.due = true;
                return None;
            }
            want.state = State::Done;
            return Some((want.family, Outcome::Own(format!("cannot ask name server {server}: {what}").into())));
        }
        let code = match error.kind() {
            io::ErrorKind::UnexpectedEof => Code::DnsClosed,
            io::ErrorKind::ConnectionReset => Code::DnsReset,
            _ => Code::DnsServerFailure,
        };
        self.said(index, code, &describe(error))
    }

    fn said_no(&mut self, index: usize, words: &str) -> Option<(Family, Outcome)> {
        self.said(index, Code::DnsServerFailure, words)
    }

    fn said(&mut self, index: usize, code: Code, words: &str) -> Option<(Family, Outcome)> {
        let count = self.servers.addresses.len();
        let want = &mut self.wants[index];
        want.failed |= 1 << want.server;
        if let Some(next) = next_server(want.server, want.failed, count) {
            want.server = next;
            want.state = State::Due;
            self.due = true;
            return None;
        }
        want.state = State::Done;
        let server = self.servers.addresses[want.server];
        Some((want.family, Outcome::Failed(code, format!("name server {server}: {words}").into())))
    }

    /// Ready where something changed: an outcome, or (`None`) something is to be sent.
    fn poll_answers(&mut self, cx: &mut Context<'_>) -> Poll<Option<(Family, Outcome)>> {
        for index in 0..self.wants.len() {
            let State::Tcp(future) = &mut self.wants[index].state else { continue };
            let Poll::Ready(result) = future.as_mut().poll(cx) else { continue };
            return Poll::Ready(match result {
                Ok(message) => self.take(index, &message, true),
                Err(error) => self.failed(index, &error),
            });
        }
        let mut bytes = [0u8; 4096];
        for server in 0..self.sockets.len() {
            while let Some(socket) = &self.sockets[server] {
                let mut buffer = ReadBuf::new(&mut bytes);
                match socket.poll_recv(cx, &mut buffer) {
                    Poll::Pending => break,
                    Poll::Ready(Ok(())) => {
                        let message = buffer.filled();
                        // Two questions may have drawn the same number.
                        let Some(index) = self.wants.iter().position(|want| {
                            matches!(want.state, State::Sent | State::Due)
                                && decode(message, &want.name, want.family, want.id) != Decoded::Foreign
                        }) else {
                            // Not of ours, or answered already.
                            continue;
                        };
                        self.wants[index].server = server;
                        let message: SmallVec<[u8; 512]> = SmallVec::from_slice(message);
                        let result = self.take(index, &message, false);
                        if result.is_some() || self.due || matches!(self.wants[index].state, State::Tcp(_)) {
                            return Poll::Ready(result);
                        }
                    }
                    Poll::Ready(Err(error)) => {
                        self.refused(server, &error);
                        return Poll::Ready(self.outbox.pop());
                    }
                }
            }
        }
        Poll::Pending
    }

    /// A server's socket failed, for example because nobody listens there: none of what it was asked is
    /// answered. The system tells it once for several questions.
    fn refused(&mut self, server: usize, error: &io::Error) {
        for index in 0..self.wants.len() {
            let want = &self.wants[index];
            if want.server == server && matches!(want.state, State::Sent) {
                let outcome = self.failed(index, error);
                self.outbox.extend(outcome);
            }
        }
    }

    /// Asks the sockets for errors, because the runtime does not wake for an error alone.
    fn look_for_errors(&mut self) {
        for server in 0..self.sockets.len() {
            let error = self.sockets[server].as_ref().and_then(|socket| socket.take_error().ok().flatten());
            if let Some(error) = error {
                self.refused(server, &error);
            }
        }
    }

    /// Takes an answer in. `None` where it is not the end of this question.
    fn take(&mut self, index: usize, message: &[u8], tcp: bool) -> Option<(Family, Outcome)> {
        let want = &mut self.wants[index];
        let outcome = match decode(message, &want.name, want.family, want.id) {
            Decoded::Foreign => {
                if tcp {
                    return self.said_no(index, "an answer to another question");
                }
                return None;
            }
            Decoded::Cut if !tcp => {
                let server = self.servers.addresses[want.server];
                let mut packet = SmallVec::<[u8; 300]>::new();
                encode_query(&want.name, want.family, want.id, &mut packet);
                want.state = State::Tcp(Box::pin(over_tcp(server, packet)));
                return None;
            }
            Decoded::Cut => return self.said_no(index, "a cut answer over TCP"),
            Decoded::Unreadable => return self.said_no(index, "an answer that cannot be read"),
            Decoded::Code(code) => return self.said_no(index, response_code(code)),
            Decoded::Found(addresses, ttl) => Outcome::Found(addresses, ttl),
            Decoded::Alias(_) if want.aliases >= ALIASES_MAX => return self.said_no(index, "too many aliases"),
            Decoded::Alias(target) => {
                want.name = target;
                want.aliases += 1;
                want.id = want.id.wrapping_add(1);
                want.state = State::Due;
                self.due = true;
                return None;
            }
            Decoded::Empty => Outcome::Empty,
            Decoded::NotFound => Outcome::NotFound,
        };
        self.servers.preferred.store(want.server, Ordering::Relaxed);
        want.state = State::Done;
        Some((want.family, outcome))
    }
}

/// The server after this one that has not failed; itself where it is the only one left.
fn next_server(server: usize, failed: u32, count: usize) -> Option<usize> {
    (1..=count).map(|step| (server + step) % count.max(1)).find(|candidate| failed & (1 << candidate) == 0)
}

fn open(server: SocketAddr) -> io::Result<UdpSocket> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(server),
        socket2::Type::DGRAM.nonblocking().cloexec(),
        Some(socket2::Protocol::UDP),
    )?;
    // Connected: only this server's answers come in, and the network's word that nobody listens there.
    socket.connect(&server.into())?;
    UdpSocket::from_std(socket.into())
}

/// Sends without asking the runtime whether it may: of a new socket it does not know that yet, and the second
/// family's question would wait for the first repetition.
fn send(socket: &UdpSocket, packet: &[u8]) -> io::Result<()> {
    rustix::net::send(socket, packet, rustix::net::SendFlags::NOSIGNAL)?;
    Ok(())
}

async fn over_tcp(server: SocketAddr, packet: SmallVec<[u8; 300]>) -> io::Result<Vec<u8>> {
    let socket = if server.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    let mut stream = socket.connect(server).await?;
    let mut framed = SmallVec::<[u8; 300]>::new();
    framed.extend_from_slice(&(packet.len() as u16).to_be_bytes());
    framed.extend_from_slice(&packet);
    stream.write_all(&framed).await?;
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// A name as it stands in messages, in lower case.
type WireName = SmallVec<[u8; 64]>;

fn encode_name(name: &str) -> Option<WireName> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let mut wire = WireName::new();
    for label in name.split('.') {
        if label.is_empty() || label.len() > 63 {
            return None;
        }
        wire.push(label.len() as u8);
        wire.extend(label.bytes().map(|byte| byte.to_ascii_lowercase()));
    }
    wire.push(0);
    (wire.len() <= 255).then_some(wire)
}

fn encode_query(name: &[u8], family: Family, id: u16, packet: &mut SmallVec<[u8; 300]>) {
    packet.extend_from_slice(&id.to_be_bytes());
    // A standard query, recursion desired; one question.
    packet.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    packet.extend_from_slice(name);
    packet.extend_from_slice(&family.record().to_be_bytes());
    packet.extend_from_slice(&1u16.to_be_bytes());
}

#[derive(Debug, PartialEq, Eq)]
enum Decoded {
    /// No answer to this question.
    Foreign,
    /// Cut: to be asked over TCP.
    Cut,
    /// Ours, but broken.
    Unreadable,
    /// Another response code than success and "no such name".
    Code(u8),
    Found(Addresses, Duration),
    /// An alias alone: what it leads to is to be asked for.
    Alias(WireName),
    Empty,
    NotFound,
}

fn response_code(code: u8) -> &'static str {
    match code {
        1 => "FORMERR",
        2 => "SERVFAIL",
        4 => "NOTIMP",
        5 => "REFUSED",
        _ => "an error code",
    }
}

fn decode(message: &[u8], name: &[u8], family: Family, id: u16) -> Decoded {
    let Some(header) = message.get(..12) else { return Decoded::Foreign };
    if header[..2] != id.to_be_bytes() || header[2] & 0x80 == 0 || (header[2] >> 3) & 15 != 0 {
        return Decoded::Foreign;
    }
    let number = |at: usize| usize::from(u16::from_be_bytes([header[at], header[at + 1]]));
    let (questions, answers, authorities) = (number(4), number(6), number(8));
    let code = header[3] & 15;
    let mut at = 12;
    match questions {
        1 => {
            let Some((asked, end)) = read_name(message, at) else { return Decoded::Unreadable };
            let Some(rest) = message.get(end..end + 4) else { return Decoded::Unreadable };
            if asked[..] != *name || rest[..2] != family.record().to_be_bytes() {
                return Decoded::Foreign;
            }
            at = end + 4;
        }
        // Some servers leave the question out of a refusal.
        0 if code != 0 => {}
        _ => return Decoded::Unreadable,
    }
    if header[2] & 2 != 0 {
        return Decoded::Cut;
    }
    match code {
        0 => {}
        3 => return Decoded::NotFound,
        code => return Decoded::Code(code),
    }
    let mut records: SmallVec<[Record<'_>; 8]> = SmallVec::new();
    for _ in 0..answers {
        let Some((record, end)) = read_record(message, at) else { return Decoded::Unreadable };
        records.extend(record);
        at = end;
    }
    match follow(message, name, family, &records) {
        // With the zone's SOA it is the server's last word (RFC 2308).
        Decoded::Alias(_) if authorities > 0 => Decoded::Empty,
        decoded => decoded,
    }
}

struct Record<'m> {
    owner: WireName,
    kind: u16,
    ttl: u32,
    data: &'m [u8],
    data_at: usize,
}

/// The addresses at the end of the chain of aliases that begins at the name.
fn follow(message: &[u8], name: &[u8], family: Family, records: &[Record<'_>]) -> Decoded {
    let mut owner = WireName::from_slice(name);
    let mut ttl = u32::MAX;
    for _ in 0..=records.len().min(CHAIN_MAX) {
        let mut found = Addresses::new();
        for record in records.iter().filter(|record| record.owner == owner && record.kind == family.record()) {
            let address = match family {
                Family::V4 => <[u8; 4]>::try_from(record.data).map(|a| IpAddr::V4(Ipv4Addr::from(a))).ok(),
                Family::V6 => <[u8; 16]>::try_from(record.data).map(|a| IpAddr::V6(Ipv6Addr::from(a))).ok(),
            };
            let Some(address) = address else { return Decoded::Unreadable };
            ttl = ttl.min(record.ttl);
            if found.len() < ADDRESSES_MAX && !found.contains(&address) {
                found.push(address);
            }
        }
        if !found.is_empty() {
            return Decoded::Found(found, Duration::from_secs(u64::from(ttl)));
        }
        let Some(alias) = records.iter().find(|record| record.kind == 5 && record.owner == owner) else {
            return if owner[..] == *name { Decoded::Empty } else { Decoded::Alias(owner) };
        };
        ttl = ttl.min(alias.ttl);
        match read_name(message, alias.data_at) {
            Some((target, _)) => owner = target,
            None => return Decoded::Unreadable,
        }
    }
    // A loop of aliases, or as good as one.
    Decoded::Unreadable
}

/// A record, and where it ends; one of another class than the internet's is none of ours.
fn read_record(message: &[u8], at: usize) -> Option<(Option<Record<'_>>, usize)> {
    let (owner, at) = read_name(message, at)?;
    let fixed = message.get(at..at + 10)?;
    let kind = u16::from_be_bytes([fixed[0], fixed[1]]);
    let ours = fixed[2..4] == [0, 1];
    let ttl = u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]);
    let length = usize::from(u16::from_be_bytes([fixed[8], fixed[9]]));
    let data_at = at + 10;
    let data = message.get(data_at..data_at + length)?;
    // RFC 2181, 8: a time with the highest bit set is none.
    let ttl = if ttl > i32::MAX as u32 { 0 } else { ttl };
    Some((ours.then_some(Record { owner, kind, ttl, data, data_at }), data_at + length))
}

/// A name in lower case, and where what follows it begins. Pointers lead backwards only, so it ends.
fn read_name(message: &[u8], mut at: usize) -> Option<(WireName, usize)> {
    let mut name = WireName::new();
    let mut end = None;
    let mut pointers = 0;
    loop {
        let length = *message.get(at)?;
        match length {
            0 => {
                name.push(0);
                return Some((name, end.unwrap_or(at + 1)));
            }
            1..=63 => {
                let label = message.get(at + 1..=at + usize::from(length))?;
                name.push(length);
                name.extend(label.iter().map(u8::to_ascii_lowercase));
                if name.len() > 255 {
                    return None;
                }
                at += 1 + usize::from(length);
            }
            0xc0.. => {
                let target = (usize::from(length & 0x3f) << 8) | usize::from(*message.get(at + 1)?);
                end.get_or_insert(at + 2);
                pointers += 1;
                if target >= at || pointers > POINTERS_MAX {
                    return None;
                }
                at = target;
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(flags: [u8; 2], records: &[(&str, u16, &[u8])]) -> Vec<u8> {
        let mut message = vec![0x12, 0x34, flags[0], flags[1], 0, 1, 0, records.len() as u8, 0, 0, 0, 0];
        message.extend_from_slice(&encode_name("Www.Example").unwrap());
        message.extend_from_slice(&[0, 1, 0, 1]);
        for (owner, kind, data) in records {
            if *owner == "@" {
                message.extend_from_slice(&[0xc0, 12]);
            } else {
                message.extend_from_slice(&encode_name(owner).unwrap());
            }
            message.extend_from_slice(&kind.to_be_bytes());
            message.extend_from_slice(&[0, 1, 0, 0, 0, 60]);
            message.extend_from_slice(&(data.len() as u16).to_be_bytes());
            message.extend_from_slice(data);
        }
        message
    }

    #[track_caller]
    fn check(message: &[u8], expected: &Decoded) {
        assert_eq!(&decode(message, &encode_name("www.example").unwrap(), Family::V4, 0x1234), expected);
    }

    #[test]
    fn answers() {
        let minute = Duration::from_mins(1);
        let one: Addresses = [IpAddr::from([192, 0, 2, 1])].into_iter().collect();
        check(&answer([0x81, 0x80], &[("@", 1, &[192, 0, 2, 1])]), &Decoded::Found(one.clone(), minute));
        let alias = encode_name("b.example").unwrap();
        check(
            &answer([0x81, 0x80], &[("b.example", 1, &[192, 0, 2, 1]), ("@", 5, &alias)]),
            &Decoded::Found(one, minute),
        );
        check(&answer([0x81, 0x80], &[("other.example", 1, &[192, 0, 2, 1])]), &Decoded::Empty);
        check(&answer([0x81, 0x80], &[("@", 5, &encode_name("www.example").unwrap())]), &Decoded::Unreadable);
        check(&answer([0x81, 0x80], &[("@", 5, &alias)]), &Decoded::Alias(alias.clone()));
        check(&answer([0x81, 0x80], &[("@", 1, &[192, 0, 2])]), &Decoded::Unreadable);
        check(&answer([0x81, 0x83], &[]), &Decoded::NotFound);
        check(&answer([0x81, 0x82], &[]), &Decoded::Code(2));
        check(&answer([0x83, 0x80], &[]), &Decoded::Cut);
        check(&answer([0x01, 0x80], &[]), &Decoded::Foreign);
        // Another class is another world.
        let mut chaos = answer([0x81, 0x80], &[("@", 1, &[192, 0, 2, 1])]);
        let class = chaos.len() - 4 - 2 - 4 - 2;
        chaos[class..class + 2].copy_from_slice(&[0, 3]);
        check(&chaos, &Decoded::Empty);
        let chain: Vec<(String, Vec<u8>)> = (0..40)
            .map(|n| {
                let owner = if n == 0 { "www.example".to_owned() } else { format!("a{n}.example") };
                (owner, encode_name(&format!("a{}.example", n + 1)).unwrap().to_vec())
            })
            .collect();
        let links = |count: usize| -> Vec<(&str, u16, &[u8])> {
            chain[..count].iter().map(|(owner, target)| (owner.as_str(), 5, target.as_slice())).collect()
        };
        assert!(matches!(
            decode(&answer([0x81, 0x80], &links(12)), &encode_name("www.example").unwrap(), Family::V4, 0x1234),
            Decoded::Alias(_)
        ));
        check(&answer([0x81, 0x80], &links(40)), &Decoded::Unreadable);
        let good = answer([0x81, 0x80], &[("@", 1, &[192, 0, 2, 1])]);
        for end in 0..good.len() {
            let cut = decode(&good[..end], &encode_name("www.example").unwrap(), Family::V4, 0x1234);
            assert!(matches!(cut, Decoded::Foreign | Decoded::Unreadable), "{end}: {cut:?}");
        }
    }

    #[test]
    fn names() {
        assert!(encode_name(&"a".repeat(64)).is_none());
        assert!(encode_name(&format!("{}a", "abcdefg.".repeat(32))).is_none());
        assert!(encode_name("a..b").is_none());
        assert_eq!(encode_name("A.b.").unwrap()[..], *b"\x01a\x01b\0");
        // A pointer to itself, or ahead, is refused.
        assert!(read_name(&[0xc0, 0], 0).is_none());
        assert!(read_name(&[0xc0, 2, 0], 0).is_none());
        // A chain of pointers of any length would be walked for each record again.
        let chain: Vec<u8> =
            std::iter::once(0).chain((0..128u8).flat_map(|n| [0xc0, (2 * n).saturating_sub(1)])).collect();
        assert_eq!(read_name(&chain, 1 + 2 * 100).map(|(name, _)| name.len()), Some(1));
        assert!(read_name(&chain, 1 + 2 * 127).is_none());
    }

    #[test]
    fn turns() {
        assert_eq!(next_server(0, 0, 1), Some(0));
        assert_eq!(next_server(0, 1, 1), None);
        assert_eq!(next_server(0, 0, 3), Some(1));
        assert_eq!(next_server(2, 0b001, 3), Some(1));
        assert_eq!(next_server(1, 0b101, 3), Some(1));
    }
}
