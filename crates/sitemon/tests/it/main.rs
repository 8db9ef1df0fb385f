//! Tests of the whole from outside: one binary, so that it is linked once.

mod command;
mod commands;
mod config;
mod house;
mod kafka;
mod postgres;
mod reference;
mod reloading;
mod retention;
mod run;
mod ways;
