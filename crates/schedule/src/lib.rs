//! Which site is due when: slots, jitter, lag, clock steps. Pure: the clock is handed in.

pub mod plan;
pub mod slot;
