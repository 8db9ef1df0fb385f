//! The command line from outside: exit code, stdout and stderr of each command.

use crate::command::{Folder, steady, told};
use expect_test::{Expect, expect};
use sitemon::config::{self, Source};
use sitemon_model::time::SECOND;
use sitemon_model::{
    Body, Cause, Code, Finding, Hop, HttpVersion, Observation, Phase, State, Timestamp, Verdict, line,
};
use sitemon_store::Access;
use sitemon_testkit::{FaultySite, Scheme};
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Stdio;
use std::sync::Arc;

const SITES: &str = "\
sites:
  - {name: shop, url: 'http://127.0.0.1:9/shop', interval: 15s, labels: {team: web}}
  - {name: a, url: 'http://127.0.0.1:9/a', interval: 1s}
  - {name: off, url: 'http://127.0.0.1:9/off', enabled: false}
";

/// 2026-11-21T10:00:00Z
const START: Timestamp = Timestamp(1_795_255_200_000_000);

fn check(folder: &Folder, line: &str, expected: &Expect) {
    expected.assert_eq(&folder.told(line));
}

// --- wrong use and help

#[test]
fn wrong_use_is_2_and_says_what_is_wrong() {
    let folder = Folder::with(SITES);
    for line in [
        "",
        "bogus",
        "check --bogus",
        "status --over 1s",
        "export --from yesterday",
        "history",
        "sites --from now",
        "--color sometimes sites",
        "-l loud sites",
        "-v -q sites",
        "checker",
        "completions tcsh",
    ] {
        let output = folder.run(line);
        assert_eq!(output.status.code(), Some(2), "{line}: {}", told(&output));
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{line}: {}", told(&output));
    }
    check(
        &folder,
        "export --from yesterday",
        &expect![[r#"
        exit 2
        --- stderr
        error: invalid value 'yesterday' for '--from <T>': expected RFC 3339 such as 2026-11-21T10:00:00Z, a date, `now`, or a duration such as 6h (that long ago)

        For more information, try '--help'.
    "#]],
    );
}

#[test]
fn commands_of_later_versions_are_refused_by_name() {
    let folder = Folder::new();
    for line in ["checker", "-l info monitor-sites", "worker -l info", "writer", "web", "doctor", "replay", "snapshot"]
    {
        let output = folder.run(line);
        assert_eq!(output.status.code(), Some(2), "{line}: {}", told(&output));
        assert!(told(&output).contains("comes with a later version"), "{line}: {}", told(&output));
    }
    check(
        &folder,
        "worker -l info",
        &expect![[r#"
        exit 2
        --- stderr
        sitemon: `worker` comes with a later version; `sitemon run` checks and stores in one process
    "#]],
    );
}

#[test]
fn help_and_version_go_to_stdout() {
    let folder = Folder::new();
    for line in ["--help", "-h", "help check", "check --help", "config check --help", "--version", "-V"] {
        let output = folder.run(line);
        assert_eq!(output.status.code(), Some(0), "{line}: {}", told(&output));
        assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{line}: {}", told(&output));
    }
    let (_, version) = folder.data("--version");
    assert!(version.starts_with(concat!("sitemon ", env!("CARGO_PKG_VERSION"))), "{version}");
    let (_, help) = folder.data("--help");
    assert!(help.contains("Examples:") && help.lines().all(|line| line.chars().count() <= 100), "{help}");
}

#[test]
fn completions_and_manual_pages() {
    let folder = Folder::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (code, text) = folder.data(&format!("completions {shell}"));
        assert!(code == 0 && text.contains("sitemon") && text.contains("history"), "{shell}: {text}");
    }
    let (code, page) = folder.data("man");
    assert!(code == 0 && page.contains(".TH sitemon 1") && page.contains("Exit code"), "{page}");
    assert_eq!(folder.data("man --dir pages").0, 0);
    let pages = fs::read_dir(folder.path().join("pages")).expect("the folder").count();
    assert!(pages >= 12, "{pages} pages");
}

#[test]
fn without_a_configuration_it_is_2() {
    let folder = Folder::new();
    for line in [
        "run",
        "check",
        "sites",
        "status",
        "history shop",
        "stats shop",
        "export",
        "compact",
        "migrate",
        "config show",
        "config check",
        "config convert",
    ] {
        let output = folder.run(line);
        assert_eq!(output.status.code(), Some(2), "{line}: {}", told(&output));
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{line}: {}", told(&output));
    }
}

#[test]
fn every_command_tells_all_faults_of_a_configuration() {
    let folder =
        Folder::with("sites:\n  - {name: shop, url: 'http://127.0.0.1/', intervall: 5s}\n  - {url: nowhere}\n");
    for line in [
        "run",
        "check",
        "sites",
        "status",
        "history shop",
        "stats shop",
        "export",
        "compact",
        "migrate",
        "config check sitemon.yaml",
    ] {
        let output = folder.run(line);
        assert_eq!(output.status.code(), Some(2), "{line}: {}", told(&output));
        let stderr = String::from_utf8_lossy(&output.stderr);
        let faults: Vec<&str> = stderr.lines().filter(|line| line.contains("sitemon.yaml:")).collect();
        assert_eq!(faults.len(), 2, "{line}: {stderr}");
        assert!(faults[0].contains(":2:") && faults[0].contains("intervall"), "{line}: {stderr}");
        assert!(faults[1].contains(":3:") && faults[1].contains("nowhere"), "{line}: {stderr}");
    }
}

#[test]
fn names_that_nobody_knows_are_2() {
    let folder = Folder::with(SITES);
    check(
        &folder,
        "history shp",
        &expect![[r#"
        exit 2
        --- stderr
        sitemon: unknown site `shp`, did you mean `shop`?
    "#]],
    );
    for line in [
        "check --site nobody",
        "export --site shop --site nobody",
        "history nobody",
        "stats nobody",
        "status --site nobody",
        "sites --site nobody",
    ] {
        let output = folder.run(line);
        assert_eq!(output.status.code(), Some(2), "{line}: {}", told(&output));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.contains("unknown site `nobody`") && output.stdout.is_empty(), "{line}: {}", told(&output));
    }
}

// --- check

/// A server, and a configuration of sites that are what their names say.
fn server() -> (FaultySite, Folder) {
    let server = FaultySite::start().expect("a server");
    let url = |command: &str| server.url(Scheme::Http, command).expect("a URL");
    let configuration = format!(
        "\
defaults: {{timeout: 5s}}
sites:
  - {{name: fine, url: '{ok}'}}
  - {{name: slow, url: '{ok}', expect: {{response_time: 1us}}}}
  - {{name: wrong, url: '{wrong}'}}
  - {{name: gone, url: '{refused}'}}
  - {{name: off, url: '{ok}', enabled: false}}
",
        ok = url("page"),
        wrong = url("status"),
        refused = url("refused"),
    );
    (server, Folder::with(&configuration))
}

#[test]
fn check_tells_each_site_in_the_order_of_the_file() {
    let (_server, folder) = server();
    let told = steady(&folder.told("check"));
    expect![[r#"
        exit 1
        --- stdout
        ● up       fine   http://127.0.0.1:PORT/page
          TIME · 200 HTTP/1.1 · 127.0.0.1:PORT · 697 B · text/html; charset=utf-8
          BAR
          ▒ connect TIME  ▪ send TIME  █ wait TIME  ▄ receive TIME
        ◐ degraded slow   http://127.0.0.1:PORT/page
          TIME · 200 HTTP/1.1 · 127.0.0.1:PORT · 697 B · text/html; charset=utf-8
          BAR
          ▒ connect TIME  ▪ send TIME  █ wait TIME  ▄ receive TIME
          response_time.exceeded took TIME, expected at most 1us
        ✗ down     wrong  http://127.0.0.1:PORT/status
          TIME · 503 HTTP/1.1 · 127.0.0.1:PORT · 21 B · text/plain; charset=utf-8
          BAR
          ▒ connect TIME  ▪ send TIME  █ wait TIME  ▄ receive TIME
          http.status status 503, expected 200-299
        ✗ down     gone   http://127.0.0.1:PORT/
          127.0.0.1:PORT
          BAR
          ▒ connect TIME failed
          connect.refused 127.0.0.1:PORT: Connection refused
        --- stderr
        4 sites: 1 up, 1 degraded, 2 down in TIME
    "#]]
    .assert_eq(&told);
}

#[test]
fn check_leaves_out_what_is_disabled_unless_it_is_named() {
    let (_server, folder) = server();
    let names = |line: &str| -> (i32, Vec<String>) {
        let (code, lines) = folder.json(line);
        (code, lines.iter().map(|line| line["site"].as_str().unwrap_or_default().to_owned()).collect())
    };
    assert_eq!(names("check --json"), (1, ["fine", "slow", "wrong", "gone"].map(str::to_owned).to_vec()));
    assert_eq!(names("check --site off --site fine --json"), (0, ["off", "fine"].map(str::to_owned).to_vec()));
}

#[test]
fn check_prints_observations_and_stores_nothing() {
    let (_server, folder) = server();
    let (code, lines) = folder.json("check --json");
    assert_eq!(code, 1);
    let verdicts: Vec<&str> = lines.iter().filter_map(|line| line["verdict"].as_str()).collect();
    assert_eq!(verdicts, ["up", "degraded", "down", "down"]);
    assert_eq!(lines[0]["reason"], "request");
    assert_eq!(lines[0]["hops"][0]["phases"]["wait"]["state"], "done");
    assert_eq!(lines[2]["causes"][0]["code"], "http.status");
    assert_eq!(lines[3]["causes"][0]["code"], "connect.refused");
    assert!(lines[3].get("response_time_us").is_none());
    let left: Vec<_> =
        fs::read_dir(folder.path()).expect("the folder").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["sitemon.yaml"]);
}

#[test]
fn check_of_addresses_needs_no_file() {
    let server = FaultySite::start().expect("a server");
    let folder = Folder::new();
    let ok = server.url(Scheme::Http, "page").expect("a URL");
    let (code, lines) = folder.json(&format!("check --json {ok}"));
    assert_eq!((code, &lines[0]["site"], &lines[0]["verdict"]), (0, &ok.as_str().into(), &"up".into()));
    assert_eq!(folder.run("check nowhere").status.code(), Some(2));
}

#[test]
fn check_is_3_where_one_is_unknown_and_none_is_down() {
    let (_server, folder) = server();
    let text = fs::read_to_string(folder.path().join("sitemon.yaml")).expect("the file");
    folder.write("sitemon.yaml", &format!("network: {{refuse: [loopback]}}\n{text}"));
    let (code, lines) = folder.json("check --site fine --json");
    assert_eq!(
        (code, &lines[0]["verdict"], &lines[0]["causes"][0]["code"]),
        (3, &"unknown".into(), &"policy.address".into())
    );
    assert!(lines[0]["hops"][0]["phases"].get("connect").is_none(), "{}", lines[0]);
}

#[test]
fn colours_are_where_they_should_be() {
    let (_server, folder) = server();
    let styled = |line: &str, no_color: bool| {
        let mut command = folder.command(line);
        if no_color {
            command.env("NO_COLOR", "1");
        }
        command.output().expect("the binary runs").stdout.contains(&0x1b)
    };
    assert!(!styled("check --site fine", false), "a pipe is no terminal");
    assert!(styled("check --site fine --color always", false));
    assert!(styled("--color=always check --site fine", true), "--color beats NO_COLOR");
    assert!(!styled("check --color never --site fine", false));
    assert!(!styled("check --json --color always --site fine", false), "data has no colours");
}

// --- sites

#[test]
fn sites_before_the_first_run() {
    let folder = Folder::with(SITES);
    check(
        &folder,
        "sites",
        &expect![[r#"
        exit 0
        --- stdout
        SITE  KIND  INTERVAL  STATE     LABELS    URL
        shop  http       15s  enabled   team=web  http://127.0.0.1:9/shop
        a     http        1s  enabled             http://127.0.0.1:9/a
        off   http        1m  disabled            http://127.0.0.1:9/off
    "#]],
    );
    check(
        &folder,
        "sites --json --site shop",
        &expect![[r#"
        exit 0
        --- stdout
        {"site":"shop","url":"http://127.0.0.1:9/shop","kind":"http","enabled":true,"interval_us":15000000,"timeout_us":10000000,"jitter_us":0,"labels":{"team":"web"},"configured":true}
    "#]],
    );
}

#[test]
fn slots_are_those_of_the_interface() {
    let folder = Folder::with(
        "sites: [{name: shop, url: 'http://h/', interval: 15s}, {name: a, url: 'http://h/', interval: 1s},\n\
         {url: 'https://shop.example/', interval: 60s}, {name: off, url: 'http://h/', enabled: false}]\n",
    );
    // 1796000000 is 2026-11-30T00:53:20Z.
    check(
        &folder,
        "sites --slots --from 2026-11-30T00:53:20Z --to 2026-11-30T00:53:23Z",
        &expect![[r#"
        exit 0
        --- stdout
        2026-11-30T00:53:20.738719Z  a
        2026-11-30T00:53:21.738719Z  a
        2026-11-30T00:53:22.243673Z  shop
        2026-11-30T00:53:22.738719Z  a
    "#]],
    );
    let (code, lines) = folder.json("sites --slots --json --from 2026-11-30T00:53:20Z --to 2026-11-30T00:53:36Z");
    let of = |name: &str| -> Vec<i64> {
        lines.iter().filter(|line| line["site"] == name).filter_map(|line| line["scheduled_at_us"].as_i64()).collect()
    };
    assert_eq!((code, of("a").len()), (0, 16));
    assert_eq!(of("shop"), [1_796_000_002_243_673]);
    assert_eq!(of("https://shop.example/"), [1_796_000_015_029_497]);
    let (_, end) =
        folder.data("sites --slots --site shop --from 2026-11-30T00:53:22.243673Z --to 2026-11-30T00:53:37.243673Z");
    assert_eq!(end, "2026-11-30T00:53:22.243673Z  shop\n", "--from is inclusive, --to exclusive");
}

// --- what is stored

/// Ten minutes of `shop`: up, with four slots of 503 and a finding, from [`START`] on.
fn observations() -> Vec<Arc<Observation>> {
    (0..40)
        .map(|slot| {
            let scheduled_at = START.plus(slot * 15 * SECOND + 7_243_673);
            let down = (20..24).contains(&slot);
            let us = 80_000 + 500 * slot.unsigned_abs();
            let mut hop = Hop {
                url: "http://127.0.0.1:9/shop".into(),
                method: "GET".into(),
                address: Some(([127, 0, 0, 1], 9).into()),
                http_version: Some(HttpVersion::Http11),
                status: Some(if down { 503 } else { 200 }),
                ..Hop::default()
            };
            for (phase, share) in [(Phase::Connect, 20), (Phase::Send, 1), (Phase::Wait, 70), (Phase::Receive, 9)] {
                hop.phases.set(phase, us * share / 100, State::Done);
            }
            let cause = Cause::new(Code::HttpStatus, "status 503, expected 200-299");
            Arc::new(Observation {
                site: "shop".into(),
                location: "default".into(),
                scheduled_at,
                started_at: Some(scheduled_at.plus(400)),
                interval_us: 15_000_000,
                timeout_us: 10_000_000,
                verdict: if down { Verdict::Down(vec![cause]) } else { Verdict::Up },
                response_time_us: Some(us),
                hops: vec![hop],
                status: Some(if down { 503 } else { 200 }),
                method: Some("GET".into()),
                content_type: Some("text/html".into()),
                body: Some(Body { wire_bytes: 4120, decoded_bytes: 10_301 }),
                findings: (slot == 30)
                    .then(|| Finding {
                        plugin: "html-stats".into(),
                        metric: "scripts".into(),
                        value: Some(9.0),
                        mean: Some(4.1),
                        deviation: Some(0.3),
                        message: "9, but 4.1 by rule".into(),
                    })
                    .into_iter()
                    .collect(),
                ..Observation::default()
            })
        })
        .collect()
}

/// Appends to the store of a folder, as the command `run` would.
pub fn store(folder: &Folder, observations: Vec<Arc<Observation>>) {
    store_of(folder, "sitemon.yaml", observations);
}

/// The same for another file.
fn store_of(folder: &Folder, file: &str, observations: Vec<Arc<Observation>>) {
    let source = Source { file: Some(folder.path().join(file)), local: false };
    let config = config::load(&source).expect("the configuration");
    runtime().block_on(async {
        let store = config.store.open(Access::Write("run")).await.expect("the store");
        let records = config.sites.iter().map(config::Watched::record);
        store.save_sites("file", records.collect()).await.expect("the sites");
        store.append(observations, None).await.expect("the observations");
        store.close().await;
    });
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
}

fn stored() -> Folder {
    let folder = Folder::with(SITES);
    store(&folder, observations());
    folder
}

#[test]
fn a_store_that_is_not_there_yet_is_empty() {
    let folder = Folder::with(SITES);
    for (line, code) in [("export", 0), ("export --site shop --format csv", 0), ("compact", 0), ("history shop", 0)] {
        assert_eq!(folder.run(line).status.code(), Some(code), "{line}");
    }
    assert_eq!(folder.data("export"), (0, String::new()));
    let (code, lines) = folder.json("stats shop --json --from 2026-11-21T10:00:00Z --to 2026-11-21T10:10:00Z");
    assert_eq!((code, lines.len(), &lines[0]["coverage"]), (0, 1, &0.0.into()));
    assert_eq!(lines[0].get("availability"), Some(&serde_json::Value::Null));
    assert_eq!(lines[0]["latency_us"].get("p95"), Some(&serde_json::Value::Null));
    assert!(!folder.path().join("sitemon.db").exists(), "reading makes no store");
}

#[test]
fn export_prints_the_lines_of_the_observations() {
    let folder = stored();
    let expected: Vec<String> = observations().iter().map(|observation| line::to_string(observation)).collect();
    assert_eq!(folder.data("export"), (0, expected.join("\n") + "\n"));
    let (_, part) =
        folder.data("export --site shop --from 2026-11-21T10:00:22.243673Z --to 2026-11-21T10:00:52.243673Z");
    assert_eq!(part, expected[1..3].join("\n") + "\n", "--from is inclusive, --to exclusive");
    assert_eq!(folder.data("export --site a"), (0, String::new()));
    assert_eq!(folder.run("export --from now --to 1h").status.code(), Some(2));
    check(
        &folder,
        "export --format csv --to 2026-11-21T10:00:10Z",
        &expect![[r#"
        exit 0
        --- stdout
        site,location,reason,scheduled_at,started_at,interval_us,timeout_us,verdict,causes,message,response_time_us,dns_us,connect_us,proxy_us,tls_us,send_us,wait_us,receive_us,hops,url,address,http_version,status,method,content_type,wire_bytes,decoded_bytes,certificate_not_after,extracted,metrics
        shop,default,schedule,2026-11-21T10:00:07.243673Z,2026-11-21T10:00:07.244073Z,15000000,10000000,up,,,80000,,16000,,,800,56000,7200,1,http://127.0.0.1:9/shop,127.0.0.1:9,1.1,200,GET,text/html,4120,10301,,,
    "#]],
    );
}

#[test]
fn compact_changes_nothing_that_export_prints() {
    let folder = stored();
    let before = folder.data("export");
    let packed = folder.run("compact");
    assert_eq!(packed.status.code(), Some(0), "{}", told(&packed));
    assert_eq!(folder.data("export"), before);
    assert_eq!(folder.run("compact -q").status.code(), Some(0));
    assert_eq!(folder.data("export"), before);
}

#[test]
fn migrate_makes_a_store_once_and_refuses_a_newer_one() {
    let folder = Folder::with(SITES);
    let there = folder.path().join("sitemon.db");
    for _ in 0..2 {
        let output = folder.run("migrate");
        assert_eq!(output.status.code(), Some(0), "{}", told(&output));
        assert!(output.stdout.is_empty() && there.exists(), "{}", told(&output));
    }
    assert_eq!(folder.data("export"), (0, String::new()));
    // `user_version` is the big-endian word at byte 60 of the header.
    let mut bytes = fs::read(&there).expect("the store");
    bytes[60..64].copy_from_slice(&1_000_u32.to_be_bytes());
    fs::write(&there, &bytes).expect("the store");
    for line in ["migrate", "run", "export"] {
        let output = folder.run(line);
        assert_eq!(output.status.code(), Some(4), "{line}: {}", told(&output));
        assert!(String::from_utf8_lossy(&output.stderr).contains("1000"), "{line}: {}", told(&output));
    }
    assert_eq!(fs::read(&there).expect("the store"), bytes);
}

#[test]
fn compact_of_a_store_that_is_held_is_4_and_names_the_holder() {
    let folder = stored();
    let source = Source { file: Some(folder.path().join("sitemon.yaml")), local: false };
    let config = config::load(&source).expect("the configuration");
    let runtime = runtime();
    let held = runtime.block_on(config.store.open(Access::Write("run"))).expect("the store");
    let output = folder.run("compact");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{stderr}");
    assert!(stderr.contains("sitemon.db") && stderr.contains(&std::process::id().to_string()), "{stderr}");
    assert_eq!(folder.data("export").0, 0, "readers do not count");
    runtime.block_on(held.close());
}

#[test]
fn a_reader_of_stdout_that_goes_away_is_no_failure() {
    let folder = Folder::with(SITES);
    let many = (0..50).flat_map(|_| observations()).enumerate().map(|(slot, observation)| {
        let scheduled_at = START.plus(i64::try_from(slot).expect("few") * SECOND);
        Arc::new(Observation { scheduled_at, ..Observation::clone(&observation) })
    });
    store(&folder, many.collect());
    let mut child = folder.command("export").spawn().expect("the binary runs");
    let mut first = [0; 100];
    let mut stdout = child.stdout.take().expect("stdout");
    stdout.read_exact(&mut first).expect("the first bytes");
    drop(stdout);
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(told(&output), "exit 0\n");
    for line in ["--help", "sites", "status", "stats shop", "completions bash", "config schema"] {
        let mut child = folder.command(line).spawn().expect("the binary runs");
        drop(child.stdout.take());
        drop(child.stderr.take());
        let code = child.wait().expect("it ends").code();
        assert!(matches!(code, Some(0 | 3)), "{line}: {code:?}");
    }
}

#[test]
fn an_export_onto_a_full_disk_is_4() {
    let folder = stored();
    let full = File::options().write(true).open("/dev/full").expect("/dev/full");
    let output = folder.command("export").stdout(Stdio::from(full)).output().expect("the binary runs");
    assert_eq!(output.status.code(), Some(4), "{}", told(&output));
    assert!(String::from_utf8_lossy(&output.stderr).contains("stdout"), "{}", told(&output));
}

#[test]
fn a_damaged_store_is_4() {
    let folder = Folder::with(SITES);
    folder.write("sitemon.db", &"this is no database".repeat(100));
    for line in ["export", "status", "stats shop", "history shop", "compact"] {
        let output = folder.run(line);
        assert_eq!(output.status.code(), Some(4), "{line}: {}", told(&output));
        assert!(String::from_utf8_lossy(&output.stderr).contains("sitemon.db"), "{line}: {}", told(&output));
    }
}

#[test]
fn history_draws_and_lists_what_changed() {
    let folder = stored();
    check(
        &folder,
        "history shop --from 2026-11-21T10:00:00Z --to 2026-11-21T10:10:00Z",
        &expect![[r#"
        exit 0
        --- stdout
        shop at default  2026-11-21 10:00:00 to 2026-11-21 10:10:00 UTC
        checks: 36 up, 4 down · p50 90.1 ms · p95 97.6 ms · p99 99.6 ms

            100 ms │                            ▁▁▁▁▁▂▂▂▂▂▃▃▃▃▃▄▄▄▄▄▅▅▅▅▅▆▆▆▆▆▇▇▇▇▇█████
                   │▄▄▄▄▄▅▅▅▅▅▅▆▆▆▆▆▇▇▇▇▇███████████████████████████████████████████████
                   │████████████████████████████████████████████████████████████████████
           50.0 ms │████████████████████████████████████████████████████████████████████
                   │████████████████████████████████████████████████████████████████████
                   │████████████████████████████████████████████████████████████████████
                   │████████████████████████████████████████████████████████████████████
                 0 │████████████████████████████████████████████████████████████████████
                    ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━✗✗✗✗✗✗✗━━━━━━━━━━━━━━━━━━━━━━━━━━━
                    10:00:00                      10:05:00                      10:10:00

        FROM                    FOR  VERDICT  CHECKS      P95  CAUSES
        2026-11-21 10:00:07      5m  up           20  88.4 ms
        2026-11-21 10:05:07      1m  down          4  92.0 ms  http.status status 503, expected 200-299
        2026-11-21 10:06:07  3m 52s  up           16  99.6 ms

        findings
          2026-11-21 10:07:37  html-stats scripts: 9, but 4.1 by rule
    "#]],
    );
    check(
        &folder,
        "history shop --json --from 2026-11-21T10:00:00Z --to 2026-11-21T10:10:00Z",
        &expect![[r#"
        exit 0
        --- stdout
        {"site":"shop","location":"default","from":"2026-11-21T10:00:07.243673Z","to":"2026-11-21T10:05:07.243673Z","verdict":"up","causes":[],"checks":20,"response_time_us":{"p50":84892,"p95":88356,"max":89500},"findings":[]}
        {"site":"shop","location":"default","from":"2026-11-21T10:05:07.243673Z","to":"2026-11-21T10:06:07.243673Z","verdict":"down","causes":[{"code":"http.status","number":501,"message":"status 503, expected 200-299"}],"checks":4,"response_time_us":{"p50":90141,"p95":91500,"max":91500},"findings":[]}
        {"site":"shop","location":"default","from":"2026-11-21T10:06:07.243673Z","to":"2026-11-21T10:10:00.000000Z","verdict":"up","causes":[],"checks":16,"response_time_us":{"p50":95714,"p95":99500,"max":99500},"findings":[{"scheduled_at":"2026-11-21T10:07:37.243673Z","plugin":"html-stats","metric":"scripts","value":9,"mean":4.1,"deviation":0.3,"message":"9, but 4.1 by rule"}]}
    "#]],
    );
    check(
        &folder,
        "history shop --from 2026-11-20T10:00:00Z --to 2026-11-20T10:10:00Z",
        &expect![[r#"
        exit 0
        --- stdout
        shop was not observed from 2026-11-20 10:00:00 to 2026-11-20 10:10:00 UTC
    "#]],
    );
}

#[test]
fn stats_of_a_window() {
    let folder = stored();
    check(
        &folder,
        "stats shop --from 2026-11-21T10:00:07.243673Z --to 2026-11-21T10:10:00Z",
        &expect![[r#"
        exit 0
        --- stdout
        shop at default  2026-11-21 10:00:07 to 2026-11-21 10:10:00 UTC

        availability  89.87 %   coverage 100 %
        time          up 8m 52s · down 1m
        checks        up 36 · down 4

                  CHECKS      P50      P90      P95      P99
        response      40  90.1 ms  97.6 ms  97.6 ms  99.6 ms
        connect       40  17.8 ms  19.3 ms  19.7 ms  19.7 ms
        send          40   888 µs   981 µs   981 µs  1.00 ms
        wait          40  62.9 ms  68.1 ms  69.5 ms  69.5 ms
        receive       40  8.01 ms  8.86 ms  8.86 ms  9.03 ms

        CAUSE        CHECKS  MEANING
        http.status       4  The status is not among those expected.

        findings  1
          2026-11-21 10:07:37  html-stats scripts: 9, but 4.1 by rule
    "#]],
    );
    let (code, lines) =
        folder.json("stats shop --json --from 2026-11-21T10:00:07.243673Z --to 2026-11-21T10:10:07.243673Z");
    assert_eq!((code, lines.len()), (0, 1));
    let stats = &lines[0];
    assert_eq!((&stats["site"], &stats["location"]), (&"shop".into(), &"default".into()));
    assert_eq!(stats["from"], "2026-11-21T10:00:07.243673Z");
    assert_eq!(stats["to"], "2026-11-21T10:10:07.243673Z");
    assert_eq!(stats["availability"], 0.9);
    assert_eq!(stats["coverage"], 1.0);
    for sketch in [&stats["latency_us"], &stats["phases_us"]["wait"]] {
        for quantile in ["p50", "p90", "p95", "p99"] {
            assert!(sketch[quantile].as_u64().is_some_and(|us| us > 50_000), "{stats}");
        }
    }
    assert!(stats["phases_us"].get("dns").is_none(), "{stats}");
    assert_eq!(stats["causes"][0]["code"], "http.status");
    assert_eq!(stats["findings"][0]["metric"], "scripts");
    assert_eq!(stats["findings_count"], 1);
}

/// Observations of the last minute: `shop` and `a` with these verdicts.
fn recent(shop: &Verdict, a: &Verdict) -> Folder {
    let folder = Folder::with(SITES);
    let now = Timestamp(i64::try_from(sitemon_testkit::clock::now_us()).expect("now"));
    let of = |site: &str, verdict: &Verdict| {
        (0..4)
            .map(move |back| {
                let template = observations().remove(0);
                Arc::new(Observation {
                    site: site.into(),
                    scheduled_at: now.plus(-(3 - back) * 15 * SECOND),
                    verdict: if back >= 2 { verdict.clone() } else { Verdict::Up },
                    ..Observation::clone(&template)
                })
            })
            .collect::<Vec<_>>()
    };
    store(&folder, [of("shop", shop), of("a", a)].concat());
    folder
}

#[test]
fn status_by_verdict() {
    let down = Verdict::Down(vec![Cause::new(Code::HttpStatus, "status 503, expected 200-299")]);
    let unknown = Verdict::Unknown(vec![Cause::new(Code::SkippedOverload, "")]);
    let degraded = Verdict::Degraded(vec![Cause::new(Code::ResponseTimeExceeded, "2 s")]);
    for (shop, a, code) in
        [(&Verdict::Up, &degraded, 0), (&Verdict::Up, &down, 1), (&unknown, &down, 1), (&unknown, &Verdict::Up, 3)]
    {
        assert_eq!(recent(shop, a).run("status").status.code(), Some(code), "{shop:?} {a:?}");
    }
    let folder = recent(&down, &Verdict::Up);
    let (code, lines) = folder.json("status --json");
    assert_eq!((code, lines.len()), (1, 3));
    let shop = &lines[0];
    assert_eq!((&shop["site"], &shop["verdict"], &shop["observed"]), (&"shop".into(), &"down".into(), &true.into()));
    assert_eq!(shop["causes"][0]["code"], "http.status");
    assert!(shop["age_us"].as_i64().is_some_and(|us| us < 60_000_000), "{shop}");
    assert!(shop["availability"].as_f64().is_some_and(|share| share > 0.5 && share < 1.0), "{shop}");
    assert!(shop["coverage"].as_f64().is_some_and(|share| share > 0.0 && share < 0.01), "{shop}");
    assert!(shop["latency_us"]["p95"].as_u64().is_some_and(|us| us.abs_diff(80_000) < 1000), "{shop}");
    assert_eq!(lines[2]["enabled"], false);
    let since = Timestamp::parse(shop["since"].as_str().unwrap_or_default()).expect("since");
    let latest = Timestamp::parse(shop["scheduled_at"].as_str().unwrap_or_default()).expect("scheduled_at");
    assert_eq!(latest.since(since), 15 * SECOND, "{shop}");
}

#[test]
fn status_shows_what_was_not_observed_yet() {
    let folder = Folder::with(SITES);
    check(
        &folder,
        "status",
        &expect![[r#"
        exit 3
        --- stdout
           SITE  VERDICT           CHECKED  UP 24h  COVERAGE  P50  P95  LAST CAUSE
           shop  not observed yet
           a     not observed yet
           off   disabled
        --- stderr
        2 sites: 2 unknown; 2 not observed yet
    "#]],
    );
    let (code, lines) = folder.json("status --json --site a");
    assert_eq!((code, lines.len()), (3, 1));
    assert_eq!((&lines[0]["observed"], &lines[0]["verdict"]), (&false.into(), &"unknown".into()));
}

#[test]
fn status_watches_also_without_a_terminal() {
    let folder = recent(&Verdict::Up, &Verdict::Up);
    let mut child = folder.command("status --watch --json").spawn().expect("the binary runs");
    let mut lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
    let mut next = || -> serde_json::Value {
        let line = lines.next().expect("a line").expect("UTF-8");
        serde_json::from_str(&line).expect("JSON")
    };
    assert_eq!([next()["site"].clone(), next()["site"].clone()], ["shop", "a"]);
    let now = Timestamp(i64::try_from(sitemon_testkit::clock::now_us()).expect("now"));
    let down = Verdict::Down(vec![Cause::new(Code::ConnectRefused, "")]);
    let changed = Observation { scheduled_at: now, verdict: down, ..Observation::clone(&observations()[0]) };
    store(&folder, vec![Arc::new(changed)]);
    let line = next();
    assert_eq!((&line["site"], &line["verdict"]), (&"shop".into(), &"down".into()));
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(i32::try_from(child.id()).expect("a pid")).expect("a pid"),
        rustix::process::Signal::TERM,
    )
    .expect("a signal");
    assert_eq!(child.wait().expect("it ends").code(), Some(1));
}

#[test]
fn the_log_has_the_level_and_the_form_that_is_asked_for() {
    let folder = Folder::with(SITES);
    // A metrics address that nobody can listen on ends `run` with 4 after its first lines.
    folder.write("sitemon.yaml", &format!("metrics: {{listen: '203.0.113.1:1'}}\n{SITES}"));
    let output = folder.command("run --local --log json -l debug").output().expect("the binary runs");
    assert_eq!(output.status.code(), Some(4), "{}", told(&output));
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    for line in stderr.lines().filter(|line| line.starts_with('{')) {
        let value: serde_json::Value = serde_json::from_str(line).expect("JSON");
        assert!(value["timestamp"].is_string() && value["level"].is_string(), "{line}");
    }
    let wrong = folder.command("sites").env("SITEMON_LOG", "sitemon=loud").output().expect("the binary runs");
    assert_eq!(wrong.status.code(), Some(2), "{}", told(&wrong));
}

#[test]
fn a_site_that_only_the_store_knows_is_known() {
    let folder = stored();
    folder.write("sitemon.yaml", "sites: [{name: other, url: 'http://127.0.0.1:9/'}]\n");
    assert_eq!(folder.data("export --site shop").1.lines().count(), 40);
    assert_eq!(folder.run("history shop").status.code(), Some(0));
    let (code, lines) = folder.json("check --site shop --json");
    assert_eq!((code, &lines[0]["site"]), (1, &"shop".into()), "it is asked for at the address that is stored");
    assert_eq!(lines[0]["hops"][0]["url"], "http://127.0.0.1:9/shop");
    let (_, lines) = folder.json("sites --json");
    let configured: Vec<_> = lines.iter().map(|line| (line["site"].as_str(), line["configured"].as_bool())).collect();
    let stored = ["a", "off", "shop"].map(|name| (Some(name), Some(false)));
    assert_eq!(configured, [vec![(Some("other"), Some(true))], stored.to_vec()].concat());
}

#[test]
fn local_means_the_embedded_store_beside_the_file() {
    let folder = Folder::with(SITES);
    fs::create_dir(folder.path().join("far")).expect("a folder");
    folder.write("far/sitemon.yaml", SITES);
    store_of(&folder, "far/sitemon.yaml", observations());
    assert!(folder.path().join("far/sitemon.db").exists());
    for line in ["--local export -c far/sitemon.yaml", "export --config far/sitemon.yaml --local"] {
        assert_eq!(folder.data(line).1.lines().count(), 40, "{line}");
    }
    assert_eq!(folder.data("export"), (0, String::new()), "the folder's own file has a store of its own");
}

#[test]
fn config_check_tells_what_it_found() {
    let folder = Folder::with(SITES);
    check(
        &folder,
        "config check sitemon.yaml",
        &expect![[r#"
            exit 0
            --- stderr
            sitemon.yaml: no faults
        "#]],
    );
    // Without a file it is the one that the other commands read.
    check(
        &folder,
        "config check",
        &expect![[r#"
            exit 0
            --- stderr
            sitemon.yaml: no faults
        "#]],
    );
    folder.write(".env", "A=1\nB 2\nC='3\n");
    check(
        &folder,
        "config check sitemon.yaml",
        &expect![[r#"
        exit 0
        --- stderr
        .env:2:1: warning: is left out, expected NAME=VALUE
        .env:3:1: warning: is left out: its quote is not closed
        sitemon.yaml: no faults, 2 warnings
    "#]],
    );
    folder.write(".env", "A=1\n");
    folder.write("slow.yaml", "sites: [{name: a, url: 'http://h/', interval: 5s, timeout: 10s}]\n");
    check(
        &folder,
        "config check slow.yaml",
        &expect![[r#"
            exit 0
            --- stderr
            slow.yaml:1:60: sites[0].timeout: warning: 10s is longer than the interval of 5s, so a slow check makes the site's next slots `skipped.overlap`
            slow.yaml: no faults, 1 warning
        "#]],
    );
    folder.write("bad.yaml", "sites: [{name: a, url: 'http://h/', intervall: 5s}]\n");
    check(
        &folder,
        "config check -c bad.yaml",
        &expect![[r#"
        exit 2
        --- stderr
        bad.yaml:1:37: sites[0].intervall: unknown key `intervall`, did you mean `interval`?
    "#]],
    );
    check(
        &folder,
        "config check none.yaml",
        &expect![[r#"
        exit 2
        --- stderr
        none.yaml: cannot be read: no such file
    "#]],
    );
    assert_eq!(folder.data("config schema").1.lines().next(), Some("{"));
}
