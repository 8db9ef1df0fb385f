//! The timeline of a check: hops, and in each hop the phases and the addresses that were tried.
//!
//! A phase is *done in t*, *failed after t*, or *not reached*; one that was not reached is absent, never 0.

use crate::Code;
use std::net::SocketAddr;
use std::sync::Arc;

/// The parts of a hop, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// From the start of the lookup to the addresses.
    Dns,
    /// From the first attempt until the connection stands.
    Connect,
    /// From the connection to the proxy until the tunnel stands.
    Proxy,
    /// The handshake.
    Tls,
    /// Until the request is handed to the system whole.
    Send,
    /// From the request sent to the first byte of the answer; excludes name lookup, connect and TLS.
    Wait,
    /// From the first byte of the answer to its last.
    Receive,
}

impl Phase {
    /// All phases in their order.
    pub const ALL: [Phase; 7] =
        [Phase::Dns, Phase::Connect, Phase::Proxy, Phase::Tls, Phase::Send, Phase::Wait, Phase::Receive];

    /// As in the exported line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Connect => "connect",
            Self::Proxy => "proxy",
            Self::Tls => "tls",
            Self::Send => "send",
            Self::Wait => "wait",
            Self::Receive => "receive",
        }
    }

    /// The cause of a phase that did not end in time.
    pub const fn timeout(self) -> Code {
        match self {
            Self::Dns => Code::DnsTimeout,
            Self::Connect => Code::ConnectTimeout,
            Self::Proxy => Code::ProxyTimeout,
            Self::Tls => Code::TlsTimeout,
            Self::Send => Code::SendTimeout,
            Self::Wait => Code::WaitTimeout,
            Self::Receive => Code::ReceiveTimeout,
        }
    }

    /// The cause of a connection reset in this phase.
    pub const fn reset(self) -> Code {
        match self {
            Self::Dns => Code::DnsReset,
            Self::Connect => Code::ConnectReset,
            Self::Proxy => Code::ProxyReset,
            Self::Tls => Code::TlsReset,
            Self::Send => Code::SendReset,
            Self::Wait => Code::WaitReset,
            Self::Receive => Code::ReceiveReset,
        }
    }

    /// The cause of a connection closed in this phase.
    pub const fn closed(self) -> Code {
        match self {
            Self::Dns => Code::DnsClosed,
            Self::Connect => Code::ConnectClosed,
            Self::Proxy => Code::ProxyClosed,
            Self::Tls => Code::TlsClosed,
            Self::Send => Code::SendClosed,
            Self::Wait => Code::WaitClosed,
            Self::Receive => Code::ReceiveClosed,
        }
    }
}

/// How a phase ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// It came to its end.
    Done,
    /// It took so long until it failed.
    Failed,
}

impl State {
    /// As in the exported line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }
}

/// How long a phase took, and how it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PhaseTime {
    /// Microseconds.
    pub us: u64,
    /// How it ended.
    pub state: State,
}

/// The phases of one hop; `None`: not reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Phases([Option<PhaseTime>; 7]);

impl Phases {
    /// The time of a phase; `None` where it was not reached.
    pub const fn get(&self, phase: Phase) -> Option<PhaseTime> {
        self.0[phase as usize]
    }

    /// Sets the time of a phase.
    pub fn set(&mut self, phase: Phase, us: u64, state: State) {
        self.0[phase as usize] = Some(PhaseTime { us, state });
    }

    /// The phases that were reached, in their order.
    pub fn reached(&self) -> impl Iterator<Item = (Phase, PhaseTime)> + '_ {
        Phase::ALL.into_iter().filter_map(|phase| self.get(phase).map(|time| (phase, time)))
    }

    /// Microseconds of all phases together.
    pub fn sum_us(&self) -> u64 {
        self.reached().map(|(_, time)| time.us).sum()
    }
}

/// One request of a check: the first, or the one after a redirect.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hop {
    /// What was asked for.
    pub url: Arc<str>,
    /// The method used on this hop.
    pub method: Arc<str>,
    /// The address that answered, or the last that was dialled; absent where none was.
    pub address: Option<SocketAddr>,
    /// `1.0`, `1.1` or `2`; absent before there was an answer.
    pub http_version: Option<HttpVersion>,
    /// The status of the answer.
    pub status: Option<u16>,
    /// Whether the connection had been used before; then it has no dns, connect and tls.
    pub reused: bool,
    /// Where the time went.
    pub phases: Phases,
    /// The addresses that were tried without becoming the connection.
    pub attempts: Vec<Attempt>,
}

/// One address that was tried and did not become the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The address.
    pub address: SocketAddr,
    /// Microseconds from its start to its end.
    pub us: u64,
    /// Why it failed; absent where it was given up because another was faster.
    pub error: Option<Code>,
}

/// The protocol version of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HttpVersion {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
    /// HTTP/2
    Http2,
}

impl HttpVersion {
    /// As in the exported line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "1.0",
            Self::Http11 => "1.1",
            Self::Http2 => "2",
        }
    }
}
