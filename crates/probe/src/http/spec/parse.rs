//! Reads `request` and `expect` of a site, noting every fault.

use super::{
    Auth, ConnectTo, Expect, ExpectBody, ExpectCertificate, ExpectJson, HIDDEN, Header, HttpChoice, IpChoice, JsonTest,
    Limits, Pattern, Proxy, ProxyScheme, Request, Resolver, Tls,
};
use crate::Common;
use regex_syntax::hir::{Class, Hir, HirKind};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use sitemon_model::HttpVersion;
use sitemon_model::tree::{At, Faults, Fields, Value, is_path, is_pem, quoted};
use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// Headers that carry credentials, so that their values are hidden however they were written.
const SECRET_HEADERS: &[&str] = &["authorization", "cookie", "proxy-authorization"];

/// Headers that frame the message or belong to the connection; they are set by whoever speaks the protocol.
const FRAMING_HEADERS: &[&str] =
    &["connection", "content-length", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"];

/// Bytes that a compiled pattern may take: the default of the regex crate.
const PATTERN_BYTES: usize = 10 << 20;

/// Bytes that even the empty one takes.
pub(super) const PATTERN_BYTES_LEAST: usize = 1 << 10;

/// Takes `request` and `expect` of a site. `None` where one of their values is at fault; all faults are noted.
pub fn parse(fields: &mut Fields<'_>, common: &Common, faults: &mut Faults) -> Option<(Request, Expect)> {
    let before = errors(faults);
    let mut request = Request::default();
    let mut expect = Expect::default();
    if let Some(at) = fields.take("request") {
        read_request(&at, common, faults, &mut request);
    }
    if let Some(at) = fields.take("expect") {
        read_expect(&at, common, faults, &mut expect);
    }
    (errors(faults) == before).then_some((request, expect))
}

/// Whether a text is a URL that can be checked. The message says what is wrong, and what was expected; it shows
/// no password.
pub fn validate_url(text: &str) -> Result<(), String> {
    const EXPECTED: &str = "expected a URL such as https://shop.example/";
    let shown = || quoted(&without_user(text));
    let url = Url::parse(text).map_err(|error| match error {
        url::ParseError::RelativeUrlWithoutBase => format!("{} has no scheme, {EXPECTED}", shown()),
        error => format!("{} is no URL ({error}), {EXPECTED}", shown()),
    })?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("holds user information, expected that in `request.auth`".to_owned());
    }
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("{} has the scheme `{}`, expected http or https", shown(), url.scheme()));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(format!("{} has no host, {EXPECTED}", shown()));
    }
    if url.port() == Some(0) {
        return Err(format!("{} has the port 0, at which nobody can listen", shown()));
    }
    Ok(())
}

/// The host of a URL, where that is an address.
pub fn address_in(url: &str) -> Option<IpAddr> {
    crate::http::redirect::literal(&Url::parse(url).ok()?)
}

/// A text that should be a URL, without what may be a name and a password in it.
fn without_user(text: &str) -> Cow<'_, str> {
    let start = text.find("//").map_or(0, |slashes| slashes + 2);
    let end = text[start..].find(['/', '?', '#']).map_or(text.len(), |end| start + end);
    match text[start..end].rfind('@') {
        Some(at) => Cow::Owned(format!("{}{HIDDEN}{}", &text[..start], &text[start + at..])),
        None => Cow::Borrowed(text),
    }
}

/// Whether a text is a pattern in the syntax of the regex crate. The message says where it is not, counted in
/// characters from 1, and explains what engines that run in linear time leave out.
pub fn check_pattern(text: &str) -> Result<(), String> {
    let hir = match regex_syntax::parse(text) {
        Ok(hir) => hir,
        Err(error) => return Err(pattern_error(text, &error)),
    };
    // Nearly all are small enough for sure, and building each of a hundred thousand patterns here would be felt.
    if bytes_most(&hir) > PATTERN_BYTES - PATTERN_BYTES_LEAST {
        let config = regex_automata::nfa::thompson::Config::new().nfa_size_limit(Some(PATTERN_BYTES));
        let built = regex_automata::nfa::thompson::Compiler::new().configure(config).build_from_hir(&hir);
        if built.is_err() {
            return Err("is too large a pattern: compiled it takes more than 10MiB".to_owned());
        }
    }
    Ok(())
}

/// Bytes that a pattern takes at most once it is compiled, beside what every one takes.
pub(super) fn bytes_most(hir: &Hir) -> usize {
    // A state, and what leads from it to the next.
    const STATE_BYTES: usize = 48;
    // A range of characters comes down to several sequences of bytes: seven for those of one length.
    const RANGE_BYTES: usize = 16 * 4 * STATE_BYTES;
    let all = |parts: &[Hir]| parts.iter().map(bytes_most).fold(STATE_BYTES, usize::saturating_add);
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => STATE_BYTES,
        HirKind::Literal(literal) => (1 + literal.0.len()) * STATE_BYTES,
        HirKind::Class(Class::Bytes(class)) => (1 + class.ranges().len()) * STATE_BYTES,
        HirKind::Class(Class::Unicode(class)) => class
            .ranges()
            .iter()
            .fold(STATE_BYTES, |bytes, range| bytes + if range.end().is_ascii() { STATE_BYTES } else { RANGE_BYTES }),
        HirKind::Repetition(repetition) => {
            let times = repetition.max.unwrap_or(repetition.min.saturating_add(1)).max(1) as usize;
            (bytes_most(&repetition.sub) + 2 * STATE_BYTES).saturating_mul(times)
        }
        HirKind::Capture(capture) => bytes_most(&capture.sub).saturating_add(3 * STATE_BYTES),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => all(parts),
    }
}

fn pattern_error(text: &str, error: &regex_syntax::Error) -> String {
    use regex_syntax::ast::ErrorKind;
    let (what, offset) = match error {
        regex_syntax::Error::Parse(error) => {
            let what = match error.kind() {
                ErrorKind::UnsupportedLookAround => "look-around is not supported, because patterns run in linear \
                     time; ask for what must be there with `matches` and for what must not with `absent`"
                    .to_owned(),
                ErrorKind::UnsupportedBackreference => {
                    "backreferences are not supported, because patterns run in linear time".to_owned()
                }
                kind => kind.to_string(),
            };
            (what, error.span().start.offset)
        }
        regex_syntax::Error::Translate(error) => (error.kind().to_string(), error.span().start.offset),
        other => (other.to_string(), 0),
    };
    let character = text.get(..offset).map_or(1, |before| before.chars().count() + 1);
    format!("is no regular expression, at character {character}: {what}")
}

fn errors(faults: &Faults) -> usize {
    faults.0.iter().filter(|fault| !fault.warning).count()
}

fn read_request(at: &At<'_>, common: &Common, faults: &mut Faults, request: &mut Request) {
    let mut fields = at.map(faults);
    if let Some(method) = fields.take("method").and_then(|at| method(&at, faults)) {
        request.method = method;
    }
    let headers = fields.take("headers");
    if let Some(at) = &headers {
        request.headers = read_headers(at, common, faults);
    }
    let body = fields.take("body");
    let body_file = fields.take("body_file");
    match (body, body_file) {
        (Some(_), Some(file)) => file.error(faults, "is given together with `body`, expected one of them"),
        (Some(at), None) => {
            if let Value::Scalar { text, .. } = &at.node.value {
                request.body = Arc::from(text.as_bytes());
            } else {
                at.expected(faults, "a text");
            }
        }
        (None, Some(at)) => {
            if let Some(content) = read_file(&at, common, faults) {
                request.body = content;
            }
        }
        (None, None) => {}
    }
    if let Some(at) = fields.take("auth") {
        request.auth = read_auth(&at, common, faults);
        if request.headers.iter().any(|header| &*header.name == "authorization") {
            at.error(faults, "is given together with the header `authorization`, expected one of them");
        }
    }
    if let Some(value) = fields.take("redirects").and_then(|at| at.parse(faults, "a whole number")) {
        request.redirects = value;
    }
    let choices = [("auto", HttpChoice::Auto), ("1.1", HttpChoice::Http1), ("2", HttpChoice::Http2)];
    if let Some(value) = fields.take("http").and_then(|at| at.one_of(faults, &choices)) {
        request.http = value;
    }
    let choices = [("any", IpChoice::Any), ("4", IpChoice::V4), ("6", IpChoice::V6), ("each", IpChoice::Each)];
    let ip = fields.take("ip");
    if let Some(value) = ip.as_ref().and_then(|at| at.one_of(faults, &choices)) {
        request.ip = value;
    }
    if let Some(value) = fields.take("resolver").and_then(|at| read_resolver(&at, faults)) {
        request.resolver = value;
    }
    if let Some(value) = fields.take("dns_cache").and_then(|at| at.one_of(faults, &[("none", false), ("ttl", true)])) {
        request.dns_cache = value;
    }
    request.connect_to = fields.take("connect_to").and_then(|at| read_connect_to(&at, faults));
    request.proxy = fields.take("proxy").and_then(|at| read_proxy(&at, common, faults));
    if let Some(at) = &ip {
        check_family(at, common, request, faults);
    }
    if let Some(value) = fields.take("connection").and_then(|at| at.one_of(faults, &[("new", false), ("reuse", true)]))
    {
        request.reuse = value;
    }
    if let Some(at) = fields.take("tls") {
        request.tls = read_tls(&at, common, faults);
    }
    if let Some(value) = fields.take("connect_timeout").and_then(|at| positive(&at, faults)) {
        request.connect_timeout = value;
    }
    if let Some(at) = fields.take("limits") {
        read_limits(&at, faults, &mut request.limits);
    }
    fields.finish(faults);
}

/// An address that is dialled must be of the family that alone may be used.
fn check_family(at: &At<'_>, common: &Common, request: &Request, faults: &mut Faults) {
    let (what, address) = match (&request.proxy, &request.connect_to) {
        (Some(proxy), _) => ("the address in `proxy`", proxy.host.parse().ok()),
        (None, Some(to)) => ("the address in `connect_to`", to.host.parse().ok()),
        (None, None) => ("the address in `url`", common.address),
    };
    if let Some(address) = address.filter(|address| request.ip.excludes(*address)) {
        let family = if address.is_ipv4() { 4 } else { 6 };
        at.error(faults, format!("leaves out {what}, {address}, expected {family} or any"));
    }
}

fn method(at: &At<'_>, faults: &mut Faults) -> Option<Arc<str>> {
    let text = at.str(faults)?;
    // CONNECT asks a proxy for a tunnel; a site cannot be watched with it.
    if !is_token(text) || text.eq_ignore_ascii_case("connect") {
        at.expected(faults, "a method such as GET, HEAD or POST");
        return None;
    }
    // As browsers do it (Fetch, "normalize a method"): these are never meant in lower case.
    let known = ["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"];
    let known = known.into_iter().find(|known| known.eq_ignore_ascii_case(text));
    Some(known.unwrap_or(text).into())
}

fn read_headers(at: &At<'_>, common: &Common, faults: &mut Faults) -> Vec<Header> {
    let mut headers: Vec<Header> = Vec::new();
    for (key, at) in at.map(faults).all() {
        let name = key.name.to_ascii_lowercase();
        if !is_token(&name) {
            faults.error(key.place, &at.path, format!("`{}` is no name of a header", key.name));
            continue;
        }
        if FRAMING_HEADERS.contains(&name.as_str()) {
            let message = format!("`{name}` belongs to the connection and is set by Sitemon");
            faults.error(key.place, &at.path, message);
            continue;
        }
        if headers.iter().any(|header| *header.name == *name) {
            faults.error(key.place, &at.path, format!("`{name}` is given twice (case does not count)"));
            continue;
        }
        if at.node.is_null() {
            continue;
        }
        let Some((value, secret)) = secret_text(&at, common, faults) else { continue };
        if value.chars().any(|c| c.is_control() && c != '\t') {
            at.error(faults, "holds a control character, expected a text of one line");
            continue;
        }
        let value = value.trim();
        if name == "host" && (value.contains('@') || http::uri::Authority::try_from(value).is_err()) {
            at.error(faults, "is no host, expected a name or an address, and perhaps a port");
            continue;
        }
        let secret = secret || SECRET_HEADERS.contains(&name.as_str());
        headers.push(Header { name: name.into(), value: value.into(), secret });
    }
    headers
}

fn read_auth(at: &At<'_>, common: &Common, faults: &mut Faults) -> Option<Auth> {
    let mut fields = at.map(faults);
    let basic_at = fields.take("basic");
    let bearer_at = fields.take("bearer");
    let given = [&basic_at, &bearer_at].into_iter().flatten().count();
    let told = !fields.is_map() || fields.unknown().next().is_some();
    fields.finish(faults);
    let basic = basic_at.and_then(|at| {
        let mut fields = at.map(faults);
        let mut part = |name: &'static str, faults: &mut Faults| {
            let Some(at) = fields.take(name) else {
                fields.missing(faults, name, "a text");
                return None;
            };
            secret_text(&at, common, faults).map(|(text, _)| text)
        };
        let username = part("username", faults);
        let password = part("password", faults);
        fields.finish(faults);
        if let Some(username) = &username
            && username.contains(':')
        {
            at.error(faults, "has a colon in `username`, which RFC 7617 cannot carry");
        }
        Some(Auth::Basic { username: username?, password: password? })
    });
    let bearer = bearer_at.and_then(|at| {
        let (token, _) = secret_text(&at, common, faults)?;
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            at.error(faults, "is no token, expected printable ASCII without spaces");
            return None;
        }
        Some(Auth::Bearer(token))
    });
    if given != 1 {
        if given > 1 || !told {
            at.error(faults, "expected one of: basic, bearer");
        }
        return None;
    }
    basic.or(bearer)
}

fn read_resolver(at: &At<'_>, faults: &mut Faults) -> Option<Resolver> {
    match &at.node.value {
        Value::Scalar { text, .. } if &**text == "system" => Some(Resolver::System),
        Value::Scalar { text, .. } if &**text == "libc" => Some(Resolver::Libc),
        Value::List(items) if items.is_empty() => {
            at.expected(faults, "system, libc, or a list of ADDRESS:PORT");
            None
        }
        Value::Map(_) => {
            at.expected(faults, "system, libc, or a list of ADDRESS:PORT");
            None
        }
        _ => {
            let alone = matches!(at.node.value, Value::Scalar { .. });
            let servers: Vec<Option<SocketAddr>> = at
                .one_or_list(faults)
                .iter()
                .map(|at| {
                    let text = at.str(faults)?;
                    let server = text.parse().ok().or_else(|| Some(SocketAddr::new(text.parse::<IpAddr>().ok()?, 53)));
                    if server.is_none() {
                        let listed = "ADDRESS:PORT of a name server";
                        at.expected(faults, if alone { "system, libc, or a list of ADDRESS:PORT" } else { listed });
                    }
                    server
                })
                .collect();
            servers.into_iter().collect::<Option<Vec<_>>>().map(Resolver::Servers)
        }
    }
}

fn read_connect_to(at: &At<'_>, faults: &mut Faults) -> Option<ConnectTo> {
    let text = at.str(faults)?;
    let read = || {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Some(ConnectTo { host: address.ip().to_string(), port: address.port() });
        }
        let (host, port) = text.rsplit_once(':')?;
        let named = !host.is_empty() && !host.contains([':', '/', '[', ']', '@']) && url::Host::parse(host).is_ok();
        named.then_some(ConnectTo { host: host.to_owned(), port: port.parse().ok()? })
    };
    let found = read().filter(|to| to.port != 0);
    if found.is_none() {
        at.expected(faults, "ADDRESS:PORT");
    }
    found
}

fn read_proxy(at: &At<'_>, common: &Common, faults: &mut Faults) -> Option<Proxy> {
    // The text may hold credentials, so no message repeats it.
    const EXPECTED: &str = "is no proxy, expected http://HOST:PORT, socks5://HOST:PORT or socks5h://HOST:PORT";
    let (text, _) = secret_text(at, common, faults)?;
    let read = || {
        let url = Url::parse(text.trim()).ok()?;
        let (scheme, port) = match url.scheme() {
            "http" => (ProxyScheme::Http, 80),
            "socks5" => (ProxyScheme::Socks5, 1080),
            "socks5h" => (ProxyScheme::Socks5h, 1080),
            _ => return None,
        };
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return None;
        }
        let host = match url.host()? {
            url::Host::Domain("") => return None,
            url::Host::Domain(name) => name.to_owned(),
            url::Host::Ipv4(address) => address.to_string(),
            url::Host::Ipv6(address) => address.to_string(),
        };
        let credentials = (!url.username().is_empty() || url.password().is_some())
            .then(|| (percent_decoded(url.username()), percent_decoded(url.password().unwrap_or_default())));
        Some(Proxy { scheme, host, port: url.port().unwrap_or(port), credentials })
    };
    let found = read();
    if found.is_none() {
        at.error(faults, EXPECTED);
    }
    found
}

fn read_tls(at: &At<'_>, common: &Common, faults: &mut Faults) -> Tls {
    let mut fields = at.map(faults);
    let ca = fields.take("ca").and_then(|at| {
        let content = read_pem(&at, common, faults)?;
        let roots: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&content).collect();
        match roots {
            Ok(roots) if !roots.is_empty() => Some(content),
            _ => {
                at.error(faults, "holds no certificate, expected them in PEM");
                None
            }
        }
    });
    let certificate_at = fields.take("certificate");
    let key_at = fields.take("key");
    let certificate = certificate_at.as_ref().and_then(|at| read_pem(at, common, faults));
    let key = key_at.as_ref().and_then(|at| read_pem(at, common, faults));
    match (&certificate_at, &key_at) {
        (Some(at), None) => at.error(faults, "is given without `key`, expected both"),
        (None, Some(at)) => at.error(faults, "is given without `certificate`, expected both"),
        (Some(certificate_at), Some(key_at)) => {
            if let (Some(certificate), Some(key)) = (&certificate, &key) {
                check_identity(certificate_at, certificate, key_at, key, faults);
            }
        }
        (None, None) => {}
    }
    let server_name = fields.take("server_name").and_then(|at| {
        let text = at.str(faults)?;
        if ServerName::try_from(text).is_err() {
            at.expected(faults, "a name of a host, or an address");
            return None;
        }
        Some(text.to_owned())
    });
    let insecure = fields.take("insecure").and_then(|at| at.bool(faults)).unwrap_or_default();
    fields.finish(faults);
    Tls { ca, certificate, key, server_name, insecure }
}

/// A client's certificate and key, each in PEM: that they can be read, and belong together.
fn check_identity(certificate_at: &At<'_>, certificate: &[u8], key_at: &At<'_>, key: &[u8], faults: &mut Faults) {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate).collect();
    let chain = match chain {
        Ok(chain) if !chain.is_empty() => chain,
        _ => return certificate_at.error(faults, "holds no certificate, expected them in PEM"),
    };
    let Ok(key) = PrivateKeyDer::from_pem_slice(key) else {
        let message = if String::from_utf8_lossy(key).contains("ENCRYPTED PRIVATE KEY") {
            "holds an encrypted key, expected one without a password"
        } else {
            "holds no private key, expected one in PEM"
        };
        return key_at.error(faults, message);
    };
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    match rustls::sign::CertifiedKey::from_der(chain, key, &provider) {
        Ok(_) => {}
        Err(rustls::Error::InconsistentKeys(_)) => {
            key_at.error(faults, "does not belong to the certificate in `certificate`");
        }
        Err(error) => key_at.error(faults, format!("cannot be used with its certificate: {error}")),
    }
}

fn read_limits(at: &At<'_>, faults: &mut Faults, limits: &mut Limits) {
    let mut fields = at.map(faults);
    for (name, value) in [
        ("body_wire", &mut limits.body_wire),
        ("body_decoded", &mut limits.body_decoded),
        ("body_held", &mut limits.body_held),
        ("match", &mut limits.match_window),
        ("headers", &mut limits.headers),
    ] {
        let Some(at) = fields.take(name) else { continue };
        match at.size(faults) {
            Some(0) => at.expected(faults, "more than nothing"),
            Some(size) => *value = size,
            None => {}
        }
    }
    if let Some(value) = fields.take("idle_connections").and_then(|at| at.parse(faults, "a whole number")) {
        limits.idle_connections = value;
    }
    fields.finish(faults);
}

fn read_expect(at: &At<'_>, common: &Common, faults: &mut Faults, expect: &mut Expect) {
    let mut fields = at.map(faults);
    if let Some(at) = fields.take("status") {
        expect.status = at.one_or_list(faults).iter().filter_map(|at| read_status(at, faults)).collect();
        if matches!(&at.node.value, Value::List(items) if items.is_empty()) {
            at.error(faults, "is empty, expected a list such as [200-299]");
        }
    }
    if let Some(at) = fields.take("http_version") {
        let choices = [("1.0", HttpVersion::Http10), ("1.1", HttpVersion::Http11), ("2", HttpVersion::Http2)];
        expect.http_version = at.one_or_list(faults).iter().filter_map(|at| at.one_of(faults, &choices)).collect();
    }
    if let Some(at) = fields.take("headers") {
        for (key, at) in at.map(faults).all() {
            let name = key.name.to_ascii_lowercase();
            if !is_token(&name) {
                faults.error(key.place, &at.path, format!("`{}` is no name of a header", key.name));
            } else if let Some(pattern) = (!at.node.is_null()).then(|| read_pattern(&at, faults)).flatten() {
                expect.headers.push((name.into(), pattern));
            }
        }
    }
    if let Some(at) = fields.take("body") {
        read_expect_body(&at, faults, &mut expect.body);
    }
    expect.response_time = fields.take("response_time").and_then(|at| positive(&at, faults));
    if let Some(at) = fields.take("certificate") {
        expect.certificate = read_certificate(&at, faults);
        if common.secure == Some(false) {
            at.warning(faults, "is expected of a site at http://, which has no certificate of its own");
        }
    }
    fields.finish(faults);
}

fn read_status(at: &At<'_>, faults: &mut Faults) -> Option<(u16, u16)> {
    let text = at.str(faults)?.trim();
    let code = |text: &str| text.trim().parse().ok().filter(|code| (100..=999).contains(code));
    let read = || {
        if let Some(class) = text.strip_suffix("xx").or_else(|| text.strip_suffix("XX")) {
            let class: u16 = class.parse().ok().filter(|class| (1..=9).contains(class))?;
            return Some((class * 100, class * 100 + 99));
        }
        match text.split_once('-') {
            Some((first, last)) => Some((code(first)?, code(last)?)),
            None => code(text).map(|code| (code, code)),
        }
    };
    let found = read().filter(|(first, last)| first <= last);
    if found.is_none() {
        at.expected(faults, "a status such as 200, 200-299 or 2xx");
    }
    found
}

fn read_expect_body(at: &At<'_>, faults: &mut Faults, body: &mut ExpectBody) {
    let mut fields = at.map(faults);
    for (name, patterns) in
        [("matches", &mut body.matches), ("matches_any", &mut body.matches_any), ("absent", &mut body.absent)]
    {
        if let Some(at) = fields.take(name) {
            *patterns = at.one_or_list(faults).iter().filter_map(|at| read_pattern(at, faults)).collect();
        }
    }
    if let Some(at) = fields.take("extract") {
        for (key, at) in at.map(faults).all() {
            if at.node.is_null() {
                continue;
            }
            if key.name.is_empty() {
                faults.error(key.place, &at.path, "is empty, expected a name for what is extracted");
            } else if let Some(pattern) = read_pattern(&at, faults) {
                body.extract.push((key.name.as_ref().into(), pattern));
            }
        }
    }
    if let Some(at) = fields.take("json") {
        body.json = at.list(faults).iter().filter_map(|at| read_json(at, faults)).collect();
    }
    if let Some(at) = fields.take("size") {
        let mut fields = at.map(faults);
        body.size_min = fields.take("min").and_then(|at| at.size(faults));
        body.size_max = fields.take("max").and_then(|at| at.size(faults));
        fields.finish(faults);
        if let (Some(min), Some(max)) = (body.size_min, body.size_max)
            && min > max
        {
            at.error(faults, "has `min` above `max`");
        }
    }
    fields.finish(faults);
}

fn read_pattern(at: &At<'_>, faults: &mut Faults) -> Option<Pattern> {
    let text = at.str(faults)?;
    match check_pattern(text) {
        Ok(()) => Some(Pattern(text.into())),
        Err(message) if at.node.secret => {
            at.error(faults, message);
            None
        }
        Err(message) => {
            at.error(faults, format!("{} {message}", quoted(text)));
            None
        }
    }
}

fn read_json(at: &At<'_>, faults: &mut Faults) -> Option<ExpectJson> {
    let before = errors(faults);
    let mut fields = at.map(faults);
    let path = if let Some(at) = fields.take("path") {
        read_json_path(&at, faults)
    } else {
        fields.missing(faults, "path", "a JSONPath such as $.status");
        None
    };
    let mut test = JsonTest {
        equals: fields.take("equals").map(|at| at.node.to_json()),
        not_equals: fields.take("not_equals").map(|at| at.node.to_json()),
        matches: fields.take("matches").and_then(|at| read_pattern(&at, faults)),
        less: fields.take("less").and_then(|at| read_number(&at, faults)),
        greater: fields.take("greater").and_then(|at| read_number(&at, faults)),
        exists: fields.take("exists").and_then(|at| at.bool(faults)),
    };
    // A null counts as an absent key everywhere else; here it is a value like any other.
    for (name, value) in [("equals", &mut test.equals), ("not_equals", &mut test.not_equals)] {
        if at.node.get(name).is_some_and(sitemon_model::tree::Node::is_null) {
            *value = Some(serde_json::Value::Null);
        }
    }
    fields.finish(faults);
    let JsonTest { equals, not_equals, matches, less, greater, exists } = &test;
    let asks = equals.is_some() || not_equals.is_some() || matches.is_some() || less.is_some() || greater.is_some();
    if errors(faults) == before && !asks && exists.is_none() {
        at.error(faults, "asks nothing, expected one of: equals, not_equals, matches, less, greater, exists");
    }
    if errors(faults) == before && asks && *exists == Some(false) {
        at.error(faults, "asks something of a value that must not exist");
    }
    let (path_text, path) = path?;
    (errors(faults) == before).then(|| ExpectJson { path_text: path_text.into(), path, test })
}

fn read_json_path<'n>(at: &At<'n>, faults: &mut Faults) -> Option<(&'n str, serde_json_path::JsonPath)> {
    let text = at.str(faults)?;
    match serde_json_path::JsonPath::parse(text) {
        Ok(path) => Some((text, path)),
        Err(_) if !text.starts_with('$') => {
            at.expected(faults, "a JSONPath, which begins with `$`");
            None
        }
        Err(error) => {
            let after = error.position();
            at.error(
                faults,
                format!("{} is no JSONPath (RFC 9535), understood up to character {after}", at.node.describe()),
            );
            None
        }
    }
}

fn read_number(at: &At<'_>, faults: &mut Faults) -> Option<f64> {
    let value = at.parse::<f64>(faults, "a number")?;
    if !value.is_finite() {
        at.expected(faults, "a number");
        return None;
    }
    Some(value)
}

fn read_certificate(at: &At<'_>, faults: &mut Faults) -> Option<ExpectCertificate> {
    if matches!(at.node.value, Value::Scalar { .. }) {
        return Some(ExpectCertificate { degraded: Some(at.duration(faults)?), down: None });
    }
    let mut fields = at.map(faults);
    let degraded = fields.take("degraded").map(|at| (at.duration(faults), at));
    let down = fields.take("down").and_then(|at| at.duration(faults));
    fields.finish(faults);
    if let (Some((Some(degraded), at)), Some(down)) = (&degraded, down)
        && *degraded < down
    {
        at.error(faults, "is below `down`, expected the same or longer");
    }
    let degraded = degraded.and_then(|(value, _)| value);
    (degraded.is_some() || down.is_some()).then_some(ExpectCertificate { degraded, down })
}

/// A duration longer than nothing.
fn positive(at: &At<'_>, faults: &mut Faults) -> Option<Duration> {
    let value = at.duration(faults)?;
    if value.is_zero() {
        at.expected(faults, "a duration longer than nothing");
        return None;
    }
    Some(value)
}

/// A text that may be a secret: written out, from the environment, or `{file: PATH}`. Whether it came from
/// one of the latter two stands beside it.
fn secret_text(at: &At<'_>, common: &Common, faults: &mut Faults) -> Option<(String, bool)> {
    match &at.node.value {
        Value::Scalar { text, .. } => Some((text.to_string(), at.node.secret)),
        Value::Map(entries) if entries.len() == 1 && &*entries[0].0.name == "file" => {
            let at = at.map(faults).take("file")?;
            let content = read_file(&at, common, faults)?;
            let Ok(text) = std::str::from_utf8(&content) else {
                at.error(faults, "names a file that is not UTF-8");
                return None;
            };
            let text = text.strip_suffix('\n').map_or(text, |text| text.strip_suffix('\r').unwrap_or(text));
            Some((text.to_owned(), true))
        }
        _ => {
            at.expected(faults, "a text, or {file: PATH}");
            None
        }
    }
}

/// The content of the file that is named here.
fn read_file(at: &At<'_>, common: &Common, faults: &mut Faults) -> Option<Arc<[u8]>> {
    let path = at.str(faults)?;
    match common.files.read(at.node.place, path) {
        Ok(content) => Some(content),
        Err(error) => {
            // A key without its frame is one line of letters that could be a name; names of keys have an ending, or
            // begin at the root.
            let may_be_key = at.path.ends_with(".key") && !path.starts_with('/') && !path.contains('.');
            let told = is_path(path) && !at.node.secret && !may_be_key;
            at.error(faults, if told { error.to_string() } else { error.without_path() });
            None
        }
    }
}

/// PEM: the path of a file, `{file: PATH}`, or the PEM itself, which is how it comes from the environment.
fn read_pem(at: &At<'_>, common: &Common, faults: &mut Faults) -> Option<Arc<[u8]>> {
    match &at.node.value {
        Value::Scalar { text, .. } if is_pem(text) => Some(Arc::from(text.as_bytes())),
        Value::Scalar { .. } => read_file(at, common, faults),
        _ => secret_text(at, common, faults).map(|(text, _)| Arc::from(text.into_bytes())),
    }
}

/// RFC 9110, section 5.6.2.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        let hex = bytes.get(index + 1..index + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        if let Some(byte) = hex.filter(|_| bytes[index] == b'%').and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            decoded.push(byte);
            index += 3;
        } else {
            decoded.push(bytes[index]);
            index += 1;
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}
