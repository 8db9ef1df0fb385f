//! Where an answer sends the check next, and the cookies set on the way. Pure.

use crate::http::spec::IpChoice;
use crate::http::tls::server_name;
use sitemon_model::{Cause, Code};
use std::net::IpAddr;
use std::sync::Arc;
use url::{Host, Url};

/// Cookies kept for one check; what comes after is left aside.
const COOKIES_MAX: usize = 64;
/// Bytes of one cookie, name and value.
const COOKIE_BYTES_MAX: usize = 4096;
/// Bytes of a redirect's target.
const LOCATION_BYTES_MAX: usize = 16 << 10;

/// The next request of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Next {
    pub(crate) url: Url,
    pub(crate) method: Arc<str>,
    /// Whether the body goes along (to the site's own origin only).
    pub(crate) with_body: bool,
}

/// Whether an answer with this status and a `Location` is a redirect.
pub(crate) const fn redirects(status: u16) -> bool {
    matches!(status, 301 | 302 | 303 | 307 | 308)
}

/// Where a redirect leads. 303 turns into GET, and so do 301 and 302 for a POST, as browsers do; 307 and 308
/// keep the method and the body.
pub(crate) fn next(
    from: &Url,
    method: &Arc<str>,
    with_body: bool,
    status: u16,
    location: &[u8],
) -> Result<Next, Cause> {
    let invalid = |why: String| Cause::new(Code::HttpRedirectInvalid, why);
    // UTF-8 as it is, as browsers take it; other bytes as Latin-1.
    let text = match std::str::from_utf8(location) {
        Ok(text) => text.to_owned(),
        Err(_) => location.iter().map(|byte| char::from(*byte)).collect(),
    };
    let shown = super::judge::quoted(&text);
    if location.len() > LOCATION_BYTES_MAX {
        return Err(invalid(format!("redirect to {} bytes", location.len())));
    }
    let mut url = from.join(text.trim()).map_err(|error| invalid(format!("redirect to {shown}: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(invalid(format!("redirect to {shown}, expected http or https")));
    }
    if url.host_str().is_none_or(str::is_empty) || url.port() == Some(0) {
        return Err(invalid(format!("redirect to {shown}, which names no server")));
    }
    // A name that neither TLS nor the authority of a request can hold is nobody's.
    let host = url.host_str().unwrap_or_default();
    if http::uri::Authority::try_from(host).is_err() || url.scheme() == "https" && server_name(host).is_none() {
        return Err(invalid(format!("redirect to {shown}, whose host is no name of a server")));
    }
    // Who is named in the address of a redirect is not who we are.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_fragment(None);
    let to_get = match status {
        303 => &**method != "GET" && &**method != "HEAD",
        301 | 302 => &**method == "POST",
        _ => false,
    };
    Ok(if to_get {
        Next { url, method: "GET".into(), with_body: false }
    } else {
        Next { url, method: method.clone(), with_body: with_body && status != 303 }
    })
}

/// Whether the families that may be used leave out the address that a redirect leads to: it is as unreachable as
/// a name that has no address of them.
pub(crate) fn family(url: &Url, ip: IpChoice) -> Result<(), Cause> {
    match literal(url).filter(|address| ip.excludes(*address)) {
        None => Ok(()),
        Some(address) => {
            let (its, ours) = if address.is_ipv4() { (4, 6) } else { (6, 4) };
            let message =
                format!("redirect to {address}, an address of IPv{its}, and only IPv{ours} is used (request.ip)");
            Err(Cause::new(Code::HttpRedirectInvalid, message))
        }
    }
}

/// Whether two addresses have the same origin: scheme, host and port.
pub(crate) fn same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme() && a.host_str() == b.host_str() && a.port_or_known_default() == b.port_or_known_default()
}

/// The cookies of one check (RFC 6265), which live until it ends.
#[derive(Debug, Default)]
pub(crate) struct Cookies(Vec<Cookie>);

#[derive(Debug, PartialEq, Eq)]
struct Cookie {
    name: String,
    value: String,
    domain: String,
    /// Whether names below the domain get it too.
    below: bool,
    path: String,
    secure: bool,
}

impl Cookies {
    /// Takes in one `Set-Cookie`. What cannot be read, or is for somebody else, is left aside.
    pub(crate) fn set(&mut self, from: &Url, header: &[u8]) {
        let Ok(header) = std::str::from_utf8(header) else { return };
        let Some(host) = from.host_str() else { return };
        let mut parts = header.split(';');
        let Some((name, value)) = parts.next().and_then(|pair| pair.split_once('=')) else { return };
        let (name, value) = (name.trim(), value.trim());
        let bad = |text: &str| text.bytes().any(|byte| byte.is_ascii_control());
        if name.is_empty() || name.len() + value.len() > COOKIE_BYTES_MAX || bad(name) || bad(value) {
            return;
        }
        let mut cookie = Cookie {
            name: name.to_owned(),
            value: value.to_owned(),
            domain: host.to_owned(),
            below: false,
            path: default_path(from.path()).to_owned(),
            secure: false,
        };
        let mut gone = false;
        for part in parts {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            let value = value.trim();
            match key.trim().to_ascii_lowercase().as_str() {
                "domain" if !value.is_empty() => {
                    let domain = value.trim_start_matches('.').to_ascii_lowercase();
                    // For a host of its own, or a part of it with a dot in it; an address stands for itself.
                    let fits = domain == host
                        || domain.contains('.') && host.parse::<IpAddr>().is_err() && is_below(host, &domain);
                    if !fits {
                        return;
                    }
                    cookie.below = domain != host || host.parse::<IpAddr>().is_err();
                    cookie.domain = domain;
                }
                "path" if value.starts_with('/') => value.clone_into(&mut cookie.path),
                "secure" => cookie.secure = true,
                // A check is short: what has not ended at its beginning does not end in it.
                "max-age" => gone = value.parse::<i64>().is_ok_and(|seconds| seconds <= 0),
                _ => {}
            }
        }
        if cookie.secure && from.scheme() != "https" {
            return;
        }
        self.0
            .retain(|known| (&known.name, &known.domain, &known.path) != (&cookie.name, &cookie.domain, &cookie.path));
        if !gone && self.0.len() < COOKIES_MAX {
            self.0.push(cookie);
        }
    }

    /// The value of `Cookie` for a request; `None` where there is none for it.
    pub(crate) fn header(&self, to: &Url) -> Option<String> {
        if self.0.is_empty() {
            return None;
        }
        let host = to.host_str()?;
        let mut fits: Vec<&Cookie> = self
            .0
            .iter()
            .filter(|cookie| {
                (cookie.domain == host || cookie.below && is_below(host, &cookie.domain))
                    && path_fits(to.path(), &cookie.path)
                    && (!cookie.secure || to.scheme() == "https")
            })
            .collect();
        // RFC 6265, 5.4: longer paths first, then in the order of their coming.
        fits.sort_by_key(|cookie| std::cmp::Reverse(cookie.path.len()));
        let pairs: Vec<String> = fits.iter().map(|cookie| format!("{}={}", cookie.name, cookie.value)).collect();
        (!pairs.is_empty()).then(|| pairs.join("; "))
    }
}

fn is_below(host: &str, domain: &str) -> bool {
    host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))
}

fn default_path(path: &str) -> &str {
    match path.rfind('/') {
        Some(at) if at > 0 => &path[..at],
        _ => "/",
    }
}

fn path_fits(path: &str, cookie: &str) -> bool {
    path.strip_prefix(cookie).is_some_and(|rest| rest.is_empty() || cookie.ends_with('/') || rest.starts_with('/'))
}

/// The URL's host as an address, where it is one.
pub(crate) fn literal(url: &Url) -> Option<IpAddr> {
    match url.host()? {
        Host::Domain(_) => None,
        Host::Ipv4(address) => Some(address.into()),
        Host::Ipv6(address) => Some(address.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(method: &str, status: u16, location: &[u8], expected: &str) {
        let from = Url::parse("https://a.example/x/y?z").unwrap();
        let next = next(&from, &method.into(), true, status, location);
        let told = match next {
            Ok(next) => format!("{} {}{}", next.method, next.url, if next.with_body { " body" } else { "" }),
            Err(cause) => cause.to_string(),
        };
        assert_eq!(told, expected);
    }

    #[test]
    fn targets() {
        check("GET", 302, b"/b", "GET https://a.example/b body");
        check("POST", 301, b"b", "GET https://a.example/x/b");
        check("POST", 303, b"b", "GET https://a.example/x/b");
        check("PUT", 303, b"b", "GET https://a.example/x/b");
        check("HEAD", 303, b"b", "HEAD https://a.example/x/b");
        check("PUT", 302, b"b", "PUT https://a.example/x/b body");
        check("POST", 307, b"//b.example", "POST https://b.example/ body");
        check("GET", 308, "/ä".as_bytes(), "GET https://a.example/%C3%A4 body");
        check("GET", 308, b"/\xe4", "GET https://a.example/%C3%A4 body");
        check("GET", 302, b"http://u:p@c.example/#f", "GET http://c.example/ body");
        check("GET", 302, b"", "GET https://a.example/x/y?z body");
        check("GET", 302, b"ftp://c/", "http.redirect_invalid redirect to `ftp://c/`, expected http or https");
        check(
            "GET",
            302,
            b"https://a!b/",
            "http.redirect_invalid redirect to `https://a!b/`, whose host is no name of a server",
        );
        check(
            "GET",
            302,
            b"http://a\"b/",
            "http.redirect_invalid redirect to `http://a\"b/`, whose host is no name of a server",
        );
        check("GET", 302, b"http://[::1]:8080/", "GET http://[::1]:8080/ body");
        check("GET", 302, b"https://a_b.example./", "GET https://a_b.example./ body");
        check("GET", 302, b"http://[x", "http.redirect_invalid redirect to `http://[x`: invalid IPv6 address");
    }

    #[test]
    fn families() {
        let told = |url: &str, ip| family(&Url::parse(url).unwrap(), ip).map_err(|cause| cause.to_string());
        assert_eq!(told("http://192.0.2.1/", IpChoice::V4), Ok(()));
        assert_eq!(told("http://a.example/", IpChoice::V6), Ok(()));
        assert_eq!(told("http://[2001:db8::1]/", IpChoice::Each), Ok(()));
        let expected =
            "http.redirect_invalid redirect to 192.0.2.1, an address of IPv4, and only IPv6 is used (request.ip)";
        assert_eq!(told("http://192.0.2.1/", IpChoice::V6), Err(expected.to_owned()));
    }

    #[test]
    fn cookies() {
        let mut cookies = Cookies::default();
        let from = Url::parse("https://www.a.example/x/y").unwrap();
        for header in [
            "a=1",
            "b=2; Path=/",
            "c=3; Domain=a.example",
            "d=4; Domain=example",
            "e=5; Domain=b.example",
            "f=6; Secure; Path=/",
        ] {
            cookies.set(&from, header.as_bytes());
        }
        let of = |cookies: &Cookies, url: &str| cookies.header(&Url::parse(url).unwrap()).unwrap_or_default();
        assert_eq!(of(&cookies, "https://www.a.example/x/z"), "a=1; c=3; b=2; f=6");
        assert_eq!(of(&cookies, "https://www.a.example/"), "b=2; f=6");
        assert_eq!(of(&cookies, "http://www.a.example/"), "b=2");
        assert_eq!(of(&cookies, "https://other.a.example/x/"), "c=3");
        assert_eq!(of(&cookies, "https://nota.example/x/"), "");
        cookies.set(&from, b"b=; Path=/; Max-Age=0");
        assert_eq!(of(&cookies, "http://www.a.example/"), "");
    }
}
