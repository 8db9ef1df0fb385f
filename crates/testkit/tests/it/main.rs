//! Each fault is really seen on the wire, by clients that are as raw as can be.

mod answers;
mod client;
mod http2;
mod kafka;
mod names;
mod programs;
mod proxies;
mod sites;
