//! The driver `postgres`, against a server of its own: what the suite of all drivers does not ask.

use sitemon_model::tree::{At, Faults, Node};
use sitemon_store::{Config, KINDS};
use sitemon_testkit::postgres::{self, Postgres};
use std::path::Path;
use std::sync::Arc;

/// The configuration of a store with these keys.
fn config(keys: &serde_json::Value) -> Result<Box<dyn Config>, String> {
    let kind = KINDS.iter().find(|kind| kind.name == "postgres").unwrap();
    let node = Node::from_json(keys);
    let mut faults = Faults::default();
    let mut fields = At::new(&node, "store").map(&mut faults);
    let config = (kind.parse)(&mut fields, Path::new("/"), &mut faults);
    fields.finish(&mut faults);
    let told: Vec<String> = faults.0.iter().map(|fault| format!("{}: {}", fault.path, fault.message)).collect();
    config.filter(|_| told.is_empty()).ok_or_else(|| told.join("; "))
}

fn of(dsn: &str) -> Box<dyn Config> {
    config(&serde_json::json!({"dsn": dsn})).unwrap()
}

fn server() -> Arc<Postgres> {
    postgres::shared().unwrap_or_else(|error| panic!("{error:#}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn does_what_every_store_must() {
    let server = server();
    sitemon_store::conformance::conformance(|| of(&server.database().unwrap())).await;
}
