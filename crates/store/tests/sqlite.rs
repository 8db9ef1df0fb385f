//! The driver `sqlite`: what the suite of all drivers does not ask.

use sitemon_model::tree::{At, Faults, Node};
use sitemon_model::{Observation, Timestamp, line};
use sitemon_store::sample::{EPOCH, Sample};
use sitemon_store::{Access, Advance, Config, KINDS, Scan, Store, StoreError, Upkeep, Window};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

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

/// The lines of everything.
async fn export(store: &dyn Store) -> Result<Vec<String>, StoreError> {
    let page = store.scan(&everything(usize::MAX)).await?;
    Ok(page.observations.iter().map(|observation| line::to_string(observation)).collect())
}

/// The observations with these numbers, always the same: one a second, of five sites.
fn numbered(numbers: std::ops::Range<u64>) -> Vec<Arc<Observation>> {
    let one = |number| {
        let site = format!("site-{}", number % 5).into();
        let slot = EPOCH.plus(number as i64 * 1_000_000);
        Arc::new(Sample::new(number).mixed(&site, &"default".into(), slot, 5_000_000))
    };
    numbers.map(one).collect()
}

/// A store with something in it, closed again.
async fn filled(folder: &Path) -> Box<dyn Config> {
    let config = config(folder);
    let store = config.open(Access::Write("run")).await.unwrap();
    store.append(numbered(0..2000), None).await.unwrap();
    store.maintain(Upkeep::Pack { now: EPOCH, everything: true }).await.unwrap();
    store.append(numbered(2000..4000), None).await.unwrap();
    store.close().await;
    config
}

#[tokio::test]
async fn another_version_or_program_is_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let config = filled(folder.path()).await;
    let file = folder.path().join("sitemon.db");
    let expected = export(&*config.open(Access::Read).await.unwrap()).await.unwrap();
    let change = |sql: &str| rusqlite::Connection::open(&file).unwrap().execute_batch(sql).unwrap();
    change("PRAGMA user_version = 99");
    for access in [Access::Read, Access::Write("run")] {
        let refused = config.open(access).await;
        assert!(matches!(refused, Err(StoreError::Newer { found: 99, known: 1, .. })), "{refused:?}");
    }
    change("PRAGMA user_version = 1; PRAGMA application_id = 77");
    for access in [Access::Read, Access::Write("run")] {
        let refused = config.open(access).await;
        assert!(matches!(refused, Err(StoreError::Damaged(_))), "{refused:?}");
    }
    change("PRAGMA application_id = 0x536d4f6e");
    assert_eq!(export(&*config.open(Access::Read).await.unwrap()).await.unwrap(), expected);

    std::fs::write(&file, "not a database at all, but longer than the head of one would be. ".repeat(9)).unwrap();
    let before = std::fs::read(&file).unwrap();
    for access in [Access::Read, Access::Write("run")] {
        let refused = config.open(access).await;
        assert!(matches!(refused, Err(StoreError::Damaged(_))), "{refused:?}");
    }
    assert_eq!(std::fs::read(&file).unwrap(), before);
}

#[tokio::test]
async fn damage_is_told_and_never_a_panic() {
    let folder = tempfile::tempdir().unwrap();
    let config = filled(folder.path()).await;
    let file = folder.path().join("sitemon.db");
    let sound = std::fs::read(&file).unwrap();
    let mut told = 0;
    for page in 1..sound.len() / 16_384 {
        let mut bytes = sound.clone();
        for byte in &mut bytes[page * 16_384..(page + 1) * 16_384] {
            *byte ^= 0x5a;
        }
        std::fs::write(&file, &bytes).unwrap();
        let found = match config.open(Access::Read).await {
            Ok(store) => export(&*store).await.map(|_| ()),
            Err(error) => Err(error),
        };
        match found {
            Ok(()) => {}
            Err(StoreError::Damaged(text)) => {
                assert!(text.contains("sitemon.db"), "{text}");
                told += 1;
            }
            Err(other) => panic!("page {page}: {other:?}"),
        }
        assert_eq!(std::fs::read(&file).unwrap(), bytes, "reading changes nothing");
    }
    assert!(told > 0);
}

#[tokio::test]
async fn a_place_that_cannot_be_written_is_told() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "").unwrap();
    // Below a file, and in a file system where nobody can make files: unlike permissions, both hold for root.
    for place in [folder.path().join("file"), Path::new("/proc").to_owned()] {
        let refused = config(&place).open(Access::Write("run")).await;
        let Err(StoreError::Unusable(text)) = refused else { panic!("{refused:?}") };
        assert!(text.contains(place.to_str().unwrap()), "{text}");
    }
    let nothing = config(folder.path());
    let refused = nothing.open(Access::Read).await;
    assert!(matches!(refused, Err(StoreError::Unusable(_))), "{refused:?}");
    assert!(!nothing.exists().await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_of_another_program_is_waited_out() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let store = config.open(Access::Write("run")).await.unwrap();
    let other = rusqlite::Connection::open(folder.path().join("sitemon.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE; INSERT INTO meta VALUES('x', 1)").unwrap();
    let started = Instant::now();
    for _ in 0..2 {
        let refused = store.append(numbered(0..100), None).await;
        assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    }
    assert!(started.elapsed() < Duration::from_secs(5));
    assert!(export(&*store).await.unwrap().is_empty(), "reading goes on");
    other.execute_batch("ROLLBACK").unwrap();
    store.append(numbered(0..100), None).await.unwrap();
    assert_eq!(export(&*store).await.unwrap().len(), 100);
    store.close().await;
}

#[tokio::test]
async fn a_file_that_was_removed_is_not_written_to_in_vain() {
    let folder = tempfile::tempdir().unwrap();
    let (config, file) = (config(folder.path()), folder.path().join("sitemon.db"));
    for replaced in [false, true] {
        let store = config.open(Access::Write("run")).await.unwrap();
        store.append(numbered(0..100), None).await.unwrap();
        for end in ["", "-wal", "-shm"] {
            std::fs::remove_file(format!("{}{end}", file.display())).unwrap();
        }
        if replaced {
            rusqlite::Connection::open(&file).unwrap().execute_batch("CREATE TABLE other(x)").unwrap();
        }
        let refused = store.append(numbered(100..200), None).await;
        let Err(StoreError::Unusable(text)) = refused else { panic!("{refused:?}") };
        assert!(text.contains("was removed or replaced"), "{text}");
        store.close().await;
    }
}

/// Environment of the child that is killed: the folder of its database.
const CHILD: &str = "SITEMON_STORE_TEST_CHILD";

#[tokio::test]
#[ignore = "started by `killed_at_any_time_nothing_is_lost_or_twice`, which kills it"]
async fn appends_until_it_is_killed() {
    let Some(folder) = std::env::var_os(CHILD) else { panic!("not for itself") };
    let store = config(Path::new(&folder)).open(Access::Write("child")).await.unwrap();
    let mut next = store.position("t/0").await.unwrap();
    for round in 0u64.. {
        let advance = Advance { source: "t/0".into(), expected: next, next: next + 137 };
        store.append(numbered(next..next + 137), Some(advance)).await.unwrap();
        next += 137;
        println!("{next}");
        std::io::stdout().flush().unwrap();
        if round % 3 == 2 {
            let now = EPOCH.plus(next as i64 * 1_000_000);
            store.maintain(Upkeep::Pack { now, everything: round % 2 == 0 }).await.unwrap();
        }
    }
}

#[tokio::test]
async fn killed_at_any_time_nothing_is_lost_or_twice() {
    let folder = tempfile::tempdir().unwrap();
    let mut sample = Sample::new(43);
    let mut acknowledged = 0;
    for round in 0..20 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "appends_until_it_is_killed", "--nocapture"])
            .env(CHILD, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut numbers = lines.filter_map(|line| line.parse::<u64>().ok());
        let wanted = 1 + sample.below(9) as usize;
        acknowledged = numbers.by_ref().take(wanted).last().unwrap_or(acknowledged);
        std::thread::sleep(Duration::from_micros(sample.below(30_000)));
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9), "round {round}");
        let store = config(folder.path()).open(Access::Read).await.unwrap();
        let position = store.position("t/0").await.unwrap();
        assert!(position >= acknowledged, "round {round}: {position} {acknowledged}");
        let expected: Vec<String> = numbered(0..position).iter().map(|found| line::to_string(found)).collect();
        let found = export(&*store).await.unwrap();
        assert!(found == expected, "round {round}: {} found, {} expected", found.len(), expected.len());
        store.close().await;
    }
    assert!(acknowledged > 20 * 137);
}
