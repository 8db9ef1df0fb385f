//! The check kind `http`, cut into phases each of which takes what the one before gave:
//! `resolve`, `connect`, (`proxy`,) `tls`, `exchange`, then `judge`, which is pure.

pub mod body;
pub mod evidence;
pub mod judge;
pub mod spec;

use crate::{Check, Common, Kind};
use sitemon_model::tree::{Faults, Fields};
use std::sync::Arc;

/// `http`
pub const KIND: Kind = Kind {
    name: "http",
    about: "Asks a web site by HTTP or HTTPS.",
    parse,
    validate_url: |_| Ok(()),
    schema: serde_json::Map::new,
};

fn parse(_fields: &mut Fields<'_>, _common: &Common, _faults: &mut Faults) -> Option<Arc<dyn Check>> {
    None
}
