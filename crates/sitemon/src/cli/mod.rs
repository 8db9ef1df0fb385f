//! The command line: reads the arguments, does what they say, tells the exit code.
//!
//! Data goes to stdout and words about it to stderr. A reader of stdout that goes away is no failure.

pub mod args;
pub mod reference;

mod logging;
mod migrate;
mod picture;
mod show;
mod terminal;
mod wanted;

mod check;
mod compact;
mod config;
mod export;
mod history;
mod sites;
mod stats;
mod status;

use crate::config::{ConfigError, Source};
use crate::{roles, runtime};
use args::{Cli, Color, Command};
use clap::Parser as _;
use sitemon_store::StoreError;
use std::process::ExitCode;

/// Commands of later versions, which are refused by name.
const COMMANDS_LATER: &[&str] =
    &["checker", "monitor-sites", "writer", "worker", "dispatcher", "executor", "web", "doctor", "replay", "snapshot"];

/// How a command ended that did what it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0
    Done,
    /// 1: a site is down.
    Down,
    /// 3: none is down, but one is unknown.
    Unknown,
    /// 2: the configuration that was to be checked has faults, and they are told.
    Faulty,
}

/// Why a command did not do what it should.
#[derive(Debug)]
pub enum Failure {
    /// 2: wrong use or wrong configuration, in the lines that say what.
    Usage(String),
    /// 4: Sitemon itself failed.
    Own(String),
    /// 0: the reader of stdout is gone, so there is nobody to do it for.
    Unheard,
}

impl Failure {
    /// What it means that stdout did not take something.
    fn of_stdout(error: &std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Self::Unheard,
            _ => Self::Own(format!("cannot write to stdout: {error}")),
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Usage(error.lines().join("\n"))
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Own(error.to_string())
    }
}

/// The result of a command.
pub type Outcome = Result<Exit, Failure>;

/// Does what the command line of this process says.
pub fn main() -> ExitCode {
    choose_colors(std::env::args_os());
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            if let Some(name) = later(&error) {
                terminal::say(format_args!(
                    "sitemon: `{name}` comes with a later version; `sitemon run` checks and stores in one process"
                ));
                return ExitCode::from(2);
            }
            // Help and version come this way too, to stdout and with code 0.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match dispatch(cli) {
        Ok(Exit::Done) | Err(Failure::Unheard) => ExitCode::SUCCESS,
        Ok(Exit::Down) => ExitCode::from(1),
        Ok(Exit::Unknown) => ExitCode::from(3),
        Ok(Exit::Faulty) => ExitCode::from(2),
        Err(Failure::Usage(message)) => {
            terminal::say(message);
            ExitCode::from(2)
        }
        Err(Failure::Own(message)) => {
            terminal::say(format_args!("sitemon: {message}"));
            ExitCode::from(4)
        }
    }
}

fn dispatch(cli: Cli) -> Outcome {
    let Cli { global, command } = cli;
    // What runs for long tells what it does; the others speak by their output.
    let level = if matches!(command, Command::Run(_)) { tracing::Level::INFO } else { tracing::Level::WARN };
    logging::start(&global, level)?;
    let source = Source { file: global.config.clone(), local: global.local };
    match command {
        Command::Run(run) => match roles::run(&source, run.watch) {
            Ok(()) => Ok(Exit::Done),
            Err(roles::Failure::Config(error)) => Err(error.into()),
            Err(roles::Failure::Own(error)) => Err(Failure::Own(format!("{error:#}"))),
        },
        Command::Check(check) => check::run(&check, &source, &global),
        Command::Sites(sites) => sites::run(&sites, &source),
        Command::Status(status) => status::run(&status, &source, &global),
        Command::History(history) => history::run(&history, &source),
        Command::Stats(stats) => stats::run(&stats, &source),
        Command::Export(export) => export::run(&export, &source, &global),
        Command::Compact(_) => compact::run(&source, &global),
        Command::Migrate(_) => migrate::run(&source, &global),
        Command::Config(command) => config::run(command, &source, &global),
        Command::Completions(completions) => reference::completions(completions.shell),
        Command::Man(man) => reference::manual(man.dir.as_deref()),
    }
}

/// The command that was asked for, where it is one of those that are known and not there yet.
fn later(error: &clap::Error) -> Option<&str> {
    use clap::error::{ContextKind, ContextValue};
    match error.get(ContextKind::InvalidSubcommand)? {
        ContextValue::String(name) => COMMANDS_LATER.contains(&name.as_str()).then_some(name),
        _ => None,
    }
}

/// `--color` decides for everything that is printed, the help and the errors of the command line itself
/// included, so it is looked for before the arguments are read.
fn choose_colors(arguments: impl Iterator<Item = std::ffi::OsString>) {
    use clap::ValueEnum as _;
    let mut arguments = arguments.skip(1);
    while let Some(argument) = arguments.next() {
        let Some(text) = argument.to_str() else { continue };
        let value = match text.strip_prefix("--color") {
            Some("") => arguments.next().and_then(|value| value.into_string().ok()),
            Some(value) => value.strip_prefix('=').map(str::to_owned),
            None if text == "--" => return,
            None => continue,
        };
        let choice = match value.and_then(|value| Color::from_str(&value, false).ok()) {
            Some(Color::Always) => anstream::ColorChoice::Always,
            Some(Color::Never) => anstream::ColorChoice::Never,
            Some(Color::Auto) | None => anstream::ColorChoice::Auto,
        };
        choice.write_global();
    }
}

/// Runs a command that only reads, on this thread.
fn on_this_thread<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    runtime::block_on(work).map_err(|error| Failure::Own(format!("cannot start: {error}")))?
}
