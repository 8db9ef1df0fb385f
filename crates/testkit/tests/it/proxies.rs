//! The faulty proxy and the relay, by hand.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use sitemon_testkit::{FaultyProxy, FaultySite, ProxyFault, Relay, Scheme, Weather};

use crate::client::{Heard, LONG, PATIENCE, ask, connect, connect_for, get, hear};

/// Brief where the proxy is to hang.
fn patience_with(proxy: &FaultyProxy) -> Duration {
    if proxy.command().name.ends_with("hang") { PATIENCE } else { LONG }
}

/// Asks for a tunnel by CONNECT.
fn by_connect(proxy: &FaultyProxy, to: &str, headers: &str) -> (TcpStream, Heard) {
    let mut stream = connect_for(proxy.address(), patience_with(proxy));
    let _ = stream.write_all(format!("CONNECT {to} HTTP/1.1\r\nhost: {to}\r\n{headers}\r\n").as_bytes());
    let heard = hear(&mut stream, 10);
    (stream, heard)
}

/// Asks for a tunnel by SOCKS5; what the proxy said, and how it ended.
fn by_socks(proxy: &FaultyProxy, name: &str, port: u16, login: Option<(&str, &str)>) -> (TcpStream, Heard) {
    let mut stream = connect_for(proxy.address(), patience_with(proxy));
    let mut heard = Heard { bytes: Vec::new(), error: None };
    let mut exchange = |stream: &mut TcpStream, send: &[u8], most: usize| {
        let mut buffer = vec![0; most];
        let result = stream.write_all(send).and_then(|()| stream.read_exact(&mut buffer));
        match &result {
            Ok(()) => heard.bytes.extend(&buffer),
            Err(error) => heard.error = Some(error.kind()),
        }
        result.is_ok()
    };
    let method = if login.is_some() { 2 } else { 0 };
    let mut go = exchange(&mut stream, &[5, 1, method], 2);
    if let (true, Some((user, password))) = (go, login) {
        let mut send = vec![1, user.len() as u8];
        send.extend(user.bytes());
        send.push(password.len() as u8);
        send.extend(password.bytes());
        go = exchange(&mut stream, &send, 2);
    }
    if go {
        let mut send = vec![5, 1, 0, 3, name.len() as u8];
        send.extend(name.bytes());
        send.extend(port.to_be_bytes());
        exchange(&mut stream, &send, 10);
    }
    (stream, heard)
}

#[test]
fn a_good_proxy_carries_all_three_ways() {
    let site = FaultySite::start().unwrap();
    let proxy = FaultyProxy::start().unwrap();
    let port = site.address(Scheme::Http).port();
    let (stream, heard) = by_connect(&proxy, &format!("shop.test:{port}"), "");
    assert!(heard.text().starts_with("HTTP/1.1 200"), "{}", heard.text());
    assert!(ask(stream, "/page").text().contains("200 OK"));
    let (stream, heard) = by_socks(&proxy, "shop.test", port, None);
    assert_eq!(heard.bytes[..4], [5, 0, 5, 0]);
    assert!(ask(stream, "/page").text().contains("200 OK"));
    let heard = get(proxy.address(), &format!("http://shop.test:{port}/echo/absolute?x=1"));
    assert!(heard.text().contains("\"target\":\"/echo/absolute?x=1\""), "{}", heard.text());
    let log = proxy.log();
    let asked: Vec<&str> = log.iter().map(|through| through.method.as_str()).collect();
    assert_eq!(asked, ["CONNECT", "SOCKS5", "GET"]);
    assert_eq!((log[1].target.clone(), log[1].by_name), (format!("shop.test:{port}"), true));
}

#[test]
fn credentials_are_asked_for() {
    let site = FaultySite::start().unwrap();
    let proxy = FaultyProxy::with_credentials("user", "secret").unwrap();
    let port = site.address(Scheme::Http).port();
    let to = format!("127.0.0.1:{port}");
    assert!(by_connect(&proxy, &to, "").1.text().starts_with("HTTP/1.1 407"));
    let good = "proxy-authorization: Basic dXNlcjpzZWNyZXQ=\r\n";
    assert!(by_connect(&proxy, &to, good).1.text().starts_with("HTTP/1.1 200"));
    assert_eq!(by_socks(&proxy, "127.0.0.1", port, None).1.bytes, [5, 0xff]);
    assert_eq!(by_socks(&proxy, "127.0.0.1", port, Some(("user", "wrong"))).1.bytes, [5, 2, 1, 1]);
    assert_eq!(by_socks(&proxy, "127.0.0.1", port, Some(("user", "secret"))).1.bytes[..6], [5, 2, 1, 0, 5, 0]);
    let offered: Vec<Option<String>> = proxy.log().into_iter().map(|through| through.credentials).collect();
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(offered, [None, some("user:secret"), some("user:wrong"), some("user:secret")]);
}

#[test]
fn every_proxy_fault_is_seen_on_the_wire() {
    let site = FaultySite::start().unwrap();
    let proxy = FaultyProxy::start().unwrap();
    let port = site.address(Scheme::Http).port();
    for fault in ProxyFault::ALL {
        proxy.set(fault.name).unwrap();
        for socks in [false, true] {
            if fault.expected[usize::from(socks)].is_empty() {
                continue;
            }
            let begun = Instant::now();
            let login = (fault.name == "proxy-password").then_some(("any", "thing"));
            let (mut stream, heard) = if socks {
                by_socks(&proxy, "shop.test", port, login)
            } else {
                by_connect(&proxy, &format!("shop.test:{port}"), "")
            };
            let took = begun.elapsed();
            let stands = if socks {
                heard.bytes.get(3) == Some(&0)
            } else {
                heard.text().starts_with("HTTP/1.1 200 Connection")
            };
            // What a request through the tunnel meets.
            let mut through = || ask(&mut stream, "/page");
            let ok = match fault.name {
                "proxy-good" => stands && through().text().contains("200 OK"),
                "proxy-slow" => stands && took >= Duration::from_millis(200),
                "proxy-tunnel-close" => stands && through().error.is_none() && through().bytes.is_empty(),
                "proxy-tunnel-reset" => stands && through().error.is_some_and(|error| error != ErrorKind::WouldBlock),
                "proxy-tunnel-hang" => stands && through().error == Some(ErrorKind::WouldBlock),
                "proxy-refuse" if socks => heard.bytes[2..4] == [5, 5],
                "proxy-refuse" => heard.text().starts_with("HTTP/1.1 502"),
                "proxy-password" if socks => heard.bytes == [5, 2, 1, 1],
                "proxy-password" => heard.text().starts_with("HTTP/1.1 407"),
                "proxy-method" => heard.bytes == [5, 0xff],
                "proxy-garbage" => !stands && (heard.bytes.first() == Some(&0xfe)),
                "proxy-endless" => hear(&mut stream, 1 << 20).bytes.len() >= 1 << 20,
                name if name.ends_with("close") => {
                    !stands && matches!(heard.error, None | Some(ErrorKind::UnexpectedEof)) && heard.bytes.len() < 20
                }
                name if name.ends_with("reset") => {
                    // By CONNECT part of an answer may have come first.
                    let end = heard.error.or_else(|| hear(&mut stream, 1).error);
                    !stands && matches!(end, Some(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe))
                }
                name if name.ends_with("hang") => {
                    let end = heard.error.or_else(|| hear(&mut stream, 1).error);
                    !stands && end == Some(ErrorKind::WouldBlock)
                }
                other => panic!("{other} has no test"),
            };
            assert!(ok, "{} (socks: {socks}): {heard:?} after {took:?}", fault.name);
        }
    }
}

#[test]
fn a_relay_delays_throttles_falls_silent_and_cuts() {
    let site = FaultySite::start().unwrap();
    let relay = Relay::start(site.address(Scheme::Http)).unwrap();
    let address: SocketAddr = relay.address();
    assert!(get(address, "/page").text().contains("200 OK"));
    let timed = || {
        let begun = Instant::now();
        let heard = get(address, "/bytes?size=20000");
        assert_eq!((heard.error, heard.body().len()), (None, 20_000));
        begun.elapsed()
    };
    relay.set(Weather { delay: Duration::from_millis(50), ..Weather::default() });
    assert!(timed() >= Duration::from_millis(100));
    relay.set(Weather { bytes_per_second: 50_000, ..Weather::default() });
    assert!(timed() >= Duration::from_millis(250));
    relay.set(Weather { cut_after: Some(5000), ..Weather::default() });
    let heard = get(address, "/bytes?size=20000");
    assert_eq!((heard.bytes.len(), heard.error), (5000, Some(ErrorKind::ConnectionReset)));
    relay.set(Weather { silent: true, ..Weather::default() });
    assert_eq!(ask(connect_for(address, PATIENCE), "/page").error, Some(ErrorKind::WouldBlock));
    relay.set(Weather { refuse: true, ..Weather::default() });
    let refused = TcpStream::connect(address).map_err(|error| error.kind());
    assert!(
        refused.map_or_else(|kind| kind == ErrorKind::ConnectionReset, |stream| ask(stream, "/page").error.is_some())
    );
    relay.set(Weather::default());
    let mut stream = connect(address);
    assert!(stream.write_all(b"GET /request-hang HTTP/1.1\r\n\r\n").is_ok());
    while site.seen("/request-hang").is_empty() {
        std::thread::sleep(Duration::from_millis(1));
    }
    relay.cut();
    assert_eq!(hear(&mut stream, 1).error, Some(ErrorKind::ConnectionReset));
    assert!(relay.carried().0 >= 7);
}
