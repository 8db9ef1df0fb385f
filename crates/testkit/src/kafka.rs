//! Apache Kafka of the tests' own, one broker or three, or the brokers that `TEST_KAFKA` names.
//!
//! Each broker is a process of Java in `KRaft` mode, controller included, with its files in a temporary folder and four
//! listeners on free ports of the loopback: plain, TLS that asks for a client's certificate, SASL over TLS (PLAIN and
//! SCRAM), and the controllers' own. Certificates are made on the spot. The jars come from
//! `scripts/install-test-needs`. Tests of a process share one broker, and each takes topics of its own.

use crate::authority::{Authority, Curve, Order};
use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Who is known to the SASL listener, by PLAIN and by SCRAM.
pub const USER: &str = "sitemon";
/// The password of [`USER`].
pub const PASSWORD: &str = "secret";
/// The variable that names brokers that are there already (`HOST:PORT,HOST:PORT`), reached without TLS.
pub const VARIABLE: &str = "TEST_KAFKA";
/// How long brokers may take to start.
const PATIENCE: Duration = Duration::from_mins(2);
/// What a broker may use: memory as small and a start as fast as a broker with some topics bears.
const JAVA: [&str; 6] =
    ["-Xms64m", "-Xmx320m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-Djava.awt.headless=true"];

/// The brokers that the tests of this process share: those that [`VARIABLE`] names, or one of our own, which ends with
/// this process.
pub fn shared() -> Result<Arc<Kafka>> {
    static SHARED: Mutex<Option<Arc<Kafka>>> = Mutex::new(None);
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(kafka) = &*shared {
        return Ok(kafka.clone());
    }
    let kafka = Arc::new(match std::env::var(VARIABLE) {
        Ok(brokers) if !brokers.is_empty() => Kafka::foreign(&brokers)?,
        _ => Kafka::start(1)?,
    });
    *shared = Some(kafka.clone());
    Ok(kafka)
}

/// Running brokers; killed, and their folder removed, when this is dropped or this process ends.
#[derive(Debug)]
pub struct Kafka {
    /// Of brokers of our own.
    folder: PathBuf,
    brokers: Vec<Broker>,
    /// Where brokers are that were there already.
    foreign: Option<String>,
}

/// One broker. Its number counts from 0, its node's from 1.
#[derive(Debug)]
struct Broker {
    folder: PathBuf,
    ports: Ports,
    server: Option<Child>,
    /// Ends the broker where we die before it.
    guard: Option<Child>,
}

/// Where the listeners of a broker are.
#[derive(Debug, Clone, Copy)]
struct Ports {
    plain: u16,
    tls: u16,
    sasl: u16,
    controller: u16,
}

impl Kafka {
    /// Starts so many brokers. Of three, each topic is to have three replicas, of which two must have a message.
    pub fn start(brokers: usize) -> Result<Self> {
        let libs = libs()?;
        let folder = std::env::temp_dir().join(format!("sitemon-kafka-{}-{}", std::process::id(), unique()));
        let mut kafka = Self { brokers: Vec::new(), foreign: None, folder };
        kafka.prepare(brokers, &libs)?;
        for number in 0..brokers {
            kafka.launch(number)?;
        }
        kafka.wait()?;
        Ok(kafka)
    }

    /// Brokers that are there already.
    fn foreign(brokers: &str) -> Result<Self> {
        let one = brokers.split(',').next().unwrap_or_default().trim();
        let address = std::net::ToSocketAddrs::to_socket_addrs(one)
            .ok()
            .and_then(|mut addresses| addresses.next())
            .with_context(|| format!("{VARIABLE}: `{one}` is no address, expected HOST:PORT"))?;
        ask(address).with_context(|| format!("{VARIABLE} names brokers that cannot be used"))?;
        Ok(Self { folder: PathBuf::new(), brokers: Vec::new(), foreign: Some(brokers.to_owned()) })
    }

    /// Where the brokers are without TLS.
    pub fn plain(&self) -> Vec<String> {
        match &self.foreign {
            Some(brokers) => brokers.split(',').map(|broker| broker.trim().to_owned()).collect(),
            None => self.listeners(|ports| ports.plain),
        }
    }

    /// Where the brokers of our own are by TLS, which ask for a certificate.
    pub fn tls(&self) -> Vec<String> {
        self.listeners(|ports| ports.tls)
    }

    /// Where the brokers of our own are by SASL over TLS.
    pub fn sasl(&self) -> Vec<String> {
        self.listeners(|ports| ports.sasl)
    }

    fn listeners(&self, port: impl Fn(&Ports) -> u16) -> Vec<String> {
        self.brokers.iter().map(|broker| format!("127.0.0.1:{}", port(&broker.ports))).collect()
    }

    /// A file of `tls`: `ca.pem`, `client.pem`, `client.key`, or `stranger.pem` and `stranger.key`, of an authority
    /// that the brokers do not know, and its certificate `stranger-ca.pem`.
    pub fn tls_file(&self, name: &str) -> PathBuf {
        self.folder.join("tls").join(name)
    }

    /// A name that no other test gives to its topics.
    pub fn unique(&self) -> String {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        format!("test-{}-{}-{}", std::process::id(), unique(), since.subsec_nanos())
    }

    /// Ends a broker as a crash of the machine would, but that files are kept.
    pub fn kill(&mut self, number: usize) -> Result<()> {
        let broker = &mut self.brokers[number];
        if let Some(mut guard) = broker.guard.take() {
            guard.kill()?;
            guard.wait()?;
        }
        if let Some(mut server) = broker.server.take() {
            server.kill()?;
            server.wait()?;
        }
        Ok(())
    }

    /// Lets a broker run again after [`Self::kill`].
    pub fn run(&mut self, number: usize) -> Result<()> {
        self.launch(number)?;
        self.wait()
    }

    /// Stops a broker's process, or with `false` lets it go on.
    pub fn pause(&self, number: usize, pause: bool) -> Result<()> {
        let server = self.brokers[number].server.as_ref().context("the broker does not run")?;
        let pid = i32::try_from(server.id()).ok().and_then(Pid::from_raw).context("no process id")?;
        Ok(kill_process(pid, if pause { Signal::STOP } else { Signal::CONT })?)
    }

    /// Makes certificates, and for each broker a folder with its settings and its formatted files.
    fn prepare(&mut self, brokers: usize, libs: &str) -> Result<()> {
        let tls = self.folder.join("tls");
        fs::create_dir_all(&tls)?;
        let (authority, stranger) = (Authority::new(Curve::P256)?, Authority::new(Curve::P256)?);
        authority.write(&tls, "ca")?;
        stranger.write(&tls, "stranger-ca")?;
        let client = Order::new([USER]).client();
        authority.issue(&client)?.write(&tls, "client")?;
        stranger.issue(&client)?.write(&tls, "stranger")?;
        let server = authority.issue(&Order::new(["localhost", "127.0.0.1"]))?;
        fs::write(tls.join("broker.pem"), format!("{}{}", server.key_pem(), server.chain_pem()))?;

        let ports = free_ports(brokers)?;
        let voters: Vec<String> =
            ports.iter().zip(1..).map(|(ports, node)| format!("{node}@127.0.0.1:{}", ports.controller)).collect();
        let cluster = cluster_id();
        let mut formatting = Vec::new();
        for (ports, node) in ports.into_iter().zip(1..) {
            let folder = self.folder.join(format!("broker-{node}"));
            fs::create_dir_all(&folder)?;
            fs::write(folder.join("server.properties"), settings(node, brokers, ports, &voters, &folder, &tls))?;
            let mut format = Command::new("java");
            format.args(JAVA).args(["-cp", libs, "kafka.tools.StorageTool", "format", "-t", &cluster, "-c"]);
            format.arg(folder.join("server.properties"));
            for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
                format.arg("--add-scram").arg(format!("{mechanism}=[name={USER},password={PASSWORD}]"));
            }
            formatting.push(format.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?);
            self.brokers.push(Broker { folder, ports, server: None, guard: None });
        }
        for format in formatting {
            let done = format.wait_with_output()?;
            ensure!(
                done.status.success(),
                "Kafka's files cannot be made: {}{}",
                String::from_utf8_lossy(&done.stdout),
                String::from_utf8_lossy(&done.stderr)
            );
        }
        Ok(())
    }

    /// Starts a broker's process, and its guard.
    fn launch(&mut self, number: usize) -> Result<()> {
        let broker = &mut self.brokers[number];
        let log = fs::OpenOptions::new().create(true).append(true).open(broker.folder.join("log"))?;
        let mut command = Command::new("java");
        command.args(JAVA).args(["-Dorg.apache.logging.log4j.level=WARN", "-cp", &libs()?, "kafka.Kafka"]);
        command.arg(broker.folder.join("server.properties")).current_dir(&broker.folder).stdin(Stdio::null());
        let server = command.stdout(log.try_clone()?).stderr(log).spawn().context("java cannot be run")?;
        let watch = "read -r _; kill -KILL \"$1\" 2>/dev/null; rm -rf -- \"$2\"";
        let guard = Command::new("/bin/sh")
            .args(["-c", watch, "guard", &server.id().to_string()])
            .arg(&self.folder)
            .stdin(Stdio::piped())
            .spawn();
        broker.server = Some(server);
        broker.guard = Some(guard.context("/bin/sh cannot be run")?);
        Ok(())
    }

    /// Waits until every broker that runs answers a question for metadata, and knows all that run.
    fn wait(&mut self) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        let running = self.brokers.iter().filter(|broker| broker.server.is_some()).count();
        for broker in &mut self.brokers {
            let Some(server) = &mut broker.server else { continue };
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, broker.ports.plain));
            while ask(address).ok().is_none_or(|known| known < running) {
                if let Some(status) = server.try_wait()? {
                    bail!("Kafka does not start ({status}): {}", end_of_log(&broker.folder));
                }
                ensure!(Instant::now() < until, "Kafka does not start in time: {}", end_of_log(&broker.folder));
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        Ok(())
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        for number in 0..self.brokers.len() {
            let _ = self.kill(number);
        }
        if self.foreign.is_none() {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

/// The settings of a broker that is its own controller.
fn settings(node: usize, brokers: usize, ports: Ports, voters: &[String], folder: &Path, tls: &Path) -> String {
    let (replicas, insync) = if brokers < 3 { (1, 1) } else { (3, 2) };
    let Ports { plain, tls: secured, sasl, controller } = ports;
    let here = |name: &str, port: u16| format!("{name}://127.0.0.1:{port}");
    let reached = [here("PLAIN", plain), here("TLS", secured), here("SASL", sasl)].join(",");
    let mut text = format!(
        "process.roles=broker,controller\nnode.id={node}\ncontroller.quorum.voters={}\n\
         listeners={reached},{}\nadvertised.listeners={reached}\ninter.broker.listener.name=PLAIN\n\
         controller.listener.names=CONTROLLER\n\
         listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAIN:PLAINTEXT,TLS:SSL,SASL:SASL_SSL\n\
         log.dirs={}/data\nssl.keystore.type=PEM\nssl.keystore.location={tls}/broker.pem\nssl.truststore.type=PEM\n\
         ssl.truststore.location={tls}/ca.pem\nlistener.name.tls.ssl.client.auth=required\n\
         sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512\n\
         default.replication.factor={replicas}\nmin.insync.replicas={insync}\n\
         offsets.topic.replication.factor={replicas}\ntransaction.state.log.replication.factor={replicas}\n\
         transaction.state.log.min.isr={insync}\n",
        voters.join(","),
        here("CONTROLLER", controller),
        folder.display(),
        tls = tls.display(),
    );
    let sasl = "org.apache.kafka.common.security";
    let _ = write!(
        text,
        "listener.name.sasl.plain.sasl.jaas.config={sasl}.plain.PlainLoginModule required user_{USER}=\"{PASSWORD}\";\n\
         listener.name.sasl.scram-sha-256.sasl.jaas.config={sasl}.scram.ScramLoginModule required;\n\
         listener.name.sasl.scram-sha-512.sasl.jaas.config={sasl}.scram.ScramLoginModule required;\n"
    );
    // Small and prompt: groups form at once, and what a broker sets aside for thousands of topics is left out.
    text.push_str(
        "group.initial.rebalance.delay.ms=0\ngroup.min.session.timeout.ms=1000\noffsets.topic.num.partitions=4\n\
         transaction.state.log.num.partitions=1\nauto.create.topics.enable=false\nnum.network.threads=2\n\
         num.io.threads=4\nlog.cleaner.dedupe.buffer.size=8388608\nlog.retention.check.interval.ms=1000\n\
         log.initial.task.delay.ms=1000\nreplica.lag.time.max.ms=5000\n",
    );
    text
}

/// What Java is to load.
fn libs() -> Result<String> {
    let libs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/kafka/libs");
    ensure!(
        libs.is_dir(),
        "Apache Kafka is not there, and a test needs it: `scripts/install-test-needs` fetches it (with Debian's Java and \
         Maven), or {VARIABLE} names brokers"
    );
    Ok(format!("{}/*", libs.display()))
}

/// Ports that were free together a moment ago.
fn free_ports(brokers: usize) -> Result<Vec<Ports>> {
    let mut held = Vec::new();
    let mut port = || -> Result<u16> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        held.push(listener);
        Ok(port)
    };
    (0..brokers).map(|_| Ok(Ports { plain: port()?, tls: port()?, sasl: port()?, controller: port()? })).collect()
}

/// An id that no other cluster has: 16 bytes in base64 for URLs.
fn cluster_id() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let mut rest = since << 40 | u128::from(std::process::id()) << 8 | u128::from(unique() & 0xff);
    let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-";
    let mut id = String::from("s");
    for _ in 0..20 {
        id.push(char::from(letters[(rest & 63) as usize]));
        rest >>= 6;
    }
    // Its last four bits are no part of the sixteen bytes.
    id.push('A');
    id
}

/// How many brokers the one at this address knows, by a question for metadata in its fourth version.
fn ask(address: SocketAddr) -> Result<usize> {
    let second = Duration::from_secs(1);
    let mut stream = TcpStream::connect_timeout(&address, second)?;
    stream.set_read_timeout(Some(second))?;
    // Length; metadata (3), version 4, number 1 of a client without a name; no topics, and none to be made.
    stream.write_all(&[0, 0, 0, 15, 0, 3, 0, 4, 0, 0, 0, 1, 0xff, 0xff, 0, 0, 0, 0, 0])?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length);
    ensure!((12..1 << 20).contains(&length), "an answer of {length} bytes");
    let mut answer = vec![0; length as usize];
    stream.read_exact(&mut answer)?;
    // The question's number, how long one was throttled, how many brokers.
    let brokers = answer.get(8..12).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
    Ok(brokers.context("no answer for metadata")? as usize)
}

/// The end of a broker's log.
fn end_of_log(folder: &Path) -> String {
    let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
    let lines: Vec<&str> = log.lines().filter(|line| !line.trim_start().starts_with("at ")).collect();
    lines[lines.len().saturating_sub(8)..].join(" / ")
}

/// Tells clusters and names of one process apart.
fn unique() -> u32 {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    COUNT.fetch_add(1, Ordering::Relaxed)
}
