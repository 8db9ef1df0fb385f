//! TLS as it should be, and as it should not.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use bytes::Bytes;
use rustls::HandshakeKind;
use rustls::crypto::CryptoProvider;
use rustls::server::{Accepted, Acceptor, ServerConfig, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use tokio::net::TcpStream;
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};

use crate::authority::{Authority, Curve, DAY, Identity, Order, loopback_names};
use crate::command::Command;
use crate::fault::{FAULT_ZONE, Fault, Make, Scheme, TlsFault};
use crate::malformed;
use crate::reply::Step;
use crate::state::State;
use crate::wire::{Io, Wire};

/// Configurations kept; a test that asks for more (by `days`) gets the others made anew each time.
const CONFIGURATIONS: usize = 4096;

/// The site's authorities, and a configuration for each fault, made when first asked for.
pub(crate) struct Tls {
    pub(crate) authority: Arc<Authority>,
    pub(crate) authority_p384: Arc<Authority>,
    names: Vec<String>,
    made: Mutex<HashMap<(TlsFault, Scheme, u64), Arc<ServerConfig>>>,
}

/// What came of a handshake.
pub(crate) struct Secured {
    pub(crate) wire: Wire,
    pub(crate) sni: Option<String>,
    pub(crate) http2: bool,
    /// The fault that the server name asks for, to be done later on.
    pub(crate) named: Option<Command>,
}

impl Tls {
    /// `names`: what certificates are made out to.
    pub(crate) fn new(authority: Arc<Authority>, authority_p384: Arc<Authority>, more: &[String]) -> Self {
        let mut names = loopback_names();
        names.extend(more.iter().cloned());
        Self { authority, authority_p384, names, made: Mutex::default() }
    }

    fn config(&self, fault: TlsFault, scheme: Scheme, command: &Command) -> Result<Arc<ServerConfig>> {
        let days = command.number("days", 3);
        let key = (fault, scheme, days);
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = made.get(&key) {
            return Ok(config.clone());
        }
        let config = Arc::new(self.make(fault, scheme, days)?);
        if made.len() < CONFIGURATIONS {
            made.insert(key, config.clone());
        }
        Ok(config)
    }

    fn make(&self, fault: TlsFault, scheme: Scheme, days: u64) -> Result<ServerConfig> {
        let order = Order::new(self.names.clone());
        let key = match fault {
            TlsFault::P384 => self.authority_p384.issue(&order)?.certified_key()?,
            TlsFault::Soon => {
                // An hour more, so that the days left are still that many while a test runs.
                let left = DAY * days as u32 + DAY / 24;
                self.authority.issue(&order.valid_for(left))?.certified_key()?
            }
            TlsFault::Expired => self.authority.issue(&order.expired())?.certified_key()?,
            TlsFault::NotYetValid => self.authority.issue(&order.not_yet_valid())?.certified_key()?,
            TlsFault::WrongName => self.authority.issue(&Order::new(["elsewhere.example"]))?.certified_key()?,
            TlsFault::SelfSigned => Identity::self_signed(&order)?.certified_key()?,
            TlsFault::UnknownAuthority => Authority::with_intermediate(Curve::P256)?.issue(&order)?.certified_key()?,
            TlsFault::MissingIntermediate => {
                let mut identity = self.authority.issue(&order)?;
                identity.chain.truncate(1);
                identity.certified_key()?
            }
            TlsFault::WrongKey => {
                let right = self.authority.issue(&order)?;
                let wrong = self.authority.issue(&order)?.certified_key()?;
                Arc::new(CertifiedKey::new(right.chain, wrong.key.clone()))
            }
            _ => self.authority.issue(&order)?.certified_key()?,
        };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let versions: &[_] = match fault {
            TlsFault::Version12 => &[&TLS12],
            TlsFault::Version13 => &[&TLS13],
            _ => &[&TLS13, &TLS12],
        };
        let builder = ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions)?;
        let builder = if fault == TlsFault::ClientCertificate {
            builder.with_client_cert_verifier(self.verifier(provider)?)
        } else {
            builder.with_no_client_auth()
        };
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
        config.alpn_protocols = match (fault, scheme) {
            (TlsFault::NoAlpn, _) => Vec::new(),
            (_, Scheme::Http2) => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            (_, Scheme::Https | Scheme::Http) => vec![b"http/1.1".to_vec()],
        };
        Ok(config)
    }

    fn verifier(&self, provider: Arc<CryptoProvider>) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>> {
        let roots = Arc::new(self.authority.roots()?);
        WebPkiClientVerifier::builder_with_provider(roots, provider).build().context("cannot verify clients")
    }
}

/// Takes a connection through its handshake. Nothing comes back where the fault was its end.
pub(crate) async fn accept(
    tcp: TcpStream,
    scheme: Scheme,
    fixed: Option<&Command>,
    state: &State,
) -> Result<Option<Secured>> {
    let counters = &state.log;
    let start = match LazyConfigAcceptor::new(Acceptor::default(), tcp).await {
        Ok(start) => start,
        Err(error) => {
            counters.failed.fetch_add(1, Ordering::Relaxed);
            return Err(error.into());
        }
    };
    let sni = start.client_hello().server_name().map(str::to_owned);
    let named = sni.as_deref().and_then(named);
    let command = fixed.or(named.as_ref()).cloned().unwrap_or_default();
    let fault = match Fault::find(&command.name).map(|fault| fault.make) {
        Some(Make::Tls(fault)) => fault,
        _ => TlsFault::Good,
    };
    let StartHandshake { accepted, io: tcp, .. } = start;
    if let Some(steps) = broken(fault, &command) {
        counters.failed.fetch_add(1, Ordering::Relaxed);
        Wire::new(Io::Plain(tcp)).play(steps, &state.clock).await?;
        return Ok(None);
    }
    if fault == TlsFault::Slow {
        state.clock.sleep(command.ms("ms", 200.0)).await;
    }
    let config = state.tls.config(fault, scheme, &command)?;
    if matches!(fault, TlsFault::Cut | TlsFault::Corrupt) {
        counters.failed.fetch_add(1, Ordering::Relaxed);
        let steps = half_flight(fault, accepted, config, &command)?;
        Wire::new(Io::Plain(tcp)).play(steps, &state.clock).await?;
        return Ok(None);
    }
    let stream = match StartHandshake::from_parts(accepted, tcp).into_stream(config).await {
        Ok(stream) => stream,
        Err(error) => {
            counters.failed.fetch_add(1, Ordering::Relaxed);
            return Err(error.into());
        }
    };
    let connection = stream.get_ref().1;
    match connection.handshake_kind() {
        Some(HandshakeKind::Resumed) => counters.resumed.fetch_add(1, Ordering::Relaxed),
        _ => counters.full.fetch_add(1, Ordering::Relaxed),
    };
    if connection.peer_certificates().is_some() {
        counters.client_certificates.fetch_add(1, Ordering::Relaxed);
    }
    let http2 = connection.alpn_protocol() == Some(b"h2");
    Ok(Some(Secured { wire: Wire::new(Io::Tls(Box::new(stream))), sni, http2, named }))
}

/// The command in a server name: `NAME.fault.test`, if NAME is a fault's.
fn named(sni: &str) -> Option<Command> {
    let label = sni.strip_suffix(FAULT_ZONE)?;
    Fault::find(label).map(|fault| Command::parse(&fault.command()))
}

/// Faults that answer the `ClientHello` with something other than a handshake.
fn broken(fault: TlsFault, command: &Command) -> Option<Vec<Step>> {
    let steps = match fault {
        TlsFault::Close => vec![Step::Cut],
        TlsFault::Reset => vec![Step::Reset],
        TlsFault::Hang => vec![Step::Hang],
        TlsFault::Garbage => vec![Step::send(malformed::garbage(512)), Step::Cut],
        TlsFault::PlainText => vec![
            Step::send(
                "HTTP/1.1 400 Bad Request\r\ncontent-length: 26\r\nconnection: close\r\n\r\nThis port speaks plain HTTP",
            ),
            Step::Cut,
        ],
        TlsFault::Alert => {
            let number = command.number("number", 40) as u8;
            vec![Step::send(vec![21, 3, 3, 0, 2, 2, number]), Step::Cut]
        }
        TlsFault::OldVersion => vec![Step::send(old_server_hello()), Step::Hang],
        _ => return None,
    };
    Some(steps)
}

/// What a server answers that knows TLS 1.1 (3.2 on the wire) and nothing newer (RFC 4346, 7.4.1.3).
fn old_server_hello() -> Bytes {
    let mut hello = vec![3, 2];
    hello.extend(malformed::garbage(32));
    // No session, TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA, no compression.
    hello.extend([0, 0xc0, 0x13, 0]);
    let mut record = vec![22, 3, 2];
    record.extend((hello.len() as u16 + 4).to_be_bytes());
    record.push(2);
    record.extend(&(hello.len() as u32).to_be_bytes()[1..]);
    record.extend(hello);
    record.into()
}

/// Part of the server's first flight, or all of it with a bit turned.
fn half_flight(fault: TlsFault, accepted: Accepted, config: Arc<ServerConfig>, command: &Command) -> Result<Vec<Step>> {
    let mut connection = accepted.into_connection(config).map_err(|(error, _)| error)?;
    let mut flight = Vec::new();
    while connection.wants_write() {
        connection.write_tls(&mut flight)?;
    }
    if fault == TlsFault::Corrupt {
        // Near the end, so that the ServerHello itself is good.
        let at = flight.len().saturating_sub(10);
        if let Some(byte) = flight.get_mut(at) {
            *byte ^= 1;
        }
        return Ok(vec![Step::send(flight), Step::Hang]);
    }
    flight.truncate(command.number("bytes", 200) as usize);
    let end = match Step::ending(command.text("end", "hang")) {
        Step::Close => Step::Cut,
        step => step,
    };
    Ok(vec![Step::send(flight), Step::Wait(command.ms("after_ms", 20.0)), end])
}
