//! `html-stats`: how many of each tag, links, scripts, images, forms and words a page has.

use crate::{Kind, Plugin};
use sitemon_model::tree::{At, Faults};
use std::sync::Arc;

/// `html-stats`
pub const KIND: Kind = Kind {
    name: "html-stats",
    about: "Counts tags, links, scripts, images, forms and words of a page.",
    parse,
    schema: || serde_json::json!({"type": "object"}),
};

fn parse(_options: &At<'_>, _faults: &mut Faults) -> Option<Arc<dyn Plugin>> {
    None
}
