//! What an answer looked like, attached where the verdict or the set of causes changed; bounded, secrets hidden.

use crate::http::judge::Exchange;
use crate::http::spec::{Auth, Request};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sitemon_model::Evidence;
use std::borrow::Cow;

/// Bytes of one evidence in all.
pub const EVIDENCE_BYTES: usize = 16 << 10;
/// Bytes of one header's value that are shown.
const VALUE_BYTES: usize = 1 << 10;
/// Bytes of all headers that are shown; the rest of the bound is for the body and the chain.
const HEADER_BYTES: usize = 6 << 10;
/// Bytes of the chain's subjects that are shown.
const CHAIN_BYTES: usize = 2 << 10;
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
        let (name, value) = (cut(name, VALUE_BYTES), cut(&value, VALUE_BYTES));
        let Some(rest) = left.checked_sub(name.len() + value.len()) else { break };
        left = rest;
        headers.push((name.into(), value.into()));
    }
    let mut left = CHAIN_BYTES;
    let mut chain = Vec::new();
    for subject in &exchange.chain {
        let subject = cut(subject, VALUE_BYTES);
        let Some(rest) = left.checked_sub(subject.len()) else { break };
        left = rest;
        chain.push(subject.into());
    }
    let start = exchange.seen.as_ref().map(|seen| &*seen.start).filter(|start| !start.is_empty());
    let body_start = start.map(|start| cut(&secrets.hide(start), EVIDENCE_BYTES - HEADER_BYTES - CHAIN_BYTES).into());
    Evidence { headers, body_start, chain }
}

/// The beginning of a text, `bytes` long at most, cut between characters.
pub(crate) fn cut(text: &str, bytes: usize) -> &str {
    if text.len() <= bytes {
        return text;
    }
    &text[..text.floor_char_boundary(bytes)]
}
