//! Raw clients: a TCP connection, TLS over it, and requests as text.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use sitemon_testkit::{FaultySite, Identity};

/// How long a client waits for what does not come.
pub const PATIENCE: Duration = Duration::from_millis(400);

pub type Tls = StreamOwned<ClientConnection, TcpStream>;

/// For what does come: so long that a busy machine makes no hang of what is only slow.
pub const LONG: Duration = Duration::from_secs(15);

pub fn connect(address: SocketAddr) -> TcpStream {
    connect_for(address, LONG)
}

/// A connection whose reads are given up after this time.
pub fn connect_for(address: SocketAddr, patience: Duration) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, LONG).unwrap();
    stream.set_read_timeout(Some(patience)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// A client's configuration that trusts the site's roots.
pub fn config(site: &FaultySite, identity: Option<Identity>, alpn: &[&str]) -> Arc<ClientConfig> {
    let mut roots = site.authority().roots().unwrap();
    roots.add(site.authority_p384().root()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match identity {
        Some(identity) => builder.with_client_auth_cert(identity.chain, identity.key).unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

/// A handshake, done.
pub fn secure(address: SocketAddr, name: &str, config: Arc<ClientConfig>) -> io::Result<Tls> {
    secure_for(address, name, config, LONG)
}

/// A handshake over a connection whose reads are given up after this time.
pub fn secure_for(address: SocketAddr, name: &str, config: Arc<ClientConfig>, patience: Duration) -> io::Result<Tls> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut connection = ClientConnection::new(config, name).unwrap();
    let mut tcp = connect_for(address, patience);
    while connection.is_handshaking() {
        connection.complete_io(&mut tcp)?;
    }
    Ok(StreamOwned::new(connection, tcp))
}

/// All that comes until the end, and how it ended.
#[derive(Debug)]
pub struct Heard {
    pub bytes: Vec<u8>,
    /// `None`: a clean end.
    pub error: Option<ErrorKind>,
}

impl Heard {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    pub fn body(&self) -> &[u8] {
        let at = self.bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
        &self.bytes[at + 4..]
    }
}

/// Reads to the end, or to the end of patience (`WouldBlock`), or to `most` bytes.
pub fn hear(stream: &mut impl Read, most: usize) -> Heard {
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    while bytes.len() < most {
        match stream.read(&mut buffer) {
            Ok(0) => return Heard { bytes, error: None },
            Ok(count) => bytes.extend(&buffer[..count]),
            Err(error) => return Heard { bytes, error: Some(error.kind()) },
        }
    }
    Heard { bytes, error: None }
}

/// A request by plain HTTP/1.1 on a connection that closes after it.
pub fn get(address: SocketAddr, target: &str) -> Heard {
    ask(connect(address), target)
}

/// The same on a connection that stands.
pub fn ask(mut stream: impl Read + Write, target: &str) -> Heard {
    let request = format!("GET {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    match stream.write_all(request.as_bytes()).and_then(|()| stream.flush()) {
        Ok(()) => hear(&mut stream, 64 << 20),
        Err(error) => Heard { bytes: Vec::new(), error: Some(error.kind()) },
    }
}
