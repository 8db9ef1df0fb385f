//! `sitemon run` from outside: the real binary against faulty sites whose own log is the witness.

use serde_json::Value;
use sitemon_model::Timestamp;
use sitemon_model::site::name_hash;
use sitemon_schedule::slot;
use sitemon_testkit::authority::{Authority, Curve};
use sitemon_testkit::fault::Scheme;
use sitemon_testkit::{FaultyNames, FaultySite};
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

/// Nothing that is waited for here takes longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running `sitemon run`; ended by its own process id when it goes out of scope.
pub struct Monitor {
    folder: PathBuf,
    child: Child,
    /// What it has said on stderr.
    said: Arc<Mutex<String>>,
    lines: mpsc::Receiver<String>,
}

impl Monitor {
    /// Writes the configuration into the folder, starts, and waits until it is ready.
    pub fn start(folder: &Path, configuration: &str, arguments: &[&str]) -> Self {
        std::fs::write(folder.join("sitemon.yaml"), configuration).expect("the configuration is written");
        let mut monitor = Self::spawn(folder, arguments);
        monitor.wait_for("ready");
        monitor
    }

    pub fn spawn(folder: &Path, arguments: &[&str]) -> Self {
        Self::spawned(folder, command(folder).arg("run").args(arguments))
    }

    fn spawned(folder: &Path, command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("sitemon starts");
        let (sender, lines) = mpsc::sync_channel(100_000);
        let said = Arc::new(Mutex::new(String::new()));
        let (stderr, heard) = (child.stderr.take().expect("a pipe"), said.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let _ = writeln!(heard.lock().expect("nobody panics with it"), "{line}");
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { folder: folder.to_path_buf(), child, said, lines }
    }

    /// Waits for a line that contains `words`, and gives it.
    pub fn wait_for(&mut self, words: &str) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(words) => return line,
                Ok(_) => {}
                Err(error) => panic!("`{words}` was not said ({error}):\n{}", self.said()),
            }
        }
    }

    pub fn said(&self) -> String {
        self.said.lock().expect("nobody panics with it").clone()
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("the process is there");
    }

    /// Rewrites the configuration.
    pub fn configure(&self, configuration: &str) {
        std::fs::write(self.folder.join("sitemon.yaml"), configuration).expect("the configuration is written");
    }

    /// Stops it by SIGTERM; its exit code, and how long it took.
    pub fn stop(&mut self) -> (i32, Duration) {
        let start = Instant::now();
        self.signal(rustix::process::Signal::TERM);
        let code = self.wait();
        (code, start.elapsed())
    }

    pub fn wait(&mut self) -> i32 {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait().expect("it can be waited for") {
                return status.code().unwrap_or(-1);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("it does not end:\n{}", self.said());
    }

    pub fn export(&self) -> Vec<Value> {
        export(&self.folder)
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sitemon"));
    command.current_dir(folder).args(["-c", "sitemon.yaml"]).env_remove("SITEMON_LOG").env("NO_COLOR", "1");
    command
}

/// What is stored, a value for each observation.
fn export(folder: &Path) -> Vec<Value> {
    let output = command(folder).arg("export").output().expect("sitemon runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).expect("UTF-8");
    lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

pub fn at(value: &Value, key: &str) -> Timestamp {
    Timestamp::parse(value[key].as_str().unwrap_or_default()).expect("a time")
}

pub fn of<'v>(observations: &'v [Value], site: &str) -> Vec<&'v Value> {
    observations.iter().filter(|observation| observation["site"] == site).collect()
}

pub fn causes(observation: &Value) -> Vec<&str> {
    observation["causes"].as_array().into_iter().flatten().filter_map(|cause| cause["code"].as_str()).collect()
}

/// The first and last slot are as they are; between them none is missing and none is there twice.
pub fn assert_gapless(observations: &[&Value], site: &str, interval_us: u64) {
    let slots: Vec<Timestamp> = observations.iter().map(|observation| at(observation, "scheduled_at")).collect();
    let (Some(&first), Some(&last)) = (slots.first(), slots.last()) else { panic!("{site} has no observation") };
    let expected: Vec<Timestamp> = slot::slots(name_hash(site), interval_us, first, last.plus(1)).collect();
    assert_eq!(slots, expected, "{site}");
}

#[test]
fn every_slot_is_stored_once_and_the_sites_log_is_the_witness() {
    let folder = tempfile::tempdir().expect("a folder");
    let site = FaultySite::start().expect("a site");
    let mut configuration = String::from("defaults: {interval: 200ms}\nsites:\n");
    for number in 0..20 {
        let url = site.url(Scheme::Http, &format!("page?n={number}")).expect("a URL");
        let _ = writeln!(configuration, "  - {{name: s{number}, url: '{url}'}}");
    }
    let mut monitor = Monitor::start(folder.path(), &configuration, &[]);
    let ready = sitemon_testkit::clock::now_us().cast_signed();
    std::thread::sleep(Duration::from_secs(3));
    let stopped = sitemon_testkit::clock::now_us().cast_signed();
    assert_eq!(monitor.stop().0, 0, "{}", monitor.said());
    let stored = monitor.export();
    for number in 0..20 {
        let name = format!("s{number}");
        let mine = of(&stored, &name);
        assert_gapless(&mine, &name, 200_000);
        assert!(mine.iter().all(|observation| observation["verdict"] == "up"), "{mine:?}");
        // All slots between the word `ready` and the signal are there.
        let expected = slot::slots(name_hash(&name), 200_000, Timestamp(ready), Timestamp(stopped));
        let served: Vec<Timestamp> = mine.iter().map(|observation| at(observation, "scheduled_at")).collect();
        for slot in expected {
            assert!(served.contains(&slot), "{name} has no observation at {slot}");
        }
        let seen = site.log().iter().filter(|seen| seen.target.ends_with(&format!("n={number}"))).count();
        assert_eq!(seen, mine.len(), "{name}");
    }
    // A later start goes on in the same grid, and nothing is stored twice.
    let mut monitor = Monitor::start(folder.path(), &configuration, &[]);
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(monitor.stop().0, 0, "{}", monitor.said());
    let again = monitor.export();
    assert!(again.len() > stored.len());
    assert_eq!(&again[..stored.len()], &stored[..]);
    let later = of(&again, "s0").len();
    assert_eq!(site.log().iter().filter(|seen| seen.target.ends_with("n=0")).count(), later);
}

#[test]
fn a_reload_changes_what_changed_and_refuses_what_is_wrong() {
    let folder = tempfile::tempdir().expect("a folder");
    let site = FaultySite::start().expect("a site");
    let url = |path: &str| site.url(Scheme::Http, path).expect("a URL");
    let line =
        |name: &str, interval: &str| format!("  - {{name: {name}, url: '{}', interval: {interval}}}\n", url("page"));
    let first = format!("sites:\n{}{}", line("kept", "200ms"), line("gone", "200ms"));
    let mut monitor = Monitor::start(folder.path(), &first, &[]);
    std::thread::sleep(Duration::from_secs(1));

    monitor.configure("sites:\n  - {name: kept, url: 'http://127.0.0.1/', intervall: 1s}\n");
    monitor.signal(rustix::process::Signal::HUP);
    monitor.wait_for("the running one stays");
    monitor.wait_for("did you mean `interval`");

    monitor.configure(&format!("sites:\n{}{}", line("kept", "200ms"), line("new", "300ms")));
    monitor.signal(rustix::process::Signal::HUP);
    monitor.wait_for("1 site added, 0 changed, 1 removed, 1 as before");
    let changed = sitemon_testkit::clock::now_us().cast_signed();
    std::thread::sleep(Duration::from_secs(1));
    monitor.configure(&format!("sites:\n{}{}", line("kept", "200ms"), line("new", "500ms")));
    monitor.signal(rustix::process::Signal::HUP);
    monitor.wait_for("0 sites added, 1 changed, 0 removed, 1 as before");
    std::thread::sleep(Duration::from_millis(1200));
    assert_eq!(monitor.stop().0, 0, "{}", monitor.said());

    let stored = monitor.export();
    assert_gapless(&of(&stored, "kept"), "kept", 200_000);
    assert!(of(&stored, "gone").iter().all(|observation| at(observation, "scheduled_at").0 < changed));
    let new = of(&stored, "new");
    let before: Vec<&Value> = new.iter().copied().filter(|observation| observation["interval_us"] == 300_000).collect();
    let after: Vec<&Value> = new.iter().copied().filter(|observation| observation["interval_us"] == 500_000).collect();
    assert!(before.len() >= 2 && after.len() >= 2, "{new:?}");
    assert_gapless(&before, "new", 300_000);
    assert_gapless(&after, "new", 500_000);
}

#[test]
fn a_change_of_a_watched_file_is_taken_over() {
    let folder = tempfile::tempdir().expect("a folder");
    let site = FaultySite::start().expect("a site");
    let url = site.url(Scheme::Http, "page").expect("a URL");
    let one = format!("defaults: {{interval: 1s}}\nsites:\n  - {{name: a, url: '{url}'}}\n");
    let mut monitor = Monitor::start(folder.path(), &one, &["--watch"]);
    monitor.configure(&format!("{one}  - {{name: b, url: '{url}'}}\n"));
    monitor.wait_for("1 site added, 0 changed, 0 removed, 1 as before");
    assert_eq!(monitor.stop().0, 0);
}

#[test]
fn whatever_the_configuration_is_read_from_is_watched() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |path: &str| folder.path().join(path);
    let site = FaultySite::start().expect("a site");
    let url = site.url(Scheme::Http, "page").expect("a URL");
    let sites = |name: &str| format!("sites: [{{name: {name}, url: '{url}'}}]\n");
    let main = format!(
        "include: ['teams/*/prod/*.conf', one.part]\ndefaults: {{interval: 1s}}\n\
         sites: [{{name: a, url: '{url}', request: {{method: POST, body_file: body}}}}]\n"
    );
    std::fs::write(at("body"), "one").expect("a file");
    std::fs::create_dir(at("releases")).expect("a folder");
    std::fs::write(at("releases/1"), sites("linked")).expect("a file");
    std::fs::write(at("releases/2"), sites("other")).expect("a file");
    std::os::unix::fs::symlink("releases/1", at("one.part")).expect("a link");
    let mut monitor = Monitor::start(folder.path(), &main, &["--watch"]);

    // A folder that a pattern's middle matches, and a file in it, of no ending that says configuration.
    std::fs::create_dir_all(at("teams/x/prod")).expect("a folder");
    std::fs::write(at("teams/x/prod/b.conf"), sites("b")).expect("a file");
    monitor.wait_for("1 site added, 0 changed, 0 removed, 2 as before");
    // What is written beside it is no change of the configuration.
    std::fs::write(at("teams/x/prod/notes.txt"), "nothing").expect("a file");
    // A file that the configuration names.
    std::fs::write(at("body"), "two").expect("a file");
    monitor.wait_for("0 sites added, 1 changed, 0 removed, 2 as before");
    // A link that comes to point to another file, which is watched from then on.
    std::os::unix::fs::symlink("releases/2", at("new.part")).expect("a link");
    std::fs::rename(at("new.part"), at("one.part")).expect("a rename");
    monitor.wait_for("1 site added, 0 changed, 1 removed, 2 as before");
    std::fs::write(at("releases/2"), sites("third")).expect("a file");
    monitor.wait_for("1 site added, 0 changed, 1 removed, 2 as before");
    // A folder that goes away and comes back.
    std::fs::remove_dir_all(at("teams")).expect("gone");
    monitor.wait_for("0 sites added, 0 changed, 1 removed, 2 as before");
    std::fs::create_dir_all(at("teams/y/prod")).expect("a folder");
    std::fs::write(at("teams/y/prod/c.conf"), sites("c")).expect("a file");
    monitor.wait_for("1 site added, 0 changed, 0 removed, 2 as before");

    // A refused configuration names a file that is not there yet: it is taken over when it comes.
    std::fs::write(
        at("teams/y/prod/c.conf"),
        format!("sites: [{{name: c, url: '{url}', request: {{method: POST, body_file: later/body}}}}]\n"),
    )
    .expect("a file");
    monitor.wait_for("later/body");
    std::fs::create_dir(at("teams/y/prod/later")).expect("a folder");
    std::fs::write(at("teams/y/prod/later/body"), "three").expect("a file");
    monitor.wait_for("0 sites added, 1 changed, 0 removed, 2 as before");
    assert_eq!(monitor.stop().0, 0);
    assert!(!monitor.said().contains("0 sites added, 0 changed, 0 removed"), "{}", monitor.said());
}

#[test]
fn a_reload_reads_the_roots_of_the_machine_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let site = FaultySite::start().expect("a site");
    let url = site.url(Scheme::Https, "page").expect("a URL");
    let roots = folder.path().join("roots.pem");
    let other = Authority::new(Curve::P256).expect("an authority").root_pem();
    std::fs::write(&roots, &other).expect("a file");
    std::fs::write(folder.path().join("sitemon.yaml"), format!("sites: [{{name: a, url: '{url}', interval: 300ms}}]"))
        .expect("a file");
    let mut monitor = Monitor::spawned(folder.path(), command(folder.path()).arg("run").env("SSL_CERT_FILE", &roots));
    monitor.wait_for("a is down: tls.untrusted");
    std::fs::write(&roots, site.roots_pem()).expect("a file");
    monitor.signal(rustix::process::Signal::HUP);
    monitor.wait_for("a is up");
    // The chain that was good with the roots of before is not good any more.
    std::fs::write(&roots, &other).expect("a file");
    monitor.signal(rustix::process::Signal::HUP);
    monitor.wait_for("a is down: tls.untrusted");
    assert_eq!(monitor.stop().0, 0, "{}", monitor.said());
}

#[test]
fn slots_that_cannot_be_served_are_recorded_with_their_reason() {
    let folder = tempfile::tempdir().expect("a folder");
    let site = FaultySite::start().expect("a site");
    let slow = site.url(Scheme::Http, "delay?ms=700").expect("a URL");
    let hang = site.url(Scheme::Http, "request-hang").expect("a URL");
    let mut configuration = String::from("limits: {checks_in_flight_per_host: 1}\nsites:\n");
    // With six checks of 700 ms before one place, the last waits for 3.5 s, and has 1 s.
    for number in 0..6 {
        let _ = writeln!(configuration, "  - {{name: queue{number}, url: '{slow}&n={number}', interval: 1s}}");
    }
    let mut monitor = Monitor::start(folder.path(), &configuration, &[]);
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(monitor.stop().0, 0, "{}", monitor.said());
    let stored = monitor.export();
    for number in 0..6 {
        assert_gapless(&of(&stored, &format!("queue{number}")), &format!("queue{number}"), 1_000_000);
    }
    let skipped: Vec<&Value> =
        stored.iter().filter(|observation| causes(observation) == ["skipped.overload"]).collect();
    assert!(!skipped.is_empty(), "one place cannot serve six");
    for observation in &skipped {
        assert_eq!(observation["verdict"], "unknown");
        assert!(observation.get("started_at").is_none() && observation.get("hops").is_none(), "{observation}");
    }
    assert!(stored.iter().all(|observation| observation["verdict"] != "down"), "our limit is no fault of the site");

    // A check that outlasts the interval makes the next slots overlap.
    let folder = tempfile::tempdir().expect("a folder");
    let configuration = format!("sites:\n  - {{name: long, url: '{hang}', interval: 500ms, timeout: 1200ms}}\n");
    let mut monitor = Monitor::start(folder.path(), &configuration, &[]);
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(monitor.stop().0, 0, "{}", monitor.said());
    let stored = monitor.export();
    assert_gapless(&of(&stored, "long"), "long", 500_000);
    assert!(stored.iter().any(|observation| causes(observation) == ["skipped.overlap"]), "{stored:?}");
}

#[test]
fn a_site_that_hangs_is_down_in_every_slot_also_when_the_timeout_is_the_interval() {
    let folder = tempfile::tempdir().expect("a folder");
    let site = FaultySite::start().expect("a site");
    let address = site.open(Scheme::Http, "accept-hang").expect("a port");
    let configuration = format!("sites:\n  - {{name: hung, url: 'http://{address}/', interval: 500ms}}\n");
    let mut monitor = Monitor::start(folder.path(), &configuration, &[]);
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(monitor.stop().0, 0, "{}", monitor.said());
    let stored = monitor.export();
    assert_gapless(&of(&stored, "hung"), "hung", 500_000);
    for observation in &stored {
        assert_eq!((observation["verdict"].as_str(), causes(observation)), (Some("down"), vec!["wait.timeout"]));
    }
}

#[test]
fn a_stop_serves_what_was_due_and_ends_what_outlasts_the_grace() {
    let folder = tempfile::tempdir().expect("a folder");
    let site = FaultySite::start().expect("a site");
    let short = site.url(Scheme::Http, "delay?ms=600").expect("a URL");
    let long = site.url(Scheme::Http, "delay?ms=8000").expect("a URL");
    let configuration = format!(
        "grace: 1500ms\nsites:\n  - {{name: short, url: '{short}', interval: 1s}}\n  - {{name: long, url: '{long}', interval: 20s, timeout: 15s}}\n"
    );
    // The long one is asked for by a start right before its slot.
    let slot = slot::at_or_after(
        name_hash("long"),
        20_000_000,
        Timestamp(sitemon_testkit::clock::now_us().cast_signed() + 500_000),
    );
    let wait = slot.0 - sitemon_testkit::clock::now_us().cast_signed() - 400_000;
    std::thread::sleep(Duration::from_micros(wait.unsigned_abs()));
    let mut monitor = Monitor::start(folder.path(), &configuration, &[]);
    std::thread::sleep(Duration::from_millis(1500));
    let (code, took) = monitor.stop();
    assert_eq!(code, 0, "{}", monitor.said());
    assert!(took >= Duration::from_millis(1400) && took < Duration::from_secs(5), "{took:?}");
    let stored = monitor.export();
    assert!(of(&stored, "short").iter().all(|observation| observation["verdict"] == "up"), "{stored:?}");
    let long = of(&stored, "long");
    assert_eq!(long.len(), 1, "{long:?}");
    assert_eq!((long[0]["verdict"].as_str(), causes(long[0])), (Some("unknown"), vec!["stopped"]));
    assert_eq!(at(long[0], "scheduled_at"), slot);
    assert!(long[0].get("started_at").is_some(), "it had begun");
}

#[test]
fn a_check_that_a_stop_ends_keeps_what_it_measured() {
    let folder = tempfile::tempdir().expect("a folder");
    let (site, names) = (FaultySite::start().expect("a site"), FaultyNames::start().expect("names"));
    names.set("a.site.test", "dns-addresses?a=127.0.0.1").expect("a command");
    std::fs::write(folder.path().join("ca.pem"), site.roots_pem()).expect("a file");
    let port = site.address(Scheme::Https).port();
    let shaken = site.open(Scheme::Https, "tls-hang").expect("a port").port();
    let mut configuration = format!(
        "grace: 300ms\ndefaults: {{interval: 1s, timeout: 1h, request: {{resolver: ['{}'], tls: {{ca: ca.pem}}}}}}\nsites:\n",
        names.address()
    );
    for (name, url) in [
        ("waits", format!("https://a.site.test:{port}/request-hang")),
        ("receives", format!("https://a.site.test:{port}/body-hang")),
        ("shakes", format!("https://a.site.test:{shaken}/")),
        ("asks", "https://silent.test/".to_owned()),
    ] {
        let _ = writeln!(configuration, "  - {{name: {name}, url: '{url}'}}");
    }
    names.set("silent.test", "dns-hang").expect("a command");
    let mut monitor = Monitor::start(folder.path(), &configuration, &[]);
    std::thread::sleep(Duration::from_millis(1500));
    let (code, took) = monitor.stop();
    assert_eq!(code, 0, "{}", monitor.said());
    assert!(took < Duration::from_secs(2), "{took:?}");
    let stored = monitor.export();
    for (name, expected) in [
        ("waits", "connect dns send tls !wait"),
        ("receives", "connect dns send tls wait !receive"),
        ("shakes", "connect dns !tls"),
        ("asks", "!dns"),
    ] {
        let mine = of(&stored, name);
        assert_gapless(&mine, name, 1_000_000);
        let first = mine[0];
        assert_eq!((first["verdict"].as_str(), causes(first)), (Some("unknown"), vec!["stopped"]), "{first}");
        assert!(first.get("response_time_us").is_none());
        let phases = first["hops"][0]["phases"].as_object().expect("phases");
        let show = |(name, phase): (&String, &Value)| {
            let failed = if phase["state"] == "failed" { "!" } else { "" };
            format!("{failed}{name}")
        };
        let mut shown: Vec<String> = phases.iter().map(show).collect();
        shown.sort_unstable_by_key(|phase| (phase.starts_with('!'), phase.clone()));
        assert_eq!(shown.join(" "), expected, "{first}");
        // What hung keeps the time that it spent.
        let hung = phases.values().find(|phase| phase["state"] == "failed").expect("one hung");
        assert!(hung["us"].as_u64().unwrap_or_default() > 300_000, "{first}");
    }
}

#[test]
fn a_pause_is_ours_and_never_the_sites_fault() {
    let folder = tempfile::tempdir().expect("a folder");
    let site = FaultySite::start().expect("a site");
    let fast = site.url(Scheme::Http, "page").expect("a URL");
    let slow = site.url(Scheme::Http, "delay?ms=800").expect("a URL");
    let configuration = format!(
        "sites:\n  - {{name: fast, url: '{fast}', interval: 500ms}}\n  - {{name: slow, url: '{slow}', interval: 1s, timeout: 1s}}\n"
    );
    let mut monitor = Monitor::start(folder.path(), &configuration, &[]);
    std::thread::sleep(Duration::from_secs(2));
    monitor.signal(rustix::process::Signal::STOP);
    std::thread::sleep(Duration::from_secs(5));
    monitor.signal(rustix::process::Signal::CONT);
    monitor.wait_for("was paused, starved or suspended");
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(monitor.stop().0, 0, "{}", monitor.said());
    let stored = monitor.export();
    for (name, interval) in [("fast", 500_000), ("slow", 1_000_000)] {
        let mine = of(&stored, name);
        assert_gapless(&mine, name, interval);
        assert!(mine.iter().all(|observation| observation["verdict"] != "down"), "{mine:?}");
        let skipped = mine.iter().filter(|observation| causes(observation) == ["skipped.overload"]).count();
        assert!(skipped >= 2, "{name}: {mine:?}");
        assert_eq!(mine.last().expect("there are some")["verdict"], "up");
    }
    // However many threads noticed it.
    let said = monitor.said();
    assert_eq!(said.matches("slots are unknown").count(), 1, "{said}");
}

#[test]
fn a_pause_shorter_than_that_makes_no_site_slow() {
    let folder = tempfile::tempdir().expect("a folder");
    let site = FaultySite::start().expect("a site");
    let mut configuration =
        String::from("defaults: {interval: 1s, timeout: 700ms, request: {tls: {insecure: true}}}\nsites:\n");
    // A handshake of 300 ms, and after it more to be said: a pause of a second leaves no time for that.
    for number in 0..20 {
        let url = site.url(Scheme::Https, &format!("tls-slow?ms=300&n={number}")).expect("a URL");
        let _ = writeln!(configuration, "  - {{name: s{number}, url: '{url}'}}");
    }
    let mut monitor = Monitor::start(folder.path(), &configuration, &[]);
    std::thread::sleep(Duration::from_secs(1));
    for _ in 0..3 {
        monitor.signal(rustix::process::Signal::STOP);
        std::thread::sleep(Duration::from_millis(1100));
        monitor.signal(rustix::process::Signal::CONT);
        std::thread::sleep(Duration::from_millis(1100));
    }
    assert_eq!(monitor.stop().0, 0, "{}", monitor.said());
    let stored = monitor.export();
    for number in 0..20 {
        assert_gapless(&of(&stored, &format!("s{number}")), &format!("s{number}"), 1_000_000);
    }
    let down: Vec<&Value> = stored.iter().filter(|observation| observation["verdict"] == "down").collect();
    assert!(down.is_empty(), "{down:?}");
    let ours = stored.iter().filter(|observation| causes(observation) == ["own.failure"]).count();
    assert!(ours >= 3, "pauses hit nothing: {ours}");
}

#[test]
fn a_log_that_nobody_reads_ends_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let configuration = "sites:\n  - {name: a, url: 'http://127.0.0.1:1/', interval: 200ms}\n";
    std::fs::write(folder.path().join("sitemon.yaml"), configuration).expect("the configuration is written");
    for arguments in [&["run"][..], &["run", "-q"]] {
        let mut child = command(folder.path()).args(arguments).stderr(Stdio::piped()).spawn().expect("sitemon starts");
        drop(child.stderr.take());
        std::thread::sleep(Duration::from_millis(1500));
        let ended = child.try_wait().expect("it can be waited for");
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM)
            .expect("it runs");
        assert_eq!((ended, child.wait().expect("it ends").code()), (None, Some(0)), "{arguments:?}");
    }
    assert!(export(folder.path()).len() >= 8);
}

#[test]
fn too_few_files_to_start_with_are_4_and_never_a_panic() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("sitemon.yaml"), "sites: []\n").expect("the configuration is written");
    let program = env!("CARGO_BIN_EXE_sitemon");
    // From too few to open anything up to enough to run with.
    for files in 8..48 {
        let script = format!("ulimit -n {files}; exec timeout --signal=TERM 0.3 '{program}' run");
        let output = Command::new("sh").args(["-c", &script]).current_dir(folder.path()).output().expect("sh runs");
        let said = String::from_utf8_lossy(&output.stderr);
        // 2: the configuration could not be read. 124: it ran until it was told to stop.
        assert!(matches!(output.status.code(), Some(2 | 4 | 124)), "{files} files: {:?} {said}", output.status);
        assert!(!said.contains("panicked"), "{files} files: {said}");
    }
}

#[test]
fn a_second_run_names_the_first() {
    let folder = tempfile::tempdir().expect("a folder");
    let configuration = "sites: []\n";
    let mut first = Monitor::start(folder.path(), configuration, &[]);
    let start = Instant::now();
    let mut second = Monitor::spawn(folder.path(), &[]);
    assert_eq!(second.wait(), 4);
    assert!(start.elapsed() < Duration::from_secs(5));
    let line = second.wait_for("in use");
    assert!(line.contains("sitemon run") && line.contains(&first.child.id().to_string()), "{line}");
    let id = first.child.id().to_string();
    let refused = || {
        let mut other = Monitor::spawn(folder.path(), &[]);
        assert_eq!(other.wait(), 4);
        let line = other.wait_for("in use");
        assert!(line.contains("sitemon run") && line.contains(&id), "{line}");
    };
    // Also where it is reached by another name.
    let at = |name: &str| folder.path().join(name);
    std::os::unix::fs::symlink("sitemon.db", at("linked.db")).expect("a link");
    second.configure("store: {kind: sqlite, path: linked.db}\nsites: []\n");
    refused();
    // Also where that name is as good as the first, or the file with the lock is gone.
    std::fs::hard_link(at("sitemon.db"), at("as-good.db")).expect("a link");
    second.configure("store: {kind: sqlite, path: as-good.db}\nsites: []\n");
    refused();
    std::fs::remove_file(at("sitemon.db.lock")).expect("it is there");
    second.configure(configuration);
    refused();
    assert_eq!(first.stop().0, 0);
    let mut next = Monitor::start(folder.path(), configuration, &[]);
    assert_eq!(next.stop().0, 0);
}

#[test]
fn two_signals_at_once_are_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let site = FaultySite::start().expect("a site");
    let url = site.url(Scheme::Http, "delay?ms=600").expect("a URL");
    let configuration = format!("sites:\n  - {{name: slow, url: '{url}', interval: 1s}}\n");
    let mut monitor = Monitor::start(folder.path(), &configuration, &[]);
    std::thread::sleep(Duration::from_millis(1300));
    // As timeout(1) does: the process, and then its group.
    monitor.signal(rustix::process::Signal::TERM);
    std::thread::sleep(Duration::from_millis(20));
    monitor.signal(rustix::process::Signal::TERM);
    assert_eq!(monitor.wait(), 0, "{}", monitor.said());
    let stored = monitor.export();
    assert_eq!(stored.len(), site.log().len(), "{stored:?}");
    assert!(stored.iter().all(|observation| observation["verdict"] == "up"), "{stored:?}");
}

#[test]
fn metrics_and_readiness_are_served() {
    let folder = tempfile::tempdir().expect("a folder");
    let site = FaultySite::start().expect("a site");
    let url = site.url(Scheme::Http, "page?status=503").expect("a URL");
    let configuration =
        format!("metrics: {{listen: '127.0.0.1:0'}}\nsites:\n  - {{name: sick, url: '{url}', interval: 200ms}}\n");
    std::fs::write(folder.path().join("sitemon.yaml"), configuration).expect("the configuration is written");
    let mut monitor = Monitor::spawn(folder.path(), &[]);
    let line = monitor.wait_for("metrics at http://");
    let address = line.split("http://").nth(1).and_then(|rest| rest.split('/').next()).expect("an address").to_owned();
    monitor.wait_for("sick is down");
    assert!(get(&address, "/healthz").ends_with("ok\n"));
    assert!(get(&address, "/readyz").starts_with("HTTP/1.1 200"));
    let metrics = get(&address, "/metrics");
    for line in [
        "probe_success{instance=\"sick\"} 0",
        "probe_http_status_code{instance=\"sick\"} 503",
        "sitemon_sites 1",
        "sitemon_observations_dropped_total 0",
    ] {
        assert!(metrics.lines().any(|shown| shown == line), "{line}\n{metrics}");
    }
    assert!(metrics.contains("sitemon_causes_total{cause=\"http.status\"}"), "{metrics}");
    assert_eq!(monitor.stop().0, 0);
}

pub fn get(address: &str, path: &str) -> String {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(address).expect("it listens");
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    answer
}
