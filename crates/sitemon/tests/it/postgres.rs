//! `sitemon run` into PostgreSQL, from outside: the real binary, a real server, and both killed.

use crate::command::Folder;
use crate::run::{Monitor, assert_gapless, at, of};
use rustix::process::Signal;
use sitemon_testkit::FaultySite;
use sitemon_testkit::clock::now_us;
use sitemon_testkit::fault::Scheme;
use sitemon_testkit::postgres::Postgres;
use std::fmt::Write as _;
use std::thread::sleep;
use std::time::Duration;

/// Sites that are checked each 200 ms.
const SITES: usize = 5;

fn configuration(dsn: &str, site: &FaultySite) -> String {
    let mut text =
        format!("store: {{kind: postgres, dsn: '{dsn}', flush: 100ms}}\ndefaults: {{interval: 200ms}}\nsites:\n");
    for number in 0..SITES {
        let url = site.url(Scheme::Http, &format!("page?n={number}")).expect("a URL");
        let _ = writeln!(text, "  - {{name: s{number}, url: '{url}'}}");
    }
    text
}

#[test]
fn what_is_observed_is_stored_whoever_is_killed() {
    let mut server = Postgres::start().unwrap_or_else(|error| panic!("{error:#}"));
    let site = FaultySite::start().expect("a site");
    let folder = Folder::with(&configuration(&server.database().expect("a database"), &site));
    let path = folder.path();
    assert_eq!(folder.data("export"), (0, String::new()), "a store that is not there yet is empty");
    assert_eq!(folder.run("config check sitemon.yaml").status.code(), Some(0));
    let shown = folder.data("config show sitemon.yaml").1;
    assert!(shown.contains("sitemon:***@127.0.0.1") && !shown.contains("secret"), "{shown}");

    // Killed: what was observed more than a second before is there, and nothing twice.
    let mut monitor = Monitor::spawn(path, &[]);
    monitor.wait_for("ready");
    sleep(Duration::from_secs(3));
    let killed = now_us().cast_signed();
    monitor.signal(Signal::KILL);
    monitor.wait();
    let first = monitor.export();
    for number in 0..SITES {
        let name = format!("s{number}");
        let mine = of(&first, &name);
        assert_gapless(&mine, &name, 200_000);
        let last = at(mine.last().expect("an observation"), "scheduled_at");
        assert!(last.0 > killed - 1_200_000, "{name} has nothing since {last}");
    }

    // The server is killed and comes back: every slot meanwhile is stored afterwards.
    let mut monitor = Monitor::spawn(path, &[]);
    monitor.wait_for("ready");
    let ready = now_us().cast_signed();
    sleep(Duration::from_secs(1));
    server.kill().expect("it runs");
    monitor.wait_for("cannot be");
    sleep(Duration::from_secs(2));
    server.run().expect("it starts again");
    sleep(Duration::from_secs(3));
    let (code, _) = monitor.stop();
    assert_eq!(code, 0, "{}", monitor.said());
    let stored = monitor.export();
    assert_eq!(stored[..first.len()], first[..]);
    for number in 0..SITES {
        let name = format!("s{number}");
        let mine: Vec<_> = of(&stored, &name).into_iter().filter(|o| at(o, "scheduled_at").0 >= ready).collect();
        assert_gapless(&mine, &name, 200_000);
        assert!(mine.len() >= 28, "{name}: {}", mine.len());
        assert!(mine.iter().all(|observation| observation["verdict"] == "up"));
    }

    // What reads the store.
    let (code, status) = folder.json("status --json");
    assert_eq!((code, status.len()), (0, SITES));
    assert!(status.iter().all(|site| site["verdict"] == "up"), "{status:?}");
    let (code, found) = folder.json("stats s0 --json");
    assert_eq!(code, 0);
    assert_eq!(found[0]["availability"], 1.0, "{found:?}");
    assert_eq!(folder.run("history s0").status.code(), Some(0));
    let before = folder.data("export");
    assert_eq!(folder.run("compact").status.code(), Some(0));
    assert!(folder.data("export") == before, "packing changes nothing that export prints");
    assert_eq!(folder.run("migrate").status.code(), Some(0));

    // A server that is away at the start is waited for.
    server.stop().expect("it runs");
    let mut monitor = Monitor::spawn(path, &[]);
    monitor.wait_for("cannot reach PostgreSQL at 127.0.0.1:");
    server.run().expect("it starts again");
    monitor.wait_for("ready");
    assert_eq!(monitor.stop().0, 0, "{}", monitor.said());
    server.stop().expect("it runs");
    let (code, told) = (folder.run("export").status.code(), folder.told("export"));
    assert!(code == Some(4) && told.contains("cannot reach PostgreSQL at 127.0.0.1:"), "{told}");
}
