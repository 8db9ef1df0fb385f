//! The binary's parts: command line, configuration, roles. The only crate that knows all the others.

pub mod config;
