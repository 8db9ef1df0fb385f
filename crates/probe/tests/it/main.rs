//! The checks, held against real servers that fail in every phase in every way.

mod faults;
mod harness;
