//! The demonstration: local sites in every state, and a configuration that watches them.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};

use crate::fault::{Fault, Scheme};
use crate::names::{FaultyNames, NameFault};
use crate::site::FaultySite;

/// Sites and names that run until this is dropped.
pub struct Demo {
    site: FaultySite,
    names: FaultyNames,
    /// Nobody listens there: a proxy that is away.
    away: std::net::SocketAddr,
}

/// A site of the demonstration.
struct Shown {
    name: &'static str,
    /// What one will see, for whoever reads the file.
    words: &'static str,
    scheme: Scheme,
    /// First label of the host; the path's command.
    host: &'static str,
    command: &'static str,
    /// Further keys, each a line of YAML.
    keys: &'static [&'static str],
}

const fn shown(
    name: &'static str,
    words: &'static str,
    scheme: Scheme,
    host: &'static str,
    command: &'static str,
    keys: &'static [&'static str],
) -> Shown {
    Shown { name, words, scheme, host, command, keys }
}

use Scheme::{Http, Http2, Https};

const SHOWN: &[Shown] = &[
    shown("healthy", "up", Http, "healthy.site", "page?text=Welcome", &["expect: {body: {matches: [Welcome]}}"]),
    shown(
        "healthy-tls",
        "up, by TLS with a P-384 chain and HTTP/2",
        Http2,
        "tls-p384.fault",
        "page?text=Welcome",
        &["expect: {http_version: ['2'], body: {matches: [Welcome]}, certificate: {degraded: 14d, down: 1d}}"],
    ),
    shown(
        "api",
        "up: JSON with a value that is extracted",
        Http,
        "api.site",
        "json",
        &[
            "expect: {body: {json: [{path: $.status, equals: ok}, {path: $.load, less: 1}], extract: {load: '\"load\":([0-9.]+)'}}}",
        ],
    ),
    shown(
        "slow",
        "degraded: it takes 700 ms, 500 ms are expected",
        Http,
        "slow.site",
        "delay?ms=700",
        &["expect: {response_time: 500ms}"],
    ),
    shown(
        "expiring",
        "degraded: the certificate ends in 3 days",
        Https,
        "tls-soon.fault",
        "page",
        &["expect: {certificate: {degraded: 14d, down: 1d}}"],
    ),
    shown(
        "changing",
        "up, with findings: now and then the page has 200 tags more",
        Http,
        "changing.site",
        "changing?every=30&more=200",
        &["plugins: [{html-stats: {window: 1h, deviations: 4, samples: 10}}]"],
    ),
    shown(
        "redirecting",
        "up after three redirects, with cookies on the way",
        Http,
        "redirecting.site",
        "redirect-chain?n=3",
        &[],
    ),
    shown("flapping", "up and down by turns", Http, "flapping.site", "flap?up=8&down=4&bad=status%3Fstatus%3D502", &[]),
    shown(
        "flapping-reset",
        "up, and by turns reset after the request",
        Http,
        "flapping-reset.site",
        "flap?up=10&down=2&bad=request-reset",
        &[],
    ),
    shown("down", "down: it answers 503", Http, "down.site", "status?status=503", &[]),
    shown("refused", "down: nobody listens", Http, "refused.site", "refused", &[]),
    shown("bad-certificate", "down: the certificate has expired", Https, "tls-expired.fault", "page", &[]),
    shown("wrong-name", "down: the certificate is another's", Https, "tls-wrong-name.fault", "page", &[]),
    shown("self-signed", "down: the certificate is signed by itself", Https, "tls-self-signed.fault", "page", &[]),
    shown("timing-out", "down: no answer comes", Http, "hanging.site", "request-hang", &["timeout: 1s"]),
    shown("dripping", "down: a byte a second", Http, "dripping.site", "slow-body?ms=1000", &["timeout: 1s"]),
    shown("truncated", "down: the body ends too early", Http, "truncated.site", "long-length", &[]),
    shown(
        "endless",
        "down: the body never ends",
        Http,
        "endless.site",
        "endless-body?every_ms=1",
        &["request: {limits: {body_wire: 1MiB}}"],
    ),
    shown("malformed", "down: that is not HTTP", Http, "malformed.site", "status-line", &[]),
    shown(
        "missing-pattern",
        "down: a word is missing",
        Http,
        "missing.site",
        "page?text=Sold+out",
        &["expect: {body: {matches: ['(?i)add to basket']}}"],
    ),
    shown("redirect-loop", "down: redirected for ever", Http, "loop.site", "redirect-loop", &[]),
    shown("no-such-name", "down: the name does not exist", Http, "dns-nxdomain.fault", "page", &[]),
    shown("hanging-name", "down: the name server is silent", Http, "dns-hang.fault", "page", &["timeout: 1s"]),
    shown(
        "refused-by-us",
        "unknown: an address that is never dialled",
        Http,
        "metadata.site",
        "page",
        &["request: {connect_to: '169.254.169.254:80'}"],
    ),
    shown(
        "behind-a-dead-proxy",
        "unknown: our proxy is away",
        Http,
        "proxied.site",
        "page",
        &["request: {proxy: 'http://AWAY'}"],
    ),
];

impl Demo {
    /// Starts the sites.
    pub fn start() -> Result<Self> {
        let site = FaultySite::start()?;
        let away = site.open(Http, "refused")?;
        Ok(Self { site, names: FaultyNames::start()?, away })
    }

    /// Writes the roots that the sites' certificates come from.
    pub fn write_roots(&self, path: &Path) -> Result<()> {
        std::fs::write(path, self.site.roots_pem()).with_context(|| format!("cannot write {}", path.display()))
    }

    /// The sites themselves: their log and their counters.
    pub fn site(&self) -> &FaultySite {
        &self.site
    }

    /// A native configuration with a site for each fault and scheme, named `SCHEME/FAULT`, labelled with what the table
    /// expects. `roots` and `store` as in [`Demo::configuration`].
    pub fn configuration_of_all(&self, roots: &str, store: &str) -> Result<String> {
        let mut text = self.head(roots, store);
        for fault in Fault::ALL {
            for (scheme, prefix) in [(Http, "http"), (Https, "https"), (Http2, "http2")] {
                let Some(expected) = fault.expected(scheme) else { continue };
                let url = self.site.url_at(scheme, "any.site.test", &fault.command())?;
                let _ = writeln!(
                    text,
                    "  - {{name: {}, url: {}, labels: {{expected: {}}}}}",
                    quoted(&format!("{prefix}/{}", fault.name)),
                    quoted(&url),
                    quoted(expected)
                );
            }
        }
        for fault in NameFault::ALL {
            let url = format!("http://{}.fault.test:{}/page", fault.name, self.site.address(Http).port());
            let _ = writeln!(
                text,
                "  - {{name: {}, url: {}, labels: {{expected: {}}}}}",
                quoted(fault.name),
                quoted(&url),
                quoted(fault.expected)
            );
        }
        Ok(text)
    }

    /// A native configuration that watches all of them. `roots`: where the roots are, relative to the file.
    pub fn configuration(&self, roots: &str, store: &str) -> Result<String> {
        let mut text = self.head(roots, store);
        for shown in SHOWN {
            let own_port = shown.command == "refused";
            let (port, path) = if own_port {
                (self.site.open(shown.scheme, shown.command)?.port(), "")
            } else {
                (self.site.address(shown.scheme).port(), shown.command)
            };
            let url = format!("{}://{}.test:{port}/{path}", shown.scheme.name(), shown.host);
            let _ = write!(text, "  # {}\n  - name: {}\n    url: {}\n", shown.words, shown.name, quoted(&url));
            for key in shown.keys {
                let _ = writeln!(text, "    {}", key.replace("AWAY", &self.away.to_string()));
            }
        }
        Ok(text)
    }

    /// What holds for every site of a configuration.
    fn head(&self, roots: &str, store: &str) -> String {
        format!(
            "# Faulty sites on this machine, one for each state that a site can be in. Written anew at each start: the\n\
             # ports change.\n\
             store: {{kind: sqlite, path: {}}}\n\
             defaults:\n  \
               interval: 2s\n  \
               timeout: 1500ms\n  \
               labels: {{from: demo}}\n  \
               request:\n    \
                 resolver: ['{}']\n    \
                 tls: {{ca: {}}}\n\
             sites:\n",
            quoted(store),
            self.names.address(),
            quoted(roots)
        )
    }
}

/// A YAML string in single quotes.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
