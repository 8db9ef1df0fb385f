//! The checks, held against real servers that fail in every phase in every way.

mod bounds;
mod faults;
mod harness;
mod names;
mod net;
mod proxies;
mod redirects;
mod reuse;
mod tls;
