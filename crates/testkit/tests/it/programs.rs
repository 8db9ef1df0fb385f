//! The server for benchmarks, the demonstration, and the program that starts them.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use sitemon_testkit::fast::{FastServer, Options};
use sitemon_testkit::{Fault, NameFault, ProxyFault, Scheme, Stage};

use crate::client::{connect, get, hear, secure};

/// A client's configuration that trusts a root given as PEM.
fn trusting(pem: &str) -> Arc<ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(root.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}

#[test]
fn the_fast_server_serves_counts_and_logs() {
    let options =
        Options { delay: Duration::from_millis(30), threads: 2, text: "the end".into(), ..Options::default() };
    let server = FastServer::start(&options).unwrap();
    let exchange = |stream: &mut dyn ReadWrite, path: &str| {
        // In two pieces, as the network may cut it.
        stream.write_all(format!("GET {path} HT").as_bytes()).unwrap();
        stream.write_all(b"TP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
        let mut bytes = vec![0; 96];
        stream.read_exact(&mut bytes).unwrap();
        let head = String::from_utf8_lossy(&bytes).into_owned();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        let total = head.find("\r\n\r\n").unwrap() + 4 + 10_000;
        let mut rest = vec![0; total - bytes.len()];
        stream.read_exact(&mut rest).unwrap();
        assert!(rest.ends_with(b"<p>the end</p></body></html>\n"));
    };
    let mut plain = connect(server.http().unwrap());
    exchange(&mut plain, "/one");
    exchange(&mut plain, "/two");
    let config = trusting(&server.root_pem());
    for _ in 0..2 {
        let mut tls = secure(server.https().unwrap(), "localhost", config.clone()).unwrap();
        exchange(&mut tls, "/three");
    }
    drop(plain);
    let counts = server.counts();
    assert_eq!((counts.connections, counts.requests), (3, 4));
    assert_eq!(counts.handshakes_full + counts.handshakes_resumed, 2);
    assert!(counts.handshakes_full >= 1);
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    server.write_log(&log).unwrap();
    let text = std::fs::read_to_string(log).unwrap();
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split(' ').collect()).collect();
    assert_eq!(lines.len(), 4);
    let paths: HashSet<(&str, &str)> = lines.iter().map(|line| (line[3], line[4])).collect();
    assert_eq!(paths, HashSet::from([("http", "/one"), ("http", "/two"), ("https", "/three")]));
    for line in &lines {
        let (arrived, answered): (u64, u64) = (line[0].parse().unwrap(), line[1].parse().unwrap());
        assert!(answered - arrived >= 29_900, "{line:?}");
    }
    let address = server.http().unwrap();
    drop(server);
    assert!(std::net::TcpStream::connect(address).is_err());
}

/// A stream as an object.
trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

/// The program, ended by its id when dropped.
struct Program(Child);

impl Program {
    /// Starts it; what it printed before `ready`.
    fn start(arguments: &[&str]) -> (Self, String, BufReader<std::process::ChildStdout>) {
        let mut child =
            Command::new(env!("CARGO_BIN_EXE_faulty-sites")).args(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let program = Self(child);
        let mut text = String::new();
        loop {
            let mut line = String::new();
            assert!(out.read_line(&mut line).unwrap() > 0, "it ended before it was ready: {text}");
            if line == "ready\n" {
                return (program, text, out);
            }
            text.push_str(&line);
        }
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let id = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(id, signal).unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_demonstration_writes_a_configuration_and_ends_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("demo.yaml");
    let (mut program, _, _) = Program::start(&["--write", file.to_str().unwrap()]);
    let text = std::fs::read_to_string(&file).unwrap();
    let names: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("  - name: ")).collect();
    assert!(names.len() > 20, "{names:?}");
    assert_eq!(names.iter().collect::<HashSet<_>>().len(), names.len());
    for name in ["healthy", "slow", "flapping", "bad-certificate", "changing", "redirecting", "down", "refused-by-us"] {
        assert!(names.contains(&name), "{name} is missing");
    }
    assert!(std::fs::read_to_string(folder.path().join("demo.yaml.pem")).unwrap().contains("BEGIN CERTIFICATE"));
    let healthy = text.lines().find(|line| line.contains("healthy.site.test")).unwrap();
    let port: u16 = healthy.split("test:").nth(1).unwrap().split('/').next().unwrap().parse().unwrap();
    let heard = get(([127, 0, 0, 1], port).into(), "/page?text=Welcome");
    assert!(heard.text().contains("<p>Welcome</p>"));
    program.signal(rustix::process::Signal::TERM);
    assert!(program.0.wait().unwrap().success());
}

#[test]
fn the_program_serves_and_reports_when_asked() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let (mut program, text, mut out) = Program::start(&["serve", "--http", "0", "--log", log.to_str().unwrap()]);
    let address = text.trim().strip_prefix("http ").unwrap().parse().unwrap();
    let mut stream = connect(address);
    stream.write_all(b"GET /x HTTP/1.1\r\n\r\n").unwrap();
    assert!(hear(&mut stream, 10_000).text().starts_with("HTTP/1.1 200 OK"));
    program.signal(rustix::process::Signal::USR1);
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    let counts: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&counts["requests"], &counts["connections"]), (&1.into(), &1.into()));
    assert!(std::fs::read_to_string(&log).unwrap().trim_end().ends_with(" 1 http /x"));
    program.signal(rustix::process::Signal::INT);
    assert!(program.0.wait().unwrap().success());
}

#[test]
fn the_tables_are_sound() {
    let names: Vec<&str> = Fault::ALL.iter().map(|fault| fault.name).collect();
    assert_eq!(names.iter().collect::<HashSet<_>>().len(), names.len());
    for fault in Fault::ALL {
        assert!(!fault.about.is_empty() && !fault.about.ends_with('.'), "{}", fault.name);
        assert!(Scheme::ALL.iter().any(|scheme| fault.expected(*scheme).is_some()), "{}", fault.name);
        let needs_tls = matches!(fault.stage, Stage::Tls | Stage::Preface);
        assert_eq!(
            fault.expected(Scheme::Http).is_none(),
            needs_tls || fault.name.starts_with("h2-"),
            "{}",
            fault.name
        );
        assert!(Fault::find(fault.name).is_some());
    }
    for name in NameFault::ALL.iter().map(|fault| fault.name) {
        assert!(name.starts_with("dns-") && Fault::find(name).is_none(), "{name}");
    }
    for name in ProxyFault::ALL.iter().map(|fault| fault.name) {
        assert!(name.starts_with("proxy-") && Fault::find(name).is_none(), "{name}");
    }
    let out = Command::new(env!("CARGO_BIN_EXE_faulty-sites")).arg("list").output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(names.iter().all(|name| text.contains(name)));
}
