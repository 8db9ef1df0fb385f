//! Causes: why a verdict is not `up`. A code is `area.class` with a number that never changes.
//!
//! To add a cause: one line in [`codes!`], a number that no other has ever had, and what to do about it
//! in docs/causes.md.

use std::fmt;

/// One reason among those of a verdict.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Cause {
    /// What kind of fault.
    pub code: Code,
    /// What was seen and what was expected, for people: `status 503, expected 200-299`.
    pub message: Box<str>,
}

impl Cause {
    /// A cause with its message.
    pub fn new(code: Code, message: impl Into<Box<str>>) -> Self {
        Self { code, message: message.into() }
    }
}

/// Where in a check a cause lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Area {
    /// Name lookup.
    Dns,
    /// Opening the connection.
    Connect,
    /// The way through a proxy.
    Proxy,
    /// The handshake.
    Tls,
    /// Sending the request.
    Send,
    /// From the request to the first byte of the answer.
    Wait,
    /// The answer after its first byte.
    Receive,
    /// The answer as HTTP.
    Http,
    /// A header that was expected.
    Header,
    /// The body.
    Body,
    /// How long the certificate is still good.
    Certificate,
    /// How long it took in all.
    ResponseTime,
    /// What the operator forbade.
    Policy,
    /// A slot that was not served.
    Skipped,
    /// A check that our own stop ended.
    Stopped,
    /// A failure of ours.
    Own,
}

macro_rules! codes {
    ($($(#[doc = $doc:literal])* $name:ident = $number:literal, $text:literal, $area:ident;)*) => {
        /// What kind of fault: `area.class`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Code { $($(#[doc = $doc])* $name,)* }

        impl Code {
            /// All codes, in the order of their numbers.
            pub const ALL: &'static [Code] = &[$(Code::$name,)*];

            /// As in the exported line: `dns.not_found`.
            pub const fn as_str(self) -> &'static str { match self { $(Code::$name => $text,)* } }

            /// The stable number.
            pub const fn number(self) -> u16 { match self { $(Code::$name => $number,)* } }

            /// Where in a check it lies.
            pub const fn area(self) -> Area { match self { $(Code::$name => Area::$area,)* } }

            /// What it means, a sentence for the reference.
            pub const fn meaning(self) -> &'static str { match self { $(Code::$name => concat!($($doc),*).trim_ascii(),)* } }

            /// The code of a stable number.
            pub const fn from_number(number: u16) -> Option<Self> { match number { $($number => Some(Code::$name),)* _ => None } }
        }
    };
}

codes! {
    /// The name does not exist, or has no address of the families asked for.
    DnsNotFound = 101, "dns.not_found", Dns;
    /// The name servers answered with a failure (SERVFAIL, REFUSED or an answer that cannot be read).
    DnsServerFailure = 102, "dns.server_failure", Dns;
    /// The connection to the name server was reset.
    DnsReset = 103, "dns.reset", Dns;
    /// The name server closed the connection before it answered.
    DnsClosed = 104, "dns.closed", Dns;
    /// The name servers did not answer in time.
    DnsTimeout = 105, "dns.timeout", Dns;
    /// Nobody listens at the address.
    ConnectRefused = 201, "connect.refused", Connect;
    /// The network said that the address cannot be reached, although there is a route for its family.
    ConnectUnreachable = 202, "connect.unreachable", Connect;
    /// The connection was reset while it was being opened.
    ConnectReset = 203, "connect.reset", Connect;
    /// The connection was closed while it was being opened.
    ConnectClosed = 204, "connect.closed", Connect;
    /// No connection stood in time.
    ConnectTimeout = 205, "connect.timeout", Connect;
    /// The proxy answered that the site cannot be reached.
    ProxyRefused = 251, "proxy.refused", Proxy;
    /// The proxy reset the connection before the tunnel stood.
    ProxyReset = 252, "proxy.reset", Proxy;
    /// The proxy closed the connection before the tunnel stood.
    ProxyClosed = 253, "proxy.closed", Proxy;
    /// The tunnel through the proxy did not stand in time.
    ProxyTimeout = 254, "proxy.timeout", Proxy;
    /// The proxy itself cannot be reached; no fault of the site.
    ProxyUnreachable = 255, "proxy.unreachable", Proxy;
    /// The proxy refused our credentials; no fault of the site.
    ProxyAuthentication = 256, "proxy.authentication", Proxy;
    /// A certificate of the chain has expired.
    TlsExpired = 301, "tls.expired", Tls;
    /// A certificate of the chain is not valid yet.
    TlsNotYetValid = 302, "tls.not_yet_valid", Tls;
    /// The certificate is for other names.
    TlsNameMismatch = 303, "tls.name_mismatch", Tls;
    /// No chain to a root that is trusted.
    TlsUntrusted = 304, "tls.untrusted", Tls;
    /// The handshake breaks the protocol, offers nothing in common, or its signature does not fit the certificate.
    TlsProtocol = 305, "tls.protocol", Tls;
    /// The server ended the handshake with an alert, for example for want of a client certificate.
    TlsRefused = 306, "tls.refused", Tls;
    /// The connection was reset during the handshake.
    TlsReset = 307, "tls.reset", Tls;
    /// The connection was closed during the handshake.
    TlsClosed = 308, "tls.closed", Tls;
    /// The handshake did not end in time.
    TlsTimeout = 309, "tls.timeout", Tls;
    /// The connection was reset while the request was sent.
    SendReset = 401, "send.reset", Send;
    /// The connection was closed while the request was sent.
    SendClosed = 402, "send.closed", Send;
    /// The request could not be sent in time.
    SendTimeout = 403, "send.timeout", Send;
    /// The connection was reset before the first byte of the answer.
    WaitReset = 411, "wait.reset", Wait;
    /// The connection was closed before the first byte of the answer.
    WaitClosed = 412, "wait.closed", Wait;
    /// No byte of an answer came in time.
    WaitTimeout = 413, "wait.timeout", Wait;
    /// The connection was reset during the answer.
    ReceiveReset = 421, "receive.reset", Receive;
    /// The connection was closed during the answer's head.
    ReceiveClosed = 422, "receive.closed", Receive;
    /// The answer did not end in time.
    ReceiveTimeout = 423, "receive.timeout", Receive;
    /// The status is not among those expected.
    HttpStatus = 501, "http.status", Http;
    /// The answer is not HTTP as its RFC demands.
    HttpMalformed = 502, "http.malformed", Http;
    /// The answer's header is longer than `limits.headers`.
    HttpHeaderLimit = 503, "http.header_limit", Http;
    /// More redirects than `redirects` allows.
    HttpRedirectLimit = 504, "http.redirect_limit", Http;
    /// A redirect to something that is no address of a site.
    HttpRedirectInvalid = 505, "http.redirect_invalid", Http;
    /// The protocol version is not among those expected.
    HttpVersion = 506, "http.version", Http;
    /// A header is missing or does not match.
    HeaderMismatch = 551, "header.mismatch", Header;
    /// The body is longer than one of its limits.
    BodyLimit = 601, "body.limit", Body;
    /// The body ended before its declared length.
    BodyTruncated = 602, "body.truncated", Body;
    /// The body's coding is unknown or broken.
    BodyDecode = 603, "body.decode", Body;
    /// The body is smaller or larger than expected.
    BodySize = 604, "body.size", Body;
    /// A pattern that must match does not.
    BodyPatternMissing = 605, "body.pattern_missing", Body;
    /// A pattern that must not match does.
    BodyPatternPresent = 606, "body.pattern_present", Body;
    /// The body is not JSON, or a value in it is not as expected.
    BodyJson = 607, "body.json", Body;
    /// The certificate ends sooner than was asked for.
    CertificateExpiring = 701, "certificate.expiring", Certificate;
    /// The answer took longer than was asked for.
    ResponseTimeExceeded = 711, "response_time.exceeded", ResponseTime;
    /// All addresses are refused by `network.refuse`; nothing was dialled.
    PolicyAddress = 801, "policy.address", Policy;
    /// The slot could not be served: a limit was reached, or the process was starved, paused or suspended.
    SkippedOverload = 811, "skipped.overload", Skipped;
    /// The slot came while the check of the one before was still running.
    SkippedOverlap = 812, "skipped.overlap", Skipped;
    /// The slot lay between two owners of the site.
    SkippedHandover = 813, "skipped.handover", Skipped;
    /// Sitemon was stopped before the check ended.
    Stopped = 821, "stopped", Stopped;
    /// Sitemon itself failed, for want of descriptors, memory, a route, or otherwise.
    OwnFailure = 831, "own.failure", Own;
}

impl Code {
    /// Whether it says that no check was made, so that nothing was learnt of the site.
    pub const fn is_skip(self) -> bool {
        matches!(self, Self::SkippedOverload | Self::SkippedOverlap | Self::SkippedHandover)
    }

    /// Whether it says that the site took too long: where the time was lost by ourselves, that is not known.
    pub const fn is_slowness(self) -> bool {
        matches!(
            self,
            Self::DnsTimeout
                | Self::ConnectTimeout
                | Self::ProxyTimeout
                | Self::TlsTimeout
                | Self::SendTimeout
                | Self::WaitTimeout
                | Self::ReceiveTimeout
                | Self::ResponseTimeExceeded
        )
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.message.is_empty() { write!(f, "{}", self.code) } else { write!(f, "{} {}", self.code, self.message) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_unique_and_lead_back() {
        for pair in Code::ALL.windows(2) {
            assert!(pair[0].number() < pair[1].number(), "{} {}", pair[0], pair[1]);
        }
        for code in Code::ALL {
            assert_eq!(Code::from_number(code.number()), Some(*code));
            assert!(!code.meaning().is_empty());
            let slowness = code.as_str().ends_with(".timeout") || *code == Code::ResponseTimeExceeded;
            assert_eq!(code.is_slowness(), slowness, "{code}");
            assert_eq!(code.is_skip(), code.as_str().starts_with("skipped."), "{code}");
        }
        assert_eq!(Code::HttpStatus.number(), 501);
    }
}
