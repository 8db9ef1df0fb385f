//! Measures the default store beside plain rows in `SQLite`: what appending and packing cost, the bytes that a check
//! takes, and the history that `status` and `stats` are timed on. Prints a line of JSON; `make bench` makes a table.

mod append;
mod bytes;
mod clock;
mod history;
mod plain;
mod postgres;

use sitemon_model::tree::{At, Faults, Node};
use sitemon_store::{Config, KINDS, StoreError};
use std::path::Path;

/// As in the program that uses the store.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "one of:
  append FOLDER ROUNDS OBSERVATIONS BATCH
  bytes FOLDER RECORDED_DATABASE INTERVAL_SECONDS SITES HOURS
  history FOLDER SITES DAYS DAYS_OF_ONE
  postgres DSN ROUNDS BATCH";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let found = match words[..] {
        ["append", folder, rounds, count, batch] => {
            append::run(Path::new(folder), rounds.parse()?, count.parse()?, batch.parse()?).await?
        }
        ["bytes", folder, recorded, interval, sites, hours] => {
            let recorded = bytes::recorded(Path::new(recorded)).await?;
            bytes::run(Path::new(folder), &recorded, interval.parse()?, sites.parse()?, hours.parse()?).await?
        }
        ["history", folder, sites, days, one] => {
            history::run(Path::new(folder), sites.parse()?, days.parse()?, one.parse()?).await?
        }
        ["postgres", dsn, rounds, batch] => postgres::run(dsn, rounds.parse()?, batch.parse()?).await?,
        _ => return Err(USAGE.into()),
    };
    println!("{found}");
    Ok(())
}

/// The default store, in this file.
fn store(file: &Path) -> Result<Box<dyn Config>, StoreError> {
    let node = Node::from_json(&serde_json::json!({ "path": file }));
    let mut faults = Faults::default();
    let mut fields = At::new(&node, "store").map(&mut faults);
    let config = (KINDS[0].parse)(&mut fields, Path::new("."), &mut faults);
    config.ok_or_else(|| StoreError::Unusable("the configuration of the store is refused".into()))
}
