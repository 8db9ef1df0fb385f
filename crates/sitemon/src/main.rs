//! Watches web sites.
fn main() {}
