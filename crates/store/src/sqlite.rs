//! `sqlite`: embedded, in one file.
use crate::{Config, Kind};
use sitemon_model::tree::{Faults, Fields};

/// `sqlite`
pub const KIND: Kind = Kind { name: "sqlite", about: "Embedded, in one file.", parse, schema: serde_json::Map::new };

fn parse(_fields: &mut Fields<'_>, _base: &std::path::Path, _faults: &mut Faults) -> Option<Box<dyn Config>> {
    None
}
