//! The options of an HTTP check: `request` and `expect` of a site, typed, with their defaults; read by
//! [`parse`], shown by [`show`], described by [`schema`].

mod parse;
mod schema;
mod show;
#[cfg(test)]
mod tests;

pub use parse::{address_in, check_pattern, parse, validate_url};
pub use schema::schema;
pub use show::{HIDDEN, show};

use sitemon_model::HttpVersion;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// How a site is asked: `request`.
#[derive(Debug, Clone)]
pub struct Request {
    /// `GET` by default.
    pub method: Arc<str>,
    /// The configured headers in their order; names in lower case. Without those that are sent by default.
    pub headers: Vec<Header>,
    /// The body, from `body` or `body_file`; empty: none.
    pub body: Arc<[u8]>,
    /// Basic or bearer authentication.
    pub auth: Option<Auth>,
    /// How many redirects are followed; 0: a redirect is the answer.
    pub redirects: u32,
    /// Which protocol versions are offered.
    pub http: HttpChoice,
    /// Which address families are used.
    pub ip: IpChoice,
    /// Who is asked for names.
    pub resolver: Resolver,
    /// Whether names are kept as long as they allow; `false`: each check asks.
    pub dns_cache: bool,
    /// Dialled instead of what the name resolves to.
    pub connect_to: Option<ConnectTo>,
    /// By which proxy.
    pub proxy: Option<Proxy>,
    /// Whether connections are kept for the next check.
    pub reuse: bool,
    /// TLS.
    pub tls: Tls,
    /// For each address that is tried.
    pub connect_timeout: Duration,
    /// What is read from the site at most.
    pub limits: Limits,
}

/// A header that is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// In lower case.
    pub name: Arc<str>,
    /// Its value.
    pub value: Arc<str>,
    /// Whether the value is hidden wherever it might be shown.
    pub secret: bool,
}

/// Who we say that we are.
#[derive(Clone, PartialEq, Eq)]
pub enum Auth {
    /// RFC 7617.
    Basic {
        /// The user's name.
        username: String,
        /// The password.
        password: String,
    },
    /// RFC 6750.
    Bearer(String),
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Basic { .. } => "Basic(hidden)",
            Self::Bearer(_) => "Bearer(hidden)",
        })
    }
}

/// `request.http`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HttpChoice {
    /// HTTP/2 where ALPN agrees on it, else 1.1.
    #[default]
    Auto,
    /// HTTP/1.1 only.
    Http1,
    /// HTTP/2 only; on `http://` by prior knowledge.
    Http2,
}

/// `request.ip`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IpChoice {
    /// Both families, raced as RFC 8305 says.
    #[default]
    Any,
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
    /// Every address is checked.
    Each,
}

impl IpChoice {
    /// Whether it leaves this address out.
    pub const fn excludes(self, address: IpAddr) -> bool {
        matches!((self, address), (Self::V4, IpAddr::V6(_)) | (Self::V6, IpAddr::V4(_)))
    }
}

/// `request.resolver`
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum Resolver {
    /// The machine's name servers, search list and hosts file, asked by us.
    #[default]
    System,
    /// getaddrinfo, in a pool of its own.
    Libc,
    /// These name servers.
    Servers(Vec<SocketAddr>),
}

/// `request.connect_to`: an address, or a name that is resolved, and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectTo {
    /// An address literal (without brackets) or a name.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// `request.proxy`
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    /// How it is spoken to.
    pub scheme: ProxyScheme,
    /// An address literal (without brackets) or a name.
    pub host: String,
    /// The port.
    pub port: u16,
    /// User and password, percent-decoded.
    pub credentials: Option<(String, String)>,
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}://{}:{}", self.scheme, self.host, self.port)
    }
}

/// How a proxy is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyScheme {
    /// `http://`: CONNECT for HTTPS, absolute form for HTTP.
    Http,
    /// `socks5://`: names are resolved here.
    Socks5,
    /// `socks5h://`: names are resolved by the proxy.
    Socks5h,
}

/// `request.tls`. The files are read when the configuration is.
#[derive(Clone, Default)]
pub struct Tls {
    /// PEM of the roots that replace the built-in ones.
    pub ca: Option<Arc<[u8]>>,
    /// PEM of the client's certificate chain.
    pub certificate: Option<Arc<[u8]>>,
    /// PEM of the client's key.
    pub key: Option<Arc<[u8]>>,
    /// For SNI and verification, in place of the URL's host.
    pub server_name: Option<String>,
    /// No verification, by explicit choice.
    pub insecure: bool,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls")
            .field("server_name", &self.server_name)
            .field("insecure", &self.insecure)
            .finish_non_exhaustive()
    }
}

/// `request.limits`: what is read from a site at most, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Body bytes as they come, without chunk framing.
    pub body_wire: u64,
    /// Body bytes after the content codings were undone.
    pub body_decoded: u64,
    /// Body bytes held to be read as JSON; there is no pattern that cannot be streamed.
    pub body_held: u64,
    /// The window of an extraction: a longer match is left out.
    pub match_window: u64,
    /// The header section.
    pub headers: u64,
    /// Idle connections kept for a site.
    pub idle_connections: u32,
}

/// What is expected of the answer: `expect`.
#[derive(Debug, Clone)]
pub struct Expect {
    /// Statuses, as inclusive ranges.
    pub status: Vec<(u16, u16)>,
    /// Protocol versions; empty: any.
    pub http_version: Vec<HttpVersion>,
    /// Header name in lower case, and the pattern that one of its values must match.
    pub headers: Vec<(Arc<str>, Pattern)>,
    /// Of the body.
    pub body: ExpectBody,
    /// Slower is degraded.
    pub response_time: Option<Duration>,
    /// What must be left of the certificate's validity.
    pub certificate: Option<ExpectCertificate>,
}

/// `expect.body`
#[derive(Debug, Clone, Default)]
pub struct ExpectBody {
    /// All of these must match.
    pub matches: Vec<Pattern>,
    /// At least one of these must match; empty: nothing is asked.
    pub matches_any: Vec<Pattern>,
    /// None of these may match.
    pub absent: Vec<Pattern>,
    /// Name and pattern; the first group, else the whole match, is the value.
    pub extract: Vec<(Arc<str>, Pattern)>,
    /// Of the values in a JSON body.
    pub json: Vec<ExpectJson>,
    /// Decoded bytes at least.
    pub size_min: Option<u64>,
    /// Decoded bytes at most.
    pub size_max: Option<u64>,
}

/// A regular expression in the syntax of the regex crate; it has been parsed, so it is known to be right.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pattern(pub Arc<str>);

/// One expectation on a JSON body.
#[derive(Debug, Clone)]
pub struct ExpectJson {
    /// The `JSONPath` (RFC 9535) as it was written.
    pub path_text: Arc<str>,
    /// The same, parsed.
    pub path: serde_json_path::JsonPath,
    /// What every value that the path finds must fit.
    pub test: JsonTest,
}

/// How a JSON value is compared; several may be given for one path, all must hold.
#[derive(Debug, Clone, Default)]
pub struct JsonTest {
    /// Equal to this; 3 equals 3.0.
    pub equals: Option<serde_json::Value>,
    /// Not equal to this.
    pub not_equals: Option<serde_json::Value>,
    /// A text (or the JSON form of another value) that matches.
    pub matches: Option<Pattern>,
    /// A number less than this.
    pub less: Option<f64>,
    /// A number greater than this.
    pub greater: Option<f64>,
    /// Whether the path must find anything.
    pub exists: Option<bool>,
}

/// `expect.certificate`: what must be left of its validity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpectCertificate {
    /// Less is degraded.
    pub degraded: Option<Duration>,
    /// Less is down.
    pub down: Option<Duration>,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            method: "GET".into(),
            headers: Vec::new(),
            body: Arc::from([]),
            auth: None,
            redirects: 10,
            http: HttpChoice::Auto,
            ip: IpChoice::Any,
            resolver: Resolver::System,
            dns_cache: false,
            connect_to: None,
            proxy: None,
            reuse: false,
            tls: Tls::default(),
            connect_timeout: Duration::from_secs(5),
            limits: Limits::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_wire: 10 << 20,
            body_decoded: 50 << 20,
            body_held: 1 << 20,
            match_window: 64 << 10,
            headers: 64 << 10,
            idle_connections: 1,
        }
    }
}

impl Default for Expect {
    fn default() -> Self {
        Self {
            status: vec![(200, 299)],
            http_version: Vec::new(),
            headers: Vec::new(),
            body: ExpectBody::default(),
            response_time: None,
            certificate: None,
        }
    }
}
