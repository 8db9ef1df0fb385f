//! What the checks of one runtime share: resolvers, roots, idle connections, the memory bound.

/// What is shared is made from.
#[derive(Debug, Clone, Default)]
pub struct SharedOptions {}

/// What the checks of one runtime share.
#[derive(Debug)]
pub struct Shared {}
