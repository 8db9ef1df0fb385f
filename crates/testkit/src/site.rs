//! The faulty site: its ports, its certificates and its log.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

use crate::authority::{Authority, Curve, Identity, Order};
use crate::background::Background;
use crate::clock::{Clock, ClockGuard};
use crate::command::Command;
use crate::connection;
use crate::fault::{Fault, Make, Scheme, Stage};
use crate::log::{Counts, Seen};
use crate::state::State;
use crate::tls::Tls;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// A server that fails on command. Dropping it ends it with all its connections.
pub struct FaultySite {
    state: Arc<State>,
    background: Background,
    ports: Mutex<HashMap<(Scheme, String), Port>>,
    _clock: ClockGuard,
}

/// A port, with the sockets that must live as long as it.
struct Port {
    number: u16,
    /// Sockets that refuse or hang, and those that fill a queue.
    _held: Vec<Socket>,
    _filling: Vec<TcpStream>,
}

/// How a site is to be started.
#[derive(Default)]
pub struct Builder {
    names: Vec<String>,
    threads: usize,
    authorities: Option<(Arc<Authority>, Arc<Authority>)>,
}

impl Builder {
    /// Names and addresses that the certificates hold for, besides those of [`crate::authority::loopback_names`].
    #[must_use]
    pub fn names<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.names.extend(names.into_iter().map(Into::into));
        self
    }

    /// Threads that serve; 1 unless told otherwise.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Authorities of the test's own: the usual one, and the one for `tls-p384`.
    #[must_use]
    pub fn authorities(mut self, usual: Arc<Authority>, p384: Arc<Authority>) -> Self {
        self.authorities = Some((usual, p384));
        self
    }

    /// Starts it.
    pub fn start(self) -> Result<FaultySite> {
        let (usual, p384) = match self.authorities {
            Some(authorities) => authorities,
            None => (
                Arc::new(Authority::with_intermediate(Curve::P256)?),
                Arc::new(Authority::with_intermediate(Curve::P384)?),
            ),
        };
        let (clock, guard) = Clock::start().context("cannot start the clock")?;
        let background = Background::start("faulty-site", self.threads)?;
        let state = Arc::new(State::new(clock, Tls::new(usual, p384, &self.names)));
        let site = FaultySite { state, background, ports: Mutex::default(), _clock: guard };
        for scheme in Scheme::ALL {
            site.open(scheme, "")?;
        }
        Ok(site)
    }
}

impl FaultySite {
    /// Starts a site on three free ports of the loopback (IPv4, and IPv6 where there is one): one for each scheme.
    pub fn start() -> Result<Self> {
        Self::builder().start()
    }

    /// For a site with more names or threads.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The shared port of a scheme, on 127.0.0.1; on `::1` it has the same number.
    pub fn address(&self, scheme: Scheme) -> SocketAddr {
        // Opened at the start, so it is always there.
        let ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        let number = ports.get(&(scheme, String::new())).map_or(0, |port| port.number);
        (Ipv4Addr::LOCALHOST, number).into()
    }

    /// A port of its own for a command (`NAME` or `NAME?QUERY`), opened when first asked for: all that happens
    /// there happens by that command, whatever the path says.
    pub fn open(&self, scheme: Scheme, command: &str) -> Result<SocketAddr> {
        let mut ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (scheme, command.to_owned());
        if let Some(port) = ports.get(&key) {
            return Ok((Ipv4Addr::LOCALHOST, port.number).into());
        }
        let parsed = Command::parse(command);
        let fault = Fault::find(&parsed.name);
        anyhow::ensure!(fault.is_some() || parsed.name.is_empty(), "there is no fault {}", parsed.name);
        let (number, sockets) = bind().context("cannot bind a port of the loopback")?;
        let mut filling = Vec::new();
        let held = match fault.map(|fault| fault.make) {
            Some(Make::Refused) => sockets,
            Some(Make::Backlog) => {
                for socket in &sockets {
                    filling.extend(fill_backlog(socket).context("cannot fill the queue of connections")?);
                }
                sockets
            }
            _ => {
                let command = (!parsed.name.is_empty()).then(|| Arc::new(parsed));
                for socket in sockets {
                    self.listen(socket, scheme, number, command.clone())?;
                }
                Vec::new()
            }
        };
        ports.insert(key, Port { number, _held: held, _filling: filling });
        Ok((Ipv4Addr::LOCALHOST, number).into())
    }

    /// A URL under which a command is carried out, by 127.0.0.1: by path where that is possible, else by a port of
    /// its own.
    pub fn url(&self, scheme: Scheme, command: &str) -> Result<String> {
        self.url_at(scheme, "127.0.0.1", command)
    }

    /// The same with another host, which must lead to the loopback: a name, `127.0.0.1` or `[::1]`.
    pub fn url_at(&self, scheme: Scheme, host: &str, command: &str) -> Result<String> {
        let by_path = Fault::find(&Command::parse(command).name).is_none_or(|fault| fault.stage == Stage::Answer);
        let (address, path) = if by_path { (self.address(scheme), command) } else { (self.open(scheme, command)?, "") };
        Ok(format!("{}://{host}:{}/{path}", scheme.name(), address.port()))
    }

    /// The authority that all good certificates but those of `tls-p384` come from.
    pub fn authority(&self) -> &Authority {
        &self.state.tls.authority
    }

    /// The authority of `tls-p384`.
    pub fn authority_p384(&self) -> &Authority {
        &self.state.tls.authority_p384
    }

    /// Both roots as PEM, to be trusted by a client.
    pub fn roots_pem(&self) -> String {
        self.authority().root_pem() + &self.authority_p384().root_pem()
    }

    /// Writes both roots to `FOLDER/roots.pem`.
    pub fn write_roots(&self, folder: &Path) -> Result<PathBuf> {
        let path = folder.join("roots.pem");
        std::fs::write(&path, self.roots_pem()).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// A certificate that `tls-client-cert` accepts.
    pub fn client_identity(&self) -> Result<Identity> {
        self.authority().issue(&Order::new(["checker"]).client())
    }

    /// All requests so far, in the order of their arrival.
    pub fn log(&self) -> Vec<Seen> {
        self.state.log.all()
    }

    /// Requests for a path (without query), or for a target (with one).
    pub fn seen(&self, path_or_target: &str) -> Vec<Seen> {
        self.state.log.filtered(|seen| seen.path == path_or_target || seen.target == path_or_target)
    }

    /// Forgets the requests so far; counters stay.
    pub fn clear_log(&self) {
        self.state.log.clear();
    }

    /// Connections, handshakes and requests.
    pub fn counts(&self) -> Counts {
        self.state.log.counts()
    }

    fn listen(&self, socket: Socket, scheme: Scheme, port: u16, command: Option<Arc<Command>>) -> Result<()> {
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        let _entered = self.background.handle().enter();
        let listener = TcpListener::from_std(socket.into())?;
        let state = self.state.clone();
        self.background.spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((tcp, _)) => {
                        tokio::spawn(connection::serve(tcp, scheme, port, command.clone(), state.clone()));
                    }
                    // Out of descriptors, or the client was gone before: a pause keeps this from spinning.
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        });
        Ok(())
    }
}

/// A free port, bound on both families; on IPv4 alone where there is no IPv6.
pub(crate) fn bind() -> io::Result<(u16, Vec<Socket>)> {
    let mut last = None;
    for _ in 0..100 {
        let v4 = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        v4.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        let number = v4.local_addr()?.as_socket().map_or(0, |address| address.port());
        let Ok(v6) = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP)) else {
            return Ok((number, vec![v4]));
        };
        v6.set_only_v6(true)?;
        match v6.bind(&SocketAddr::from((Ipv6Addr::LOCALHOST, number)).into()) {
            Ok(()) => return Ok((number, vec![v4, v6])),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => last = Some(error),
            Err(_) => return Ok((number, vec![v4])),
        }
    }
    Err(last.unwrap_or_else(|| io::ErrorKind::AddrInUse.into()))
}

/// Lets one connection wait, and fills that place: further ones hang, since the kernel drops their SYN.
fn fill_backlog(socket: &Socket) -> io::Result<Vec<TcpStream>> {
    socket.listen(0)?;
    let Some(address) = socket.local_addr()?.as_socket() else { return Ok(Vec::new()) };
    let mut filling = Vec::new();
    for _ in 0..16 {
        match TcpStream::connect_timeout(&address, Duration::from_millis(100)) {
            Ok(stream) => filling.push(stream),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => return Ok(filling),
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("the queue of connections does not fill"))
}
