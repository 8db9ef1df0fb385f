//! The handshake: a full one each time, without resumption, with the certificates recorded whatever they are.
//!
//! Chains that were verified are remembered, because verifying a P-384 chain costs more than all else in a
//! check. That is safe because the memory is keyed by the exact bytes of the whole chain and the roots; because
//! the dates are held against the clock, and the name against the certificate, each time; and because the
//! handshake's own signature, which proves that the server has the key, is never remembered.

use crate::http::spec::{HttpChoice, Tls};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, PeerIncompatible, RootCertStore, SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use sitemon_model::{Cause, Certificate, Code, Timestamp};
use std::collections::HashMap;
use std::fmt::Write;
use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState};
use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use x509_parser::prelude::{FromDer, X509Certificate, X509Name};

/// Chains whose facts are kept; beyond it, all are forgotten.
const CHAINS_MAX: usize = 20_000;
/// Bytes of their certificates: a server may show a large one, and another each time.
const CHAINS_BYTES_MAX: usize = 64 << 20;
/// Bytes of the certificates of a chain that is kept; the usual ones have four thousand.
const CHAIN_BYTES_MAX: usize = 16 << 10;
/// Roots with which one chain is known to be good; beyond it, it is verified again.
const TRUSTS_MAX: usize = 64;
/// Bytes of the chains that are looked at; a server that shows more is refused by the handshake's own limit.
const CHAIN_CERTIFICATES_MAX: usize = 32;

/// What a check needs of TLS, made when the configuration is read.
#[derive(Debug, Default)]
pub(crate) struct TlsOptions {
    /// The roots that replace the built-in ones.
    pub(crate) trust: Option<Arc<Trust>>,
    /// Who we are.
    pub(crate) client: Option<Arc<CertifiedKey>>,
    pub(crate) insecure: bool,
    alpn: Vec<Vec<u8>>,
    /// With the client's certificate, for the site's own origin; and without, for others.
    own: OnceLock<ClientConfig>,
    foreign: OnceLock<ClientConfig>,
}

impl TlsOptions {
    /// Reads the PEM texts; the messages name the key at fault.
    pub(crate) fn new(tls: &Tls, http: HttpChoice) -> Result<Self, (&'static str, String)> {
        let trust = match &tls.ca {
            Some(pem) => Some(Arc::new(Trust::of_pem(pem).map_err(|message| ("ca", message))?)),
            None => None,
        };
        let client = match (&tls.certificate, &tls.key) {
            (Some(certificate), Some(key)) => Some(Arc::new(client_key(certificate, key)?)),
            _ => None,
        };
        let alpn: &[&[u8]] = match http {
            HttpChoice::Auto => &[b"h2", b"http/1.1"],
            HttpChoice::Http1 => &[b"http/1.1"],
            HttpChoice::Http2 => &[b"h2"],
        };
        Ok(Self {
            trust,
            client,
            insecure: tls.insecure,
            alpn: alpn.iter().map(|name| name.to_vec()).collect(),
            own: OnceLock::new(),
            foreign: OnceLock::new(),
        })
    }

    /// The settings of one handshake, with a verifier of its own that keeps what the server shows.
    pub(crate) fn handshake(
        &self,
        certificates: &Arc<Certificates>,
        own_origin: bool,
    ) -> Result<(Arc<ClientConfig>, Arc<Verifier>), Box<str>> {
        let trust = match (&self.trust, self.insecure) {
            (_, true) => None,
            (Some(trust), false) => Some(trust.clone()),
            (None, false) => Some(certificates.built_in()?),
        };
        let verifier =
            Arc::new(Verifier { certificates: certificates.clone(), trust, shown: Mutex::new(Shown::default()) });
        let client = self.client.as_ref().filter(|_| own_origin);
        let base = if client.is_some() { &self.own } else { &self.foreign };
        let base = if let Some(base) = base.get() {
            base
        } else {
            let made = self.base(certificates, client)?;
            base.get_or_init(|| made)
        };
        let mut config = base.clone();
        config.dangerous().set_certificate_verifier(verifier.clone());
        Ok((Arc::new(config), verifier))
    }

    fn base(
        &self,
        certificates: &Arc<Certificates>,
        client: Option<&Arc<CertifiedKey>>,
    ) -> Result<ClientConfig, Box<str>> {
        let verifier =
            Verifier { certificates: certificates.clone(), trust: None, shown: Mutex::new(Shown::default()) };
        let builder = ClientConfig::builder_with_provider(certificates.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match client {
            Some(key) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key.clone()))),
            None => builder.with_no_client_auth(),
        };
        config.resumption = Resumption::disabled();
        config.alpn_protocols.clone_from(&self.alpn);
        // A server that chooses what was not offered is told apart as a breach by ourselves.
        Ok(config)
    }
}

fn client_key(certificate: &[u8], key: &[u8]) -> Result<CertifiedKey, (&'static str, String)> {
    let chain = CertificateDer::pem_slice_iter(certificate)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| ("certificate", format!("cannot be read as PEM: {error}")))?;
    if chain.is_empty() {
        return Err(("certificate", "holds no certificate, expected PEM".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|error| ("key", format!("cannot be read as a private key in PEM: {error}")))?;
    let key = aws_lc_rs::sign::any_supported_type(&key).map_err(|error| ("key", format!("cannot be used: {error}")))?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok(certified),
        Err(rustls::Error::InconsistentKeys(_)) => Err(("key", "does not belong to the certificate".to_owned())),
        Err(error) => Err(("certificate", format!("cannot be used: {error}"))),
    }
}

/// Roots. Each set has a number of its own (drawn, 64 bits), so that what was verified with one is not taken for another.
#[derive(Debug)]
pub(crate) struct Trust {
    roots: RootCertStore,
    /// The certificates of `tls.ca` as they are: a server that shows one of them is trusted, as a server
    /// with a self-signed certificate must be able to be.
    exact: Vec<CertificateDer<'static>>,
    number: u64,
}

impl Trust {
    fn new(roots: RootCertStore, exact: Vec<CertificateDer<'static>>) -> Self {
        Self { roots, exact, number: RandomState::new().hash_one(0) }
    }

    fn of_pem(pem: &[u8]) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        let mut exact = Vec::new();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| format!("cannot be read as PEM: {error}"))?;
            roots.add(certificate.clone()).map_err(|error| format!("holds what is no certificate: {error}"))?;
            exact.push(certificate);
        }
        if exact.is_empty() {
            return Err("holds no certificate, expected PEM".to_owned());
        }
        Ok(Self::new(roots, exact))
    }
}

/// What is known of certificates, shared by all checks of a process: the machine's roots, and the chains that
/// servers showed.
#[derive(Debug)]
pub struct Certificates {
    provider: Arc<CryptoProvider>,
    built_in: Mutex<Option<Arc<Trust>>>,
    chains: Mutex<Chains>,
}

/// The chains that servers showed, by the hash of the server's own certificate.
#[derive(Debug, Default)]
struct Chains {
    by_hash: HashMap<u64, Arc<Chain>>,
    /// Bytes of their certificates.
    bytes: usize,
}

impl Chains {
    fn keep(&mut self, key: u64, chain: &Arc<Chain>) {
        let bytes = chain.bytes();
        if bytes > CHAIN_BYTES_MAX {
            return;
        }
        if self.by_hash.len() >= CHAINS_MAX || self.bytes + bytes > CHAINS_BYTES_MAX {
            *self = Self::default();
        }
        let before = self.by_hash.insert(key, chain.clone());
        self.bytes = self.bytes + bytes - before.map_or(0, |chain| chain.bytes());
    }
}

impl Default for Certificates {
    fn default() -> Self {
        let default = aws_lc_rs::default_provider();
        let mut cipher_suites = default.cipher_suites;
        // The cheapest first; they are equally good for our purpose.
        cipher_suites.sort_by_key(|suite| suite.suite() != rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
        let kx_groups = vec![
            aws_lc_rs::kx_group::X25519,
            aws_lc_rs::kx_group::SECP256R1,
            aws_lc_rs::kx_group::SECP384R1,
            aws_lc_rs::kx_group::X25519MLKEM768,
        ];
        let provider = CryptoProvider { cipher_suites, kx_groups, ..aws_lc_rs::default_provider() };
        Self { provider: Arc::new(provider), built_in: Mutex::new(None), chains: Mutex::default() }
    }
}

impl Certificates {
    /// The machine's roots, or Mozilla's where it has none; read at the first use. An error where they could
    /// not be read for now, for example for want of descriptors: nobody is called untrusted because of that.
    fn built_in(&self) -> Result<Arc<Trust>, Box<str>> {
        let mut kept = self.built_in.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(trust) = &*kept {
            return Ok(trust.clone());
        }
        let trust = Arc::new(machine_trust()?);
        *kept = Some(trust.clone());
        Ok(trust)
    }

    /// Reads the machine's roots again, if they were read. Where they differ, chains are verified anew; where they
    /// cannot be read, those that are known stay.
    pub fn read_again(&self) {
        let Some(before) = self.built_in.lock().unwrap_or_else(PoisonError::into_inner).clone() else { return };
        if let Ok(now) = machine_trust()
            && now.roots.roots != before.roots.roots
        {
            *self.built_in.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(now));
        }
    }

    /// The chain of these certificates, with its facts.
    fn chain(&self, end_entity: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> Arc<Chain> {
        let mut hasher = DefaultHasher::new();
        end_entity.as_ref().hash(&mut hasher);
        let key = hasher.finish();
        let same = |chain: &Chain| {
            chain.certificates.len() == intermediates.len() + 1
                && chain
                    .certificates
                    .iter()
                    .zip(std::iter::once(end_entity).chain(intermediates))
                    .all(|(a, b)| **a == **b)
        };
        if let Some(chain) = self.chains.lock().unwrap_or_else(PoisonError::into_inner).by_hash.get(&key)
            && same(chain)
        {
            return chain.clone();
        }
        let chain = Arc::new(Chain::read(end_entity, intermediates));
        self.chains.lock().unwrap_or_else(PoisonError::into_inner).keep(key, &chain);
        chain
    }
}

fn machine_trust() -> Result<Trust, Box<str>> {
    let native = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(native.certs);
    if !native.errors.is_empty() && !own_descriptors_are_left() {
        return Err("cannot read the machine's root certificates: too many open files".into());
    }
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    Ok(Trust::new(roots, Vec::new()))
}

/// Whether another file can be opened right now.
fn own_descriptors_are_left() -> bool {
    std::fs::File::open("/dev/null").is_ok()
}

/// What a server showed, with the facts that are told of it.
#[derive(Debug)]
pub(crate) struct Chain {
    certificates: Vec<Box<[u8]>>,
    /// The server's own; `None` where it cannot be read.
    pub(crate) certificate: Option<Arc<Certificate>>,
    /// The subjects of all, the server's own first.
    pub(crate) subjects: Vec<Box<str>>,
    /// Seconds since the epoch within which all of them are valid.
    valid: Option<(u64, u64)>,
    /// The numbers of the roots with which it was verified.
    verified: Mutex<Vec<u64>>,
}

impl Chain {
    fn read(end_entity: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> Self {
        let mut chain = Self {
            certificates: Vec::new(),
            certificate: None,
            subjects: Vec::new(),
            valid: Some((0, u64::MAX)),
            verified: Mutex::new(Vec::new()),
        };
        for (index, der) in std::iter::once(end_entity).chain(intermediates).enumerate() {
            chain.certificates.push(der.as_ref().into());
            let Ok((_, parsed)) = X509Certificate::from_der(der) else {
                chain.valid = None;
                continue;
            };
            let (from, to) = (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp());
            chain.valid = chain.valid.and_then(|(first, last)| {
                Some((first.max(u64::try_from(from.max(0)).ok()?), last.min(u64::try_from(to).ok()?)))
            });
            if index < CHAIN_CERTIFICATES_MAX {
                chain.subjects.push(name(parsed.subject()).into());
            }
            if index == 0 {
                chain.certificate = Some(Arc::new(Certificate {
                    not_after: Timestamp(to.saturating_mul(1_000_000)),
                    issuer: name(parsed.issuer()).into(),
                    subject: name(parsed.subject()).into(),
                }));
            }
        }
        chain
    }

    /// What is wrong, in more words where the certificate itself tells.
    fn explain(&self, error: rustls::Error) -> rustls::Error {
        let by_itself = self.certificates.len() == 1
            && self.certificate.as_ref().is_some_and(|certificate| certificate.issuer == certificate.subject);
        match error {
            rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) if by_itself => {
                CertificateError::Other(OtherError(Arc::new(SignedByItself))).into()
            }
            error => error,
        }
    }

    /// Bytes of its certificates.
    fn bytes(&self) -> usize {
        self.certificates.iter().map(|certificate| certificate.len()).sum()
    }

    fn is_verified(&self, trust: &Trust, now: UnixTime) -> bool {
        self.valid.is_some_and(|(from, to)| (from..=to).contains(&now.as_secs()))
            && self.verified.lock().unwrap_or_else(PoisonError::into_inner).contains(&trust.number)
    }

    fn verified(&self, trust: &Trust) {
        let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        if verified.len() >= TRUSTS_MAX {
            verified.clear();
        }
        verified.push(trust.number);
    }
}

/// The verifier of one handshake.
#[derive(Debug)]
pub(crate) struct Verifier {
    certificates: Arc<Certificates>,
    /// `None`: everything is accepted, by explicit choice.
    trust: Option<Arc<Trust>>,
    shown: Mutex<Shown>,
}

/// What one handshake showed.
#[derive(Debug, Default)]
struct Shown {
    chain: Option<Arc<Chain>>,
}

impl Verifier {
    /// The chain that the server showed, verified or not.
    pub(crate) fn chain(&self) -> Option<Arc<Chain>> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).chain.clone()
    }

    fn verify(
        &self,
        trust: &Trust,
        parsed: &ParsedCertificate<'_>,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        if trust.exact.iter().any(|exact| exact == end_entity) {
            let (_, certificate) = X509Certificate::from_der(end_entity).map_err(|_| CertificateError::BadEncoding)?;
            let seconds = now.as_secs() as i64;
            if seconds < certificate.validity().not_before.timestamp() {
                return Err(CertificateError::NotValidYet.into());
            }
            if seconds > certificate.validity().not_after.timestamp() {
                return Err(CertificateError::Expired.into());
            }
        } else {
            let algorithms = self.certificates.provider.signature_verification_algorithms.all;
            verify_server_cert_signed_by_trust_anchor(parsed, &trust.roots, intermediates, now, algorithms)?;
        }
        Ok(())
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let chain = self.certificates.chain(end_entity, intermediates);
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).chain = Some(chain.clone());
        let Some(trust) = &self.trust else { return Ok(ServerCertVerified::assertion()) };
        let parsed = ParsedCertificate::try_from(end_entity)?;
        if !chain.is_verified(trust, now) {
            self.verify(trust, &parsed, end_entity, intermediates, now).map_err(|error| chain.explain(error))?;
            chain.verified(trust);
        }
        verify_server_name(&parsed, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.certificates.provider.signature_verification_algorithms)
            .map_err(in_handshake)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.certificates.provider.signature_verification_algorithms)
            .map_err(in_handshake)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.certificates.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Nobody vouches for the certificate but itself.
#[derive(Debug, thiserror::Error)]
#[error("the certificate is signed by itself, and not among those that are trusted")]
struct SignedByItself;

/// Marks a signature of the handshake that does not fit: the certificate may be good, the server is not its.
#[derive(Debug, thiserror::Error)]
#[error("the handshake's signature does not fit the certificate: {0}")]
struct WrongSignature(rustls::Error);

fn in_handshake(error: rustls::Error) -> rustls::Error {
    rustls::Error::Other(OtherError(Arc::new(WrongSignature(error))))
}

/// What the configuration or the URL names, as TLS needs it; `None` where it is no name.
pub(crate) fn server_name(host: &str) -> Option<ServerName<'static>> {
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    // A name with a dot at its end is the same without.
    ServerName::try_from(host.strip_suffix('.').unwrap_or(host).to_owned()).ok()
}

/// The error of TLS inside an error of the connection.
pub(crate) fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>())
}

/// The cause that an error of TLS stands for, in whatever phase it came.
pub(crate) fn cause_of(error: &rustls::Error) -> Cause {
    use rustls::Error as E;
    let (code, message) = match error {
        E::AlertReceived(alert) => (Code::TlsRefused, format!("the server ended it with the alert {alert:?}")),
        E::InvalidCertificate(error) => return cause_of_certificate(error),
        E::PeerIncompatible(PeerIncompatible::ServerSentHelloRetryRequestWithUnknownExtension) => {
            (Code::TlsProtocol, "an unknown extension".to_owned())
        }
        E::FailedToGetCurrentTime | E::FailedToGetRandomBytes => (Code::OwnFailure, error.to_string()),
        error => (Code::TlsProtocol, error.to_string()),
    };
    Cause::new(code, message)
}

fn cause_of_certificate(error: &CertificateError) -> Cause {
    use CertificateError as E;
    let date = |time: &UnixTime| Timestamp((time.as_secs() as i64).saturating_mul(1_000_000));
    let (code, message) = match error {
        E::ExpiredContext { not_after, .. } => (Code::TlsExpired, format!("expired {}", date(not_after))),
        E::Expired => (Code::TlsExpired, "expired".to_owned()),
        E::NotValidYetContext { not_before, .. } => {
            (Code::TlsNotYetValid, format!("not valid before {}", date(not_before)))
        }
        E::NotValidYet => (Code::TlsNotYetValid, "not valid yet".to_owned()),
        E::NotValidForNameContext { expected, presented } => {
            let shown: String = presented.iter().take(8).map(|name| plain_name(name)).collect::<Vec<_>>().join(", ");
            (Code::TlsNameMismatch, format!("the certificate is for {shown}, not for {}", expected.to_str()))
        }
        E::NotValidForName => (Code::TlsNameMismatch, "the certificate is for other names".to_owned()),
        E::UnknownIssuer => (Code::TlsUntrusted, "no chain to a root that is trusted".to_owned()),
        E::BadEncoding => (Code::TlsProtocol, "the certificate cannot be read".to_owned()),
        // What `openssl req -x509` makes: signed by itself, and marked as an authority.
        E::Other(other) if other.to_string() == "CaUsedAsEndEntity" => {
            (Code::TlsUntrusted, "the certificate is an authority's, not a server's: signed by itself?".to_owned())
        }
        E::Other(other) if other.0.is::<SignedByItself>() => (Code::TlsUntrusted, other.to_string()),
        error => (Code::TlsUntrusted, error.to_string()),
    };
    Cause::new(code, message)
}

/// `DnsName("a.example")`, as rustls tells the names that a certificate holds, without its clothes.
fn plain_name(presented: &str) -> &str {
    let inner = presented.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(presented);
    inner.trim_matches('"')
}

/// A distinguished name as RFC 4514 writes it: the last part first, what is special escaped.
fn name(name: &X509Name<'_>) -> String {
    let mut parts: Vec<String> = name
        .iter_rdn()
        .map(|part| {
            let attributes: Vec<String> = part
                .iter()
                .map(|attribute| {
                    let oid = attribute.attr_type().to_id_string();
                    let short = match oid.as_str() {
                        "2.5.4.3" => Some("CN"),
                        "2.5.4.7" => Some("L"),
                        "2.5.4.8" => Some("ST"),
                        "2.5.4.10" => Some("O"),
                        "2.5.4.11" => Some("OU"),
                        "2.5.4.6" => Some("C"),
                        "2.5.4.9" => Some("STREET"),
                        "0.9.2342.19200300.100.1.25" => Some("DC"),
                        "0.9.2342.19200300.100.1.1" => Some("UID"),
                        _ => None,
                    };
                    match (short, attribute.as_str()) {
                        (Some(short), Ok(value)) => format!("{short}={}", escaped(value)),
                        (short, _) => {
                            // The value's whole encoding, in hexadecimal.
                            let mut shown = format!("{}=#", short.unwrap_or(&oid));
                            for byte in encoded(attribute.attr_value()) {
                                let _ = write!(shown, "{byte:02x}");
                            }
                            shown
                        }
                    }
                })
                .collect();
            attributes.join("+")
        })
        .collect();
    parts.reverse();
    parts.join(",")
}

/// Tag, length and content of a value.
fn encoded(value: &x509_parser::asn1_rs::Any<'_>) -> Vec<u8> {
    let mut out = vec![value.tag().0 as u8];
    let length = value.data.len();
    match length {
        0..=127 => out.push(length as u8),
        128..=255 => out.extend_from_slice(&[0x81, length as u8]),
        _ => out.extend_from_slice(&[0x82, (length >> 8) as u8, length as u8]),
    }
    out.extend_from_slice(value.data);
    out
}

fn escaped(value: &str) -> String {
    let mut shown = String::with_capacity(value.len());
    let last = value.chars().count().saturating_sub(1);
    for (index, character) in value.chars().enumerate() {
        let special = matches!(character, '"' | '+' | ',' | ';' | '<' | '>' | '\\')
            || index == 0 && matches!(character, ' ' | '#')
            || index == last && character == ' ';
        match character {
            '\0' => shown.push_str("\\00"),
            character if special => {
                shown.push('\\');
                shown.push(character);
            }
            character => shown.push(character),
        }
    }
    shown
}

#[cfg(test)]
mod tests;
