//! HTTP/2: what a client by the book makes of each fault.

use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, Request};
use sitemon_testkit::{Fault, FaultySite, Scheme, Stage};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::client::{PATIENCE, config};

/// What came of a request.
#[derive(Debug, Default)]
struct Outcome {
    status: Option<u16>,
    headers: HeaderMap,
    body: usize,
    trailers: Option<HeaderMap>,
    /// `hang`, `eof`, `reset`, `io`, `stream CODE` and `connection CODE` (by the server, or our own refusal).
    end: String,
}

fn end_of(error: &h2::Error) -> String {
    if let Some(io) = error.get_io() {
        return match io.kind() {
            std::io::ErrorKind::ConnectionReset => "reset".into(),
            std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::BrokenPipe => "eof".into(),
            // Within a frame.
            _ if io.to_string().contains("bytes remaining") => "eof".into(),
            _ => format!("io {io}"),
        };
    }
    let whose = if error.is_remote() { "their" } else { "our" };
    let what = if error.is_reset() { "stream" } else { "connection" };
    format!("{whose} {what} {:?}", error.reason().unwrap_or(Reason::NO_ERROR))
}

async fn request(site: &FaultySite, port: std::net::SocketAddr, name: &str, path: &str) -> Outcome {
    // A busy machine shall not make a hang of what is only slow.
    patient_request(site, port, name, path, Duration::from_secs(10)).await
}

async fn patient_request(
    site: &FaultySite,
    port: std::net::SocketAddr,
    name: &str,
    path: &str,
    patience: Duration,
) -> Outcome {
    let mut outcome = Outcome::default();
    let patient = tokio::time::timeout(patience, exchange(site, port, name, path, &mut outcome)).await;
    match patient {
        Ok(Ok(())) => outcome.end = "whole".into(),
        Ok(Err(error)) => outcome.end = end_of(&error),
        Err(_) => outcome.end = "hang".into(),
    }
    outcome
}

async fn exchange(
    site: &FaultySite,
    port: std::net::SocketAddr,
    name: &str,
    path: &str,
    outcome: &mut Outcome,
) -> Result<(), h2::Error> {
    let tcp = TcpStream::connect(port).await.unwrap();
    let name = rustls::pki_types::ServerName::try_from(name.to_owned()).unwrap();
    let tls = TlsConnector::from(config(site, None, &["h2"])).connect(name, tcp).await.unwrap();
    assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let mut builder = h2::client::Builder::new();
    builder.enable_push(false).max_header_list_size(64 << 10);
    let (mut send, connection) = builder.handshake::<_, Bytes>(tls).await?;
    let driven = tokio::spawn(connection);
    let result = async {
        std::future::poll_fn(|cx| send.poll_ready(cx)).await?;
        let request = Request::get(format!("https://localhost{path}")).body(()).unwrap();
        let (response, _) = send.send_request(request, true)?;
        let response = response.await?;
        outcome.status = Some(response.status().as_u16());
        outcome.headers = response.headers().clone();
        let mut body = response.into_body();
        while let Some(data) = body.data().await {
            let data = data?;
            outcome.body += data.len();
            body.flow_control().release_capacity(data.len())?;
            if outcome.body > 1 << 19 {
                break;
            }
        }
        if outcome.body <= 1 << 19 {
            outcome.trailers = body.trailers().await?;
        }
        Ok(())
    }
    .await;
    driven.abort();
    result
}

/// Whether what came fits what the table says that a checker shall make of it.
fn fits(expected: &str, outcome: &Outcome, flood: bool) -> bool {
    let Outcome { status, body, end, .. } = outcome;
    let ours = end.starts_with("our ");
    expected.split('|').any(|cause| match cause {
        "up" => status.is_some_and(|status| status < 400) && end == "whole",
        "http.status" => status.is_some_and(|status| status >= 400) && end == "whole",
        // Whole for HTTP/2; what is wrong is in the headers or the content.
        "http.redirect_limit" | "http.redirect_invalid" | "body.decode" => end == "whole",
        "body.limit" => *body > 1 << 19 || (end == "whole" && outcome.headers["content-encoding"] == "gzip"),
        // A flood is found by whoever counts, which this client does not.
        "http.malformed" => (ours && !end.contains("ENHANCE")) || (flood && status.is_none_or(|status| status == 200)),
        "http.header_limit" => ours || end == "hang",
        "wait.closed" => status.is_none() && (end == "eof" || end.starts_with("their connection")),
        "wait.reset" => status.is_none() && (end == "reset" || end.starts_with("their stream")),
        "wait.timeout" => status.is_none() && end == "hang",
        "receive.closed" => {
            status.is_none_or(|status| status == 200) && (end == "eof" || end.starts_with("their connection"))
        }
        "receive.reset" => end == "reset" || (status.is_some() && end.starts_with("their stream")),
        "receive.timeout" => end == "hang",
        "body.truncated" => status.is_some() && (end == "eof" || end.starts_with("their connection") || ours),
        "send.closed" | "send.timeout" => false,
        other => panic!("{other} has no test"),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_shows_itself_by_http2() {
    let site = FaultySite::start().unwrap();
    let faults = Fault::ALL.iter().filter(|fault| fault.expected(Scheme::Http2).is_some());
    let mut count = 0;
    for fault in faults {
        let path = format!("/{}", fault.command());
        if fault.name == "bomb" {
            continue;
        }
        let name = format!("{}.fault.test", fault.name);
        let address = site.address(Scheme::Http2);
        let hangs = ["h2-flood", "endless-interim"].contains(&fault.name)
            || fault.expected(Scheme::Http2).is_some_and(|expected| expected.contains("timeout"));
        let patience = if hangs { PATIENCE } else { Duration::from_secs(10) };
        let outcome = match fault.stage {
            Stage::Answer => patient_request(&site, address, "localhost", &path, patience).await,
            Stage::Preface => patient_request(&site, address, &name, "/page", patience).await,
            Stage::Port | Stage::Accept | Stage::Tls => continue,
        };
        count += 1;
        let expected = fault.expected(Scheme::Http2).unwrap();
        assert!(
            fits(expected, &outcome, fault.name == "h2-flood"),
            "{}: expected {expected}, got {outcome:?}",
            fault.name
        );
    }
    assert!(count > 55, "{count}");
}

#[tokio::test]
async fn every_kind_of_breach_is_refused() {
    let site = FaultySite::start().unwrap();
    for (command, kinds) in [
        ("h2-frame", "data-on-zero headers-on-zero oversize padding continuation short push unknown-stream"),
        ("h2-flow", "overflow zero data"),
        ("h2-headers", "no-status upper connection pseudo-late hpack"),
    ] {
        for kind in kinds.split(' ') {
            let path = format!("/{command}?kind={kind}");
            let outcome = request(&site, site.address(Scheme::Http2), "localhost", &path).await;
            assert!(outcome.end.starts_with("our "), "{path}: {outcome:?}");
        }
    }
    for kind in ["window", "frame-size", "length", "stream", "push"] {
        let port = site.open(Scheme::Http2, &format!("h2-settings?kind={kind}")).unwrap();
        let outcome = request(&site, port, "localhost", "/").await;
        assert!(outcome.end.starts_with("our "), "{kind}: {outcome:?}");
    }
}

#[tokio::test]
async fn good_answers_are_whole() {
    let site = FaultySite::start().unwrap();
    let get = async |path: &'static str| request(&site, site.address(Scheme::Http2), "localhost", path).await;
    let page = get("/page?size=300000&header=x-one:1").await;
    assert_eq!((page.status, page.body, page.end.as_str()), (Some(200), 300_000, "whole"));
    assert_eq!(page.headers["x-one"], "1");
    let trailers = get("/trailers").await;
    assert_eq!(trailers.trailers.unwrap()["x-took"], "5");
    let seen = site.seen("/page");
    assert_eq!((seen[0].version, seen[0].status, seen[0].host.as_str()), ("http/2", 200, "localhost"));
    assert_eq!(seen[0].sni.as_deref(), Some("localhost"));
    let begun = std::time::Instant::now();
    assert_eq!(get("/delay?ms=60").await.status, Some(200));
    assert!(begun.elapsed() >= Duration::from_millis(60));
}

#[tokio::test]
async fn prior_knowledge_is_understood_on_the_plain_port() {
    let site = FaultySite::start().unwrap();
    let tcp = TcpStream::connect(site.address(Scheme::Http)).await.unwrap();
    let (mut send, connection) = h2::client::handshake(tcp).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("http://localhost/echo").body(()).unwrap();
    let (response, _) = send.send_request(request, true).unwrap();
    assert_eq!(response.await.unwrap().status(), 200);
    assert_eq!(site.seen("/echo")[0].version, "http/2");
}
