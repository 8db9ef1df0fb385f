//! The configuration from outside: every mistake with its exact words, every key, the files of the earlier
//! systems, a hundred thousand sites.

use expect_test::{expect, expect_file};
use sitemon::config::{self, Config, Environment, Source};
use sitemon_model::unit::show_duration;
use std::collections::HashSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const DATA: &str = "tests/data/config";

/// No variables but these, and the package's folder as the working folder.
fn environment(variables: &[(&str, &str)]) -> Environment {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Environment::new(variables, PathBuf::new())
}

fn told(path: &Path) -> String {
    let (sources, faults) = config::check_in(path, &environment(&[]));
    let lines = faults.iter().map(|fault| config::render(&sources, fault).replace(&format!("{DATA}/"), "") + "\n");
    lines.collect()
}

/// One file for each mistake; beside it, under the same name with `.err`, what is said of it. To renew those
/// files: `UPDATE_EXPECT=1`.
#[test]
fn every_mistake_in_its_exact_words() {
    let mut files: Vec<PathBuf> = std::fs::read_dir(DATA)
        .expect("the folder is there")
        .map(|entry| entry.expect("it can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml" || extension == "json"))
        .collect();
    files.sort();
    assert!(files.len() > 30, "{files:?}");
    for file in files {
        let golden = std::env::current_dir().expect("it is there").join(file.with_extension("err"));
        let told = told(&file);
        assert!(!told.is_empty(), "{} has no mistake", file.display());
        expect_file![golden].assert_eq(&told);
    }
}

#[test]
fn a_file_that_is_not_there() {
    assert_eq!(told(Path::new("gone.yaml")), "gone.yaml: cannot be read: no such file\n");
    assert_eq!(told(Path::new("tests")), "tests: cannot be read: it is a folder\n");
}

/// Writes files into a new folder, and reads the first of them with these variables.
struct Trial {
    folder: tempfile::TempDir,
}

impl Trial {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("it can be made");
            std::fs::write(path, text).expect("it can be written");
        }
        Self { folder }
    }

    fn environment(&self, variables: &[(&str, &str)]) -> Environment {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Environment::new(variables, self.folder.path().to_owned())
    }

    fn load(&self, variables: &[(&str, &str)]) -> Result<Config, String> {
        self.load_from(&Source::default(), variables)
    }

    fn load_from(&self, source: &Source, variables: &[(&str, &str)]) -> Result<Config, String> {
        config::load_in(source, &self.environment(variables)).map_err(|error| self.short(&error.lines().join("\n")))
    }

    fn show(&self, variables: &[(&str, &str)]) -> String {
        let shown = config::show_in(&Source::default(), &self.environment(variables));
        self.short(&shown.map_or_else(|error| error.lines().join("\n"), |shown| shown.yaml))
    }

    /// Without the folder's own name.
    fn short(&self, text: &str) -> String {
        text.replace(&format!("{}/", self.folder.path().display()), "")
    }
}

/// A few words about each site: what tells them apart in these tests.
fn sites(config: &Config) -> Vec<String> {
    config
        .sites
        .iter()
        .map(|watched| {
            let spec = &watched.site.spec;
            let options = serde_json::Value::Object(spec.options.clone());
            let (interval, timeout) = (show_duration(spec.interval), show_duration(spec.timeout));
            format!("{} {} {interval}/{timeout} {options}", watched.site.name, watched.site.url)
        })
        .collect()
}

fn names(config: &Config) -> Vec<&str> {
    config.sites.iter().map(|watched| &*watched.site.name).collect()
}

#[test]
fn the_smallest_file_has_all_defaults() {
    let trial = Trial::new(&[("sitemon.yaml", "sites: [{url: 'https://shop.example/'}]")]);
    let config = trial.load(&[]).expect("no faults");
    assert_eq!(sites(&config), ["https://shop.example/ https://shop.example/ 1m/10s {}"]);
    assert_eq!(config.warnings, [""; 0]);
    expect![[r"
        location: default
        limits:
          checks_in_flight: 10000
          checks_in_flight_per_host: 16
          memory: 64MiB
        network:
          refuse: [metadata, link-local]
        store:
          kind: sqlite
          path: sitemon.db
          flush: 200ms
        retention:
          observations: 400d
          evidence: 90d
          hour: 1825d
          day: 7300d
        bus:
          kind: local
        spool:
          path: spool
          size: 1GiB
        grace: 10s
        sites:
          - name: https://shop.example/
            kind: http
            url: https://shop.example/
            enabled: true
            interval: 1m
            jitter: 0s
            timeout: 10s
            request:
              method: GET
              redirects: 10
              http: auto
              ip: any
              resolver: system
              dns_cache: none
              connection: new
              tls:
                insecure: false
              connect_timeout: 5s
              limits:
                body_wire: 10MiB
                body_decoded: 50MiB
                body_held: 1MiB
                match: 64KiB
                headers: 64KiB
                idle_connections: 1
            expect:
              status: ['200-299']
    "]]
    .assert_eq(&trial.show(&[]));
}

#[test]
fn defaults_are_merged_at_every_depth_and_lists_replaced() {
    let trial = Trial::new(&[(
        "sitemon.yaml",
        "sites:\n\
         - {name: a, url: 'http://a/'}\n\
         - {name: b, url: 'http://b/', interval: 5s, request: {headers: {accept: text/html, X-A: 2}}}\n\
         - {name: c, url: 'http://c/', expect: {status: [204], body: ~}, request: {auth: {basic: ~, bearer: t}}}\n\
         defaults:\n  interval: 30s\n  labels: {team: web}\n\
         \x20 request: {headers: {x-a: 1, x-b: 1}, auth: {basic: {username: u, password: p}}}\n\
         \x20 expect: {status: [200], body: {matches: [a, b]}}\n",
    )]);
    let config = trial.load(&[]).expect("no faults");
    expect![[r#"
        a http://a/ 30s/10s {"request":{"headers":{"x-a":1,"x-b":1},"auth":{"basic":{"username":"u","password":"p"}}},"expect":{"status":[200],"body":{"matches":["a","b"]}}}
        b http://b/ 5s/5s {"expect":{"status":[200],"body":{"matches":["a","b"]}},"request":{"auth":{"basic":{"username":"u","password":"p"}},"headers":{"x-b":1,"accept":"text/html","X-A":2}}}
        c http://c/ 30s/10s {"expect":{"status":[204],"body":null},"request":{"headers":{"x-a":1,"x-b":1},"auth":{"basic":null,"bearer":"t"}}}"#]]
    .assert_eq(&sites(&config).join("\n"));
    assert_eq!(config.sites[2].site.spec.labels["team"], "web");
}

#[test]
fn one_value_stands_for_a_list_of_it() {
    let shown = |one: bool| {
        let list = |value: &str| if one { value.to_owned() } else { format!("[{value}]") };
        let (refuse, resolver, status, words) = (list("private"), list("127.0.0.1:53"), list("2xx"), list("basket"));
        let (version, plugin) = (list("'2'"), list("{html-stats: {samples: 7}}"));
        let text = format!(
            "network: {{refuse: {refuse}}}\n\
             defaults: {{plugins: {}, request: {{resolver: {resolver}}}}}\n\
             sites:\n\
             - {{name: a, url: 'https://a/', expect: {{status: {status}, http_version: {version}}}}}\n\
             - {{name: b, url: 'https://b/', plugins: {plugin}, expect: {{body: {{matches: {words}}}}}}}\n",
            list("html-stats")
        );
        Trial::new(&[("sitemon.yaml", &text)]).show(&[])
    };
    assert_eq!(shown(true), shown(false));
    assert!(shown(true).contains("samples: 7"), "{}", shown(true));
    // From the environment it is a word without the brackets of JSON.
    let trial = Trial::new(&[("sitemon.yaml", "sites: [{url: 'https://a/'}]")]);
    assert!(trial.show(&[("SITEMON__DEFAULTS__PLUGINS", "html-stats")]).contains("plugins: [html-stats]"));
}

#[test]
fn the_first_file_that_is_given_or_found() {
    let site = |name: &str| format!("sites: [{{name: {name}, url: 'http://{name}/'}}]");
    let trial = Trial::new(&[
        ("given.yaml", &site("given")),
        ("variable.yaml", &site("variable")),
        ("folder/config.yml", &site("folder")),
        ("sitemon.yaml", &site("sitemon")),
        ("config/config.yml", &site("config")),
        ("moniter.yml", &site("moniter")),
        ("monitor.yml", &site("monitor")),
        (".env", "SITEMON_CONFIG=gone.yaml\n"),
    ]);
    let given = Source { file: Some(trial.folder.path().join("given.yaml")), ..Source::default() };
    let mut variables = vec![
        ("SITEMON_CONFIG", "variable.yaml"),
        ("WEBSITE_MONITOR_CONFIG_PATH", "folder"),
        ("MONITERFILE", "moniter.yml"),
    ];
    let name = |source: &Source, variables: &[(&str, &str)]| {
        trial.load_from(source, variables).map(|config| names(&config).join(" "))
    };
    assert_eq!(name(&given, &variables).as_deref(), Ok("given"));
    assert_eq!(name(&Source::default(), &variables).as_deref(), Ok("variable"));
    variables.remove(0);
    // `.env` is read, and what is named there must be there.
    assert_eq!(name(&Source::default(), &variables), Err("gone.yaml: cannot be read: no such file".to_owned()));
    variables.push(("SITEMON_CONFIG", ""));
    assert_eq!(name(&Source::default(), &variables).as_deref(), Ok("folder"));
    variables.push(("WEBSITE_MONITOR_CONFIG_PATH", "folder/config.yml"));
    assert_eq!(name(&Source::default(), &variables).as_deref(), Ok("folder"));
    variables.push(("WEBSITE_MONITOR_CONFIG_PATH", ""));
    for (file, expected) in [
        ("sitemon.yaml", "sitemon"),
        ("config/config.yml", "config"),
        ("moniter.yml", "moniter"),
        ("monitor.yml", "monitor"),
    ] {
        assert_eq!(name(&Source::default(), &variables).as_deref(), Ok(expected));
        std::fs::remove_file(trial.folder.path().join(file)).expect("it was there");
        if file == "moniter.yml" {
            variables.push(("MONITERFILE", ""));
        }
    }
    let nothing = name(&Source::default(), &variables).expect_err("nothing is left");
    assert!(nothing.starts_with("no configuration found: give one with -c FILE"), "{nothing}");
    variables.extend([("KAFKA_BROKER", "kafka://a:1"), ("POSTGRES_DSN", "postgres://a/b")]);
    let later = name(&Source::default(), &variables).expect_err("it comes later");
    assert!(
        later.starts_with("$KAFKA_BROKER and $POSTGRES_DSN are set, but Kafka and PostgreSQL come with a later"),
        "{later}"
    );
}

#[test]
fn every_key_can_be_set_by_environment() {
    let trial = Trial::new(&[
        (
            "sitemon.yaml",
            "store: {path: a.db, flush: 1s}\ngrace: 1s\ndefaults: {interval: 5s, labels: {a: b}}\nsites: [{url: 'http://a/'}]",
        ),
        (".env", "SITEMON__GRACE=3s\nSITEMON__METRICS__LISTEN=[::1]:9464\n"),
    ]);
    let variables = [
        ("SITEMON__STORE__PATH", "b.db"),
        ("SITEMON__GRACE", "2s"),
        ("SITEMON__LIMITS__CHECKS_IN_FLIGHT", "7"),
        ("SITEMON__NETWORK__REFUSE", "[\"loopback\"]"),
        ("SITEMON__DEFAULTS__REQUEST", "{\"headers\": {\"x-token\": \"tell-nobody\"}}"),
        ("SITEMON__DEFAULTS__REQUEST__METHOD", "HEAD"),
        ("SITEMON_LOG", "debug"),
    ];
    let config = trial.load(&variables).expect("no faults");
    assert_eq!(config.grace.as_secs(), 2);
    assert_eq!(config.flush.as_secs(), 1);
    assert_eq!(config.limits.checks_in_flight, 7);
    assert_eq!(
        config.metrics.map(|metrics| (metrics.listen.to_string(), metrics.sites)),
        Some(("[::1]:9464".to_owned(), 10_000))
    );
    assert_eq!(config.sites[0].site.spec.interval.as_secs(), 5);
    let shown = trial.show(&variables);
    assert!(shown.contains("  path: b.db\n") && shown.contains("refuse: [loopback]\n"), "{shown}");
    assert!(shown.contains("method: HEAD") && shown.contains("x-token: (hidden)"), "{shown}");
    assert!(!shown.contains("tell-nobody"), "{shown}");

    let replaced = trial.load(&[("SITEMON__SITES", "[{\"url\": \"http://b/\"}, {\"url\": \"http://c/\"}]")]);
    let replaced = replaced.expect("no faults");
    assert_eq!(names(&replaced), ["http://b/", "http://c/"]);
    assert_eq!(replaced.sites[0].site.spec.interval.as_secs(), 5, "the defaults hold for these, too");

    let faults = trial.load(&[
        ("SITEMON__STORE__FLUSH", "never"),
        ("SITEMON__STOER__PATH", "x"),
        ("SITEMON__DEFAULTS__INTERVAL", "5 s"),
        ("SITEMON__SITES", "[{\"url\": \"b\"}]"),
    ]);
    expect![[r"
        $SITEMON__STORE__FLUSH: store.flush: `never`, expected a duration such as 250ms, 15s, 1m30s, or a number of seconds
        $SITEMON__SITES: sites[0].url: `b` has no scheme, expected a URL such as https://shop.example/
        $SITEMON__STOER__PATH: stoer: unknown key `stoer`, did you mean `store`?
        $SITEMON__DEFAULTS__INTERVAL: defaults.interval: `5 s`, expected a duration such as 250ms, 15s, 1m30s, or a number of seconds"]]
    .assert_eq(&faults.expect_err("four faults"));
}

#[test]
fn variables_stand_in_the_environment_too() {
    let trial = Trial::new(&[(
        "sitemon.yaml",
        "store: {path: '$${A}.db'}\nlocation: ${NOT_SET}\ndefaults: {labels: {a: '${A}'}}\nsites: [{url: 'http://a/'}]",
    )]);
    let variables = [
        ("A", "x"),
        ("SITEMON__LOCATION", "${A}-${NONE:-y}"),
        ("SITEMON__SPOOL__PATH", "$${A}"),
        ("SITEMON__DEFAULTS__LABELS__B", "b${A}"),
        ("SITEMON__DEFAULTS__REQUEST__HEADERS", "{\"x-token\": \"${TOKEN}\"}"),
        ("SITEMON__SITES", "[{\"url\": \"http://${A}/\"}]"),
        ("TOKEN", "tell-nobody"),
    ];
    let config = trial.load(&variables).expect("no faults");
    let site = &config.sites[0].site;
    assert_eq!((&*config.location, &*site.url), ("x-y", "http://x/"));
    assert_eq!((&*site.spec.labels["a"], &*site.spec.labels["b"]), ("x", "bx"));
    let shown = trial.show(&variables);
    assert!(shown.contains("  path: '$${A}.db'\n") && shown.contains("  path: '$${A}'\n"), "{shown}");
    assert!(shown.contains("x-token: (hidden)"), "{shown}");

    let faults = trial.load(&[
        ("A", "x"),
        ("SITEMON__LOCATION", "${NOT_SET}"),
        ("SITEMON__GRACE", "${NOT_SET}"),
        ("SITEMON__LIMITS", "{\"memory\": \"${NOT_SET}\", \"checks_in_flight\": 0}"),
        ("SITEMON__DEFAULTS__TIMEOUT", "${NOT_SET}"),
    ]);
    expect![[r#"
        $SITEMON__DEFAULTS__TIMEOUT: defaults.timeout: the variable `NOT_SET` is not set, expected it in the environment, or a default: `${NOT_SET:-default}`
        $SITEMON__LOCATION: location: the variable `NOT_SET` is not set, expected it in the environment, or a default: `${NOT_SET:-default}`
        $SITEMON__LIMITS: limits.checks_in_flight: `0`, expected 1 or more
        $SITEMON__LIMITS: limits.memory: the variable `NOT_SET` is not set, expected it in the environment, or a default: `${NOT_SET:-default}`
        $SITEMON__GRACE: grace: the variable `NOT_SET` is not set, expected it in the environment, or a default: `${NOT_SET:-default}`"#]]
    .assert_eq(&faults.expect_err("five faults"));
}

/// JSON from the environment that is broken may hold secrets, so nothing of it is repeated.
#[test]
fn broken_json_in_the_environment() {
    let trial = Trial::new(&[("sitemon.yaml", "sites: [{url: 'http://a/'}]")]);
    let faults = trial.load(&[
        ("SITEMON__SITES", "[{\"url\": \"http://a/\", \"request\": {\"auth\": {\"bearer\": \"tell-nobody\"}}"),
        ("SITEMON__STORE", "{tell-nobody}"),
        ("SITEMON__DEFAULTS__REQUEST", "{\"headers\": {\"x\": \"tell-nobody\""),
        ("SITEMON__INCLUDE", "[a-z]/tell.yaml"),
    ]);
    expect![[r#"
        $SITEMON__INCLUDE: include: warning: `[a-z]/tell.yaml` matches no file
        $SITEMON__STORE: store: is no JSON: key must be a string at line 1 column 2
        $SITEMON__SITES: sites: is no JSON: EOF while parsing an object at line 1 column 68
        $SITEMON__DEFAULTS__REQUEST: defaults.request: is no JSON: EOF while parsing an object at line 1 column 31"#]]
    .assert_eq(&faults.expect_err("four faults"));
}

/// What is shown can be fed back, but for what is hidden in it.
#[test]
fn what_is_shown_is_read_again() {
    let trial = Trial::new(&[
        (
            "conf/sitemon.yaml",
            "location: 'a$${B}'\nstore: {path: data/x.db}\nspool: {path: '$${X}'}\nmetrics: {listen: '127.0.0.1:0'}\nsites:\n\
             - name: 'a$${X}'\n  url: 'http://a/$${X}'\n  labels: {a: '$${X}', b: '5', c: '~', d: ' x'}\n  plugins: [{html-stats: {window: 7d}}]\n\
             \x20 request: {method: POST, body_file: body, headers: {x: '$${X}'}, resolver: ['127.0.0.1:53'], http: '2', ip: '4'}\n\
             \x20 expect: {status: [2xx, 404], body: {matches: ['$$\\{X'], json: [{path: $.a, equals: '$${X}'}, {path: $.b, equals: '1'}, {path: $.c, equals: 1.0}]}, certificate: 14d}\n",
        ),
        ("conf/body", &"$${X} line\n".repeat(500)),
    ]);
    let path = |name: &str| Source { file: Some(trial.folder.path().join(name)), ..Source::default() };
    let shown = config::show_in(&path("conf/sitemon.yaml"), &trial.environment(&[])).expect("no faults").yaml;
    std::fs::write(trial.folder.path().join("shown.yaml"), &shown).expect("it can be written");
    let again = config::show_in(&path("shown.yaml"), &trial.environment(&[])).expect("it is read again");
    assert_eq!(shown, again.yaml);
    let config = trial.load_from(&path("shown.yaml"), &[]).expect("no faults");
    assert_eq!((&*config.location, &*config.sites[0].site.name), ("a${B}", "a${X}"));
}

/// A certificate, too: its key may stand beside it.
#[test]
fn what_is_in_pem_is_not_shown() {
    let [certificate, key] =
        ["client.pem", "client.key"].map(|name| std::fs::read_to_string(format!("{DATA}/tls/{name}")).expect(name));
    let trial = Trial::new(&[
        (
            "sitemon.yaml",
            "sites:\n- url: https://a/\n  request: {tls: {ca: ca.pem, certificate: both.pem, key: both.pem}}\n\
             - {url: 'https://b/', request: {body_file: both.pem}}",
        ),
        ("ca.pem", &certificate),
        ("both.pem", &(key + &certificate)),
    ]);
    let shown = trial.show(&[]);
    assert!(shown.contains("ca: (hidden)") && shown.contains("body: (hidden)"), "{shown}");
    assert!(shown.contains("certificate: (hidden)") && shown.contains("key: (hidden)"), "{shown}");
    assert!(!shown.contains("-----"), "{shown}");
}

#[test]
fn variables_secrets_and_included_files() {
    let trial = Trial::new(&[
        (
            "conf/sitemon.yaml",
            "include: [sites.d/*.yaml, 'more/**/*.yaml', sites.d/a.yaml]\n\
             sites:\n- {name: a, url: 'http://${HOST:-a}/', request: {body_file: body, headers: {x: {file: secret}, y: '${Y}', z: plain}}}\n",
        ),
        ("conf/body", "main"),
        ("conf/secret", "tell-nobody\r\n"),
        ("conf/sites.d/b.yaml", "sites: [{name: b, url: 'http://b/', request: {body_file: body}}]"),
        ("conf/sites.d/a.yaml", "x-y: &y 5s\nsites: [{name: c, url: 'http://c/', interval: *y}]"),
        ("conf/sites.d/body", "other"),
        ("conf/more/deep/er/d.yaml", "sites: [{name: d, url: 'http://d/'}]"),
    ]);
    let source = Source { file: Some(trial.folder.path().join("conf/sitemon.yaml")), ..Source::default() };
    let variables = [("HOST", "host"), ("Y", "nor-this")];
    let config = trial.load_from(&source, &variables).expect("no faults");
    assert_eq!(names(&config), ["a", "c", "b", "d"]);
    assert_eq!(&*config.sites[0].site.url, "http://host/");
    let shown = config::show_in(&source, &trial.environment(&variables)).expect("no faults").yaml;
    assert!(shown.contains("body: main") && shown.contains("body: other") && shown.contains("z: plain"), "{shown}");
    assert!(!shown.contains("tell-nobody") && !shown.contains("nor-this"), "{shown}");
    let files: Vec<String> = config.origins.paths().map(|path| trial.short(&path.display().to_string())).collect();
    assert_eq!(
        files,
        [
            "conf/sitemon.yaml",
            "conf/secret",
            "conf/body",
            "conf/sites.d/a.yaml",
            "conf/sites.d/b.yaml",
            "conf/sites.d/body",
            "conf/more/deep/er/d.yaml",
            ".env"
        ]
    );

    // A reload compares by what is in force: a secret's file counts, the order of keys does not.
    let digests = |config: &Config| config.sites.iter().map(|watched| watched.site.spec.digest).collect::<Vec<_>>();
    let before = digests(&config);
    assert_eq!(digests(&trial.load_from(&source, &variables).expect("no faults")), before);
    std::fs::write(trial.folder.path().join("conf/secret"), "another").expect("it can be written");
    let after = digests(&trial.load_from(&source, &variables).expect("no faults"));
    assert!(after[0] != before[0] && after[1..] == before[1..]);
    assert!(digests(&trial.load_from(&source, &[("Y", "other")]).expect("no faults"))[0] != after[0]);

    std::fs::write(trial.folder.path().join("conf/sites.d/b.yaml"), "site: []\ndefaults: {}\n- x").expect("written");
    expect![[r"
        conf/sites.d/b.yaml:1:1: site: unknown key `site`, did you mean `sites`?
        conf/sites.d/b.yaml:2:1: defaults: `defaults` belongs into the main file, expected `sites`
        conf/sites.d/b.yaml:3:3: cannot be read as YAML or JSON: while parsing a block mapping, did not find expected key"]]
    .assert_eq(&trial.load_from(&source, &variables).expect_err("three faults"));
}

#[test]
fn anchors_aliases_and_merge_keys() {
    let trial = Trial::new(&[(
        "sitemon.yaml",
        "x-base: &base {interval: 5s, labels: {a: '1'}}\n\
         x-more: &more {interval: 7s, timeout: 3s}\n\
         sites:\n\
         - &first\n  <<: *base\n  name: a\n  url: http://a/\n\
         - <<: [*base, *more]\n  name: b\n  url: http://b/\n\
         - <<: *first\n  name: c\n  labels: {c: '3'}\n\
         - {name: d, url: http://d/, \"<<\": *more}\n",
    )]);
    let faults = trial.load(&[]).expect_err("a quoted key is no merge key");
    assert_eq!(
        faults,
        "sitemon.yaml:14:29: sites[3][\"<<\"]: unknown key `<<`, expected one of: name, url, kind, enabled, \
                        interval, jitter, timeout, labels, plugins, request, expect"
    );
    let text = std::fs::read_to_string(trial.folder.path().join("sitemon.yaml")).expect("it is there");
    let trial = Trial::new(&[("sitemon.yaml", &text.replace("\"<<\"", "<<"))]);
    let config = trial.load(&[]).expect("no faults");
    let told: Vec<String> = config
        .sites
        .iter()
        .map(|watched| {
            let spec = &watched.site.spec;
            let url = &watched.site.url;
            format!("{url} {} {} {:?}", show_duration(spec.interval), show_duration(spec.timeout), spec.labels)
        })
        .collect();
    assert_eq!(
        told,
        [
            "http://a/ 5s 5s {\"a\": \"1\"}",
            "http://b/ 5s 3s {\"a\": \"1\"}",
            "http://a/ 5s 5s {\"c\": \"3\"}",
            "http://d/ 7s 3s {}"
        ]
    );
}

#[test]
fn json_is_read_with_places() {
    let text = "\u{feff}{\n\t\"sites\": [\n\t\t{\"name\": \"\\u00e4\\ud83d\\ude00\", \"url\": \"http:\\/\\/a/\",\t\"interval\":5,\"expect\":{\"body\":{\"matches\":[\"\\u00e4\"]}}}\n\t]\n}\n";
    let trial = Trial::new(&[("sitemon.yaml", text)]);
    assert_eq!(
        trial.load(&[]).expect_err("the name is no ASCII"),
        "sitemon.yaml:3:12: sites[0].name: `ä😀`, expected 1 to 128 printable ASCII characters"
    );
    let trial = Trial::new(&[("sitemon.yaml", &text.replace("\\u00e4\\ud83d\\ude00", "a"))]);
    let config = trial.load(&[]).expect("no faults");
    assert_eq!(sites(&config), ["a http://a/ 5s/5s {\"expect\":{\"body\":{\"matches\":[\"ä\"]}}}"]);
}

#[test]
fn the_embedded_store_whatever_the_file_says() {
    let trial = Trial::new(&[(
        "sitemon.yaml",
        "store: {kind: postgres, dsn: '${DSN:-}'}\nbus: {kind: kafka, brokers: []}\nsites: [{url: 'http://a/'}]",
    )]);
    assert!(trial.load(&[]).is_err());
    let local = Source { local: true, ..Source::default() };
    let config = trial.load_from(&local, &[]).expect("no faults");
    assert_eq!((config.store.kind(), config.bus.kind()), ("sqlite", "local"));
    assert_eq!(trial.short(config.store.show()["path"].as_str().expect("a path")), "sitemon.db");
}

#[test]
fn sites_of_urls_have_the_files_defaults() {
    let trial = Trial::new(&[(
        "sitemon.yaml",
        "defaults: {timeout: 3s}\nlimits: {checks_in_flight: 5}\nsites: [{name: bad, url: bad}]",
    )]);
    let urls = ["http://a/", "https://b/"].map(str::to_owned);
    let config = config::sites_of_urls_in(&Source::default(), &urls, &trial.environment(&[])).expect("no faults");
    assert_eq!(sites(&config), ["http://a/ http://a/ 1m/3s {}", "https://b/ https://b/ 1m/3s {}"]);
    assert_eq!(config.limits.checks_in_flight, 5);
    let without = Trial::new(&[]);
    let config = config::sites_of_urls_in(&Source::default(), &urls, &without.environment(&[])).expect("no faults");
    assert_eq!(config.sites.len(), 2);
    assert_eq!(config.warnings, [""; 0]);
    let urls = ["shop", "http://a/", "http://a/"].map(str::to_owned);
    let faults = config::sites_of_urls_in(&Source::default(), &urls, &without.environment(&[])).expect_err("two");
    assert_eq!(
        faults.lines(),
        [
            "command line: \"shop\".url: `shop` has no scheme, expected a URL such as https://shop.example/",
            "command line: \"http://a/\".name: duplicate name `http://a/`, first at command line"
        ]
    );
}

#[test]
fn names_of_earlier_systems_do_not_count_beside_a_native_file() {
    let trial = Trial::new(&[("sitemon.yaml", "sites: [{url: 'http://a/'}]"), (".env", "SCAN_INTERVAL=5\nwrong\n")]);
    let config = trial.load(&[("KAFKA_BROKER", "kafka://a:1")]).expect("no faults");
    assert_eq!(
        config.warnings.iter().map(|line| trial.short(line)).collect::<Vec<_>>(),
        [
            "environment: KAFKA_BROKER, SCAN_INTERVAL: of an earlier system, and not used beside a native file",
            ".env:2:1: is left out, expected NAME=VALUE"
        ]
    );
}

/// The schema accepts what the reader accepts.
#[test]
fn the_schema_accepts_every_example() {
    let mut schemas = boon::Schemas::new();
    let mut compiler = boon::Compiler::new();
    compiler.set_default_draft(boon::Draft::V2020_12);
    compiler.add_resource("file:///sitemon.json", config::schema()).expect("it is JSON");
    let schema = compiler.compile("file:///sitemon.json", &mut schemas).expect("it is a schema");
    let valid = |text: &str| {
        let value = yaml_to_json(text);
        schemas.validate(&value, schema).map_err(|error| format!("{error:#}"))
    };
    let full = std::fs::read_to_string("tests/data/full.yaml").expect("it is there");
    assert_eq!(valid(&full), Ok(()));
    let (sources, faults) = config::check_in(Path::new("tests/data/full.yaml"), &environment(&[("TOKEN", "x")]));
    let faults: Vec<String> = faults.iter().map(|fault| config::render(&sources, fault)).collect();
    assert_eq!(faults, [""; 0]);
    for example in ["../../sitemon.yaml", "../../demo/sitemon.yaml"] {
        if let Ok(text) = std::fs::read_to_string(example) {
            assert_eq!(valid(&text), Ok(()), "{example}");
        }
    }
    // What is shown, and what earlier files are converted to, is native.
    let source = Source { file: Some("tests/data/full.yaml".into()), ..Source::default() };
    let shown = config::show_in(&source, &environment(&[("TOKEN", "x")])).expect("no faults").yaml;
    assert_eq!(valid(&shown), Ok(()));
    for file in ["monitors.yml", "config/config.yml", "config.json"] {
        let path = Path::new("tests/data/earlier").join(file);
        let converted = config::convert_in(&path, &environment(&[])).expect("it is understood");
        assert_eq!(valid(&converted.yaml), Ok(()), "{file}");
    }
    for mistake in
        ["wrong_type", "unknown_key", "limits", "unknown_kinds", "defaults", "site_is_no_map", "store_and_bus"]
    {
        let text = std::fs::read_to_string(format!("{DATA}/{mistake}.yaml")).expect("it is there");
        assert!(valid(&text).is_err(), "{mistake} is valid by the schema");
    }
}

/// What users read and copy is right: each piece of YAML in the documents is a configuration.
#[test]
fn the_documents_hold_true_examples() {
    let mut examples = 0;
    for document in ["../../README.md", "../../docs/configuration.md"] {
        let text = std::fs::read_to_string(document).expect("it is there");
        for example in text.split("```yaml\n").skip(1) {
            let example = example.split("```").next().expect("there is one");
            let trial = Trial::new(&[("sitemon.yaml", example)]);
            let path = trial.folder.path().join("sitemon.yaml");
            let (sources, faults) = config::check_in(&path, &trial.environment(&[]));
            let errors = faults.iter().filter(|fault| !fault.warning);
            let errors: Vec<String> = errors.map(|fault| trial.short(&config::render(&sources, fault))).collect();
            assert_eq!(errors, [""; 0], "{document}: {example}");
            examples += 1;
        }
    }
    assert!(examples > 5, "{examples}");
}

/// The values of a YAML file, by our own reader.
fn yaml_to_json(text: &str) -> serde_json::Value {
    config::tree(text).expect("it is YAML").to_json()
}

/// The keys of each map in the schema are those that the reader names when it meets an unknown one there.
#[test]
fn the_schema_has_exactly_the_keys_that_are_read() {
    let schema = config::schema();
    let mut maps = Vec::new();
    closed_maps(&schema, "", &mut maps);
    assert!(maps.len() > 20, "{maps:?}");
    for (path, keys) in maps {
        let steps: Vec<&str> = path.split('.').filter(|step| !step.is_empty()).collect();
        let mut text = "{\"nobodyknowsthiskey\": 1}".to_owned();
        for step in steps.iter().rev() {
            let (step, kind) = step.split_once(':').map_or((*step, None), |(step, kind)| (step, Some(kind)));
            if let Some(kind) = kind {
                text = text.replacen('{', &format!("{{\"kind\": \"{kind}\", "), 1);
            }
            text = match step.strip_suffix("[]") {
                Some("sites") => format!("{{\"sites\": [{}]}}", text.replacen('{', "{\"url\": \"http://a/\", ", 1)),
                Some(name) => format!("{{\"{name}\": [{text}]}}"),
                None => format!("{{\"{step}\": {text}}}"),
            };
        }
        let trial = Trial::new(&[("sitemon.yaml", &text)]);
        let told = trial.load(&[]).expect_err("an unknown key");
        let known = told
            .lines()
            .find_map(|line| line.split_once("unknown key `nobodyknowsthiskey`, expected one of: "))
            .unwrap_or_else(|| panic!("{path}: {told}"));
        let mut known: Vec<&str> = known.1.split(", ").collect();
        known.sort_unstable();
        let defaults = path == "defaults";
        known.retain(|key| !(defaults && matches!(*key, "name" | "url")));
        assert_eq!(known, keys, "the keys at `{path}`: read, and in the schema");
    }
}

/// All maps of a schema that allow no other keys, with the path to them and their keys in order. Where a kind decides
/// which keys there are, the path says it: `store:postgres.tls`.
fn closed_maps(schema: &serde_json::Value, path: &str, maps: &mut Vec<(String, Vec<String>)>) {
    let kind = schema["properties"]["kind"]["enum"][0].as_str().filter(|_| matches!(path, "store" | "bus"));
    let path = &kind.map_or_else(|| path.to_owned(), |kind| format!("{path}:{kind}"));
    if let Some(properties) = schema["properties"].as_object() {
        if schema["additionalProperties"] == false {
            let mut keys: Vec<String> = properties.keys().cloned().collect();
            keys.sort_unstable();
            maps.push((path.to_owned(), keys));
        }
        for (name, property) in properties {
            closed_maps(property, format!("{path}.{name}").trim_start_matches('.'), maps);
        }
    }
    for choice in schema["anyOf"].as_array().into_iter().flatten() {
        // A map of one plugin to its options has the names of plugins as keys.
        if !(path.trim_end_matches("[]").ends_with("plugins") && choice["maxProperties"] == 1) {
            closed_maps(choice, path, maps);
        }
    }
    if schema["items"].is_object() {
        closed_maps(&schema["items"], &format!("{path}[]"), maps);
    }
}

/// docs/reference/configuration.md is what the code says. To renew it: `UPDATE_REFERENCE=1`.
#[test]
fn the_reference_is_fresh() {
    let path = Path::new("../../docs/reference/configuration.md");
    let fresh = config::reference();
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("it can be made");
        std::fs::write(path, &fresh).expect("it can be written");
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(written == fresh, "docs/reference/configuration.md is stale: run this test with UPDATE_REFERENCE=1");
}

#[test]
fn files_of_earlier_systems_convert_and_run() {
    for file in ["monitors.yml", "config/config.yml", "config.json"] {
        let path = Path::new("tests/data/earlier").join(file);
        let converted = config::convert_in(&path, &environment(&[])).expect("it is understood");
        let golden = std::env::current_dir().expect("it is there").join(path.with_extension("native.yaml"));
        let mut lines: Vec<String> = converted.warnings.iter().map(|line| format!("# {line}")).collect();
        lines.push(converted.yaml.clone());
        expect_file![golden].assert_eq(&lines.join("\n"));
        // The native form means the same as the file itself.
        let load = |path: &Path| {
            let source = Source { file: Some(path.to_owned()), ..Source::default() };
            config::load_in(&source, &environment(&[])).expect("it runs")
        };
        let native = Trial::new(&[("native.yaml", &converted.yaml)]);
        let (old, new) = (load(&path), load(&native.folder.path().join("native.yaml")));
        assert_eq!(sites(&old), sites(&new));
        assert_eq!(old.converted.as_deref(), Some(converted.yaml.as_str()));
        assert_eq!(new.converted, None);
        assert_eq!(
            config::convert_in(&native.folder.path().join("native.yaml"), &environment(&[])).expect("native").yaml,
            converted.yaml
        );
    }
}

/// What is said of each file by `config check`: bad entries are errors there.
#[test]
fn faults_in_files_of_earlier_systems() {
    let trial = Trial::new(&[
        (
            "monitors.yml",
            "interval: 5\ncolour: blue\nmonitors:\n\
             - {name: a, url: 'http://a/', pattern: 'a(?=b)', patern: x}\n\
             - {name: b, url: 'http://b/${X}'}\n\
             - {name: b, url: 'http://c/'}\n\
             - {url: 'http://c/', name: b}\n\
             - {url: shop}\n\
             - {name: none}\n\
             - {name: 'Bücher', url: 'http://d/', pattern: 5}\n\
             - {url: 'http://e/LONG'}\n\
             - 7\n\
             - {url: 'http://z/'}\n",
        ),
        ("without.yml", "monitors:\n- {url: 'http://a/'}\n"),
        ("zero.yml", "interval: 0\nmonitors:\n- {url: 'http://a/'}\n"),
        (
            "targets.yml",
            "kafka: {bootstrap_servers: a, topic: b}\npostgres: {}\ntargets:\n- {name: a, target: 'http://a/', check_interval_seconds: x, regexp: ')('}\n- {name: b, target: 'http://b/'}\n",
        ),
        (
            "collector.json",
            "{\"monitor\": {\"custname\": \"acme\", \"pollfreq\": 0.5, \"retrydelay\": 5, \"sites\": [{\"url\": \"http://a/\"}, {\"regex\": \"a\"}]}}",
        ),
    ]);
    let long = std::fs::read_to_string(trial.folder.path().join("monitors.yml")).expect("it is there");
    std::fs::write(trial.folder.path().join("monitors.yml"), long.replace("LONG", &"x".repeat(150))).expect("written");
    let mut all = String::new();
    for file in ["monitors.yml", "without.yml", "zero.yml", "targets.yml", "collector.json"] {
        let environment = trial.environment(&[("URL_REGEX", "https?://[a-e]/")]);
        let (sources, faults) = config::check_in(&trial.folder.path().join(file), &environment);
        for fault in &faults {
            all.push_str(&trial.short(&config::render(&sources, fault)));
            all.push('\n');
        }
    }
    expect![[r#"
        monitors.yml:2:1: colour: warning: unknown key `colour`, expected one of: interval, monitors; it is left aside
        monitors.yml:4:40: monitors[0].pattern: `a(?=b)` is no regular expression, at character 2: look-around is not supported, because patterns run in linear time; ask for what must be there with `matches` and for what must not with `absent`
        monitors.yml:4:50: monitors[0].patern: warning: unknown key `patern`, did you mean `pattern`?; it is left aside
        monitors.yml:6:10: monitors[2]: warning: its name `b` is taken, so it is called `b~b4064b17`
        monitors.yml:7:3: monitors[3]: is the same as monitors[2]
        monitors.yml:8:9: monitors[4].url: `shop` has no scheme, expected a URL such as https://shop.example/
        monitors.yml:9:3: monitors[5].url: is missing, expected a URL such as https://shop.example/
        monitors.yml:10:10: monitors[6]: warning: its name `Bücher` is not 1 to 128 printable ASCII characters, so it is called `B?cher~4f1d7694`
        monitors.yml:11:9: monitors[7]: warning: its name `http://e/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx` is not 1 to 128 printable ASCII characters, so it is called `http://e/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx~2fdfa93b`
        monitors.yml:12:3: monitors[8]: `7`, expected a map
        monitors.yml:13:9: monitors[9].url: `http://z/` does not match $URL_REGEX
        without.yml:1:1: interval: is missing, expected a number of seconds, 0.1 or more
        zero.yml:1:11: interval: `0`, expected a number of seconds, 0.1 or more
        targets.yml:1:8: kafka: warning: Kafka and PostgreSQL come with a later version: observations stay in the embedded store
        targets.yml:1:8: kafka: warning: the file kafka/ca.pem, for TLS to Kafka, is missing
        targets.yml:1:8: kafka: warning: the file kafka/service.cert, for TLS to Kafka, is missing
        targets.yml:1:8: kafka: warning: the file kafka/service.key, for TLS to Kafka, is missing
        targets.yml:1:31: kafka.topic: warning: unknown key `topic`, expected one of: bootstrap_servers, metrics_topic; it is left aside
        targets.yml:2:11: postgres: warning: Kafka and PostgreSQL come with a later version: observations stay in the embedded store
        targets.yml:4:58: targets[0].check_interval_seconds: `x`, expected a number of seconds, 0.1 or more
        targets.yml:4:69: targets[0].regexp: `)(` is no regular expression, at character 1: unopened group
        targets.yml:5:3: targets[1].check_interval_seconds: is missing, expected a number of seconds, 0.1 or more
        collector.json:1:65: monitor.retrydelay: warning: is left aside: what failed is checked again in the next slot
        collector.json:1:100: monitor.sites[1].url: is missing, expected a URL such as https://shop.example/
    "#]].assert_eq(&all);
    // `run` goes on with the others.
    let source = Source { file: Some(trial.folder.path().join("monitors.yml")), ..Source::default() };
    let config = trial.load_from(&source, &[]).expect("the others run");
    expect![[r#"
        b http://b/${X} 5s/5s {}
        b~b4064b17 http://c/ 5s/5s {}
        B?cher~4f1d7694 http://d/ 5s/5s {"expect":{"body":{"matches":["5"]}}}
        http://e/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx~2fdfa93b http://e/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx 5s/5s {}
        http://z/ http://z/ 5s/5s {}"#]].assert_eq(&sites(&config).join("\n"));
    assert!(config.warnings.iter().any(|line| line.ends_with("; the entry is left out")), "{:?}", config.warnings);
}

/// The name of an entry whose name is taken, as a script outside computes it.
#[test]
fn names_are_made_fit_by_a_hash_of_the_entry() {
    let json = r#"{"name":"b","url":"http://c/"}"#;
    let hash = format!("{:016x}", xxhash_rust::xxh3::xxh3_64(json.as_bytes()));
    let trial = Trial::new(&[(
        "monitor.yml",
        "interval: 5\nmonitors:\n- {name: b, url: 'http://b/'}\n- {url: 'http://c/', name: b}\n",
    )]);
    let config = trial.load(&[]).expect("it runs");
    assert_eq!(names(&config), ["b".to_owned(), format!("b~{}", &hash[..8])]);
}

/// Sites that are alike share what they are made of. `SITEMON_TEST_SITES` says how many there are, for those
/// who want to see how long a million takes (in a release build).
#[test]
fn many_sites_share_what_is_equal() {
    let count = std::env::var("SITEMON_TEST_SITES").map_or(20_000, |count| count.parse().expect("a number"));
    let mut text = String::from("defaults: {interval: 30s, expect: {body: {matches: [welcome]}}}\nsites:\n");
    for number in 0..count {
        let _ = writeln!(
            text,
            "  - name: site-{number}\n    url: http://host-{number}.example/\n    labels: {{n: '{}'}}",
            number % 100
        );
    }
    let trial = Trial::new(&[("sitemon.yaml", &text)]);
    let begun = std::time::Instant::now();
    let config = trial.load(&[]).expect("no faults");
    println!("{count} sites in {:?}, {} bytes", begun.elapsed(), text.len());
    assert_eq!(config.sites.len(), count);
    let specs: HashSet<_> = config.sites.iter().map(|watched| Arc::as_ptr(&watched.site.spec)).collect();
    let checks: HashSet<_> = config.sites.iter().map(|watched| Arc::as_ptr(&watched.check).cast::<()>()).collect();
    assert_eq!((specs.len(), checks.len()), (100, 1));
}

proptest::proptest! {
    /// Whatever a file holds, reading it ends, in a configuration or in faults with places in the file.
    #[test]
    fn no_text_confuses_the_reader(pieces in proptest::collection::vec(proptest::sample::select(PIECES), 0..40)) {
        let text = pieces.concat();
        let trial = Trial::new(&[("sitemon.yaml", &text)]);
        let path = trial.folder.path().join("sitemon.yaml");
        let (sources, faults) = config::check_in(&path, &trial.environment(&[("A", "b")]));
        let lines = text.lines().count() as u32 + 1;
        for fault in &faults {
            assert!(fault.place.line <= lines, "{}: {text:?}", config::render(&sources, fault));
        }
        if !faults.iter().any(|fault| !fault.warning) {
            let converted = config::convert_in(&path, &trial.environment(&[])).expect("it was read").yaml;
            let again = Trial::new(&[("sitemon.yaml", &converted)]);
            let (old, new) = (trial.load(&[("A", "b")]), again.load(&[("A", "b")]));
            assert_eq!(old.map(|config| sites(&config)), new.map(|config| sites(&config)), "{text:?} {converted:?}");
        }
    }
}

/// What files are made of, the right and the wrong.
const PIECES: &[&str] = &[
    "sites:",
    "sites: ",
    "\n",
    "\n",
    "\n",
    " ",
    "  ",
    "    ",
    "- ",
    "- ",
    "{",
    "}",
    "[",
    "]",
    ", ",
    ": ",
    ":",
    "? ",
    "&a ",
    "*a",
    "<<: ",
    "<<: *a",
    "url: http://a/",
    "url: 'http://b/${A}'",
    "{url: 'http://c/'}",
    "name: ",
    "${A}",
    "$${A}",
    "${",
    "'",
    "\"",
    "|\n",
    ">-\n",
    "#",
    "---\n",
    "...\n",
    "x-a: ",
    "defaults:",
    "defaults: {labels: {a: '5'}}",
    "labels: ",
    "expect: {body: {matches: [",
    "é",
    "\t",
    "\u{feff}",
    "null",
    "~",
    "!!str ",
    "!x ",
    "5",
    "1.0",
    "interval: 5s",
    "request: {headers: {a: b}}",
    "\\",
    "%",
    "@",
];
