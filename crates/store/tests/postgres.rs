//! The driver `postgres`, against a server of its own: what the suite of all drivers does not ask.

use serde_json::json;
use sitemon_model::time::{HOUR, SECOND};
use sitemon_model::timeline::Phase;
use sitemon_model::tree::{At, Faults, Node};
use sitemon_model::{Observation, Reason, Timestamp, line};
use sitemon_store::sample::{EPOCH, Sample};
use sitemon_store::{Access, Advance, Config, KINDS, Scan, Store, StoreError, Upkeep, Window};
use sitemon_testkit::postgres::{self, Postgres};
use std::io::{BufRead as _, BufReader, Write as _};
use std::ops::Range;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

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
    config(&json!({"dsn": dsn})).unwrap()
}

fn server() -> Arc<Postgres> {
    postgres::shared().unwrap_or_else(|error| panic!("{error:#}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn does_what_every_store_must() {
    let server = server();
    sitemon_store::conformance::conformance(|| of(&server.database().unwrap())).await;
}

/// The lines of everything.
async fn export(store: &dyn Store) -> Vec<String> {
    let window = Window { sites: None, from: Timestamp::MIN, to: Timestamp::MAX };
    let scan = Scan { window, after: None, limit: usize::MAX, newest_first: false };
    let page = store.scan(&scan).await.unwrap_or_else(|error| panic!("scanning: {error}"));
    page.observations.iter().map(|observation| line::to_string(observation)).collect()
}

/// The observations with these numbers, always the same: one a second, of five sites.
fn numbered(numbers: Range<u64>) -> Vec<Arc<Observation>> {
    let one = |number| {
        let site = format!("site-{}", number % 5).into();
        let slot = EPOCH.plus(number as i64 * 1_000_000);
        Arc::new(Sample::new(number).mixed(&site, &"default".into(), slot, 5_000_000))
    };
    numbers.map(one).collect()
}

fn lines(numbers: Range<u64>) -> Vec<String> {
    numbered(numbers).iter().map(|observation| line::to_string(observation)).collect()
}

fn advance(source: &str, expected: u64, next: u64) -> Advance {
    Advance { source: source.into(), expected, next }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_may_start_at_once_and_a_newer_schema_is_refused() {
    let server = server();
    let dsn = server.database().unwrap();
    assert!(!of(&dsn).exists().await.unwrap());
    let refused = of(&dsn).open(Access::Read).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    let starts: Vec<_> = (0..10)
        .map(|number| {
            let dsn = dsn.clone();
            tokio::spawn(async move {
                let store = of(&dsn).open(Access::Write("run")).await?;
                let source = format!("t/{number}");
                store.append(numbered(number * 100..number * 100 + 100), Some(advance(&source, 0, 100))).await?;
                store.close().await;
                Ok::<_, StoreError>(())
            })
        })
        .collect();
    for start in starts {
        start.await.unwrap().unwrap();
    }
    let store = of(&dsn).open(Access::Read).await.unwrap();
    assert_eq!(export(&*store).await, lines(0..1000));
    assert!(matches!(store.append(numbered(0..1), None).await, Err(StoreError::Unusable(_))));
    let database = dsn.rsplit('/').next().unwrap().split('?').next().unwrap().to_owned();
    server.sql(&database, "UPDATE sitemon.meta SET value = 99 WHERE name = 'schema'").unwrap();
    for access in [Access::Read, Access::Write("run")] {
        let refused = of(&dsn).open(access).await;
        assert!(matches!(refused, Err(StoreError::Newer { found: 99, .. })), "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_write_while_one_packs_and_nothing_is_lost_or_twice() {
    let server = server();
    let dsn = server.database().unwrap();
    let writers: Vec<_> = (0..4u64)
        .map(|number| {
            let dsn = dsn.clone();
            tokio::spawn(async move {
                let store = of(&dsn).open(Access::Write("writer")).await.unwrap();
                let source = format!("t/{number}");
                let first = number * 10_000;
                for round in 0..30u64 {
                    let batch = numbered(first + round * 50..first + round * 50 + 50);
                    store.append(batch, Some(advance(&source, round * 50, round * 50 + 50))).await.unwrap();
                    if round % 7 == number {
                        // Any of them tries; one at a time does.
                        let now = EPOCH.plus((first + round * 50) as i64 * 1_000_000);
                        let everything = round % 2 == 0;
                        store.maintain(Upkeep::Pack { now, everything }).await.unwrap();
                    }
                }
                store.close().await;
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let store = of(&dsn).open(Access::Write("compact")).await.unwrap();
    let expected: Vec<String> = (0..4).flat_map(|number| lines(number * 10_000..number * 10_000 + 1500)).collect();
    assert!(export(&*store).await == expected);
    store.maintain(Upkeep::Pack { now: EPOCH, everything: true }).await.unwrap();
    assert!(export(&*store).await == expected);
    let measures = store.measure().await.unwrap();
    assert_eq!(measures.arrivals, 0);
    assert!(measures.blocks > 0 && measures.bytes > 0);
    let pieces = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'sitemon.arrivals'::regclass";
    let database = dsn.rsplit('/').next().unwrap().split('?').next().unwrap();
    assert_eq!(server.sql(database, pieces).unwrap(), "1", "pieces are dropped whole");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_writers_of_one_source_one_is_fenced() {
    let server = server();
    let dsn = server.database().unwrap();
    let (one, other) =
        (of(&dsn).open(Access::Write("writer")).await.unwrap(), of(&dsn).open(Access::Write("writer")).await.unwrap());
    for round in 0..10u64 {
        let at = round * 20;
        let (first, second) = tokio::join!(
            one.append(numbered(at..at + 20), Some(advance("t/0", at, at + 20))),
            other.append(numbered(at..at + 20), Some(advance("t/0", at, at + 20)))
        );
        let fenced = |result: &Result<(), StoreError>| matches!(result, Err(StoreError::Fenced { expected, found, .. }) if *expected == at && *found == at + 20);
        assert!(
            first.is_ok() && fenced(&second) || second.is_ok() && fenced(&first),
            "round {round}: {first:?} {second:?}"
        );
    }
    let missed = one.append(numbered(0..1), Some(advance("t/1", 5, 6))).await;
    assert!(matches!(missed, Err(StoreError::Fenced { found: 0, .. })), "{missed:?}");
    assert_eq!(one.measure().await.unwrap().arrivals, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_killed_is_waited_for() {
    let mut server = Postgres::start().unwrap();
    let dsn = server.database().unwrap();
    let store = of(&dsn).open(Access::Write("run")).await.unwrap();
    let mut next = 0;
    for round in 0..3 {
        store.append(numbered(next..next + 500), Some(advance("t/0", next, next + 500))).await.unwrap();
        next += 500;
        if round == 1 {
            store.maintain(Upkeep::Pack { now: EPOCH, everything: true }).await.unwrap();
        }
        server.kill().unwrap();
        let refused = store.append(numbered(next..next + 500), Some(advance("t/0", next, next + 500))).await;
        assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
        let refused = store.position("t/0").await;
        assert!(matches!(&refused, Err(StoreError::Unavailable(told)) if told.contains("PostgreSQL at 127.0.0.1:")));
        assert!(matches!(of(&dsn).open(Access::Write("run")).await, Err(StoreError::Unavailable(_))));
        server.run().unwrap();
        let (mut tries, limit) = (0, Instant::now() + Duration::from_secs(30));
        while store.position("t/0").await.is_err() {
            tries += 1;
            assert!(Instant::now() < limit, "after {tries} tries");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(store.position("t/0").await.unwrap(), next, "what was acknowledged is there");
        assert!(export(&*store).await == lines(0..next), "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_way_is_secured_as_it_is_told() {
    let server = Postgres::start().unwrap();
    let plain = server.database().unwrap();
    let ca = server.tls_file("ca.pem").display().to_string();
    let stranger = server.tls_file("stranger.pem").display().to_string();
    let by = |mode: &str| plain.replace("sslmode=disable", mode);
    let other_name = |dsn: String| format!("{}&hostaddr=127.0.0.1", dsn.replace("@127.0.0.1:", "@other.test:"));
    let told = async |keys: serde_json::Value| match config(&keys) {
        Ok(config) => match config.open(Access::Write("run")).await {
            Ok(store) => {
                store.close().await;
                "opens".to_owned()
            }
            Err(error) => error.to_string(),
        },
        Err(faults) => faults,
    };
    for (keys, expected) in [
        (json!({"dsn": by("sslmode=require")}), "opens"),
        (json!({"dsn": by("ssl=require")}), "opens"),
        (json!({"dsn": by("sslmode=prefer")}), "opens"),
        (json!({"dsn": by(&format!("sslmode=verify-full&sslrootcert={ca}"))}), "opens"),
        (json!({"dsn": by("sslmode=verify-full"), "tls": {"ca": ca}}), "opens"),
        (json!({"dsn": by(""), "tls": {"ca": ca}}), "opens"),
        (json!({"dsn": other_name(by("sslmode=verify-ca")), "tls": {"ca": ca}}), "opens"),
        (json!({"dsn": other_name(by("sslmode=verify-full")), "tls": {"ca": ca}}), "not valid for name"),
        (json!({"dsn": by("sslmode=verify-ca"), "tls": {"ca": stranger}}), "invalid peer certificate"),
        (json!({"dsn": by("sslmode=require"), "tls": {"ca": stranger}}), "invalid peer certificate"),
        (
            json!({"dsn": by("sslmode=require"), "tls": {"ca": "/nowhere.pem"}}),
            "cannot read /nowhere.pem: no such file",
        ),
        (json!({"dsn": by("sslmode=verify-all")}), "expected one of: disable, allow"),
        (json!({"dsn": plain.replace("secret", "wrong")}), "password authentication failed"),
        (json!({"dsn": plain.replace("/test_", "/nothing_")}), "does not exist"),
        (json!({"colour": "red"}), "is missing, expected postgres://"),
    ] {
        let told = told(keys.clone()).await;
        assert!(told.contains(expected), "{keys}: {told}");
        assert!(!told.contains("secret"), "{told}");
    }
    // A certificate of our own instead of a password.
    let certified = by("sslmode=verify-full").replace("sitemon:secret@", "certified@");
    let (certificate, key) = (server.tls_file("client.pem"), server.tls_file("client.key"));
    let database = plain.rsplit('/').next().unwrap().split('?').next().unwrap();
    server.sql(database, "GRANT sitemon TO certified").unwrap();
    let tls = json!({"ca": ca, "certificate": certificate, "key": key});
    assert_eq!(told(json!({"dsn": certified, "tls": tls})).await, "opens");
    let without = told(json!({"dsn": certified, "tls": {"ca": ca}})).await;
    assert!(without.contains("certificate"), "{without}");
}

/// Environment of the child that is killed: its database.
const CHILD: &str = "SITEMON_STORE_TEST_DSN";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by `killed_at_any_time_nothing_is_lost_or_twice`, which kills it"]
async fn appends_until_it_is_killed() {
    let Ok(dsn) = std::env::var(CHILD) else { panic!("not for itself") };
    let store = of(&dsn).open(Access::Write("child")).await.unwrap();
    let mut next = store.position("t/0").await.unwrap();
    for round in 0u64.. {
        store.append(numbered(next..next + 137), Some(advance("t/0", next, next + 137))).await.unwrap();
        next += 137;
        println!("{next}");
        std::io::stdout().flush().unwrap();
        if round % 3 == 2 {
            let now = EPOCH.plus(next as i64 * 1_000_000);
            store.maintain(Upkeep::Pack { now, everything: round % 2 == 0 }).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_time_nothing_is_lost_or_twice() {
    let server = server();
    let dsn = server.database().unwrap();
    let mut sample = Sample::new(43);
    let mut acknowledged = 0;
    for round in 0..20 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "appends_until_it_is_killed", "--nocapture"])
            .env(CHILD, &dsn)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut numbers = lines.filter_map(|line| line.parse::<u64>().ok());
        let wanted = 1 + sample.below(9) as usize;
        acknowledged = numbers.by_ref().take(wanted).last().unwrap_or(acknowledged);
        std::thread::sleep(Duration::from_micros(sample.below(60_000)));
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9), "round {round}");
        let store = of(&dsn).open(Access::Read).await.unwrap();
        // What was being committed may still come through.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let position = store.position("t/0").await.unwrap();
        assert!(position >= acknowledged, "round {round}: {position} {acknowledged}");
        let (found, expected) = (export(&*store).await, self::lines(0..position));
        assert!(found == expected, "round {round}: {} found, {} expected", found.len(), expected.len());
        store.close().await;
    }
    assert!(acknowledged > 20 * 137);
}

/// What `sitemon.observations` shall say of an observation, as one line.
fn told(o: &Observation) -> String {
    let phase = |phase| {
        let times: Vec<u64> = o.hops.iter().filter_map(|hop| hop.phases.get(phase)).map(|time| time.us).collect();
        (!times.is_empty()).then(|| times.iter().sum::<u64>())
    };
    let show = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
    let causes: Vec<String> = o.verdict.causes().iter().map(|cause| cause.code.to_string()).collect();
    let mut told = vec![
        o.site.to_string(),
        o.location.to_string(),
        o.scheduled_at.0.to_string(),
        show(o.started_at.map(|at| at.0 as u64)),
        if o.reason == Reason::Schedule { "schedule".to_owned() } else { "request".to_owned() },
        ["up", "degraded", "down", "unknown"][usize::from(o.verdict.number())].to_owned(),
        if causes.is_empty() { "-".to_owned() } else { causes.join(",") },
        show(o.response_time_us),
        show(o.status.map(u64::from)),
        show(o.body.map(|body| body.wire_bytes)),
        show(o.body.map(|body| body.decoded_bytes)),
    ];
    told.extend(Phase::ALL.map(|of| show(phase(of))));
    told.extend([o.interval_us.to_string(), o.timeout_us.to_string()]);
    told.join("|")
}

/// The same, asked in SQL.
const TOLD: &str = "SELECT concat_ws('|', site, location, sitemon.micros(scheduled_at),
    coalesce(sitemon.micros(started_at)::text, '-'), reason, verdict, coalesce(array_to_string(causes, ','), '-'),
    coalesce(response_time_us::text, '-'), coalesce(status::text, '-'), coalesce(wire_bytes::text, '-'),
    coalesce(decoded_bytes::text, '-'), coalesce(dns_us::text, '-'), coalesce(connect_us::text, '-'),
    coalesce(proxy_us::text, '-'), coalesce(tls_us::text, '-'), coalesce(send_us::text, '-'),
    coalesce(wait_us::text, '-'), coalesce(receive_us::text, '-'), interval_us, timeout_us) FROM ";

#[tokio::test(flavor = "multi_thread")]
async fn every_observation_is_seen_in_sql() {
    let server = server();
    let dsn = server.database().unwrap();
    let store = of(&dsn).open(Access::Write("run")).await.unwrap();
    let mut sample = Sample::new(77);
    let mut all: Vec<Arc<Observation>> = Vec::new();
    // Two hours at 15 s, in which all may happen; one site seldom, so by the day; one that changes its interval.
    for (site, step, count) in [("often", 15, 480), ("seldom", 300, 24), ("changed", 15, 100), ("changed2", 120, 30)] {
        for slot in 0..count {
            let at = EPOCH.plus(slot * step * SECOND + 7);
            let site: Arc<str> = site.trim_end_matches('2').into();
            let at = if step == 120 { at.plus(HOUR) } else { at };
            all.push(Arc::new(sample.mixed(&site, &"default".into(), at, (step * SECOND) as u64)));
        }
    }
    all.sort_by_key(|observation| (observation.site.clone(), observation.scheduled_at));
    let database = dsn.rsplit('/').next().unwrap().split('?').next().unwrap();
    let ask = |sql: &str| -> Vec<String> {
        server.sql(database, sql).unwrap().lines().map(str::to_owned).filter(|line| !line.is_empty()).collect()
    };
    let expected: Vec<String> = all.iter().map(|observation| told(observation)).collect();
    let view = format!("{TOLD} sitemon.observations ORDER BY site, location, scheduled_at");
    let late: Vec<_> = all.iter().step_by(5).cloned().collect();
    let on_time: Vec<_> = all.iter().enumerate().filter(|(at, _)| at % 5 != 0).map(|(_, o)| o.clone()).collect();
    store.append(on_time, None).await.unwrap();
    store.maintain(Upkeep::Pack { now: EPOCH.plus(HOUR + 100 * SECOND), everything: false }).await.unwrap();
    // Late ones, and some once more.
    store.append(late, None).await.unwrap();
    store.append(all[..50].to_vec(), None).await.unwrap();
    for round in ["arriving", "packed"] {
        let found = ask(&view);
        for (at, line) in expected.iter().enumerate() {
            assert_eq!(found.get(at), Some(line), "{round}, line {at}");
        }
        assert_eq!(found.len(), expected.len(), "{round}");
        let (from, to) = (EPOCH.plus(HOUR / 2), EPOCH.plus(HOUR + HOUR / 4));
        for name in ["often", "seldom", "changed"] {
            let span = format!("sitemon.instant({}), sitemon.instant({})", from.0, to.0);
            let sql = format!("{TOLD} sitemon.observations('{name}', {span}) ORDER BY scheduled_at");
            let inside = |o: &&Arc<Observation>| *o.site == *name && o.scheduled_at >= from && o.scheduled_at < to;
            let expected: Vec<String> = all.iter().filter(inside).map(|o| told(o)).collect();
            assert!(!expected.is_empty());
            assert_eq!(ask(&sql), expected, "{round} {name}");
        }
        store.maintain(Upkeep::Pack { now: EPOCH, everything: true }).await.unwrap();
    }
    // Filtered by site, only its blocks are read.
    let plan = ask("EXPLAIN (COSTS OFF) SELECT count(*) FROM sitemon.observations WHERE site = 'seldom'");
    let plan = plan.join("\n");
    assert!(plan.contains("site = 'seldom'"), "{plan}");
}
