//! hyper as its documentation shows it, with the work of a check: a new connection each time, a full handshake, the
//! chain verified, the body through the pattern, a row stored.

use std::future::poll_fn;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context as Task, Poll, ready};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use http::{Request, Uri};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper::rt::{Read, ReadBufCursor, Write};
use regex::bytes::Regex;
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_rustls::TlsConnector;

use crate::store::{self, Row};

/// Rows that wait for the writer; at the bound checks wait.
const ROWS: usize = 100_000;

struct Site {
    name: String,
    address: SocketAddr,
    server: ServerName<'static>,
    host: String,
    path: String,
    pattern: Regex,
    secure: bool,
}

struct Client {
    sites: Vec<Site>,
    tls: TlsConnector,
    rows: mpsc::SyncSender<Row>,
    stopped: AtomicBool,
}

/// Works through a plan: `ca`, `database`, `sites` (`name`, `url`, `pattern`), and either `side_by_side`, so many
/// checks at any time, or `interval` in seconds, a task for each site that sleeps from slot to slot.
pub fn run(plan: &Path) -> Result<()> {
    let plan: Value = serde_json::from_slice(&std::fs::read(plan)?)?;
    let (rows, written) = mpsc::sync_channel(ROWS);
    let database = text(&plan["database"])?.to_owned();
    let writer = std::thread::spawn(move || store::write(Path::new(&database), &written));
    let sites = plan["sites"].as_array().context("sites")?.iter().map(site).collect::<Result<Vec<_>>>()?;
    let tls = tls(text(&plan["ca"])?)?;
    let client = Arc::new(Client { sites, tls, rows, stopped: AtomicBool::new(false) });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut told = signal(SignalKind::terminate())?;
        let mut tasks = JoinSet::new();
        if let Some(interval) = plan["interval"].as_f64() {
            let begin = Instant::now() + Duration::from_millis(500);
            for number in 0..client.sites.len() {
                let shift = Duration::from_secs_f64(interval * number as f64 / client.sites.len() as f64);
                tasks.spawn(watch(client.clone(), number, begin + shift, Duration::from_secs_f64(interval)));
            }
        } else {
            let side_by_side = plan["side_by_side"].as_u64().context("side_by_side")? as usize;
            for first in 0..side_by_side {
                tasks.spawn(work(client.clone(), first, side_by_side));
            }
        }
        eprintln!("ready");
        told.recv().await;
        client.stopped.store(true, Ordering::Relaxed);
        // A task that sleeps until its slot has nothing under way.
        let patience = Duration::from_secs_f64(plan["interval"].as_f64().unwrap_or(0.0) + 2.0);
        let _ = tokio::time::timeout(patience, async { while tasks.join_next().await.is_some() {} }).await;
        anyhow::Ok(())
    })?;
    drop(runtime);
    drop(client);
    let (stored, bad) = writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;
    println!("{}", json!({"stored": stored, "bad": bad}));
    Ok(())
}

/// Starts tasks that sleep, and prints the bytes that each takes: with its site's name and address, as text.
pub fn idle(count: usize) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (rows, _written) = mpsc::sync_channel(1);
    let client = Client { sites: Vec::new(), tls: tls_of(RootCertStore::empty())?, rows, stopped: false.into() };
    let client = Arc::new(client);
    runtime.block_on(async {
        let day = Duration::from_hours(24);
        let before = resident()?;
        let mut tasks = JoinSet::new();
        for number in 0..count {
            let (name, url) = (format!("site-{number}"), format!("http://site-{number}.site.test/page.html"));
            let client = client.clone();
            tasks.spawn(async move {
                watch(client, number, Instant::now() + day, day).await;
                drop((name, url));
            });
        }
        // All of them reach their sleep.
        while tasks.len() < count {
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        println!("{}", (resident()? - before) as f64 / count as f64);
        Ok(())
    })
}

fn resident() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = text.split(' ').nth(1).context("/proc/self/statm")?.parse()?;
    Ok(pages * rustix::param::page_size() as u64)
}

/// Checks one site after the other.
async fn work(client: Arc<Client>, first: usize, step: usize) {
    let mut number = first;
    while !client.stopped.load(Ordering::Relaxed) {
        let due = since_epoch();
        observe(&client, number % client.sites.len(), due).await;
        number += step;
    }
}

/// Checks one site in each of its slots.
async fn watch(client: Arc<Client>, number: usize, first: Instant, interval: Duration) {
    let mut slot = first;
    loop {
        sleep_until(slot).await;
        if client.stopped.load(Ordering::Relaxed) {
            return;
        }
        let due = since_epoch() - slot.elapsed().as_secs_f64();
        observe(&client, number, due).await;
        slot += interval;
    }
}

async fn observe(client: &Client, number: usize, due: f64) {
    let site = &client.sites[number];
    let (started, begun) = (since_epoch(), Instant::now());
    let (status, matched) = check(client, site).await.unwrap_or((0, false));
    let took = begun.elapsed().as_secs_f64();
    // The writer ends after the senders.
    let _ = client.rows.send(Row { site: site.name.clone(), due, started, status, matched, took });
}

async fn check(client: &Client, site: &Site) -> Result<(u16, bool)> {
    let tcp = TcpStream::connect(site.address).await?;
    tcp.set_nodelay(true)?;
    if site.secure {
        exchange(client.tls.connect(site.server.clone(), tcp).await?, site).await
    } else {
        exchange(tcp, site).await
    }
}

async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(stream: S, site: &Site) -> Result<(u16, bool)> {
    let (mut sender, connection) = http1::handshake::<_, String>(Io(stream)).await?;
    let asking = async move {
        let request = Request::get(site.path.as_str()).header("host", site.host.as_str()).header("connection", "close");
        let request = request.body(String::new())?;
        let answer = sender.send_request(request).await?;
        let status = answer.status().as_u16();
        let body = collect(answer.into_body()).await?;
        anyhow::Ok((status, site.pattern.is_match(&body)))
    };
    // The connection ends when its sender is gone.
    let (driven, answered) = tokio::join!(connection, asking);
    driven?;
    answered
}

async fn collect(body: Incoming) -> Result<Vec<u8>> {
    let mut body = pin!(body);
    let mut all = Vec::new();
    while let Some(frame) = poll_fn(|task| body.as_mut().poll_frame(task)).await {
        if let Some(data) = frame?.data_ref() {
            all.extend_from_slice(data);
        }
    }
    Ok(all)
}

fn site(plan: &Value) -> Result<Site> {
    let uri: Uri = text(&plan["url"])?.parse()?;
    let host = uri.host().context("a host")?;
    Ok(Site {
        name: text(&plan["name"])?.to_owned(),
        // Names cost nothing here: that is to the baseline's advantage.
        address: SocketAddr::from((Ipv4Addr::LOCALHOST, uri.port_u16().context("a port")?)),
        server: ServerName::try_from(host.to_owned())?,
        host: uri.authority().context("an authority")?.to_string(),
        path: uri.path().to_owned(),
        pattern: Regex::new(text(&plan["pattern"])?)?,
        secure: uri.scheme_str() == Some("https"),
    })
}

fn tls(ca: &str) -> Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(ca)? {
        roots.add(root?)?;
    }
    tls_of(roots)
}

fn tls_of(roots: RootCertStore) -> Result<TlsConnector> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config).into())
}

fn text(value: &Value) -> Result<&str> {
    value.as_str().context("a text is missing in the plan")
}

fn since_epoch() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// A stream of tokio's, for hyper.
struct Io<S>(S);

impl<S: AsyncRead + Unpin> Read for Io<S> {
    fn poll_read(mut self: Pin<&mut Self>, task: &mut Task<'_>, mut out: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        // Without `unsafe` its buffer cannot be read into; the copy costs about a microsecond for a page.
        let mut bytes = [0; 16 * 1024];
        let room = out.remaining().min(bytes.len());
        let mut buffer = ReadBuf::new(&mut bytes[..room]);
        ready!(Pin::new(&mut self.0).poll_read(task, &mut buffer))?;
        out.put_slice(buffer.filled());
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> Write for Io<S> {
    fn poll_write(mut self: Pin<&mut Self>, task: &mut Task<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(task, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(task)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(task)
    }
}
