//! What an answer looked like, attached where the verdict or the set of causes changed; secrets hidden, and bounded as
//! it stands in an exported line: a control character takes six bytes there.

use crate::http::judge::Exchange;
use crate::http::spec::{Auth, Request};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sitemon_model::line::escaped_bytes;
use sitemon_model::{Evidence, Hop, Verdict};
use std::borrow::Cow;

/// Bytes of one evidence in all, as JSON.
pub const EVIDENCE_BYTES: usize = 16 << 10;
/// Bytes of one header's value that are shown.
const VALUE_BYTES: usize = 1 << 10;
/// Bytes of all headers that are shown; the rest of the bound is for the body and the chain.
const HEADER_BYTES: usize = 6 << 10;
/// Bytes of the chain's subjects that are shown.
const CHAIN_BYTES: usize = 2 << 10;
/// Bytes around headers, the body's start and the chain: the keys, brackets and quotes.
const FRAME_BYTES: usize = 64;
/// Bytes around one header, `["",""],`, and one subject, `"",`.
const PAIR_BYTES: usize = 8;
const SUBJECT_BYTES: usize = 3;
/// Bytes of the shortest secret that is looked for in URLs.
const URL_SECRET_BYTES_MIN: usize = 6;
/// What stands in place of what is hidden.
const HIDDEN: &str = "(hidden)";

/// The values that are never shown, wherever they occur.
#[derive(Clone, Default)]
pub struct Secrets(Vec<Box<str>>);

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secrets({} hidden)", self.0.len())
    }
}

impl Secrets {
    /// The secrets of a request: authentication, secret headers, the proxy's credentials; as they are, and in
    /// the forms in which they are sent.
    pub fn of(request: &Request) -> Self {
        let mut values: Vec<String> = Vec::new();
        match &request.auth {
            Some(Auth::Basic { username, password }) => {
                values.push(BASE64_STANDARD.encode(format!("{username}:{password}")));
                values.push(password.clone());
            }
            Some(Auth::Bearer(token)) => values.push(token.clone()),
            None => {}
        }
        for header in request.headers.iter().filter(|header| header.secret || is_sensitive(&header.name)) {
            values.push(header.value.to_string());
        }
        if let Some((user, password)) = request.proxy.as_ref().and_then(|proxy| proxy.credentials.as_ref()) {
            values.push(BASE64_STANDARD.encode(format!("{user}:{password}")));
            values.push(password.clone());
        }
        let encoded: Vec<String> =
            values.iter().map(|value| url::form_urlencoded::byte_serialize(value.as_bytes()).collect()).collect();
        values.extend(encoded);
        values.retain(|value| !value.is_empty());
        // The longest first, so that one that holds another is hidden whole.
        values.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        values.dedup();
        Self(values.into_iter().map(Into::into).collect())
    }

    /// The text with every secret hidden.
    pub fn hide<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let mut shown = Cow::Borrowed(text);
        for secret in &self.0 {
            if shown.contains(&**secret) {
                shown = Cow::Owned(shown.replace(&**secret, HIDDEN));
            }
        }
        shown
    }

    /// The verdict with every secret in its messages hidden: an answer may repeat what it was sent.
    pub fn hide_in(&self, verdict: &mut Verdict) {
        let (Verdict::Degraded(causes) | Verdict::Down(causes) | Verdict::Unknown(causes)) = verdict else { return };
        for cause in causes {
            if let Cow::Owned(hidden) = self.hide(&cause.message) {
                cause.message = hidden.into();
            }
        }
    }

    /// The hops, with secrets hidden in the URLs that the site sent us to: it may put there what it was sent. The
    /// first URL is the configuration's own. Short secrets stand in URLs by chance, and are not looked for.
    pub fn hide_in_hops(&self, hops: &mut [Hop]) {
        for hop in hops.iter_mut().skip(1) {
            for secret in self.0.iter().filter(|secret| secret.len() >= URL_SECRET_BYTES_MIN) {
                if hop.url.contains(&**secret) {
                    hop.url = hop.url.replace(&**secret, HIDDEN).into();
                }
            }
        }
    }

    /// The text without the beginning of a secret at its end, where it may have been cut.
    fn without_begun<'t>(&self, text: &'t str) -> &'t str {
        /// Fewer bytes of a secret tell nothing, and would take the end of every text away.
        const BEGUN: usize = 4;
        let begun = |secret: &str| {
            let longest = secret.len().min(text.len() + 1);
            (BEGUN..longest).rev().find(|length| text.as_bytes().ends_with(&secret.as_bytes()[..*length]))
        };
        let length = self.0.iter().filter_map(|secret| begun(secret)).max().unwrap_or_default();
        &text[..text.floor_char_boundary(text.len() - length)]
    }
}

/// Whether a header's value is never shown, whoever sent it. The name in any case.
pub fn is_sensitive(name: &str) -> bool {
    const NAMES: [&str; 6] =
        ["authorization", "cookie", "set-cookie", "proxy-authorization", "set-cookie2", "authentication-info"];
    NAMES.iter().any(|sensitive| name.eq_ignore_ascii_case(sensitive))
}

/// The evidence of an exchange: [`EVIDENCE_BYTES`] at most.
pub fn collect(exchange: &Exchange, secrets: &Secrets) -> Evidence {
    let mut left = HEADER_BYTES;
    let mut headers = Vec::new();
    for (name, value) in &exchange.headers {
        let value = if is_sensitive(name) {
            Cow::Borrowed(HIDDEN)
        } else {
            // Hidden before it is cut, so that no part of a secret is left at the border.
            Cow::Owned(secrets.hide(&String::from_utf8_lossy(value)).into_owned())
        };
        let (name, value) = (cut_escaped(name, VALUE_BYTES), cut_escaped(&value, VALUE_BYTES));
        let Some(rest) = left.checked_sub(escaped(name) + escaped(value) + PAIR_BYTES) else { break };
        left = rest;
        headers.push((name.into(), value.into()));
    }
    let mut left = CHAIN_BYTES;
    let mut chain = Vec::new();
    for subject in &exchange.chain {
        let subject = cut_escaped(subject, VALUE_BYTES);
        let Some(rest) = left.checked_sub(escaped(subject) + SUBJECT_BYTES) else { break };
        left = rest;
        chain.push(subject.into());
    }
    let start = exchange.seen.as_ref().map(|seen| &*seen.start).filter(|start| !start.is_empty());
    let body_start = start.map(|start| {
        let hidden = secrets.hide(start);
        let whole = cut_escaped(&hidden, EVIDENCE_BYTES - HEADER_BYTES - CHAIN_BYTES - FRAME_BYTES);
        secrets.without_begun(whole).into()
    });
    Evidence { headers, body_start, chain }
}

/// Bytes of a text as JSON, without the quotes.
fn escaped(text: &str) -> usize {
    text.bytes().map(escaped_bytes).sum()
}

/// The beginning of a text, `bytes` long at most, cut between characters.
pub(crate) fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

/// As [`cut`], by the bytes that it takes as JSON.
fn cut_escaped(text: &str, bytes: usize) -> &str {
    let mut left = bytes;
    let fits = |byte: &u8| {
        let rest = left.checked_sub(escaped_bytes(*byte));
        left = rest.unwrap_or_default();
        rest.is_some()
    };
    let length = text.bytes().take_while(fits).count();
    &text[..text.floor_char_boundary(length)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::body::Seen;
    use crate::http::spec::{Header, Proxy, ProxyScheme};
    use sitemon_model::{Cause, Code, Observation};

    fn request() -> Request {
        Request {
            auth: Some(Auth::Basic { username: "user".into(), password: "pass word".into() }),
            headers: vec![
                Header { name: "x-key".into(), value: "k3y".into(), secret: true },
                Header { name: "accept".into(), value: "text/html".into(), secret: false },
                Header { name: "cookie".into(), value: "a=1".into(), secret: false },
            ],
            proxy: Some(Proxy {
                scheme: ProxyScheme::Http,
                host: "proxy".into(),
                port: 1,
                credentials: Some(("me".into(), "pr0xy".into())),
            }),
            ..Request::default()
        }
    }

    #[test]
    fn secrets_are_hidden_wherever_they_are() {
        let secrets = Secrets::of(&request());
        for text in ["pass word", "pass+word", "dXNlcjpwYXNzIHdvcmQ=", "k3y", "a=1", "pr0xy", "bWU6cHIweHk="] {
            assert_eq!(secrets.hide(&format!("<{text}>")), "<(hidden)>");
        }
        assert_eq!(secrets.hide("text/html"), "text/html");
        assert_eq!(secrets.without_begun("a page that says pass wo"), "a page that says ");
        assert_eq!(secrets.without_begun("a page that says no"), "a page that says no");
        assert!(!format!("{secrets:?}").contains("k3y"));
        let cause = |message: &str| vec![Cause::new(Code::HeaderMismatch, message)];
        let mut verdict = Verdict::Down(cause("header x-echo is `k3y`"));
        secrets.hide_in(&mut verdict);
        assert_eq!(verdict, Verdict::Down(cause("header x-echo is `(hidden)`")));
        let hop = |url: &str| Hop { url: url.into(), ..Hop::default() };
        let mut hops = [hop("http://a/pass+word"), hop("http://a/?k3y=pass+word")];
        secrets.hide_in_hops(&mut hops);
        assert_eq!(hops.map(|hop| hop.url.to_string()), ["http://a/pass+word", "http://a/?k3y=(hidden)"]);
        let exchange = Exchange {
            headers: vec![
                ("server".into(), b"nginx".as_slice().into()),
                ("Set-Cookie".into(), b"session=1".as_slice().into()),
                ("x-echo".into(), b"you sent k3y".as_slice().into()),
            ],
            seen: Some(Seen { start: "<p>k3y pass word".into(), ..Seen::default() }),
            chain: vec!["CN=site".into()],
            ..Exchange::default()
        };
        let evidence = collect(&exchange, &secrets);
        let shown = |name: &str, value: &str| (Box::from(name), Box::from(value));
        assert_eq!(
            evidence.headers,
            [shown("server", "nginx"), shown("Set-Cookie", HIDDEN), shown("x-echo", "you sent (hidden)")]
        );
        assert_eq!(evidence.body_start.as_deref(), Some("<p>(hidden) (hidden)"));
        assert_eq!(evidence.chain, ["CN=site".into()]);
    }

    #[test]
    fn it_is_bounded() {
        let exchange = Exchange {
            headers: (0..1000).map(|n| (format!("x-{n}").into(), vec![0xff; 5000].into())).collect(),
            seen: Some(Seen { start: "ö".repeat(20_000), ..Seen::default() }),
            chain: vec!["CN=long".repeat(10_000).into(); 10],
            ..Exchange::default()
        };
        let evidence = collect(&exchange, &Secrets::default());
        assert!(!evidence.headers.is_empty() && !evidence.chain.is_empty() && evidence.body_start.is_some());
        assert!(as_json(&evidence) <= EVIDENCE_BYTES);
        assert_eq!(collect(&Exchange::default(), &Secrets::default()), Evidence::default());
    }

    /// Bytes of it in an exported line.
    fn as_json(evidence: &Evidence) -> usize {
        let with = Observation { evidence: Some(Box::new(evidence.clone())), ..Observation::default() };
        let line = sitemon_model::line::to_string(&with);
        let evidence = line.split_once(",\"evidence\":").expect("it is the last key").1;
        evidence.len() - 1
    }

    #[test]
    fn it_is_bounded_as_json() {
        // What takes most bytes of a line, what stands at the border, and what is no text.
        let texts = ["\0", "\u{1f}a", "\"\\", "\n\r\t", "\u{7f}", "ö\0", "🦀\u{8}", "a", "\u{fffd}"];
        for text in texts {
            for shift in 0..8 {
                let long = "x".repeat(shift) + &text.repeat(20_000);
                let exchange = Exchange {
                    headers: (0..50).map(|n| (format!("x-{n}").into(), long.as_bytes()[..5_000].into())).collect(),
                    seen: Some(Seen { start: long.clone(), ..Seen::default() }),
                    chain: vec![long.clone().into(); 5],
                    ..Exchange::default()
                };
                let evidence = collect(&exchange, &Secrets::default());
                let bytes = as_json(&evidence);
                assert!(bytes <= EVIDENCE_BYTES, "{text:?}: {bytes}");
                // Of each part all that fits.
                assert!(bytes > EVIDENCE_BYTES - 3 * VALUE_BYTES, "{text:?}: {bytes}");
                let start = evidence.body_start.expect("a body");
                assert!(long.starts_with(&*start), "{text:?}");
            }
        }
    }
}
