//! Local sites in every state, for `make demo`; and a server as cheap as can be, for benchmarks.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};
use sitemon_testkit::demo::Demo;
use sitemon_testkit::fast::{FastServer, Options};
use sitemon_testkit::{Counts, Curve, Fault, NameFault, ProxyFault};
use tokio::signal::unix::{SignalKind, signal};

/// Starts local sites that fail in every way and writes a configuration that watches them; runs until SIGTERM or
/// SIGINT. Prints `ready` once all listen.
#[derive(Parser)]
#[command(name = "faulty-sites")]
struct Arguments {
    #[command(subcommand)]
    mode: Option<Mode>,
    /// Where the configuration is written, its roots beside it (FILE with `.pem` appended); to stdout without this.
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// The store that the configuration names, relative to FILE.
    #[arg(long, value_name = "FILE", default_value = "demo.db")]
    store: String,
    /// Watches every fault by every scheme instead of a selection.
    #[arg(long)]
    all: bool,
}

#[derive(Subcommand)]
enum Mode {
    /// Serves one page over and over, and counts; SIGUSR1 prints the counters and writes the log.
    Serve(Serve),
    /// Lists all faults: of sites, of names, of proxies.
    List,
}

#[derive(clap::Args)]
struct Serve {
    /// Port for HTTP; 0: a free one, which is printed.
    #[arg(long, value_name = "PORT")]
    http: Option<u16>,
    /// Port for HTTPS; 0: a free one, which is printed.
    #[arg(long, value_name = "PORT")]
    https: Option<u16>,
    /// Size of the page.
    #[arg(long, default_value_t = 10_000)]
    page_bytes: usize,
    /// Text at the page's end.
    #[arg(long, default_value = "All is well.")]
    text: String,
    /// Answers exactly so many milliseconds after the request; fractions allowed.
    #[arg(long, default_value_t = 0.0)]
    delay_ms: f64,
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// The chain's keys: p384 is like Let's Encrypt's.
    #[arg(long, value_enum, default_value = "p384")]
    chain: Chain,
    /// Further names that the certificate holds for.
    #[arg(long, value_name = "NAME")]
    name: Vec<String>,
    /// Writes the root's certificate there.
    #[arg(long, value_name = "FILE")]
    roots: Option<PathBuf>,
    /// Writes a line for each request there, on SIGUSR1 and at the end.
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Chain {
    P256,
    P384,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match &arguments.mode {
        None => demo(&arguments),
        Some(Mode::Serve(serve)) => run_server(serve),
        Some(Mode::List) => list(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("faulty-sites: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn demo(arguments: &Arguments) -> Result<()> {
    let signals = Signals::catch()?;
    let demo = Demo::start()?;
    let configuration = |roots: &str| {
        if arguments.all {
            demo.configuration_of_all(roots, &arguments.store)
        } else {
            demo.configuration(roots, &arguments.store)
        }
    };
    // The roots must be a file; without one of ours for the configuration, they lie in a folder for the time being.
    let folder = std::env::temp_dir().join(format!("faulty-sites-{}", std::process::id()));
    if let Some(file) = &arguments.write {
        let mut roots = file.clone().into_os_string();
        roots.push(".pem");
        demo.write_roots(Path::new(&roots))?;
        let name = Path::new(&roots).file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let text = configuration(&name)?;
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    } else {
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let roots = folder.join("roots.pem");
        demo.write_roots(&roots)?;
        say(&configuration(&roots.to_string_lossy())?)?;
    }
    say("ready\n")?;
    signals.wait(|| Ok(()))?;
    if arguments.write.is_none() {
        std::fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    Ok(())
}

fn run_server(serve: &Serve) -> Result<()> {
    anyhow::ensure!(serve.http.is_some() || serve.https.is_some(), "neither --http nor --https was given");
    let signals = Signals::catch()?;
    let server = FastServer::start(&Options {
        http: serve.http,
        https: serve.https,
        page_bytes: serve.page_bytes,
        text: serve.text.clone(),
        delay: Duration::try_from_secs_f64(serve.delay_ms / 1000.0).context("--delay-ms")?,
        threads: serve.threads,
        curve: match serve.chain {
            Chain::P256 => Curve::P256,
            Chain::P384 => Curve::P384,
        },
        names: serve.name.clone(),
        log: serve.log.is_some(),
    })?;
    if let Some(path) = &serve.roots {
        std::fs::write(path, server.root_pem()).with_context(|| format!("cannot write {}", path.display()))?;
    }
    for (scheme, address) in [("http", server.http()), ("https", server.https())] {
        if let Some(address) = address {
            say(&format!("{scheme} {address}\n"))?;
        }
    }
    say("ready\n")?;
    let report = || {
        if let Some(path) = &serve.log {
            server.write_log(path)?;
        }
        say(&format!("{}\n", as_json(&server.counts())))
    };
    signals.wait(report)?;
    report()
}

fn list() -> Result<()> {
    for fault in Fault::ALL {
        let expected = fault.expected.map(|cause| if cause.is_empty() { "-" } else { cause }).join(" ");
        say(&format!("{:24} {}\n{:24} {expected}\n", fault.name, fault.about, ""))?;
    }
    for fault in NameFault::ALL {
        say(&format!("{:24} {}\n{:24} {}\n", fault.name, fault.about, "", fault.expected))?;
    }
    for fault in ProxyFault::ALL {
        say(&format!("{:24} {}\n{:24} {}\n", fault.name, fault.about, "", fault.expected.join(" ")))?;
    }
    Ok(())
}

fn as_json(counts: &Counts) -> String {
    serde_json::json!({
        "connections": counts.connections, "open": counts.open, "requests": counts.requests,
        "handshakes_full": counts.handshakes_full, "handshakes_resumed": counts.handshakes_resumed,
        "handshakes_failed": counts.handshakes_failed,
    })
    .to_string()
}

/// Writes at once, for whoever waits at the other end of a pipe.
fn say(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// The signals that end the program, and the one that asks how it goes.
struct Signals {
    runtime: tokio::runtime::Runtime,
    ends: [tokio::signal::unix::Signal; 2],
    asks: tokio::signal::unix::Signal,
}

impl Signals {
    fn catch() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let entered = runtime.enter();
        let ends = [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
        let asks = signal(SignalKind::user_defined1())?;
        drop(entered);
        Ok(Self { runtime, ends, asks })
    }

    /// Waits for the end; does `asked` whenever that is wanted.
    fn wait(self, asked: impl Fn() -> Result<()>) -> Result<()> {
        let Self { runtime, ends: [mut terminate, mut interrupt], mut asks } = self;
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = terminate.recv() => return Ok(()),
                    _ = interrupt.recv() => return Ok(()),
                    _ = asks.recv() => asked()?,
                }
            }
        })
    }
}
