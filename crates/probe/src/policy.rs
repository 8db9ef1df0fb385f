//! Which addresses may be dialled: `network.refuse`.

/// Which addresses are refused.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {}
