//! From addresses to a connection: raced as RFC 8305 says, each attempt recorded, each address held against
//! `network.refuse` at the moment of dialling.

use crate::http::dns::{Family, Outcome};
use crate::http::resolve::{Lookup, Names};
use crate::http::socket::Stream;
use crate::http::timeline::Trace;
use crate::policy::Policy;
use rustix::io::Errno;
use sitemon_model::{Attempt, Cause, Code};
use smallvec::SmallVec;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::Instant;

/// RFC 8305, 5: how long an attempt is waited for before the next one begins beside it.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Whose failing it is that an address cannot be spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Shortage {
    /// Ours: no descriptors, ports, memory; said how.
    Ours(Box<str>),
    /// Ours: the machine has no route for this family.
    NoRoute,
    /// Not ours.
    Theirs,
}

/// Tells our own shortage from a failing of the other side.
pub(crate) fn shortage(error: &io::Error, address: SocketAddr) -> Shortage {
    let Some(errno) = Errno::from_io_error(error) else { return Shortage::Theirs };
    match errno {
        Errno::MFILE
        | Errno::NFILE
        | Errno::NOBUFS
        | Errno::NOMEM
        | Errno::ACCESS
        | Errno::PERM
        | Errno::AGAIN
        | Errno::INVAL => Shortage::Ours(errno.to_string().into()),
        Errno::AFNOSUPPORT | Errno::PROTONOSUPPORT | Errno::NETDOWN => Shortage::NoRoute,
        Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::ADDRNOTAVAIL => {
            if !has_route(Family::of(address.ip())) {
                Shortage::NoRoute
            } else if errno == Errno::ADDRNOTAVAIL {
                Shortage::Ours("no free local port or address".into())
            } else {
                Shortage::Theirs
            }
        }
        _ => Shortage::Theirs,
    }
}

/// Whether the machine has a route to the rest of the world for a family. Asks the routing table by
/// connecting datagram sockets, which sends nothing, to the addresses of two root name servers.
fn has_route(family: Family) -> bool {
    let targets: [IpAddr; 2] = match family {
        Family::V4 => [Ipv4Addr::new(198, 41, 0, 4).into(), Ipv4Addr::new(193, 0, 14, 129).into()],
        Family::V6 => [
            Ipv6Addr::new(0x2001, 0x503, 0xba3e, 0, 0, 0, 2, 0x30).into(),
            Ipv6Addr::new(0x2001, 0x7fd, 0, 0, 0, 0, 0, 1).into(),
        ],
    };
    targets.into_iter().any(|target| {
        let target = SocketAddr::new(target, 53);
        let Ok(socket) = socket2::Socket::new(
            socket2::Domain::for_address(target),
            socket2::Type::DGRAM.nonblocking().cloexec(),
            Some(socket2::Protocol::UDP),
        ) else {
            return false;
        };
        socket.connect(&target.into()).is_ok()
    })
}

/// The cause of an attempt that failed by the other side.
fn code_of(error: &io::Error) -> Code {
    match Errno::from_io_error(error) {
        Some(Errno::CONNREFUSED) => Code::ConnectRefused,
        Some(Errno::CONNRESET | Errno::CONNABORTED) => Code::ConnectReset,
        Some(Errno::TIMEDOUT) => Code::ConnectTimeout,
        Some(Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::HOSTDOWN | Errno::NETRESET) => Code::ConnectUnreachable,
        Some(Errno::PIPE) => Code::ConnectClosed,
        // Nothing that is known to be the site's fault.
        _ => Code::OwnFailure,
    }
}

/// What is dialled.
pub(crate) struct Dial<'a> {
    /// Addresses in the order in which they came.
    pub(crate) addresses: &'a [IpAddr],
    pub(crate) port: u16,
    /// More addresses may come from here while the first are tried.
    pub(crate) more: Option<(&'a mut Lookup, &'a Names)>,
    /// For each attempt.
    pub(crate) timeout: Duration,
    /// `None` for what the operator named: proxies.
    pub(crate) policy: Option<&'a Policy>,
}

/// Addresses that wait for their turn.
type Addresses = SmallVec<[SocketAddr; 4]>;

struct Active {
    address: SocketAddr,
    began: u64,
    until: Instant,
    /// Taken when it has ended.
    stream: Option<io::Result<Stream>>,
}

impl Active {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Stream>> {
        if let Some(Ok(stream)) = &mut self.stream
            && let Err(error) = ready!(stream.poll_connected(cx))
        {
            return Poll::Ready(Err(error));
        }
        self.stream.take().map_or(Poll::Pending, Poll::Ready)
    }
}

/// Dials; the phase `connect` begins with the first attempt and is left under way on success. Where all
/// addresses are refused nothing is dialled and the phase is not reached.
pub(crate) async fn dial(mut dial: Dial<'_>, trace: &mut Trace) -> Result<Stream, Cause> {
    let mut refused: Option<(IpAddr, Box<str>)> = None;
    let mut waiting = Addresses::new();
    let mut last = Family::V4;
    admit(&mut waiting, dial.addresses, &dial, last, &mut refused);
    if waiting.is_empty() && dial.more.is_none() {
        return Err(forbidden(refused));
    }
    let mut active: SmallVec<[Active; 2]> = SmallVec::new();
    let mut timer: Option<Pin<Box<tokio::time::Sleep>>> = None;
    let mut next_at: Option<Instant> = None;
    // Errors: of the last address that failed by itself, ours, and of a missing route.
    let mut failure: Option<(Code, Box<str>)> = None;
    let mut ours: Option<Box<str>> = None;
    let mut no_route: Option<SocketAddr> = None;
    let mut began = false;
    loop {
        // Begin the next attempt where none is under way, or the last one has had its time.
        let due = active.is_empty() || next_at.is_some_and(|at| Instant::now() >= at);
        if due && !waiting.is_empty() {
            let address = waiting.remove(0);
            if !began {
                began = true;
                trace.enter(sitemon_model::Phase::Connect);
            }
            last = Family::of(address.ip());
            let start = trace.now();
            let now = Instant::now();
            trace.current().address = Some(address);
            trace.dialling.push((address, start));
            let stream = Some(Stream::connect(address));
            active.push(Active { address, began: start, until: now + dial.timeout, stream });
            next_at = Some(now + ATTEMPT_DELAY);
        }
        if active.is_empty() && waiting.is_empty() && dial.more.is_none() {
            break;
        }
        let wake = active
            .iter()
            .map(|attempt| attempt.until)
            .chain(next_at.filter(|_| !waiting.is_empty() && !active.is_empty()))
            .min();
        let ended = {
            let race = std::future::poll_fn(|cx| {
                for (index, attempt) in active.iter_mut().enumerate() {
                    if let Poll::Ready(result) = attempt.poll(cx) {
                        return Poll::Ready((index, result));
                    }
                }
                if active.is_empty() && !waiting.is_empty() {
                    return Poll::Ready((usize::MAX, Err(io::ErrorKind::Interrupted.into())));
                }
                Poll::Pending
            });
            let sleep = async {
                match wake {
                    None => std::future::pending().await,
                    Some(at) => {
                        let timer = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
                        if timer.deadline() != at {
                            timer.as_mut().reset(at);
                        }
                        timer.as_mut().await;
                    }
                }
            };
            let more = async {
                match &mut dial.more {
                    Some((lookup, names)) => lookup.next(names).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                ended = race => Some(ended),
                () = sleep => None,
                next = more => {
                    match next {
                        Some((_, Outcome::Found(addresses, _))) => {
                            admit(&mut waiting, &addresses, &dial, last, &mut refused);
                        }
                        Some(_) => {}
                        None => dial.more = None,
                    }
                    continue;
                }
            }
        };
        let (index, error) = match ended {
            Some((usize::MAX, _)) => continue,
            Some((index, Ok(stream))) => {
                let won = active.swap_remove(index);
                let now = trace.now();
                trace.dialling.clear();
                let hop = trace.current();
                hop.address = Some(won.address);
                for lost in active {
                    hop.attempts.push(Attempt { address: lost.address, us: now - lost.began, error: None });
                }
                return Ok(stream);
            }
            Some((index, Err(error))) => (index, error),
            None => {
                // The timer: an attempt whose time is over, or the next one is due.
                let now = Instant::now();
                match active.iter().position(|attempt| attempt.until <= now) {
                    Some(index) => (index, io::Error::from_raw_os_error(Errno::TIMEDOUT.raw_os_error())),
                    None => continue,
                }
            }
        };
        let gone = active.remove(index);
        next_at = None;
        trace.dialling.retain(|(address, _)| *address != gone.address);
        let us = trace.now() - gone.began;
        let (code, words) = match shortage(&error, gone.address) {
            Shortage::NoRoute => {
                // Quietly: the machine has none of this family, so its addresses were never a choice.
                no_route = Some(gone.address);
                continue;
            }
            Shortage::Ours(what) => (Code::OwnFailure, format!("cannot dial {}: {what}", gone.address)),
            Shortage::Theirs => match code_of(&error) {
                Code::ConnectTimeout => {
                    (Code::ConnectTimeout, format!("{} did not answer within {:?}", gone.address, dial.timeout))
                }
                code => (code, format!("{}: {}", gone.address, describe(&error))),
            },
        };
        trace.current().attempts.push(Attempt { address: gone.address, us, error: Some(code) });
        if code == Code::OwnFailure {
            ours = Some(words.into());
        } else {
            failure = Some((code, words.into()));
        }
    }
    // All failed. The hop names the last that failed by itself; the attempts are the others.
    let hop = trace.current();
    let cause = match (ours, failure, no_route) {
        (Some(words), ..) => Cause::new(Code::OwnFailure, words),
        (None, Some((code, words)), _) => Cause::new(code, words),
        (None, None, Some(address)) => {
            hop.address = Some(address);
            let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
            Cause::new(Code::OwnFailure, format!("no route for {family} on this machine, needed for {address}"))
        }
        (None, None, None) => return Err(forbidden(refused)),
    };
    if let Some(last) = hop.attempts.pop() {
        hop.address = Some(last.address);
    }
    trace.fail(cause.code);
    Err(cause)
}

fn forbidden(refused: Option<(IpAddr, Box<str>)>) -> Cause {
    match refused {
        Some((address, word)) => {
            Cause::new(Code::PolicyAddress, format!("{address} is refused by network.refuse: {word}"))
        }
        None => Cause::new(Code::DnsNotFound, "no address"),
    }
}

/// Puts addresses that may be dialled among those that wait, the families taking turns, beginning with the
/// one that was not dialled last (RFC 8305, 4).
fn admit(
    waiting: &mut Addresses,
    addresses: &[IpAddr],
    dial: &Dial<'_>,
    last: Family,
    refused: &mut Option<(IpAddr, Box<str>)>,
) {
    for address in addresses {
        match dial.policy.and_then(|policy| policy.refuses(*address)) {
            Some(word) => *refused = Some((*address, word.into())),
            None => waiting.push(SocketAddr::new(*address, dial.port)),
        }
    }
    let (v6, v4): (Addresses, Addresses) = waiting.drain(..).partition(SocketAddr::is_ipv6);
    let (first, second) = if last == Family::V4 { (v6, v4) } else { (v4, v6) };
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    loop {
        let turn = [first.next(), second.next()];
        if turn == [None, None] {
            break;
        }
        waiting.extend(turn.into_iter().flatten());
    }
}

/// The system's words without the number.
pub(crate) fn describe(error: &io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns() {
        let dial = Dial { addresses: &[], port: 80, more: None, timeout: Duration::ZERO, policy: None };
        let addresses: Vec<IpAddr> =
            ["192.0.2.1", "192.0.2.2", "2001:db8::1"].iter().map(|a| a.parse().unwrap()).collect();
        let mut waiting = Addresses::new();
        admit(&mut waiting, &addresses, &dial, Family::V4, &mut None);
        let order: Vec<String> = waiting.iter().map(ToString::to_string).collect();
        assert_eq!(order, ["[2001:db8::1]:80", "192.0.2.1:80", "192.0.2.2:80"]);
    }

    #[test]
    fn whose_failing_it_is() {
        let address = SocketAddr::from(([127, 0, 0, 1], 80));
        let of = |errno: Errno| shortage(&io::Error::from(errno), address);
        assert!(matches!(of(Errno::MFILE), Shortage::Ours(_)));
        assert_eq!(of(Errno::CONNREFUSED), Shortage::Theirs);
        assert_eq!(of(Errno::AFNOSUPPORT), Shortage::NoRoute);
    }
}
