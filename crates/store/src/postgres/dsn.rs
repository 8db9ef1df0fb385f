//! Which database, and how the way to it is secured: the DSN, in libpq's two forms, and `tls` beside it.
//!
//! The client library knows `sslmode` up to `require`. What libpq and the earlier systems know beyond that
//! (`verify-ca`, `verify-full`, `sslrootcert`, `sslcert`, `sslkey`, and `ssl` as another name of `sslmode`) is taken out
//! of the DSN here.

use super::tls::{self, Material, Verify};
use rustls::ClientConfig;
use sitemon_model::tree::is_path;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio_postgres::config::{Host, SslMode};

/// How long what was sent may go unanswered by the other machine, where the DSN says nothing.
const UNANSWERED: Duration = Duration::from_secs(20);
/// What `sslmode` may be.
const MODES: &str = "disable, allow, prefer, require, verify-ca, verify-full";

/// A database and the way to it.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// Where, as whom, what.
    pub(super) config: tokio_postgres::Config,
    /// `None`: nothing is encrypted.
    pub(super) tls: Option<Arc<ClientConfig>>,
    /// For messages: host, port and database, never a password.
    pub(super) name: String,
    /// The DSN with its password hidden.
    pub(super) shown: String,
}

/// What was taken out of a DSN.
#[derive(Debug, Default)]
struct Taken {
    mode: Option<String>,
    root: Option<String>,
    certificate: Option<String>,
    key: Option<String>,
}

impl Taken {
    /// Whether an option is one of ours, and then takes it.
    fn take(&mut self, name: &str, value: &str) -> bool {
        let place = match name {
            "sslmode" | "ssl" => &mut self.mode,
            "sslrootcert" => &mut self.root,
            "sslcert" => &mut self.certificate,
            "sslkey" => &mut self.key,
            _ => return false,
        };
        *place = Some(value.to_owned());
        true
    }
}

/// Reads a DSN; files that it names are relative to `base`. An error says what is wrong, and has no password in it.
pub(super) fn read(dsn: &str, material: Option<Material>, base: &Path) -> Result<Target, String> {
    let (plain, taken) = split(dsn.trim());
    let mut config: tokio_postgres::Config = plain.parse().map_err(|error: tokio_postgres::Error| {
        // What the library says of a part that it cannot read may repeat it.
        let told = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
        let told = if told.contains("option") { told } else { "it cannot be read".to_owned() };
        format!("{told}, expected postgres://USER:PASSWORD@HOST:PORT/DATABASE, or host=... user=... dbname=...")
    })?;
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        config.host("localhost");
    }
    if config.get_tcp_user_timeout().is_none() {
        config.tcp_user_timeout(UNANSWERED);
    }
    config.keepalives_idle(UNANSWERED);

    let file = |path: &str| read_file(&base.join(path), is_path(path));
    let given = material.is_some();
    let mut material = material.unwrap_or_default();
    if let Some(path) = taken.root.filter(|path| path != "system") {
        material.ca = Some(file(&path)?);
    }
    match (taken.certificate, taken.key) {
        (Some(certificate), Some(key)) => material.identity = Some((file(&certificate)?, file(&key)?)),
        (None, None) => {}
        _ => return Err("of `sslcert` and `sslkey` one is given, expected both".to_owned()),
    }
    // As libpq has it: `require` with an authority is no less than `verify-ca`.
    let known = material.ca.is_some();
    let (mode, verify) = match taken.mode.as_deref() {
        None if given && known => (SslMode::Require, Verify::Host),
        Some("disable" | "false" | "0") => (SslMode::Disable, Verify::Nothing),
        None | Some("prefer" | "allow") => (SslMode::Prefer, Verify::Nothing),
        Some("require" | "true" | "1") if known => (SslMode::Require, Verify::Authority),
        Some("require" | "true" | "1") => (SslMode::Require, Verify::Nothing),
        Some("verify-ca") => (SslMode::Require, Verify::Authority),
        Some("verify-full") => (SslMode::Require, Verify::Host),
        Some(other) => return Err(format!("sslmode is `{other}`, expected one of: {MODES}")),
    };
    config.ssl_mode(mode);
    let local = |host: &Host| matches!(host, Host::Unix(_));
    if config.get_hosts().iter().all(local) && config.get_hostaddrs().is_empty() {
        // As with libpq: a socket of this machine is not encrypted.
        config.ssl_mode(SslMode::Disable);
    }
    let tls = (config.get_ssl_mode() != SslMode::Disable).then(|| tls::client(verify, &material)).transpose()?;
    Ok(Target { name: name(&config), tls, shown: hide(dsn.trim()), config })
}

/// What a file holds, or why it cannot be read. Its path is told unless it may be something else.
pub(super) fn read_file(path: &Path, told: bool) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| {
        let path = if told { path.display().to_string() } else { "the file that is named here".to_owned() };
        match error.kind() {
            ErrorKind::NotFound => format!("cannot read {path}: no such file"),
            kind => format!("cannot read {path}: {kind}"),
        }
    })
}

/// The DSN without the options that are ours, and those.
fn split(dsn: &str) -> (String, Taken) {
    let mut taken = Taken::default();
    if let Some((scheme, rest)) =
        dsn.split_once("://").filter(|(scheme, _)| matches!(*scheme, "postgres" | "postgresql"))
    {
        // Of several `@` the last one ends the password, whether the others are encoded or not.
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let encoded = match authority.rsplit_once('@') {
            Some((user, host)) => format!("{scheme}://{}@{host}{path}", user.replace('@', "%40")),
            None => dsn.to_owned(),
        };
        let dsn = &*encoded;
        let Some((head, query)) = dsn.split_once('?') else { return (dsn.to_owned(), taken) };
        let kept: Vec<&str> = query
            .split('&')
            .filter(|option| {
                let (name, value) = option.split_once('=').unwrap_or((option, ""));
                !taken.take(name, &decoded(value))
            })
            .collect();
        let plain = if kept.is_empty() { head.to_owned() } else { format!("{head}?{}", kept.join("&")) };
        return (plain, taken);
    }
    let mut kept = String::new();
    for (name, value, whole) in pairs(dsn) {
        if !taken.take(&name, &value) {
            kept.push_str(&whole);
            kept.push(' ');
        }
    }
    (kept, taken)
}

/// The options of a DSN of the form `host=... user='...'`: name, value, and how it stands there.
fn pairs(dsn: &str) -> Vec<(String, String, String)> {
    let mut found = Vec::new();
    let mut rest = dsn.trim_start();
    while let Some((name, after)) = rest.split_once('=') {
        let value_at = after.trim_start();
        let (mut value, mut end, mut quoted, mut escaped) = (String::new(), value_at.len(), false, false);
        for (index, letter) in value_at.char_indices() {
            match letter {
                _ if std::mem::take(&mut escaped) => value.push(letter),
                '\\' => escaped = true,
                '\'' if index == 0 => quoted = true,
                '\'' if quoted => {
                    end = index + 1;
                    break;
                }
                _ if letter.is_whitespace() && !quoted => {
                    end = index;
                    break;
                }
                _ => value.push(letter),
            }
        }
        found.push((name.trim().to_owned(), value, format!("{}={}", name.trim(), &value_at[..end])));
        rest = value_at[end..].trim_start();
    }
    if !rest.is_empty() {
        found.push((rest.to_owned(), String::new(), rest.to_owned()));
    }
    found
}

/// A text of a URL without its percent signs.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let digits = (*first == b'%').then(|| tail.get(..2)).flatten();
        let byte = digits.and_then(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Host, port and database.
fn name(config: &tokio_postgres::Config) -> String {
    let ports = config.get_ports();
    let hosts: Vec<String> = config
        .get_hosts()
        .iter()
        .enumerate()
        .map(|(index, host)| {
            let port = ports.get(index).or(ports.first()).copied().unwrap_or(5432);
            match host {
                Host::Tcp(host) => format!("{host}:{port}"),
                Host::Unix(path) => format!("{}:{port}", path.display()),
            }
        })
        .collect();
    let database = config.get_dbname().or(config.get_user()).unwrap_or_default();
    format!("PostgreSQL at {}/{database}", hosts.join(","))
}

/// The DSN with its password hidden.
fn hide(dsn: &str) -> String {
    if let Some((scheme, rest)) = dsn.split_once("://") {
        let authority = rest.find(['/', '?']).unwrap_or(rest.len());
        // A password may hold an `@` that was not encoded; the last one ends it.
        let hidden = match rest[..authority].rfind('@').or_else(|| rest.rfind('@')) {
            Some(at) => match rest[..at].split_once(':') {
                Some((user, _)) => format!("{user}:***{}", &rest[at..]),
                None => rest.to_owned(),
            },
            None => rest.to_owned(),
        };
        let (head, query) = hidden.split_once('?').unwrap_or((&hidden, ""));
        let options: Vec<String> = query
            .split('&')
            .filter(|option| !option.is_empty())
            .map(|option| if option.starts_with("password=") { "password=***".to_owned() } else { option.to_owned() })
            .collect();
        let options = if options.is_empty() { String::new() } else { format!("?{}", options.join("&")) };
        return format!("{scheme}://{head}{options}");
    }
    let shown = pairs(dsn).into_iter().map(|(name, _, whole)| match &*name {
        "password" => "password=***".to_owned(),
        _ => whole,
    });
    shown.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(dsn: &str, expected: &str) {
        let told = match read(dsn, None, Path::new("/nowhere")) {
            Ok(target) => format!(
                "{} | {} | {:?} {}",
                target.name,
                target.shown,
                target.config.get_ssl_mode(),
                if target.tls.is_some() { "tls" } else { "plain" }
            ),
            Err(error) => error,
        };
        assert_eq!(told, expected, "{dsn}");
    }

    #[test]
    fn dsns_are_read_and_shown_without_their_password() {
        check(
            "postgres://monitor:se:c@ret@db.example:5433/sites?ssl=require",
            "PostgreSQL at db.example:5433/sites | postgres://monitor:***@db.example:5433/sites?ssl=require | Require tls",
        );
        check(
            "postgresql://monitor:secret@127.0.0.1/metrics?sslmode=disable&connect_timeout=3",
            "PostgreSQL at 127.0.0.1:5432/metrics | postgresql://monitor:***@127.0.0.1/metrics?sslmode=disable&connect_timeout=3 | Disable plain",
        );
        check(
            "host=/run/pg user=monitor password='it\\'s' dbname=sites sslmode=verify-full",
            "PostgreSQL at /run/pg:5432/sites | host=/run/pg user=monitor password=*** dbname=sites sslmode=verify-full | Disable plain",
        );
        check("postgres://u@h/d", "PostgreSQL at h:5432/d | postgres://u@h/d | Prefer tls");
        check("postgres:///d?host=h&user=u", "PostgreSQL at h:5432/d | postgres:///d?host=h&user=u | Prefer tls");
        check(
            "postgres://u@h/d?sslmode=never",
            "sslmode is `never`, expected one of: disable, allow, prefer, require, verify-ca, verify-full",
        );
        check("postgres://u@h/d?sslrootcert=ca.pem&sslmode=verify-full", "cannot read /nowhere/ca.pem: no such file");
        check("postgres://u@h/d?sslcert=a", "of `sslcert` and `sslkey` one is given, expected both");
        check(
            "postgres://u:secret@h/d?colour=red",
            "unknown option `colour`, expected postgres://USER:PASSWORD@HOST:PORT/DATABASE, or host=... user=... dbname=...",
        );
    }
}
