//! `local`: in the process, in memory.
use crate::{Config, Kind};
use sitemon_model::tree::{Faults, Fields};

/// `local`
pub const KIND: Kind = Kind { name: "local", about: "In the process, in memory.", parse, schema: serde_json::Map::new };

fn parse(_fields: &mut Fields<'_>, _faults: &mut Faults) -> Option<Box<dyn Config>> {
    None
}
