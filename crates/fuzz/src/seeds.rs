//! Makes the corpus: what the faulty sites of the testkit send, and the configurations of the tests.

use crate::loopback::{Loopback, Ready};
use crate::mutate::INPUT_BYTES_MAX;
use crate::{KINDS, corpus};
use anyhow::{Context, Result};
use sitemon_store::sample::Sample;
use sitemon_testkit::{Fault, FaultySite, Scheme, Stage};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use xxhash_rust::xxh3::xxh3_64;

/// Bytes of one seed at most.
const SEED_BYTES: usize = 1500;

/// Writes the seeds of all targets; what is there already stays.
pub fn write() -> Result<()> {
    let site = FaultySite::start()?;
    let plain = site.address(Scheme::Http);
    let loopback = Loopback::new()?;
    let greeting = Ready::new("https://ADDRESS/", &serde_json::json!({}))?;
    for fault in Fault::ALL {
        if fault.stage == Stage::Answer {
            let command = fault.command();
            let request = format!("GET /{command} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
            keep("http1", fault.name, b'A', &said(plain, request.as_bytes())?)?;
            keep("http2", fault.name, b'A', &said(plain, &http2_request(&command))?)?;
        }
        if fault.stage == Stage::Tls {
            let address = site.open(Scheme::Https, &fault.command()).context(fault.name)?;
            keep("tls", fault.name, b'A', &flight(&loopback, &greeting, address)?)?;
        }
    }
    // What targets make themselves.
    for kind in KINDS {
        let mut target = (kind.open)()?;
        let mut random = Sample::new(1);
        for number in 0..6 {
            let made = (0..20).find_map(|_| target.make(&mut random).filter(|made| made.len() < SEED_BYTES));
            if let Some(made) = made.filter(|made| made.len() <= INPUT_BYTES_MAX) {
                let folder = corpus().join(kind.name);
                std::fs::create_dir_all(&folder)?;
                std::fs::write(folder.join(format!("made-{number}")), made)?;
            }
        }
    }
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sitemon/tests/data");
    for (from, to) in [("config", "config"), ("earlier", "earlier"), ("", "config")] {
        for entry in std::fs::read_dir(data.join(from))? {
            let path = entry?.path();
            let kind = path.extension().unwrap_or_default().to_string_lossy().into_owned();
            let length = path.metadata()?.len() as usize;
            if ["yaml", "yml", "json"].contains(&&*kind) && length <= 4 * SEED_BYTES {
                let name = path.file_name().context("a name")?;
                std::fs::create_dir_all(corpus().join(to))?;
                std::fs::copy(&path, corpus().join(to).join(name))?;
            }
        }
    }
    Ok(())
}

fn keep(target: &str, name: &str, choice: u8, bytes: &[u8]) -> Result<()> {
    let folder = corpus().join(target);
    std::fs::create_dir_all(&folder)?;
    if bytes.is_empty() {
        return Ok(());
    }
    let choice = choice + (xxh3_64(name.as_bytes()) % 2) as u8;
    let content = [&[choice], bytes].concat();
    std::fs::write(folder.join(name), content)?;
    Ok(())
}

/// What a server says to this, as far as it is said soon.
fn said(address: SocketAddr, request: &[u8]) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_millis(300)))?;
    stream.write_all(request)?;
    let mut bytes = Vec::new();
    let mut part = [0; 512];
    while bytes.len() < SEED_BYTES {
        match stream.read(&mut part) {
            Ok(count @ 1..) => bytes.extend(&part[..count]),
            _ => break,
        }
    }
    bytes.truncate(SEED_BYTES);
    Ok(bytes)
}

/// The preface, settings, and a request on the first stream.
fn http2_request(command: &str) -> Vec<u8> {
    let path = format!("/{command}");
    // GET, http, :path and :authority as literals without indexing.
    let mut block = vec![0x82, 0x86, 0x04, path.len() as u8];
    block.extend(path.bytes());
    block.extend([0x01, 9]);
    block.extend(b"localhost");
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    bytes.extend([0, 0, block.len() as u8, 1, 5, 0, 0, 0, 1]);
    bytes.extend(block);
    bytes
}

/// What a server says to the greeting of our own client, whose bytes are passed on as they are.
fn flight(loopback: &Loopback, ready: &Ready, address: SocketAddr) -> Result<Vec<u8>> {
    let _entered = loopback.runtime.enter();
    let listener = loopback.listen().map_err(anyhow::Error::msg)?;
    let port = listener.local_addr()?.port();
    let mut bytes = Ok(Vec::new());
    let serve = async || {
        let Ok((mut client, _)) = listener.accept().await else { return };
        let mut greeting = vec![0; 4096];
        let Ok(count) = client.read(&mut greeting).await else { return };
        bytes = said(address, &greeting[..count]);
    };
    // What becomes of the check is of no interest.
    let _ = loopback.check(ready, port, None, serve);
    bytes
}
