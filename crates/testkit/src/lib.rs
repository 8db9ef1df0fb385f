//! Faulty sites, faulty networks and names, for tests and demonstrations.

pub mod answers;
pub mod authority;
mod background;
pub mod clock;
pub mod coding;
pub mod command;
mod connection;
pub mod demo;
pub mod fast;
pub mod fault;
mod frames;
mod http1;
mod http2;
pub mod log;
mod malformed;
pub mod names;
pub mod proxy;
pub mod relay;
mod reply;
mod request;
pub mod site;
mod state;
mod tls;
mod wire;

pub use authority::{Authority, Curve, Identity, Order};
pub use command::Command;
pub use fault::{Fault, Scheme, Stage};
pub use log::{Counts, Seen};
pub use names::{FaultyNames, NameFault};
pub use proxy::{FaultyProxy, ProxyFault};
pub use relay::{Relay, Weather};
pub use site::FaultySite;
