//! Shows `request` and `expect` in native form, as they are in force.

use super::{Auth, Expect, ExpectBody, HttpChoice, IpChoice, JsonTest, Pattern, ProxyScheme, Request, Resolver, Tls};
use serde_json::{Map, Value, json};
use sitemon_model::tree::is_pem;
use sitemon_model::unit::{show_duration, show_size};
use std::net::SocketAddr;
use std::sync::Arc;

/// What stands in place of a secret.
pub const HIDDEN: &str = "(hidden)";

/// `request` and `expect`, defaults filled in, secrets hidden. What was read from a file is shown by its size.
pub fn show(request: &Request, expect: &Expect) -> Map<String, Value> {
    let mut shown = Map::new();
    shown.insert("request".to_owned(), Value::Object(show_request(request)));
    shown.insert("expect".to_owned(), Value::Object(show_expect(expect)));
    shown
}

fn show_request(request: &Request) -> Map<String, Value> {
    let mut shown = Map::new();
    let mut put = |name: &str, value: Value| shown.insert(name.to_owned(), value);
    put("method", json!(&*request.method));
    if !request.headers.is_empty() {
        let headers: Map<String, Value> = request
            .headers
            .iter()
            .map(|header| (header.name.to_string(), json!(if header.secret { HIDDEN } else { &*header.value })))
            .collect();
        put("headers", Value::Object(headers));
    }
    if !request.body.is_empty() {
        put("body", content(&request.body));
    }
    match &request.auth {
        Some(Auth::Basic { .. }) => put("auth", json!({"basic": {"username": HIDDEN, "password": HIDDEN}})),
        Some(Auth::Bearer(_)) => put("auth", json!({"bearer": HIDDEN})),
        None => None,
    };
    put("redirects", json!(request.redirects));
    put(
        "http",
        json!(match request.http {
            HttpChoice::Auto => "auto",
            HttpChoice::Http1 => "1.1",
            HttpChoice::Http2 => "2",
        }),
    );
    put(
        "ip",
        json!(match request.ip {
            IpChoice::Any => "any",
            IpChoice::V4 => "4",
            IpChoice::V6 => "6",
            IpChoice::Each => "each",
        }),
    );
    put(
        "resolver",
        match &request.resolver {
            Resolver::System => json!("system"),
            Resolver::Libc => json!("libc"),
            Resolver::Servers(servers) => json!(servers.iter().map(SocketAddr::to_string).collect::<Vec<_>>()),
        },
    );
    put("dns_cache", json!(if request.dns_cache { "ttl" } else { "none" }));
    if let Some(to) = &request.connect_to {
        put("connect_to", json!(host_and_port(&to.host, to.port)));
    }
    if let Some(proxy) = &request.proxy {
        let scheme = match proxy.scheme {
            ProxyScheme::Http => "http",
            ProxyScheme::Socks5 => "socks5",
            ProxyScheme::Socks5h => "socks5h",
        };
        let user = if proxy.credentials.is_some() { format!("{HIDDEN}@") } else { String::new() };
        put("proxy", json!(format!("{scheme}://{user}{}", host_and_port(&proxy.host, proxy.port))));
    }
    put("connection", json!(if request.reuse { "reuse" } else { "new" }));
    put("tls", Value::Object(show_tls(&request.tls)));
    put("connect_timeout", json!(show_duration(request.connect_timeout)));
    let limits = &request.limits;
    put(
        "limits",
        json!({
            "body_wire": show_size(limits.body_wire),
            "body_decoded": show_size(limits.body_decoded),
            "body_held": show_size(limits.body_held),
            "match": show_size(limits.match_window),
            "headers": show_size(limits.headers),
            "idle_connections": limits.idle_connections,
        }),
    );
    shown
}

fn show_tls(tls: &Tls) -> Map<String, Value> {
    let mut shown = Map::new();
    // What is in PEM says nothing to people, and a certificate may have its key beside it.
    for (name, pem) in [("ca", &tls.ca), ("certificate", &tls.certificate), ("key", &tls.key)] {
        if pem.is_some() {
            shown.insert(name.to_owned(), json!(HIDDEN));
        }
    }
    if let Some(name) = &tls.server_name {
        shown.insert("server_name".to_owned(), json!(name));
    }
    shown.insert("insecure".to_owned(), json!(tls.insecure));
    shown
}

fn show_expect(expect: &Expect) -> Map<String, Value> {
    let mut shown = Map::new();
    let status: Vec<Value> = expect
        .status
        .iter()
        .map(|(first, last)| if first == last { json!(first) } else { json!(format!("{first}-{last}")) })
        .collect();
    shown.insert("status".to_owned(), Value::Array(status));
    if !expect.http_version.is_empty() {
        let versions: Vec<&str> = expect.http_version.iter().map(|version| version.as_str()).collect();
        shown.insert("http_version".to_owned(), json!(versions));
    }
    if !expect.headers.is_empty() {
        shown.insert("headers".to_owned(), named(&expect.headers));
    }
    let body = show_body(&expect.body);
    if !body.is_empty() {
        shown.insert("body".to_owned(), Value::Object(body));
    }
    if let Some(limit) = expect.response_time {
        shown.insert("response_time".to_owned(), json!(show_duration(limit)));
    }
    if let Some(certificate) = expect.certificate {
        let mut parts = Map::new();
        for (name, left) in [("degraded", certificate.degraded), ("down", certificate.down)] {
            if let Some(left) = left {
                parts.insert(name.to_owned(), json!(show_duration(left)));
            }
        }
        shown.insert("certificate".to_owned(), Value::Object(parts));
    }
    shown
}

fn show_body(body: &ExpectBody) -> Map<String, Value> {
    let mut shown = Map::new();
    for (name, patterns) in [("matches", &body.matches), ("matches_any", &body.matches_any), ("absent", &body.absent)] {
        if !patterns.is_empty() {
            let patterns: Vec<&str> = patterns.iter().map(|pattern| &*pattern.0).collect();
            shown.insert(name.to_owned(), json!(patterns));
        }
    }
    if !body.extract.is_empty() {
        shown.insert("extract".to_owned(), named(&body.extract));
    }
    if !body.json.is_empty() {
        let tests: Vec<Value> =
            body.json.iter().map(|expected| show_json(&expected.path_text, &expected.test)).collect();
        shown.insert("json".to_owned(), Value::Array(tests));
    }
    let mut size = Map::new();
    for (name, bytes) in [("min", body.size_min), ("max", body.size_max)] {
        if let Some(bytes) = bytes {
            size.insert(name.to_owned(), json!(show_size(bytes)));
        }
    }
    if !size.is_empty() {
        shown.insert("size".to_owned(), Value::Object(size));
    }
    shown
}

fn show_json(path: &str, test: &JsonTest) -> Value {
    let mut shown = Map::new();
    shown.insert("path".to_owned(), json!(path));
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            shown.insert(name.to_owned(), value);
        }
    };
    put("equals", test.equals.clone());
    put("not_equals", test.not_equals.clone());
    put("matches", test.matches.as_ref().map(|pattern| json!(&*pattern.0)));
    put("less", test.less.map(|value| json!(value)));
    put("greater", test.greater.map(|value| json!(value)));
    put("exists", test.exists.map(|value| json!(value)));
    Value::Object(shown)
}

fn named(patterns: &[(Arc<str>, Pattern)]) -> Value {
    Value::Object(patterns.iter().map(|(name, pattern)| (name.to_string(), json!(&*pattern.0))).collect())
}

/// Bytes of a body that is shown as it is.
const SHOWN_BYTES_MAX: usize = 64 << 10;

/// A text as it is, so that what is shown can be read again; what is no text, or a very long one, by its size.
fn content(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) if is_pem(text) => json!(HIDDEN),
        Ok(text) if bytes.len() <= SHOWN_BYTES_MAX => json!(text),
        _ => json!(format!("({} bytes)", bytes.len())),
    }
}

fn host_and_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}
