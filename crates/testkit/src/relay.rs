//! A TCP relay that delays, throttles, cuts, and goes silent: a bad network between a client and a good server.

use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::background::Background;
use crate::clock::{Clock, ClockGuard};
use crate::site::bind;

/// How the network is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weather {
    /// Each piece of bytes waits this long, in each direction.
    pub delay: Duration,
    /// Bytes a second in each direction of each connection; 0: as many as go.
    pub bytes_per_second: u64,
    /// Connections stand, new ones are accepted, but nothing is carried: as when a cable is pulled.
    pub silent: bool,
    /// New connections are reset.
    pub refuse: bool,
    /// A connection is reset once so many bytes have gone back to the client.
    pub cut_after: Option<u64>,
}

/// The relay. Dropping it ends it with all its connections.
pub struct Relay {
    address: SocketAddr,
    weather: watch::Sender<Weather>,
    /// Counts up to cut all connections that stand.
    cuts: watch::Sender<u64>,
    carried: Arc<Carried>,
    _background: Background,
    _clock: ClockGuard,
}

/// Bytes carried, over all connections.
#[derive(Debug, Default)]
struct Carried {
    connections: AtomicU64,
    forth: AtomicU64,
    back: AtomicU64,
}

/// What a connection needs to know.
#[derive(Clone)]
struct Shared {
    clock: Clock,
    weather: watch::Receiver<Weather>,
    carried: Arc<Carried>,
}

impl Relay {
    /// Carries connections from a free port of the loopback to this address.
    pub fn start(to: SocketAddr) -> Result<Self> {
        let (clock, guard) = Clock::start().context("cannot start the clock")?;
        let background = Background::start("relay", 1)?;
        let (number, sockets) = bind().context("cannot bind a port of the loopback")?;
        let (weather, seen) = watch::channel(Weather::default());
        let (cuts, cut) = watch::channel(0);
        let carried = Arc::new(Carried::default());
        let shared = Shared { clock, weather: seen, carried: carried.clone() };
        let entered = background.handle().enter();
        for socket in sockets {
            socket.listen(1024)?;
            socket.set_nonblocking(true)?;
            let listener = TcpListener::from_std(socket.into())?;
            background.spawn(accept(listener, to, shared.clone(), cut.clone()));
        }
        drop(entered);
        let address = (Ipv4Addr::LOCALHOST, number).into();
        Ok(Self { address, weather, cuts, carried, _background: background, _clock: guard })
    }

    /// Where it listens, on 127.0.0.1; on `::1` it has the same number.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes the weather for connections that stand and for new ones.
    pub fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }

    /// Resets all connections that stand.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Connections so far, bytes to the server, bytes back.
    pub fn carried(&self) -> (u64, u64, u64) {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (get(&self.carried.connections), get(&self.carried.forth), get(&self.carried.back))
    }
}

async fn accept(listener: TcpListener, to: SocketAddr, shared: Shared, cut: watch::Receiver<u64>) {
    loop {
        let Ok((client, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        shared.carried.connections.fetch_add(1, Ordering::Relaxed);
        let (shared, mut cut) = (shared.clone(), cut.clone());
        cut.mark_unchanged();
        tokio::spawn(async move {
            if shared.weather.borrow().refuse {
                reset(&client);
                return;
            }
            // A server that is away resets the client, too.
            let Ok(server) = TcpStream::connect(to).await else {
                reset(&client);
                return;
            };
            let _ = carry(client, server, &shared, &mut cut).await;
        });
    }
}

/// Carries both ways until both directions have ended, or one failed.
async fn carry(
    client: TcpStream,
    server: TcpStream,
    shared: &Shared,
    cut: &mut watch::Receiver<u64>,
) -> io::Result<()> {
    // Shared whole: the halves that tokio splits a stream into say FIN when dropped, where a RST is wanted.
    let (client, server) = (Arc::new(client), Arc::new(server));
    for stream in [&client, &server] {
        stream.set_nodelay(true)?;
        // Whatever ends this early is a reset; a direction that ends well says FIN first.
        reset(stream);
    }
    let mut directions = JoinSet::new();
    directions.spawn(direction(client.clone(), server.clone(), shared.clone(), false));
    directions.spawn(direction(server.clone(), client.clone(), shared.clone(), true));
    loop {
        tokio::select! {
            done = directions.join_next() => match done {
                Some(Ok(Ok(()))) => {}
                Some(_) => return Ok(()),
                None => break,
            },
            _ = cut.changed() => return Ok(()),
        }
    }
    for stream in [&client, &server] {
        SockRef::from(&**stream).set_linger(None)?;
    }
    Ok(())
}

async fn direction(from: Arc<TcpStream>, to: Arc<TcpStream>, shared: Shared, back: bool) -> io::Result<()> {
    let Shared { clock, mut weather, carried } = shared;
    let mut buffer = vec![0; 16 * 1024];
    let mut total = 0;
    loop {
        let now = *weather.borrow_and_update();
        if now.silent {
            if weather.changed().await.is_err() {
                return Ok(());
            }
            continue;
        }
        let most = match now.bytes_per_second {
            0 => buffer.len(),
            // A tenth of a second's worth at a time.
            rate => (rate / 10).clamp(1, buffer.len() as u64) as usize,
        };
        let read = tokio::select! {
            read = read(&from, &mut buffer[..most]) => read?,
            _ = weather.changed() => continue,
        };
        if read == 0 {
            clock.sleep(now.delay).await;
            return SockRef::from(&*to).shutdown(Shutdown::Write);
        }
        let arrived = Instant::now();
        clock.until(arrived + now.delay).await;
        // What arrived before the silence waits it out.
        while weather.borrow_and_update().silent {
            if weather.changed().await.is_err() {
                return Ok(());
            }
        }
        let allowed = match now.cut_after {
            Some(most) if back => read.min(most.saturating_sub(total) as usize),
            _ => read,
        };
        write(&to, &buffer[..allowed]).await?;
        total += allowed as u64;
        let counter = if back { &carried.back } else { &carried.forth };
        counter.fetch_add(allowed as u64, Ordering::Relaxed);
        if allowed < read {
            clock.sleep(Duration::from_millis(20)).await;
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if now.bytes_per_second > 0 {
            let time = Duration::from_secs_f64(read as f64 / now.bytes_per_second as f64);
            clock.until(arrived + now.delay + time).await;
        }
    }
}

async fn read(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        stream.readable().await?;
        match stream.try_read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => return done,
        }
    }
}

async fn write(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn reset(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}
