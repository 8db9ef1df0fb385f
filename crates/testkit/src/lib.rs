//! Faulty sites, faulty networks and names, for tests and demonstrations.
//!
//! All of it runs on free ports of the loopback, on threads of its own, and ends with the handle that started it.
//!
//! | what | does |
//! | --- | --- |
//! | [`FaultySite`] | fails in every phase in every way, by plain HTTP, TLS and HTTP/2; logs what it saw |
//! | [`FaultyNames`] | a name server that fails; logs what it was asked |
//! | [`FaultyProxy`] | CONNECT, absolute form and SOCKS5 on one port, and their failures |
//! | [`Relay`] | a bad network before a good server |
//! | [`kafka::Kafka`] | Apache Kafka, one broker or three, with TLS and SASL |
//! | [`postgres::Postgres`] | a PostgreSQL server, with TLS |
//! | [`Authority`] | certificates of the test's own |
//! | [`fast::FastServer`] | the same page as cheaply as possible, counted, for benchmarks |
//! | [`demo::Demo`] | a site in each state, with a configuration that watches them |
//!
//! # Commands
//!
//! What fails is a *command*, `NAME` or `NAME?KEY=VALUE&...`; [`Fault::ALL`] is the table of all, with what a checker
//! shall make of each. A command reaches a site in one of three ways, the earlier going before the later:
//!
//! - by a port of its own: [`FaultySite::open`]. Everything can be commanded so, and nothing else can what strikes
//!   before a name or a path is known ([`Stage::Port`], [`Stage::Accept`]);
//! - by the name in the TLS handshake, `NAME.fault.test`, with the parameters of the table's example;
//! - by the path: `/NAME/ANYTHING?KEY=VALUE`, so that one port serves any number of sites. This is for answers
//!   ([`Stage::Answer`]).
//!
//! [`FaultySite::url`] picks the way that is possible. Certificates hold for `localhost`, `127.0.0.1`, `::1`,
//! `*.fault.test`, `*.site.test` and what [`FaultySite::builder`] is given.
//!
//! Answers that are messages (and not bytes that break them) also heed: `status`, `reason`, `type` (the content type),
//! `header=NAME:VALUE` and `cookie=VALUE` as often as wanted, `delay_ms` (from the request's last byte to the answer's
//! first, exactly), `body_delay_ms`, `drip` (so many bytes at a time) with `every_ms`, `framing` (`length`, `chunked`
//! with `chunk` bytes, `close`), `interim=STATUS`, `trailer=NAME:VALUE`, `close=1`. Times are milliseconds, fractions
//! allowed.
//!
//! # To add a fault
//!
//! 1. Write the function: in `answers.rs` what both versions of HTTP can carry, in `malformed.rs` bytes for HTTP/1.1, in
//!    `frames.rs` frames for HTTP/2. It gets the command, the request and the site's memory, and returns a message or a
//!    list of steps for the wire. A new kind of handshake is a `TlsFault` with its arm in `tls.rs`.
//! 2. Write its row in `fault.rs`, where it belongs in the order of the phases: name, stage, what it does with its
//!    parameters, an example, and the expected cause for each scheme.
//! 3. Write its arm in `tests/it/answers.rs` (or `sites.rs`, `http2.rs`): what a raw client sees. The tests go through
//!    the table, and fail where an arm is missing.
//!
//! Faults of names and proxies have tables of the same kind: [`NameFault::ALL`], [`ProxyFault::ALL`].

pub mod answers;
pub mod authority;
mod background;
pub mod clock;
pub mod coding;
pub mod command;
mod connection;
pub mod demo;
pub mod fast;
pub mod fault;
mod frames;
mod http1;
mod http2;
pub mod kafka;
pub mod log;
mod malformed;
pub mod names;
pub mod postgres;
pub mod proxy;
pub mod relay;
mod reply;
mod request;
pub mod site;
mod state;
mod tls;
mod wire;

pub use authority::{Authority, Curve, Identity, Order};
pub use command::Command;
pub use fault::{Fault, Scheme, Stage};
pub use log::{Counts, Seen};
pub use names::{FaultyNames, NameFault};
pub use proxy::{FaultyProxy, ProxyFault};
pub use relay::{Relay, Weather};
pub use site::FaultySite;
