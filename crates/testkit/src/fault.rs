//! The table of faults: what each is called, where it strikes, and what a checker shall make of it.

use crate::answers;
use crate::command::Command;
use crate::frames;
use crate::malformed;
use crate::reply::{Reply, Step};
use crate::request::Asked;

/// Under which names are commands: `NAME.fault.test`. All other names are nothing but names.
pub const FAULT_ZONE: &str = ".fault.test";

/// Where on a connection's way a fault strikes, and so how it can be commanded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Before the connection stands: only by a port of its own.
    Port,
    /// As soon as it stands: only by a port of its own.
    Accept,
    /// In the TLS handshake: by a port of its own or by the first label of the server name.
    Tls,
    /// As soon as HTTP/2 could begin: as `Tls`.
    Preface,
    /// In the answer: by a port of its own, the first label of the server name, or the path.
    Answer,
}

/// By what a site is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// Plain HTTP/1.1; HTTP/2 with prior knowledge, too.
    Http,
    /// TLS with HTTP/1.1 alone.
    Https,
    /// TLS that offers HTTP/2 and HTTP/1.1 by ALPN.
    Http2,
}

impl Scheme {
    /// All three, in the order of [`Fault::expected`].
    pub const ALL: [Self; 3] = [Self::Http, Self::Https, Self::Http2];

    /// `http` or `https`.
    pub fn name(self) -> &'static str {
        if self == Self::Http { "http" } else { "https" }
    }
}

/// A row of the table.
#[derive(Debug)]
pub struct Fault {
    /// The first segment of its path, and the first label of its server name (`NAME.fault.test`).
    pub name: &'static str,
    /// Where it strikes.
    pub stage: Stage,
    /// What it does, with its parameters and their defaults.
    pub about: &'static str,
    /// A query under which it shows itself within moments.
    pub example: &'static str,
    /// By scheme, in the order of [`Scheme::ALL`]: the cause code that a checker with a timeout of some seconds
    /// shall give, several divided by `|` where timing decides, `up` where nothing is wrong, and empty where the
    /// fault does not exist.
    pub expected: [&'static str; 3],
    pub(crate) make: Make,
}

/// How a fault is made.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Make {
    /// A port that is bound, with nobody listening.
    Refused,
    /// A port whose queue of connections is full.
    Backlog,
    /// Played as soon as the connection stands.
    Accept(fn(&Command) -> Vec<Step>),
    /// Done by tls.rs.
    Tls(TlsFault),
    /// Played on an HTTP/2 connection instead of a server's preface.
    Preface(fn(&Command) -> Vec<Step>),
    /// An answer.
    Answer(fn(&Asked<'_>) -> Reply),
}

/// What is special about a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum TlsFault {
    Good,
    P384,
    Version12,
    Version13,
    NoAlpn,
    Slow,
    Soon,
    Expired,
    NotYetValid,
    WrongName,
    SelfSigned,
    UnknownAuthority,
    MissingIntermediate,
    WrongKey,
    ClientCertificate,
    OldVersion,
    Alert,
    Garbage,
    PlainText,
    Corrupt,
    Close,
    Reset,
    Hang,
    Cut,
}

impl Fault {
    /// Every fault there is.
    pub const ALL: &'static [Self] = FAULTS;

    /// The fault of this name.
    pub fn find(name: &str) -> Option<&'static Self> {
        FAULTS.iter().find(|fault| fault.name == name)
    }

    /// The command under which it shows itself: `NAME` or `NAME?QUERY`.
    pub fn command(&self) -> String {
        if self.example.is_empty() { self.name.to_owned() } else { format!("{}?{}", self.name, self.example) }
    }

    /// What a checker shall make of it; absent where the fault does not exist by this scheme.
    pub fn expected(&self, scheme: Scheme) -> Option<&'static str> {
        let expected = self.expected[scheme as usize];
        (!expected.is_empty()).then_some(expected)
    }
}

const fn row(
    name: &'static str,
    stage: Stage,
    about: &'static str,
    example: &'static str,
    expected: [&'static str; 3],
    make: Make,
) -> Fault {
    Fault { name, stage, about, example, expected, make }
}

/// Expected alike by every scheme.
const fn all(cause: &'static str) -> [&'static str; 3] {
    [cause; 3]
}

/// Exists only with TLS.
const fn tls(cause: &'static str) -> [&'static str; 3] {
    ["", cause, cause]
}

/// Exists only in HTTP/1.1.
const fn http1(cause: &'static str) -> [&'static str; 3] {
    [cause, cause, ""]
}

/// Exists only in HTTP/2.
const fn http2(cause: &'static str) -> [&'static str; 3] {
    ["", "", cause]
}

use Make::{Accept, Answer, Backlog, Preface, Refused, Tls};

const FAULTS: &[Fault] = &[
    // Before the connection stands.
    row("refused", Stage::Port, "nobody listens on the port", "", all("connect.refused"), Refused),
    row(
        "backlog-full",
        Stage::Port,
        "the queue of connections is full: connecting hangs",
        "",
        all("connect.timeout"),
        Backlog,
    ),
    // As soon as it stands.
    row(
        "accept-close",
        Stage::Accept,
        "FIN on accept, after after_ms=20",
        "",
        ["wait.closed", "tls.closed", "tls.closed"],
        Accept(|c| vec![Step::Wait(c.ms("after_ms", 20.0)), Step::Cut]),
    ),
    row(
        "accept-reset",
        Stage::Accept,
        "RST on accept, after after_ms=20",
        "",
        ["wait.reset", "tls.reset", "tls.reset"],
        Accept(|c| vec![Step::Wait(c.ms("after_ms", 20.0)), Step::Reset]),
    ),
    row(
        "accept-hang",
        Stage::Accept,
        "never reads or writes",
        "",
        ["wait.timeout", "tls.timeout", "tls.timeout"],
        Accept(|_| vec![Step::Hang]),
    ),
    row(
        "accept-garbage",
        Stage::Accept,
        "sends bytes that are no protocol's, then closes",
        "",
        ["http.malformed", "tls.protocol", "tls.protocol"],
        Accept(|_| vec![Step::send(malformed::garbage(512)), Step::Close]),
    ),
    row(
        "accept-endless",
        Stage::Accept,
        "sends such bytes for ever",
        "",
        ["http.malformed", "tls.protocol", "tls.protocol"],
        Accept(|_| {
            vec![Step::Endless { bytes: malformed::garbage(16 * 1024).into(), every: std::time::Duration::ZERO }]
        }),
    ),
    // In the TLS handshake.
    row(
        "tls-good",
        Stage::Tls,
        "nothing wrong: P-256 throughout, signed by the root's intermediate",
        "",
        tls("up"),
        Tls(TlsFault::Good),
    ),
    row(
        "tls-p384",
        Stage::Tls,
        "a chain like Let's Encrypt's: P-256 leaf, P-384 intermediate and root",
        "",
        tls("up"),
        Tls(TlsFault::P384),
    ),
    row("tls-12", Stage::Tls, "TLS 1.2 alone", "", tls("up"), Tls(TlsFault::Version12)),
    row("tls-13", Stage::Tls, "TLS 1.3 alone", "", tls("up"), Tls(TlsFault::Version13)),
    row("tls-no-alpn", Stage::Tls, "does not know ALPN, so HTTP/1.1", "", tls("up"), Tls(TlsFault::NoAlpn)),
    row("tls-slow", Stage::Tls, "answers the `ClientHello` after exactly ms=200", "", tls("up"), Tls(TlsFault::Slow)),
    row("tls-soon", Stage::Tls, "a certificate that expires in days=3", "", tls("up"), Tls(TlsFault::Soon)),
    row(
        "tls-expired",
        Stage::Tls,
        "a certificate that expired yesterday",
        "",
        tls("tls.expired"),
        Tls(TlsFault::Expired),
    ),
    row(
        "tls-not-yet-valid",
        Stage::Tls,
        "a certificate that begins tomorrow",
        "",
        tls("tls.not_yet_valid"),
        Tls(TlsFault::NotYetValid),
    ),
    row(
        "tls-wrong-name",
        Stage::Tls,
        "a certificate for another name",
        "",
        tls("tls.name_mismatch"),
        Tls(TlsFault::WrongName),
    ),
    row(
        "tls-self-signed",
        Stage::Tls,
        "a certificate signed by its own key",
        "",
        tls("tls.untrusted"),
        Tls(TlsFault::SelfSigned),
    ),
    row(
        "tls-unknown-ca",
        Stage::Tls,
        "a certificate by an authority that nobody trusts",
        "",
        tls("tls.untrusted"),
        Tls(TlsFault::UnknownAuthority),
    ),
    row(
        "tls-missing-intermediate",
        Stage::Tls,
        "a good certificate without the intermediate",
        "",
        tls("tls.untrusted"),
        Tls(TlsFault::MissingIntermediate),
    ),
    row(
        "tls-wrong-key",
        Stage::Tls,
        "signs the handshake with a key that is not the certificate's",
        "",
        tls("tls.protocol"),
        Tls(TlsFault::WrongKey),
    ),
    row(
        "tls-client-cert",
        Stage::Tls,
        "requires a client certificate by the site's root",
        "",
        tls("tls.refused"),
        Tls(TlsFault::ClientCertificate),
    ),
    row(
        "tls-old",
        Stage::Tls,
        "answers as a server that knows nothing newer than TLS 1.1",
        "",
        tls("tls.protocol"),
        Tls(TlsFault::OldVersion),
    ),
    row(
        "tls-alert",
        Stage::Tls,
        "answers the ClientHello with the fatal alert number=40",
        "",
        tls("tls.refused"),
        Tls(TlsFault::Alert),
    ),
    row(
        "tls-garbage",
        Stage::Tls,
        "answers the ClientHello with bytes that are no TLS, then closes",
        "",
        tls("tls.protocol"),
        Tls(TlsFault::Garbage),
    ),
    row(
        "tls-plain",
        Stage::Tls,
        "answers the ClientHello with plain HTTP, then closes",
        "",
        tls("tls.protocol"),
        Tls(TlsFault::PlainText),
    ),
    row(
        "tls-corrupt",
        Stage::Tls,
        "one bit of its first flight is wrong",
        "",
        tls("tls.protocol"),
        Tls(TlsFault::Corrupt),
    ),
    row("tls-close", Stage::Tls, "FIN after the ClientHello", "", tls("tls.closed"), Tls(TlsFault::Close)),
    row("tls-reset", Stage::Tls, "RST after the ClientHello", "", tls("tls.reset"), Tls(TlsFault::Reset)),
    row("tls-hang", Stage::Tls, "nothing after the ClientHello", "", tls("tls.timeout"), Tls(TlsFault::Hang)),
    row(
        "tls-cut",
        Stage::Tls,
        "sends bytes=200 of its first flight, then end=hang (close, reset)",
        "",
        tls("tls.timeout"),
        Tls(TlsFault::Cut),
    ),
    // Good answers.
    row(
        "page",
        Stage::Answer,
        "a page of HTML: title, text, tags=20, size (exact bytes), charset, encoding (a list), claim (a coding that is only claimed)",
        "",
        all("up"),
        Answer(answers::page),
    ),
    row(
        "bytes",
        Stage::Answer,
        "a body of size=10000 bytes: fill=x or the text given, repeated",
        "",
        all("up"),
        Answer(answers::bytes),
    ),
    row("json", Stage::Answer, "the JSON given as body, or a small document", "", all("up"), Answer(answers::json)),
    row(
        "echo",
        Stage::Answer,
        "the request as JSON: method, target, headers, body, sni, address",
        "",
        all("up"),
        Answer(answers::echo),
    ),
    row(
        "delay",
        Stage::Answer,
        "answers exactly ms=100 after the request",
        "ms=100",
        all("up"),
        Answer(answers::delay),
    ),
    row(
        "interim",
        Stage::Answer,
        "count=3 interim answers (status 103), then a page",
        "",
        all("up"),
        Answer(answers::interim),
    ),
    row("trailers", Stage::Answer, "a chunked page with trailers", "", all("up"), Answer(answers::trailers)),
    row(
        "empty",
        Stage::Answer,
        "status=204, or another, with no body; encoding is only claimed",
        "",
        all("up"),
        Answer(answers::empty),
    ),
    row(
        "changing",
        Stage::Answer,
        "a page with tags=20, and more=200 on each every=10th request",
        "",
        all("up"),
        Answer(answers::changing),
    ),
    row("redirect", Stage::Answer, "status=302 to location=/page", "", all("up"), Answer(answers::redirect)),
    row(
        "redirect-chain",
        Stage::Answer,
        "n=3 redirects (code=302), then a page; each sets a cookie hop-N",
        "n=3",
        all("up"),
        Answer(answers::redirect_chain),
    ),
    row(
        "redirect-utf8",
        Stage::Answer,
        "to a location in raw UTF-8, which is a page",
        "",
        all("up"),
        Answer(answers::redirect_utf8),
    ),
    row(
        "redirect-cookie",
        Stage::Answer,
        "sets a cookie and redirects to where it is wanted: 403 without it",
        "",
        all("up"),
        Answer(answers::redirect_cookie),
    ),
    row("members", Stage::Answer, "a page in count=3 gzip members", "", all("up"), Answer(answers::members)),
    row(
        "keep",
        Stage::Answer,
        "closes the connection after requests=2; of the last, says so only with announce=1",
        "",
        all("up"),
        Answer(answers::keep),
    ),
    row(
        "stale",
        Stage::Answer,
        "answers requests=1 on a connection, and ends it instead of answering the next: end=close (reset, cut, hang)",
        "",
        all("up"),
        Answer(answers::stale),
    ),
    // RFC 9113, 8.1.1: more bytes than are declared make it malformed; in HTTP/1.1 they are no part of the answer.
    row(
        "short-length",
        Stage::Answer,
        "declares bytes=10 fewer than it sends",
        "",
        ["up", "up", "http.malformed"],
        Answer(answers::short_length),
    ),
    // Answers with a status, a header or a content that may be unwanted.
    row(
        "status",
        Stage::Answer,
        "a page with status=503, or any other; text",
        "status=503",
        all("http.status"),
        Answer(answers::status),
    ),
    row(
        "flap",
        Stage::Answer,
        "up=3 requests good, down=2 bad, by turns, counted for each host and path; or by time: up_ms, down_ms. bad=status?status=503 is any command",
        "up=1&down=1",
        all("up"),
        Answer(answers::flap),
    ),
    // The connection fails after the request.
    row(
        "request-close",
        Stage::Answer,
        "FIN instead of an answer",
        "",
        all("wait.closed"),
        Answer(|a| answers::ending(a, Step::Close)),
    ),
    row(
        "request-reset",
        Stage::Answer,
        "RST instead of an answer",
        "",
        all("wait.reset"),
        Answer(|a| answers::ending(a, Step::Reset)),
    ),
    row(
        "request-hang",
        Stage::Answer,
        "no answer",
        "",
        all("wait.timeout"),
        Answer(|a| answers::ending(a, Step::Hang)),
    ),
    // The answer has begun with its first byte, so the phase is `receive`; in HTTP/2 that is the head of the frame HEADERS.
    row(
        "headers-close",
        Stage::Answer,
        "FIN within the headers",
        "",
        all("receive.closed"),
        Answer(|a| answers::in_headers(a, Step::Close)),
    ),
    row(
        "headers-reset",
        Stage::Answer,
        "RST within the headers",
        "",
        all("receive.reset"),
        Answer(|a| answers::in_headers(a, Step::Reset)),
    ),
    row(
        "headers-hang",
        Stage::Answer,
        "stops within the headers",
        "",
        all("receive.timeout"),
        Answer(|a| answers::in_headers(a, Step::Hang)),
    ),
    row(
        "body-close",
        Stage::Answer,
        "FIN after after=1000 bytes of a longer body",
        "",
        all("body.truncated"),
        Answer(|a| answers::in_body(a, Step::Close)),
    ),
    row(
        "body-cut",
        Stage::Answer,
        "the same without close_notify",
        "",
        all("body.truncated"),
        Answer(|a| answers::in_body(a, Step::Cut)),
    ),
    row(
        "body-reset",
        Stage::Answer,
        "RST after after=1000 bytes of a longer body",
        "",
        all("receive.reset"),
        Answer(|a| answers::in_body(a, Step::Reset)),
    ),
    row(
        "body-hang",
        Stage::Answer,
        "stops after after=1000 bytes of a longer body",
        "",
        all("receive.timeout"),
        Answer(|a| answers::in_body(a, Step::Hang)),
    ),
    row(
        "slow-headers",
        Stage::Answer,
        "headers by a byte each ms=1000",
        "",
        ["receive.timeout", "receive.timeout", ""],
        Answer(malformed::slow_headers),
    ),
    row(
        "slow-body",
        Stage::Answer,
        "a body of size=10000 by bytes=1 each ms=1000",
        "",
        all("receive.timeout"),
        Answer(answers::slow_body),
    ),
    row(
        "until-close",
        Stage::Answer,
        "a page without a length that ends by end=close; end=cut leaves out close_notify, which only TLS can tell",
        "",
        ["up", "up", ""],
        Answer(answers::until_close),
    ),
    row(
        "until-cut",
        Stage::Answer,
        "a page without a length that ends by a FIN without close_notify",
        "",
        ["up", "body.truncated", ""],
        Answer(answers::until_cut),
    ),
    // Lengths that are not true.
    row(
        "long-length",
        Stage::Answer,
        "declares bytes=1000 more than it sends, then closes",
        "",
        all("body.truncated"),
        Answer(answers::long_length),
    ),
    row(
        "length-twice",
        Stage::Answer,
        "two content-lengths that differ",
        "",
        http1("http.malformed"),
        Answer(malformed::length_twice),
    ),
    row(
        "length-bad",
        Stage::Answer,
        "a content-length that is value=-1 (or any text)",
        "",
        http1("http.malformed"),
        Answer(malformed::length_bad),
    ),
    row(
        "length-huge",
        Stage::Answer,
        "a content-length beyond 64 bits",
        "",
        http1("http.malformed"),
        Answer(malformed::length_huge),
    ),
    // Of the choices that the RFC leaves, these are ours; the reference says them.
    row(
        "length-and-chunked",
        Stage::Answer,
        "both content-length and transfer-encoding (RFC 9112, 6.3: a client may refuse, or heed the latter)",
        "",
        http1("up"),
        Answer(malformed::length_and_chunked),
    ),
    // The framing is known (RFC 9112, 6.3: to the end of the connection), the content is not.
    row(
        "te-unknown",
        Stage::Answer,
        "a transfer-encoding that nobody knows",
        "",
        http1("body.decode"),
        Answer(malformed::te_unknown),
    ),
    // Chunks.
    row(
        "chunk-size",
        Stage::Answer,
        "a chunk size that is no number",
        "",
        http1("http.malformed"),
        Answer(malformed::chunk_size),
    ),
    row(
        "chunk-huge",
        Stage::Answer,
        "a chunk size beyond 64 bits",
        "",
        http1("http.malformed"),
        Answer(malformed::chunk_huge),
    ),
    row(
        "chunk-large",
        Stage::Answer,
        "a chunk of 2^60 bytes that ends after some",
        "",
        http1("body.truncated"),
        Answer(malformed::chunk_large),
    ),
    row(
        "chunk-crlf",
        Stage::Answer,
        "no CRLF after a chunk",
        "",
        http1("http.malformed"),
        Answer(malformed::chunk_crlf),
    ),
    row(
        "chunk-end",
        Stage::Answer,
        "FIN before the last chunk",
        "",
        http1("body.truncated"),
        Answer(malformed::chunk_end),
    ),
    // Of the body no byte has come, and it is no header: RFC 9112, 7.1.1 lets a recipient bound it.
    row(
        "chunk-extension",
        Stage::Answer,
        "a chunk extension without an end",
        "",
        http1("http.malformed"),
        Answer(malformed::chunk_extension),
    ),
    // Trailers are fields as those of the header, and count to the same bound.
    row(
        "chunk-trailers",
        Stage::Answer,
        "trailers without an end",
        "",
        http1("http.header_limit"),
        Answer(malformed::chunk_trailers),
    ),
    // Heads that are not HTTP.
    row(
        "head-fold",
        Stage::Answer,
        "a header folded over two lines (RFC 9112, 5.2: a client replaces the fold by a space)",
        "",
        http1("up"),
        Answer(malformed::head_fold),
    ),
    row(
        "head-name",
        Stage::Answer,
        "an invalid header name: name='bad name'",
        "",
        http1("http.malformed"),
        Answer(malformed::head_name),
    ),
    row(
        "head-colon",
        Stage::Answer,
        "a header without a colon",
        "",
        http1("http.malformed"),
        Answer(malformed::head_colon),
    ),
    row(
        "head-space",
        Stage::Answer,
        "a space before the colon (RFC 9112, 5.1: a proxy removes it)",
        "",
        http1("http.malformed"),
        Answer(malformed::head_space),
    ),
    row(
        "head-nul",
        Stage::Answer,
        "a NUL in a header's value",
        "",
        http1("http.malformed"),
        Answer(malformed::head_nul),
    ),
    row(
        "head-latin1",
        Stage::Answer,
        "bytes over 127 in a header's value, which are allowed",
        "",
        all("up"),
        Answer(answers::head_latin1),
    ),
    row(
        "head-lf",
        Stage::Answer,
        "lines that end with LF alone, which a client may accept",
        "",
        http1("up"),
        Answer(malformed::head_lf),
    ),
    row(
        "status-line",
        Stage::Answer,
        "line='HTTP/1.1 abc Bad' as the status line",
        "",
        http1("http.malformed"),
        Answer(malformed::status_line),
    ),
    row(
        "http-09",
        Stage::Answer,
        "a page without a head, as HTTP/0.9",
        "",
        http1("http.malformed"),
        Answer(malformed::http_09),
    ),
    row("http-10", Stage::Answer, "a page by HTTP/1.0", "", http1("up"), Answer(malformed::http_10)),
    row("http-3", Stage::Answer, "claims to be HTTP/3.0", "", http1("http.malformed"), Answer(malformed::http_3)),
    row(
        "status-99",
        Stage::Answer,
        "a status of two digits",
        "",
        http1("http.malformed"),
        Answer(malformed::status_99),
    ),
    row(
        "status-999",
        Stage::Answer,
        "the status 999, which is well formed",
        "",
        all("http.status"),
        Answer(answers::status_999),
    ),
    // RFC 9110, 15.2.2 and 7.8: a server must not switch to what was not asked for.
    row(
        "switch",
        Stage::Answer,
        "101 Switching Protocols, which nobody asked for",
        "",
        http1("http.malformed"),
        Answer(malformed::switch),
    ),
    // What has no end.
    row(
        "endless-body",
        Stage::Answer,
        "a body without an end; every_ms=0",
        "",
        all("body.limit"),
        Answer(answers::endless_body),
    ),
    row(
        "endless-drip",
        Stage::Answer,
        "a chunked body of a byte each every_ms=100, without an end",
        "",
        all("receive.timeout"),
        Answer(answers::endless_drip),
    ),
    row(
        "endless-headers",
        Stage::Answer,
        "headers without an end",
        "",
        all("http.header_limit"),
        Answer(answers::endless_headers),
    ),
    row(
        "endless-header",
        Stage::Answer,
        "one header without an end",
        "",
        ["http.header_limit", "http.header_limit", ""],
        Answer(malformed::endless_header),
    ),
    row(
        "endless-status",
        Stage::Answer,
        "a status line without an end",
        "",
        http1("http.header_limit"),
        Answer(malformed::endless_status),
    ),
    // Interim answers are headers too: the bound holds for all that come before the answer.
    row(
        "endless-interim",
        Stage::Answer,
        "interim answers without an end",
        "",
        all("http.header_limit"),
        Answer(answers::endless_interim),
    ),
    row(
        "many-headers",
        Stage::Answer,
        "count=10000 headers",
        "",
        all("http.header_limit"),
        Answer(answers::many_headers),
    ),
    // Codings.
    row(
        "bomb",
        Stage::Answer,
        "size=134217728 zeros in encoding=gzip (deflate, deflate-raw, br, zstd, or a list: nested)",
        "encoding=gzip",
        all("body.limit"),
        Answer(answers::bomb),
    ),
    row(
        "zstd-window",
        Stage::Answer,
        "zstd that wants a window of 2^log=27 bytes",
        "",
        all("body.decode"),
        Answer(answers::zstd_window),
    ),
    row(
        "br-window",
        Stage::Answer,
        "brotli with the large-window extension",
        "",
        all("body.decode"),
        Answer(answers::br_window),
    ),
    row(
        "encoding-broken",
        Stage::Answer,
        "encoding=gzip with a byte wrong in its middle",
        "",
        all("body.decode"),
        Answer(answers::encoding_broken),
    ),
    // The body came whole by its declared length; it is the coding that has no end.
    row(
        "encoding-cut",
        Stage::Answer,
        "encoding=gzip whose end is missing",
        "",
        all("body.decode"),
        Answer(answers::encoding_cut),
    ),
    row(
        "encoding-unknown",
        Stage::Answer,
        "claims the coding name=rot13",
        "",
        all("body.decode"),
        Answer(answers::encoding_unknown),
    ),
    row(
        "encoding-wrong",
        Stage::Answer,
        "claims gzip, is plain",
        "",
        all("body.decode"),
        Answer(answers::encoding_wrong),
    ),
    // RFC 1952, 2.2: members follow each other, and nothing else does.
    row(
        "encoding-junk",
        Stage::Answer,
        "gzip with bytes after it that are none",
        "",
        all("body.decode"),
        Answer(answers::encoding_junk),
    ),
    row(
        "charset",
        Stage::Answer,
        "a page in charset=utf-16le (utf-16be, latin-1, shift_jis, ...), declared by=header (bom, meta, none)",
        "",
        all("up"),
        Answer(answers::charset),
    ),
    // Redirects that do not end well.
    row("redirect-loop", Stage::Answer, "to itself", "", all("http.redirect_limit"), Answer(answers::redirect_loop)),
    row(
        "redirect-invalid",
        Stage::Answer,
        "to location='http://[bad', or no location at all with none=1",
        "",
        all("http.redirect_invalid"),
        Answer(answers::redirect_invalid),
    ),
    row(
        "redirect-scheme",
        Stage::Answer,
        "to location=ftp://localhost/",
        "",
        all("http.redirect_invalid"),
        Answer(answers::redirect_scheme),
    ),
    // HTTP/2.
    row(
        "h2-garbage",
        Stage::Preface,
        "bytes that are no frames",
        "",
        http2("http.malformed"),
        Preface(frames::garbage),
    ),
    row(
        "h2-no-settings",
        Stage::Preface,
        "never sends SETTINGS, nor anything else",
        "",
        http2("wait.timeout"),
        Preface(|_| vec![Step::Hang]),
    ),
    // It may come before the request is written or after: timing decides the phase.
    row(
        "h2-refused",
        Stage::Preface,
        "GOAWAY at once; code=0",
        "",
        http2("wait.closed|send.closed"),
        Preface(frames::goaway_first),
    ),
    row(
        "h2-settings",
        Stage::Preface,
        "SETTINGS with a value that RFC 9113 forbids: kind=window (frame-size, length, stream, push)",
        "",
        http2("http.malformed"),
        Preface(frames::settings),
    ),
    row(
        "h2-reset",
        Stage::Answer,
        "RST_STREAM instead of an answer; code=2",
        "",
        http2("wait.reset"),
        Answer(frames::reset),
    ),
    row(
        "h2-reset-body",
        Stage::Answer,
        "RST_STREAM within the body; code=2",
        "",
        http2("receive.reset"),
        Answer(frames::reset_body),
    ),
    row(
        "h2-goaway",
        Stage::Answer,
        "GOAWAY instead of an answer; code=0",
        "",
        http2("wait.closed"),
        Answer(frames::goaway),
    ),
    row(
        "h2-goaway-body",
        Stage::Answer,
        "GOAWAY within the body, then FIN; code=2",
        "",
        http2("receive.closed"),
        Answer(frames::goaway_body),
    ),
    row(
        "h2-frame",
        Stage::Answer,
        "a broken frame: kind=data-on-zero (headers-on-zero, oversize, padding, continuation, short, push, unknown-stream)",
        "",
        http2("http.malformed"),
        Answer(frames::broken),
    ),
    row(
        "h2-flow",
        Stage::Answer,
        "a breach of flow control: kind=overflow of the connection's window (zero: an update by nothing; data: as much as goes, whatever the window)",
        "",
        http2("http.malformed"),
        Answer(frames::flow),
    ),
    row(
        "h2-headers",
        Stage::Answer,
        "headers that RFC 9113 forbids: kind=no-status (upper, connection, pseudo-late, hpack)",
        "",
        http2("http.malformed"),
        Answer(frames::headers),
    ),
    // RFC 9113, 10.5: an endpoint may treat it as a connection error (ENHANCE_YOUR_CALM).
    row(
        "h2-flood",
        Stage::Answer,
        "kind=ping (settings, empty) frames without an end",
        "",
        http2("http.malformed"),
        Answer(frames::flood),
    ),
];
