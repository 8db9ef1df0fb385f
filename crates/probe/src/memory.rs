//! The bound on what all running checks hold in memory: `limits.memory`.
