//! Tests of the whole from outside: one binary, so that it is linked once.

mod config;
mod house;
