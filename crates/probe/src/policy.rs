//! Which addresses may be dialled: `network.refuse`.
