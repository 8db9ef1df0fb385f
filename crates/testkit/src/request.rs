//! A request, however it came, and what a fault is told about it.

use bytes::Bytes;

use crate::command::Command;
use crate::fault::Scheme;
use crate::state::State;

/// A request that arrived whole.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) version: &'static str,
    /// In order and as sent; HTTP/2's pseudo-headers are left out.
    pub(crate) headers: Vec<(String, Bytes)>,
    pub(crate) body: Bytes,
    /// `Host` or `:authority`.
    pub(crate) host: String,
    /// The stream, where it came by HTTP/2.
    pub(crate) stream: Option<u32>,
    pub(crate) secure: bool,
    pub(crate) sni: Option<String>,
    /// From whom it came.
    pub(crate) peer: String,
    pub(crate) connection: u64,
    /// Its number on its connection, from 1.
    pub(crate) number: u64,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| &value[..])
    }

    pub(crate) fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// By which column of the table the answer is judged.
    pub(crate) fn scheme(&self) -> Scheme {
        match (self.stream, self.secure) {
            (Some(_), _) => Scheme::Http2,
            (None, true) => Scheme::Https,
            (None, false) => Scheme::Http,
        }
    }
}

/// What a fault's function is given.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) command: &'a Command,
    pub(crate) request: &'a Request,
    pub(crate) state: &'a State,
}
