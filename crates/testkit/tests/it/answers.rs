//! Every answer by HTTP/1.1, byte by byte.

use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use sitemon_testkit::{Fault, FaultySite, Scheme, Stage};

use crate::client::{Heard, LONG, PATIENCE, ask, config, connect, connect_for, get, hear, secure, secure_for};

/// Reads an answer that may have no end: a megabyte of it is enough.
fn hear_of(site: &FaultySite, target: &str, patience: Duration) -> Heard {
    let mut stream = connect_for(site.address(Scheme::Http), patience);
    let request = format!("GET {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    hear(&mut stream, 1 << 20)
}

/// Takes the chunks out of their frames; nothing if they are not well formed up to the end.
fn unchunk(mut body: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    loop {
        let line = body.windows(2).position(|two| two == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&body[..line]).ok()?, 16).ok()?;
        body = body.get(line + 2..)?;
        if size == 0 {
            return Some(out);
        }
        out.extend(body.get(..size)?);
        (body.get(size..size + 2)? == b"\r\n").then_some(())?;
        body = &body[size + 2..];
    }
}

/// The content-length, where there is a good one.
fn declared(text: &str) -> Option<usize> {
    text.lines().find_map(|line| line.strip_prefix("content-length: "))?.trim().parse().ok()
}

fn gunzip(body: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut out = Vec::new();
    flate2::read::MultiGzDecoder::new(body).read_to_end(&mut out)?;
    Ok(out)
}

fn is_page(bytes: &[u8]) -> bool {
    String::from_utf8_lossy(bytes).trim_end().ends_with("</html>")
}

/// Whether a fault of the table shows itself in what was heard.
fn shows(site: &FaultySite, fault: &Fault, heard: &Heard, took: Duration) -> bool {
    let text = heard.text();
    let clean = heard.error.is_none();
    let good = clean && text.starts_with("HTTP/1.1 200 OK\r\n");
    let start = text.split("\r\n\r\n").next().unwrap_or_default().to_owned() + "\r\n";
    let body = if text.contains("\r\n\r\n") { heard.body() } else { &[] };
    let has = |line: &str| start.contains(&format!("\r\n{line}\r\n"));
    let page = good && is_page(body) && declared(&text) == Some(body.len());
    let redirects = |status: u16, to: &str| {
        clean && text.starts_with(&format!("HTTP/1.1 {status} ")) && has(&format!("location: {to}"))
    };
    let endless = heard.bytes.len() >= 1 << 20 && clean;
    match fault.name {
        "page" | "changing" | "flap" | "head-latin1" => {
            page && (fault.name != "head-latin1" || heard.bytes.windows(4).any(|four| four == b"caf\xe9"))
        }
        "bytes" => good && body.len() == 10_000 && body.iter().all(|&byte| byte == b'x'),
        "json" => good && body.starts_with(b"{\"status\":\"ok\""),
        "echo" => good && text.contains("\"host\":\"localhost\"") && text.contains("\"method\":\"GET\""),
        "delay" => page && took >= Duration::from_millis(100),
        "interim" => {
            clean && text.starts_with(&"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(3)) && text.contains("HTTP/1.1 200 OK")
        }
        "trailers" => good && unchunk(body).is_some_and(|body| is_page(&body)) && text.ends_with("x-took: 5\r\n\r\n"),
        "empty" => clean && text.starts_with("HTTP/1.1 204 ") && !text.contains("content-length") && body.is_empty(),
        "redirect" => redirects(302, "/page"),
        "redirect-chain" => redirects(302, "/redirect-chain?n=2&code=302") && has("set-cookie: hop-3=yes; Path=/"),
        "redirect-utf8" => redirects(302, "/page/größe-日本"),
        "redirect-cookie" => redirects(302, "/redirect-cookie?step=2") && has("set-cookie: session=open; Path=/"),
        "redirect-loop" => redirects(302, "/redirect-loop"),
        "redirect-invalid" => redirects(302, "http://[bad"),
        "redirect-scheme" => redirects(302, "ftp://localhost/"),
        "members" => {
            let members = body.windows(3).filter(|three| three == b"\x1f\x8b\x08").count();
            good && members == 3 && gunzip(body).is_ok_and(|body| is_page(&body))
        }
        "keep" | "stale" | "http-10" => clean && text.contains(" 200 OK") && is_page(body),
        "short-length" => good && is_page(body) && declared(&text) == Some(body.len() - 10),
        "status" => clean && text.starts_with("HTTP/1.1 503 Service Unavailable\r\n"),
        "status-999" => clean && text.starts_with("HTTP/1.1 999 Unknown\r\n"),
        "request-close" => clean && text.is_empty(),
        "request-reset" => heard.error == Some(ErrorKind::ConnectionReset) && text.is_empty(),
        "request-hang" => heard.error == Some(ErrorKind::WouldBlock) && text.is_empty(),
        "headers-close" => clean && text.ends_with("text/ht"),
        "headers-reset" => heard.error == Some(ErrorKind::ConnectionReset) && text.ends_with("text/ht"),
        "headers-hang" => heard.error == Some(ErrorKind::WouldBlock) && text.ends_with("text/ht"),
        "body-close" | "body-cut" => good && body.len() == 1000 && declared(&text) == Some(3000),
        "body-reset" => heard.error == Some(ErrorKind::ConnectionReset) && body.len() == 1000,
        "body-hang" => heard.error == Some(ErrorKind::WouldBlock) && body.len() == 1000,
        "slow-headers" => heard.error == Some(ErrorKind::WouldBlock) && text == "H",
        "slow-body" => heard.error == Some(ErrorKind::WouldBlock) && body.len() == 1,
        "until-close" | "until-cut" => good && is_page(body) && !text.contains("content-length"),
        "long-length" => good && is_page(body) && declared(&text) == Some(body.len() + 1000),
        "length-twice" => clean && start.matches("content-length: ").count() == 2,
        "length-bad" => has("content-length: -1"),
        "length-huge" => has("content-length: 99999999999999999999999"),
        "length-and-chunked" => has("content-length: 5") && unchunk(body).is_some_and(|body| is_page(&body)),
        "te-unknown" => has("transfer-encoding: rot13"),
        "chunk-size" => body.starts_with(b"5\r\nhello\r\nxyz\r\n"),
        "chunk-huge" => body.starts_with(b"5\r\nhello\r\nfffffffffffffffffffff\r\n"),
        "chunk-large" => body.starts_with(b"1000000000000000\r\n"),
        "chunk-crlf" => body.starts_with(b"5\r\nhello5\r\n"),
        "chunk-end" => clean && body == b"5\r\nhello\r\n5\r\nworld\r\n",
        "chunk-extension" => endless && body.starts_with(b"5;name=xxx"),
        "chunk-trailers" => endless && body.starts_with(b"5\r\nhello\r\n0\r\nx-trailer: value\r\n"),
        "head-fold" => start.contains("\r\nx-folded: one\r\n two\r\n"),
        "head-name" => has("bad name: value"),
        "head-colon" => has("no colon here"),
        "head-space" => has("x-space : value"),
        "head-nul" => has("x-nul: one\0two"),
        "head-lf" => !text.contains('\r') && is_page(&heard.bytes),
        "status-line" => text.starts_with("HTTP/1.1 abc Bad\r\n"),
        "http-09" => clean && text.starts_with("<!DOCTYPE html>"),
        "http-3" => text.starts_with("HTTP/3.0 200 OK\r\n"),
        "status-99" => text.starts_with("HTTP/1.1 99 Short\r\n"),
        "switch" => text.starts_with("HTTP/1.1 101 ") && heard.error == Some(ErrorKind::WouldBlock),
        "endless-body" => endless && text.contains("\r\n4000\r\nxxx"),
        "endless-drip" => heard.error.is_none() && body.len() >= 12 && body.starts_with(b"1\r\nx\r\n1\r\nx\r\n"),
        "endless-headers" => endless && !text.contains("\r\n\r\n") && text.contains("x-header-999: value"),
        "endless-header" => endless && start.lines().count() == 2,
        "endless-status" => endless && !text.contains('\n'),
        "endless-interim" => endless && !text.contains("HTTP/1.1 200"),
        "many-headers" => clean && start.lines().count() >= 10_000,
        "bomb" => has("content-encoding: gzip") && body.len() > 100_000 && body.len() < 200_000,
        "zstd-window" => has("content-encoding: zstd") && body.starts_with(&[0x28, 0xb5, 0x2f, 0xfd, 0, 17 << 3]),
        // The first byte says "large window", the next that it has 30 bits.
        "br-window" => has("content-encoding: br") && body[0] == 0x11 && body[1] & 0x3f == 30,
        "encoding-broken" => has("content-encoding: gzip") && gunzip(body).is_err(),
        "encoding-cut" => {
            has("content-encoding: gzip") && gunzip(body).is_err_and(|error| error.kind() == ErrorKind::UnexpectedEof)
        }
        "encoding-unknown" => has("content-encoding: rot13") && page,
        "encoding-wrong" => has("content-encoding: gzip") && page,
        "encoding-junk" => has("content-encoding: gzip") && body.ends_with(b"this is no further member"),
        "charset" => has("content-type: text/html; charset=utf-16le") && body.starts_with(b"<\0!\0D\0"),
        other => {
            let logged = site.seen(&format!("/{other}")).len();
            panic!("{other} has no test; it was asked for {logged} times")
        }
    }
}

#[test]
fn every_answer_shows_itself_by_plain_http() {
    let site = FaultySite::start().unwrap();
    let faults: Vec<&Fault> = Fault::ALL
        .iter()
        .filter(|fault| fault.stage == Stage::Answer && fault.expected(Scheme::Http).is_some())
        .collect();
    assert!(faults.len() > 70, "{}", faults.len());
    std::thread::scope(|scope| {
        for fault in faults {
            let site = &site;
            scope.spawn(move || {
                let hangs = fault.name == "switch"
                    || fault.expected(Scheme::Http).is_some_and(|expected| expected.contains("timeout"));
                let patience = if hangs { PATIENCE } else { LONG };
                let begun = Instant::now();
                // A drip never makes the client's read wait as long as its patience: it is given up by size.
                let heard = match fault.name {
                    "endless-drip" => {
                        let mut stream = connect(site.address(Scheme::Http));
                        stream.write_all(b"GET /endless-drip HTTP/1.1\r\n\r\n").unwrap();
                        hear(&mut stream, 100)
                    }
                    _ => hear_of(site, &format!("/{}", fault.command()), patience),
                };
                let took = begun.elapsed();
                let text = heard.text();
                let start: String = text.chars().take(300).collect();
                assert!(
                    shows(site, fault, &heard, took),
                    "{}: {:?}, {} bytes after {took:?}: {start:?}",
                    fault.name,
                    heard.error,
                    heard.bytes.len()
                );
                assert_eq!(site.seen(&format!("/{}", fault.name)).len(), 1, "{}", fault.name);
            });
        }
    });
}

#[test]
fn tls_tells_a_close_from_a_cut() {
    let site = FaultySite::start().unwrap();
    let address = site.address(Scheme::Https);
    let end = |target: &str| ask(secure(address, "localhost", config(&site, None, &[])).unwrap(), target);
    for whole in ["/page", "/until-close", "/body-close"] {
        assert_eq!(end(whole).error, None, "{whole}");
    }
    for cut in ["/until-cut", "/body-cut", "/request-close/x?after_ms=0&end=cut"] {
        let heard = end(cut);
        let expected = if cut.starts_with("/request") { None } else { Some(ErrorKind::UnexpectedEof) };
        assert_eq!(heard.error, expected, "{cut}");
    }
    assert_eq!(end("/body-reset").error, Some(ErrorKind::ConnectionReset));
    let brief = secure_for(address, "localhost", config(&site, None, &[]), PATIENCE).unwrap();
    assert_eq!(ask(brief, "/body-hang").error, Some(ErrorKind::WouldBlock));
    let by_name = secure(address, "headers-reset.fault.test", config(&site, None, &[])).unwrap();
    assert_eq!(ask(by_name, "/page").error, Some(ErrorKind::ConnectionReset));
}

#[test]
fn sessions_are_resumed_where_the_client_offers() {
    let site = FaultySite::start().unwrap();
    let config = config(&site, None, &[]);
    for _ in 0..3 {
        assert!(
            ask(secure(site.address(Scheme::Https), "localhost", config.clone()).unwrap(), "/page").error.is_none()
        );
    }
    let counts = site.counts();
    assert_eq!((counts.handshakes_full, counts.handshakes_resumed), (1, 2));
    assert_eq!((counts.connections, counts.requests), (3, 3));
}

#[test]
fn a_port_or_a_parameter_rules_every_answer() {
    let site = FaultySite::start().unwrap();
    let port = site.open(Scheme::Http, "status?status=418&header=x-one:1&cookie=a%3Db").unwrap();
    let text = get(port, "/anything").text();
    assert!(text.starts_with("HTTP/1.1 418 I'm a teapot\r\n"), "{text}");
    assert!(text.contains("\r\nx-one: 1\r\n") && text.contains("\r\nset-cookie: a=b\r\n"), "{text}");
    let text = get(site.address(Scheme::Http), "/page/5?framing=chunked&chunk=100&reason=Fine&type=text/plain").text();
    assert!(text.starts_with("HTTP/1.1 200 Fine\r\n") && text.contains("content-type: text/plain"), "{text}");
    assert!(get(site.address(Scheme::Http), "/no-such").text().starts_with("HTTP/1.1 404 "));
    assert!(get(site.address(Scheme::Http), "/tls-expired").text().starts_with("HTTP/1.1 400 "));
    assert!(get(site.address(Scheme::Http), "/h2-reset").text().starts_with("HTTP/1.1 501 "));
    assert!(site.open(Scheme::Http, "no-such").is_err());
    assert_eq!(
        site.url(Scheme::Http, "page?size=5").unwrap(),
        format!("http://{}/page?size=5", site.address(Scheme::Http))
    );
    let chain = |n: u64| get(site.address(Scheme::Http), &format!("/redirect-chain?n={n}&code=307")).text();
    assert!(chain(1).starts_with("HTTP/1.1 307 ") && chain(0).starts_with("HTTP/1.1 200 "));
    let own = site.open(Scheme::Https, "tls-expired").unwrap();
    assert_eq!(
        site.url_at(Scheme::Https, "localhost", "tls-expired").unwrap(),
        format!("https://localhost:{}/", own.port())
    );
}

#[test]
fn a_request_is_echoed_as_it_was_sent() {
    let site = FaultySite::start().unwrap();
    let mut stream = connect(site.address(Scheme::Http));
    stream
        .write_all(
            b"PATCH /echo/x?y=1 HTTP/1.1\r\nHost: shop.example\r\nX-Twice: a\r\nX-Twice: b\r\n\
              transfer-encoding: chunked\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n",
        )
        .unwrap();
    let interim = hear(&mut stream, 1).text();
    assert_eq!(interim, "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n").unwrap();
    let heard = hear(&mut stream, 1 << 20);
    let echo: serde_json::Value = serde_json::from_slice(heard.body()).unwrap();
    assert_eq!(echo["method"], "PATCH");
    assert_eq!(echo["target"], "/echo/x?y=1");
    assert_eq!(echo["host"], "shop.example");
    assert_eq!(echo["body"], "abcde");
    assert_eq!(echo["headers"][1], serde_json::json!(["X-Twice", "a"]));
    assert_eq!(echo["headers"][2], serde_json::json!(["X-Twice", "b"]));
}

#[test]
fn connections_are_kept_and_closed_after_their_number() {
    let site = FaultySite::start().unwrap();
    let mut stream = connect(site.address(Scheme::Http));
    let mut answers = 0;
    loop {
        if stream.write_all(b"GET /keep?requests=3 HTTP/1.1\r\n\r\n").is_err() {
            break;
        }
        let text = hear(&mut stream, 1).text();
        if text.is_empty() {
            break;
        }
        assert!(text.starts_with("HTTP/1.1 200 OK"), "{text}");
        answers += 1;
    }
    assert_eq!(answers, 3);
    assert_eq!(site.counts().connections, 1);
    for (end, error) in [("close", None), ("reset", Some(ErrorKind::ConnectionReset))] {
        let mut stream = connect(site.address(Scheme::Http));
        let request = format!("GET /stale?end={end} HTTP/1.1\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        assert!(hear(&mut stream, 1).text().starts_with("HTTP/1.1 200 OK"));
        stream.write_all(request.as_bytes()).unwrap();
        let heard = hear(&mut stream, 1);
        assert_eq!((heard.bytes.len(), heard.error), (0, error), "{end}");
    }
}

#[test]
fn sites_flap_by_count_and_by_time() {
    let site = FaultySite::start().unwrap();
    let status = |target: &str| get(site.address(Scheme::Http), target).text()[9..12].to_owned();
    let seen: Vec<String> = (0..7).map(|_| status("/flap?up=2&down=1&bad=status%3Fstatus%3D418")).collect();
    assert_eq!(seen, ["200", "200", "418", "200", "200", "418", "200"]);
    let mut kinds: Vec<String> = (0..30)
        .map(|_| {
            std::thread::sleep(Duration::from_millis(10));
            status("/flap?up_ms=50&down_ms=50")
        })
        .collect();
    kinds.dedup();
    assert!(kinds.len() >= 4, "{kinds:?}");
    let reset = get(site.address(Scheme::Http), "/flap?up=0&down=1&bad=request-reset");
    assert_eq!(reset.error, Some(ErrorKind::ConnectionReset));
}

#[test]
fn bombs_are_as_large_as_they_say() {
    let site = FaultySite::start().unwrap();
    let body = |target: &str| get(site.address(Scheme::Http), target).body().to_vec();
    let bytes = 3_000_000;
    let length = |mut decoder: Box<dyn Read>| std::io::copy(&mut decoder, &mut std::io::sink()).unwrap();
    let bomb = |codings: &str| std::io::Cursor::new(body(&format!("/bomb?size={bytes}&encoding={codings}")));
    assert_eq!(length(Box::new(flate2::read::MultiGzDecoder::new(bomb("gzip")))), bytes);
    assert_eq!(length(Box::new(flate2::read::ZlibDecoder::new(bomb("deflate")))), bytes);
    assert_eq!(length(Box::new(flate2::read::DeflateDecoder::new(bomb("deflate-raw")))), bytes);
    assert_eq!(length(Box::new(brotli::Decompressor::new(bomb("br"), 4096))), bytes);
    assert_eq!(length(Box::new(zstd::stream::read::Decoder::new(bomb("zstd")).unwrap())), bytes);
    let nested = flate2::read::MultiGzDecoder::new(bomb("br,gzip"));
    assert_eq!(length(Box::new(brotli::Decompressor::new(nested, 4096))), bytes);
    assert!(zstd::stream::decode_all(bomb("zstd")).is_ok());
    let wide = std::io::Cursor::new(body("/zstd-window?log=27"));
    let mut decoder = zstd::stream::read::Decoder::new(wide).unwrap();
    decoder.window_log_max(23).unwrap();
    assert!(std::io::copy(&mut decoder, &mut std::io::sink()).is_err());
    let narrow = zstd::stream::decode_all(std::io::Cursor::new(body("/zstd-window?log=20"))).unwrap();
    assert!(is_page(&narrow));
}

#[test]
fn pages_come_in_their_charset() {
    let site = FaultySite::start().unwrap();
    let body = |target: &str| get(site.address(Scheme::Http), target).body().to_vec();
    let word = |charset: &str| body(&format!("/charset?charset={charset}&by=none&text=%C3%BC"));
    let contains = |bytes: &[u8], part: &[u8]| bytes.windows(part.len()).any(|window| window == part);
    assert!(contains(&word("utf-16be"), b"\0>\0\xfc\0<"));
    assert!(contains(&word("utf-16le"), b">\0\xfc\0<\0"));
    assert!(contains(&word("latin-1"), b">\xfc<"));
    assert!(contains(&body("/charset?charset=shift_jis&text=%E6%97%A5&by=meta"), b">\x93\xfa<"));
    assert!(body("/charset?by=bom").starts_with(b"\xff\xfe<\0"));
}

#[test]
fn dropping_a_site_ends_its_connections() {
    let site = FaultySite::start().unwrap();
    let address = site.address(Scheme::Http);
    let mut stream = connect(address);
    stream.write_all(b"GET /request-hang HTTP/1.1\r\n\r\n").unwrap();
    while site.counts().requests == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(site);
    let heard = hear(&mut stream, 1);
    assert!(heard.bytes.is_empty() && heard.error != Some(ErrorKind::WouldBlock), "{heard:?}");
    assert!(std::net::TcpStream::connect(address).is_err());
}
