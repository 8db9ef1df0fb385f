//! The way through a proxy: HTTP CONNECT and SOCKS5. A proxy that cannot be spoken to, or refuses us, is no
//! fault of the site.

use crate::http::conn::cause_in;
use crate::http::h1;
use crate::http::socket::Stream;
use crate::http::spec::Proxy;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sitemon_model::{Cause, Code, Phase};
use std::io;
use std::net::IpAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Bytes of a proxy's answer to CONNECT.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// What the tunnel leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target<'a> {
    Name(&'a str),
    Address(IpAddr),
}

/// The value of `Proxy-Authorization`.
pub(crate) fn authorization(proxy: &Proxy) -> Option<String> {
    let (user, password) = proxy.credentials.as_ref()?;
    Some(format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}"))))
}

/// Asks an HTTP proxy for a tunnel (RFC 9110, 9.3.6).
pub(crate) async fn connect(stream: &mut Stream, proxy: &Proxy, authority: &str) -> Result<(), Cause> {
    let mut request = format!("CONNECT {authority} HTTP/1.1\r\nhost: {authority}\r\n");
    if let Some(value) = authorization(proxy) {
        request.extend(["proxy-authorization: ", &value, "\r\n"]);
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).await.map_err(|error| broken(&error))?;
    let mut head = Vec::new();
    let mut looked = 0;
    loop {
        if !h1::may_begin(&head) {
            return Err(Cause::new(Code::ProxyUnreachable, "the proxy does not speak HTTP"));
        }
        let Some(end) = h1::head_end(&head, looked) else {
            looked = head.len();
            if head.len() > HEAD_BYTES_MAX {
                return Err(Cause::new(Code::ProxyUnreachable, "the proxy's answer is too long"));
            }
            if stream.read_buf(&mut head).await.map_err(|error| broken(&error))? == 0 {
                return Err(Cause::new(Code::ProxyClosed, "the proxy closed the connection"));
            }
            continue;
        };
        let answer = h1::parse_head(&head[..end])
            .map_err(|h1::Malformed(what)| Cause::new(Code::ProxyUnreachable, format!("the proxy's answer: {what}")))?;
        match answer.status {
            // An interim answer is none.
            100..=199 => {
                head.drain(..end);
                looked = 0;
            }
            200..=299 if head.len() > end => {
                return Err(Cause::new(Code::ProxyUnreachable, "the proxy sent more than an answer"));
            }
            200..=299 => return Ok(()),
            407 => return Err(authentication()),
            status => {
                let reason = super::judge::quoted(&answer.reason);
                return Err(Cause::new(Code::ProxyRefused, format!("the proxy answered {status} {reason}")));
            }
        }
    }
}

/// The cause of a 407.
pub(crate) fn authentication() -> Cause {
    Cause::new(Code::ProxyAuthentication, "the proxy refused our credentials")
}

/// Asks a SOCKS5 proxy for a connection (RFC 1928, RFC 1929).
pub(crate) async fn socks5(stream: &mut Stream, proxy: &Proxy, target: Target<'_>, port: u16) -> Result<(), Cause> {
    let hello: &[u8] = if proxy.credentials.is_some() { &[5, 2, 0, 2] } else { &[5, 1, 0] };
    stream.write_all(hello).await.map_err(|error| broken(&error))?;
    let mut choice = [0; 2];
    stream.read_exact(&mut choice).await.map_err(|error| broken(&error))?;
    match (choice, &proxy.credentials) {
        ([5, 0], _) => {}
        ([5, 2], Some((user, password))) => {
            let mut message = vec![1];
            for text in [user, password] {
                let length = u8::try_from(text.len()).map_err(|_| {
                    Cause::new(Code::ProxyAuthentication, "SOCKS5 takes at most 255 bytes of user and password each")
                })?;
                message.push(length);
                message.extend_from_slice(text.as_bytes());
            }
            stream.write_all(&message).await.map_err(|error| broken(&error))?;
            let mut answer = [0; 2];
            stream.read_exact(&mut answer).await.map_err(|error| broken(&error))?;
            if answer[1] != 0 {
                return Err(authentication());
            }
        }
        ([5, 0xff | 2], _) => return Err(authentication()),
        _ => return Err(Cause::new(Code::ProxyUnreachable, "the proxy does not speak SOCKS5")),
    }
    let mut request = vec![5, 1, 0];
    match target {
        Target::Address(IpAddr::V4(address)) => {
            request.push(1);
            request.extend_from_slice(&address.octets());
        }
        Target::Address(IpAddr::V6(address)) => {
            request.push(4);
            request.extend_from_slice(&address.octets());
        }
        Target::Name(name) => {
            let length = u8::try_from(name.len())
                .map_err(|_| Cause::new(Code::ProxyRefused, "SOCKS5 takes names of at most 255 bytes"))?;
            request.extend_from_slice(&[3, length]);
            request.extend_from_slice(name.as_bytes());
        }
    }
    request.extend_from_slice(&port.to_be_bytes());
    stream.write_all(&request).await.map_err(|error| broken(&error))?;
    let mut reply = [0; 4];
    stream.read_exact(&mut reply).await.map_err(|error| broken(&error))?;
    if reply[0] != 5 {
        return Err(Cause::new(Code::ProxyUnreachable, "the proxy does not speak SOCKS5"));
    }
    if reply[1] != 0 {
        let words = match reply[1] {
            1 => "general failure",
            2 => "not allowed by its rules",
            3 => "network unreachable",
            4 => "host unreachable",
            5 => "connection refused",
            6 => "time to live expired",
            7 => "command not supported",
            8 => "kind of address not supported",
            _ => "an unknown failure",
        };
        return Err(Cause::new(Code::ProxyRefused, format!("the proxy answered: {words}")));
    }
    // The address that it dials from is of no interest.
    let length = match reply[3] {
        1 => 4,
        4 => 16,
        3 => usize::from(stream.read_u8().await.map_err(|error| broken(&error))?),
        _ => return Err(Cause::new(Code::ProxyUnreachable, "the proxy does not speak SOCKS5")),
    };
    let mut rest = [0; 257];
    stream.read_exact(&mut rest[..length + 2]).await.map_err(|error| broken(&error))?;
    Ok(())
}

fn broken(error: &io::Error) -> Cause {
    cause_in(error, Phase::Proxy)
}
