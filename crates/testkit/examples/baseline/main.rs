//! What `make bench` holds Sitemon against, in Rust: a plain client of hyper, a task for each idle site, and a client
//! of bare sockets that tells how exact the server's delay is.

mod hyper_client;
mod sockets;
mod store;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Subcommand)]
enum Mode {
    /// Checks the sites of a plan until SIGTERM, then prints what was done.
    Hyper { plan: PathBuf },
    /// Starts so many tasks, each of which would check a site in a day, and prints the bytes that each takes.
    Tasks { count: usize },
    /// Asks at this rate for so long, and prints how long each exchange took, in microseconds, sorted.
    Sockets { address: SocketAddr, rate: f64, seconds: f64 },
}

fn main() -> Result<()> {
    match Arguments::parse().mode {
        Mode::Hyper { plan } => hyper_client::run(&plan),
        Mode::Tasks { count } => hyper_client::idle(count),
        Mode::Sockets { address, rate, seconds } => sockets::run(address, rate, seconds),
    }
}
