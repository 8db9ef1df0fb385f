//! The driver `sqlite`: what the suite of all drivers does not ask.

use sitemon_model::Timestamp;
use sitemon_model::tree::{At, Faults, Node};
use sitemon_store::sample::{EPOCH, Sample};
use sitemon_store::{Access, Advance, Config, KINDS, Scan, StoreError, Window};
use std::path::Path;
use std::sync::Arc;

/// The configuration of a database in `folder`.
fn config(folder: &Path) -> Box<dyn Config> {
    let node = Node::empty_map();
    let mut faults = Faults::default();
    let mut fields = At::new(&node, "store").map(&mut faults);
    let config = (KINDS[0].parse)(&mut fields, folder, &mut faults).unwrap();
    assert!(faults.0.is_empty());
    config
}

/// Everything that there is.
fn everything(limit: usize) -> Scan {
    let window = Window { sites: None, from: Timestamp::MIN, to: Timestamp::MAX };
    Scan { window, after: None, limit, newest_first: false }
}

#[tokio::test(flavor = "multi_thread")]
async fn does_what_every_store_must() {
    let folder = tempfile::tempdir().unwrap();
    let count = std::sync::atomic::AtomicU32::new(0);
    let fresh = || config(&folder.path().join(count.fetch_add(1, std::sync::atomic::Ordering::Relaxed).to_string()));
    sitemon_store::conformance::conformance(fresh).await;
}

#[tokio::test]
async fn appended_is_found_by_another_process() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    assert!(!config.exists().await.unwrap());
    let store = config.open(Access::Write("run")).await.unwrap();
    assert!(config.exists().await.unwrap());
    let mut sample = Sample::new(5);
    let site: Arc<str> = "shop".into();
    let batch: Vec<_> = (0..300)
        .map(|slot| Arc::new(sample.mixed(&site, &"default".into(), EPOCH.plus(slot * 15_000_000), 15_000_000)))
        .collect();
    let advance = Advance { source: "observations/0".into(), expected: 0, next: 300 };
    store.append(batch.clone(), Some(advance.clone())).await.unwrap();
    let refused = store.append(batch.clone(), Some(advance)).await;
    assert!(matches!(refused, Err(StoreError::Fenced { expected: 0, found: 300, .. })), "{refused:?}");

    let reader = config.open(Access::Read).await.unwrap();
    assert_eq!(reader.position("observations/0").await.unwrap(), 300);
    let (mut scan, mut found) = (everything(70), Vec::new());
    loop {
        let page = reader.scan(&scan).await.unwrap();
        assert!(page.observations.len() <= 70);
        found.extend(page.observations);
        scan.after = page.next;
        if scan.after.is_none() {
            break;
        }
    }
    assert_eq!(found, batch);
    assert_eq!(reader.latest().await.unwrap(), [batch[299].clone()]);
    assert!(matches!(reader.append(batch, None).await, Err(StoreError::Unusable(_))));

    let second = config.open(Access::Write("compact")).await;
    let Err(StoreError::Held { command, pid, .. }) = second else { panic!("{second:?}") };
    assert_eq!((command.as_str(), pid), ("run", std::process::id()));
    store.close().await;
    config.open(Access::Write("compact")).await.unwrap().close().await;
}
