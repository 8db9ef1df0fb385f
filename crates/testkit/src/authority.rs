//! A certificate authority of the test's own: roots, intermediates, and leaf certificates, good and bad.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, SignatureAlgorithm, date_time_ymd,
};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;

/// A day, the unit in which certificates are dated.
pub const DAY: Duration = Duration::from_hours(24);

/// The keys that an authority signs with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Curve {
    /// P-256 throughout: the cheapest to sign and verify.
    P256,
    /// P-384 for root and intermediate and P-256 for leafs, as the ECDSA chain of Let's Encrypt is.
    P384,
}

impl Curve {
    fn algorithm(self) -> &'static SignatureAlgorithm {
        match self {
            Self::P256 => &PKCS_ECDSA_P256_SHA256,
            Self::P384 => &PKCS_ECDSA_P384_SHA384,
        }
    }
}

/// An authority that a test may trust, or not.
pub struct Authority {
    root: CertifiedIssuer<'static, KeyPair>,
    intermediate: Option<CertifiedIssuer<'static, KeyPair>>,
}

/// What a certificate shall say.
#[derive(Clone, Debug)]
pub struct Order {
    /// DNS names (a leading `*.` is a wildcard) and IP addresses; the first is also the common name.
    pub names: Vec<String>,
    /// From when on it holds.
    pub not_before: SystemTime,
    /// Until when it holds.
    pub not_after: SystemTime,
    /// For a client instead of a server.
    pub client: bool,
}

/// A chain with its key: what a server, or a client, presents.
#[derive(Debug)]
pub struct Identity {
    /// The leaf first, then intermediates; the root is left out, as servers do.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's private key, PKCS #8.
    pub key: PrivateKeyDer<'static>,
    chain_pem: String,
    key_pem: String,
}

impl Order {
    /// A server's certificate for these names and addresses, valid from yesterday for 90 days.
    pub fn new<N: Into<String>>(names: impl IntoIterator<Item = N>) -> Self {
        let now = SystemTime::now();
        Self {
            names: names.into_iter().map(Into::into).collect(),
            not_before: now - DAY,
            not_after: now + 90 * DAY,
            client: false,
        }
    }

    /// Ran out a day ago.
    #[must_use]
    pub fn expired(mut self) -> Self {
        self.not_before = SystemTime::now() - 91 * DAY;
        self.not_after = SystemTime::now() - DAY;
        self
    }

    /// Begins tomorrow.
    #[must_use]
    pub fn not_yet_valid(mut self) -> Self {
        self.not_before = SystemTime::now() + DAY;
        self
    }

    /// Runs out after this time from now.
    #[must_use]
    pub fn valid_for(mut self, time: Duration) -> Self {
        self.not_after = SystemTime::now() + time;
        self
    }

    /// For a client.
    #[must_use]
    pub fn client(mut self) -> Self {
        self.client = true;
        self
    }

    fn params(&self) -> Result<CertificateParams> {
        let mut params = CertificateParams::new(self.names.clone()).context("names of a certificate")?;
        params.distinguished_name = DistinguishedName::new();
        if let Some(name) = self.names.first() {
            params.distinguished_name.push(DnType::CommonName, name.as_str());
        }
        // OffsetDateTime counts whole seconds in a certificate; adding to the epoch needs no further crate.
        let since = |at: SystemTime| at.duration_since(UNIX_EPOCH).unwrap_or_default();
        params.not_before = date_time_ymd(1970, 1, 1) + since(self.not_before);
        params.not_after = date_time_ymd(1970, 1, 1) + since(self.not_after);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![if self.client { ExtendedKeyUsagePurpose::ClientAuth } else { ExtendedKeyUsagePurpose::ServerAuth }];
        params.use_authority_key_identifier_extension = true;
        Ok(params)
    }
}

impl Authority {
    /// A root that signs leafs itself.
    pub fn new(curve: Curve) -> Result<Self> {
        let key = KeyPair::generate_for(curve.algorithm())?;
        let root = CertifiedIssuer::self_signed(authority_params("Testkit Root", &key), key)?;
        Ok(Self { root, intermediate: None })
    }

    /// A root with an intermediate that signs the leafs, and that servers send along.
    pub fn with_intermediate(curve: Curve) -> Result<Self> {
        let mut authority = Self::new(curve)?;
        let key = KeyPair::generate_for(curve.algorithm())?;
        let params = authority_params("Testkit Intermediate", &key);
        authority.intermediate = Some(CertifiedIssuer::signed_by(params, key, &authority.root)?);
        Ok(authority)
    }

    /// The root's certificate.
    pub fn root(&self) -> CertificateDer<'static> {
        self.root.der().clone()
    }

    /// The root's certificate as PEM: what a client is given as `tls.ca`.
    pub fn root_pem(&self) -> String {
        self.root.pem()
    }

    /// A store of roots with this one alone.
    pub fn roots(&self) -> Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.root())?;
        Ok(roots)
    }

    /// Writes the root to `FOLDER/STEM.pem` and returns that path.
    pub fn write(&self, folder: &Path, stem: &str) -> Result<PathBuf> {
        write(folder, &format!("{stem}.pem"), &self.root_pem())
    }

    /// Signs what is ordered.
    pub fn issue(&self, order: &Order) -> Result<Identity> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let issuer = self.intermediate.as_ref().unwrap_or(&self.root);
        let leaf = order.params()?.signed_by(&key, issuer)?;
        let mut chain = vec![leaf.der().clone()];
        let mut chain_pem = leaf.pem();
        if let Some(intermediate) = &self.intermediate {
            chain.push(intermediate.der().clone());
            chain_pem.push_str(&intermediate.pem());
        }
        Ok(Identity::new(chain, chain_pem, &key))
    }
}

impl Identity {
    /// A certificate that nobody signed but its own key.
    pub fn self_signed(order: &Order) -> Result<Self> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let leaf = order.params()?.self_signed(&key)?;
        Ok(Self::new(vec![leaf.der().clone()], leaf.pem(), &key))
    }

    fn new(chain: Vec<CertificateDer<'static>>, chain_pem: String, key: &KeyPair) -> Self {
        let der = PrivatePkcs8KeyDer::from(key.serialize_der());
        Self { chain, key: der.into(), chain_pem, key_pem: key.serialize_pem() }
    }

    /// The chain as PEM, leaf first.
    pub fn chain_pem(&self) -> &str {
        &self.chain_pem
    }

    /// The key as PEM.
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// Writes `FOLDER/STEM.pem` and `FOLDER/STEM.key` and returns both paths.
    pub fn write(&self, folder: &Path, stem: &str) -> Result<(PathBuf, PathBuf)> {
        Ok((
            write(folder, &format!("{stem}.pem"), &self.chain_pem)?,
            write(folder, &format!("{stem}.key"), &self.key_pem)?,
        ))
    }

    /// For a rustls server or client; key and certificate are not held against each other.
    pub fn certified_key(&self) -> Result<Arc<CertifiedKey>> {
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&self.key)?;
        Ok(Arc::new(CertifiedKey::new(self.chain.clone(), key)))
    }
}

/// The names and addresses that a server on the loopback is asked for in tests: `localhost`, `*.fault.test`,
/// `*.site.test`, `127.0.0.1` and `::1`. (Verifiers take no wildcard right below a top-level domain.)
pub fn loopback_names() -> Vec<String> {
    let addresses = [IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])];
    let mut names: Vec<String> = ["localhost", "*.fault.test", "*.site.test"].map(String::from).to_vec();
    names.extend(addresses.iter().map(ToString::to_string));
    names
}

/// Each authority has a name of its own: under one name, an unknown one would be taken for a forgery of the known.
fn authority_params(name: &str, key: &KeyPair) -> CertificateParams {
    let mark = key.public_key_raw().iter().rev().take(4).fold(0_u32, |mark, &byte| mark << 8 | u32::from(byte));
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Testkit");
    params.distinguished_name.push(DnType::CommonName, format!("{name} {mark:08x}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    params
}

fn write(folder: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let path = folder.join(name);
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}
