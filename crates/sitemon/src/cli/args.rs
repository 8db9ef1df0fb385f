//! What the command line understands. To add a command: its variant in [`Command`], its arguments, its arm in
//! `cli::dispatch`, and a file of its own beside this one.

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use sitemon_model::{Timestamp, unit};
use std::path::PathBuf;
use std::time::Duration;

/// The version, and the commit where it is known.
pub const VERSION: &str = env!("SITEMON_VERSION");

const EXAMPLES: &str = "\
Examples:
  sitemon check https://example.com/         look at one address, now
  sitemon check -c sitemon.yaml              look at all sites of a file, now
  sitemon run -c sitemon.yaml                watch them, and store what is found
  sitemon status --watch                     what is up and what is not, live
  sitemon history shop --from 6h             response times and verdicts as a picture
  sitemon export --site shop --from 1d       the observations themselves, one JSON object a line

Configuration: the first of -c, $SITEMON_CONFIG, $WEBSITE_MONITOR_CONFIG_PATH, sitemon.yaml, \
config/config.yml, monitor.yml; each key also by environment (SITEMON__STORE__PATH).

Exit code: 0 done; 2 wrong use or wrong configuration; 4 Sitemon itself failed.
`check` and `status` also: 1 a site is down; 3 none is down, but one is unknown.";

/// Watches web sites: checks each on its own schedule, measures where the time went, judges the answer, and
/// keeps what it found.
#[derive(Debug, Parser)]
#[command(
    name = "sitemon",
    version = VERSION,
    after_help = EXAMPLES,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli {
    /// Understood anywhere on the line.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags that may stand anywhere on the line.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Flags of all commands")]
pub struct Global {
    /// The configuration, YAML or JSON; also the files of the earlier systems
    #[arg(short, long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The embedded bus and store, whatever the file says
    #[arg(long, global = true)]
    pub local: bool,
    /// Whether to use colours: by default where the output is a terminal and `NO_COLOR` is not set
    #[arg(
        long,
        global = true,
        value_enum,
        value_name = "auto|always|never",
        default_value_t,
        hide_possible_values = true
    )]
    pub color: Color,
    /// The form of log lines on stderr
    #[arg(long, global = true, value_enum, value_name = "text|json", default_value_t, hide_possible_values = true)]
    pub log: LogForm,
    /// The level of log lines: trace, debug, info, warn, error or off; goes before `SITEMON_LOG`
    #[arg(short = 'l', long = "log-level", global = true, value_name = "LEVEL", value_parser = parse_level)]
    pub level: Option<Level>,
    /// Log more; twice: still more
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// Log less, and only words about failures; twice: errors only
    #[arg(short, long, global = true, action = ArgAction::Count, conflicts_with = "verbose")]
    pub quiet: u8,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watch the sites: schedule, check and store, all in one process
    Run(Run),
    /// Check now, once, side by side; nothing is stored
    Check(Check),
    /// List the sites, or their slots
    Sites(Sites),
    /// Show what is up and what is not: a table of the latest verdicts
    Status(Status),
    /// Draw the response times and verdicts of a site, with what changed and when
    History(History),
    /// Show availability, percentiles, causes and findings of a site over a window
    Stats(Stats),
    /// Print observations, one a line, in the order of their slots
    Export(Export),
    /// Pack everything that is stored, and give freed space back to the file system
    Compact(Compact),
    /// Bring the store up to date, making it where there is none
    Migrate(Migrate),
    /// Check, convert and show configurations
    #[command(subcommand)]
    Config(Config),
    /// Print the completions of a shell
    Completions(Completions),
    /// Print the manual page, or write all of them into a folder
    Man(Man),
}

/// `sitemon run`
#[derive(Debug, Args)]
#[command(after_help = "\
Runs until SIGTERM or SIGINT, then finishes what was due. SIGHUP reloads the configuration; a broken one is \
refused, and the running one stays. A line with the word `ready` on stderr says that every slot is served from \
now on. A store that is held by another process ends it with 4.

Examples:
  sitemon run                                the configuration of this folder
  sitemon run -c sitemon.yaml --watch        reload whenever the file changes
  sitemon run -c monitors.yml --local        a file of an earlier system, without its servers")]
pub struct Run {
    /// Reload when the configuration's files change
    #[arg(long)]
    pub watch: bool,
}

/// `sitemon check`
#[derive(Debug, Args)]
#[command(after_help = "\
Shows for each site its verdict and, for each request, where the time went, drawn to scale. Disabled sites are \
left out unless they are named.

Exit code: 0 all are up or degraded; 1 one is down; 3 none is down, but one is unknown; 2 wrong use or wrong \
configuration; 4 Sitemon itself failed.

Examples:
  sitemon check https://example.com/ https://www.example.com/
  sitemon check -c sitemon.yaml --site shop
  sitemon check -c sitemon.yaml --json | jq -c 'select(.verdict == \"down\")'")]
pub struct Check {
    /// Only this site of the file, also where it is disabled; may be repeated
    #[arg(long = "site", value_name = "NAME")]
    pub sites: Vec<String>,
    /// Addresses to check with the file's defaults
    #[arg(value_name = "URL")]
    pub urls: Vec<String>,
    /// Print observations, one JSON object a line
    #[arg(long)]
    pub json: bool,
}

/// `sitemon sites`
#[derive(Debug, Args)]
#[command(after_help = "\
Lists the sites of the file, also before the first run, and those that the store still knows. With --slots it \
prints the instants at which the enabled sites are due, which follow from name and interval alone: \
slot(k) = k * interval + xxh3_64(name) mod interval, in microseconds since the epoch.

JSON keys: site, url, kind, enabled, interval_us, timeout_us, jitter_us, labels, configured; of a slot: site, \
scheduled_at, scheduled_at_us.

Examples:
  sitemon sites
  sitemon sites --slots --from 2026-11-21T10:00:00Z --to 2026-11-21T10:05:00Z")]
pub struct Sites {
    /// Only this site; may be repeated
    #[arg(long = "site", value_name = "NAME")]
    pub sites: Vec<String>,
    /// Print the slots instead, sorted by time and name
    #[arg(long)]
    pub slots: bool,
    /// The first instant of the slots (inclusive); now by default
    #[arg(long, value_name = "T", value_parser = parse_time, requires = "slots")]
    pub from: Option<Timestamp>,
    /// The end of the slots (exclusive); an hour after --from by default
    #[arg(long, value_name = "T", value_parser = parse_time, requires = "slots")]
    pub to: Option<Timestamp>,
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
}

/// `sitemon status`
#[derive(Debug, Args)]
#[command(after_help = "\
Availability and response times are of the running hour and those before it that --over names (from 2d on: of \
today and the days before it); coverage is the share of that time over which a verdict is known. A verdict whose \
time is over (interval and timeout have passed without a next one) is marked `stale`; it still counts for the exit \
code. A site that was never observed is `unknown`. All times are UTC.

With --watch on a terminal the table is redrawn each second, the gravest first; elsewhere each change is a line.

Exit code: 0 all are up or degraded; 1 one is down; 3 none is down, but one is unknown or was never observed.

JSON keys: site, location, url, enabled, observed, verdict, causes, since, scheduled_at, age_us, stale, \
response_time_us, from, to, availability, coverage, latency_us.

Examples:
  sitemon status
  sitemon status --watch --over 7d
  sitemon status --json | jq -r 'select(.verdict != \"up\") | .site'")]
pub struct Status {
    /// Only this site; may be repeated
    #[arg(long = "site", value_name = "NAME")]
    pub sites: Vec<String>,
    /// The window of availability and response times
    #[arg(long, value_name = "DURATION", value_parser = parse_window, default_value = "24h")]
    pub over: Duration,
    /// Go on, and show what changes
    #[arg(short, long)]
    pub watch: bool,
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
}

/// `sitemon history`
#[derive(Debug, Args)]
#[command(after_help = "\
T is RFC 3339, a date, `now`, or a duration such as `6h`, meaning that long ago. All times are UTC.

With --json each line is a span of one verdict with the same causes: site, location, from, to, verdict, causes, \
checks, response_time_us (median, 95 % and largest of the span), findings.

Examples:
  sitemon history shop
  sitemon history shop --from 7d
  sitemon history shop --from 2026-11-21T00:00:00Z --to 2026-11-22T00:00:00Z --json")]
pub struct History {
    /// The name of the site
    #[arg(value_name = "SITE")]
    pub site: String,
    /// The first instant (inclusive); by default the first observation in the 24 hours before --to
    #[arg(long, value_name = "T", value_parser = parse_time)]
    pub from: Option<Timestamp>,
    /// The end (exclusive); now by default
    #[arg(long, value_name = "T", value_parser = parse_time)]
    pub to: Option<Timestamp>,
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
}

/// `sitemon stats`
#[derive(Debug, Args)]
#[command(after_help = "\
Statistics are of the observations by the schedule, for each location. Availability is time that the site was up \
(or degraded) over time that it was up or down; coverage says over how much of the window that is known. \
Percentiles lie within 1 % of the true ones, those of phases within 2 % or 1 us.

T is RFC 3339, a date, `now`, or a duration such as `6h`, meaning that long ago. All times are UTC.

JSON keys: site, location, from, to, availability, coverage, time_us, checks, latency_us, phases_us, causes, \
metrics, findings (the latest 1,000), findings_count.

Examples:
  sitemon stats shop
  sitemon stats shop --from 30d --json")]
pub struct Stats {
    /// The name of the site
    #[arg(value_name = "SITE")]
    pub site: String,
    /// The first instant (inclusive); 24 hours before --to by default
    #[arg(long, value_name = "T", value_parser = parse_time)]
    pub from: Option<Timestamp>,
    /// The end (exclusive); now by default
    #[arg(long, value_name = "T", value_parser = parse_time)]
    pub to: Option<Timestamp>,
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
}

/// `sitemon export`
#[derive(Debug, Args)]
#[command(after_help = "\
Ordered by scheduled_at, site and location; the same bytes whenever it is printed, but for findings and evidence \
past its retention. Reads while `run` writes. A store that is not there yet is empty.

T is RFC 3339, a date, `now`, or a duration such as `6h`, meaning that long ago.

Columns of csv (times as in JSON, phases in microseconds summed over the hops, a field with a comma, a quote or \
a line end in quotes): site, location, reason, scheduled_at, started_at, interval_us, timeout_us, verdict, causes \
(codes, separated by spaces), message (of the gravest cause), response_time_us, dns_us, connect_us, proxy_us, \
tls_us, send_us, wait_us, receive_us, hops, url and address (of the last hop), http_version, status, method, \
content_type, wire_bytes, decoded_bytes, certificate_not_after, extracted and metrics (as JSON).

Examples:
  sitemon export > all.jsonl
  sitemon export --site shop --from 2026-11-21T00:00:00Z --to 2026-11-22T00:00:00Z --format csv")]
pub struct Export {
    /// Only this site; may be repeated
    #[arg(long = "site", value_name = "NAME")]
    pub sites: Vec<String>,
    /// The first slot (inclusive)
    #[arg(long, value_name = "T", value_parser = parse_time)]
    pub from: Option<Timestamp>,
    /// The end of the slots (exclusive)
    #[arg(long, value_name = "T", value_parser = parse_time)]
    pub to: Option<Timestamp>,
    /// The form of the lines
    #[arg(long, value_enum, value_name = "jsonl|csv", default_value_t, hide_possible_values = true)]
    pub format: ExportForm,
}

/// `sitemon compact`
#[derive(Debug, Args)]
#[command(after_help = "\
Packs the running hour too. May be repeated; changes nothing that `export` prints. While `run` holds the store \
this ends with 4: it packs by itself.")]
pub struct Compact {}

/// `sitemon migrate`
#[derive(Debug, Args)]
#[command(after_help = "\
`run` does this by itself at its start; alone it is for rights that the running program is not to have. May be \
repeated. A store of a newer version is refused, and nothing in it is changed: exit code 4.")]
pub struct Migrate {}

/// `sitemon config`
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  sitemon config check sitemon.yaml
  sitemon config convert monitors.yml > sitemon.yaml
  sitemon config schema > sitemon.schema.json")]
pub enum Config {
    /// Find all faults of a configuration, without a network
    #[command(after_help = "\
Faults and warnings go to stderr, one a line: FILE:LINE:COLUMN: path: what is wrong, what was expected.
Exit code: 0 none but warnings; 2 faults.")]
    Check(ConfigFile),
    /// Print the native YAML of any file that is understood, with its secrets
    Convert(ConfigFile),
    /// Print what is in force: defaults filled in, secrets hidden
    Show(ConfigFile),
    /// Print the JSON Schema (2020-12) of the native form
    Schema,
}

/// The file of a `config` command.
#[derive(Debug, Args)]
pub struct ConfigFile {
    /// The file; without it that of -c, or the first that is found
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
}

/// `sitemon completions`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sitemon completions bash > ~/.local/share/bash-completion/completions/sitemon
  sitemon completions zsh > ~/.zfunc/_sitemon
  sitemon completions fish > ~/.config/fish/completions/sitemon.fish")]
pub struct Completions {
    /// The shell
    #[arg(value_enum, value_name = "SHELL")]
    pub shell: clap_complete::Shell,
}

/// `sitemon man`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sitemon man | man -l -
  sitemon man --dir ~/.local/share/man/man1")]
pub struct Man {
    /// Write sitemon.1 and a page for each command into this folder
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// `--color`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Color {
    /// Where the output is a terminal and `NO_COLOR` is not set
    #[default]
    Auto,
    /// Also into files, and against `NO_COLOR`
    Always,
    /// Not at all
    Never,
}

/// `--log`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogForm {
    /// For people
    #[default]
    Text,
    /// One JSON object a line
    Json,
}

/// `--format` of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum ExportForm {
    /// One JSON object a line
    #[default]
    Jsonl,
    /// RFC 4180, with a line of names first
    Csv,
}

/// The level of log lines; `None`: none at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level(pub Option<tracing::Level>);

/// A level's name in any case, those of the earlier systems (Python's) included.
fn parse_level(text: &str) -> Result<Level, String> {
    Ok(Level(match text.to_ascii_lowercase().as_str() {
        "trace" => Some(tracing::Level::TRACE),
        "debug" => Some(tracing::Level::DEBUG),
        "info" | "notset" => Some(tracing::Level::INFO),
        "warn" | "warning" => Some(tracing::Level::WARN),
        "error" | "critical" | "fatal" => Some(tracing::Level::ERROR),
        "off" | "none" => None,
        _ => return Err("expected one of: trace, debug, info, warn, error, off".to_owned()),
    }))
}

/// RFC 3339; also a date (midnight, UTC), `now`, and a duration, which is that long ago.
fn parse_time(text: &str) -> Result<Timestamp, String> {
    let text = text.trim();
    if let Ok(time) = Timestamp::parse(text) {
        return Ok(time);
    }
    if text.eq_ignore_ascii_case("now") {
        return Ok(crate::clock::wall());
    }
    if text.ends_with(|last: char| last.is_ascii_alphabetic())
        && let Some(ago) = unit::parse_duration(text)
    {
        return Ok(crate::clock::wall().plus(-super::show::signed_micros(ago)));
    }
    Timestamp::parse(&format!("{text}T00:00:00Z")).map_err(|_| {
        "expected RFC 3339 such as 2026-11-21T10:00:00Z, a date, `now`, or a duration such as 6h (that long ago)"
            .to_owned()
    })
}

/// A duration of an hour at least, because the statistics behind it are by the hour.
fn parse_window(text: &str) -> Result<Duration, String> {
    unit::parse_duration(text)
        .filter(|window| (Duration::from_hours(1)..=Duration::from_hours(24 * 36500)).contains(window))
        .ok_or_else(|| "expected a duration from 1h on, such as 24h, 7d or 30d".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_flags_stand_anywhere() {
        for line in [
            "sitemon -l DEBUG --local -c a.yaml status",
            "sitemon status -l debug --local -c a.yaml",
            "sitemon --local status --config a.yaml --log-level Debug",
        ] {
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            assert_eq!(cli.global.level, Some(Level(Some(tracing::Level::DEBUG))), "{line}");
            assert!(cli.global.local, "{line}");
            assert_eq!(cli.global.config.as_deref(), Some("a.yaml".as_ref()), "{line}");
        }
    }

    #[test]
    fn times() {
        assert_eq!(parse_time("2026-11-21T10:00:00Z"), Ok(Timestamp(1_795_255_200_000_000)));
        assert_eq!(parse_time("2026-11-21"), Ok(Timestamp(1_795_219_200_000_000)));
        let ago = parse_time("6h").unwrap();
        assert!((crate::clock::wall().since(ago) - 6 * sitemon_model::time::HOUR).abs() < sitemon_model::time::SECOND);
        for wrong in ["yesterday", "5", "", "2026-13-01", "10:00"] {
            assert!(parse_time(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn windows() {
        assert_eq!(parse_window("30d"), Ok(Duration::from_hours(720)));
        assert!(parse_window("59m").is_err());
    }
}
