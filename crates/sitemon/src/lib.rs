//! The binary's parts: command line, configuration, roles. The only crate that knows all the others.

pub mod cli;
pub mod clock;
pub mod config;
pub mod roles;
mod runtime;
mod serve;
pub mod telemetry;
