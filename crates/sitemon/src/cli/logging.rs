//! Log lines: to stderr, as text for people or as JSON for machines.
//!
//! The level is that of `-l`, else of `-v` and `-q`, else of `SITEMON_LOG` (a level, or directives such as
//! `sitemon_store=debug,info`), else the command's own. It holds for Sitemon's crates; those of others speak
//! from `warn` on, unless everything is asked for.

use super::Failure;
use super::args::{Global, LogForm};
use tracing::Level;
use tracing_subscriber::EnvFilter;

/// The levels, from the quietest on.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Sets up the log of this process.
pub fn start(global: &Global, default: Level) -> Result<(), Failure> {
    let directives = directives(global, default, std::env::var("SITEMON_LOG").ok().as_deref());
    let filter = EnvFilter::builder()
        .parse(&directives)
        .map_err(|error| Failure::Usage(format!("SITEMON_LOG: `{directives}`: {error}")))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // A reader of stderr that went away must not end a process that watches.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    // Failing means that a log is set up already, as in tests that call this twice; that one stays.
    let _ = match global.log {
        LogForm::Text => {
            let styled = !matches!(anstream::AutoStream::choice(&std::io::stderr()), anstream::ColorChoice::Never);
            builder.with_ansi(styled).with_target(global.verbose > 0).try_init()
        }
        LogForm::Json => builder.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init(),
    };
    Ok(())
}

/// The directives of the filter.
fn directives(global: &Global, default: Level, variable: Option<&str>) -> String {
    let flags = i32::from(global.verbose) - i32::from(global.quiet);
    if let Some(level) = global.level {
        return of_level(level.0.map_or(0, rank), false);
    }
    match variable.map(str::trim).filter(|text| !text.is_empty()) {
        Some(text) if flags == 0 => match LEVELS.iter().position(|level| level.eq_ignore_ascii_case(text)) {
            Some(rank) => of_level(rank, false),
            None => text.to_owned(),
        },
        _ => {
            let rank = i32::try_from(rank(default)).unwrap_or(3) + flags;
            of_level(usize::try_from(rank.clamp(0, 5)).unwrap_or(0), rank > 5)
        }
    }
}

fn rank(level: Level) -> usize {
    LEVELS.iter().position(|name| name.eq_ignore_ascii_case(level.as_str())).unwrap_or(3)
}

/// This level for our own crates; the others' at most `warn`, or with `all` the same.
fn of_level(rank: usize, all: bool) -> String {
    let others = if all { rank } else { rank.min(2) };
    format!("{},sitemon={}", LEVELS[others], LEVELS[rank])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args;

    #[test]
    fn flags_go_before_the_variable_and_that_before_the_default() {
        let plain = Global::default();
        let quiet = Global { quiet: 1, ..Global::default() };
        let very = Global { verbose: 3, ..Global::default() };
        let named = Global { level: Some(args::Level(Some(Level::ERROR))), verbose: 2, ..Global::default() };
        for (global, variable, told) in [
            (&plain, None, "warn,sitemon=info"),
            (&plain, Some("DEBUG"), "warn,sitemon=debug"),
            (&plain, Some("sitemon_store=trace,info"), "sitemon_store=trace,info"),
            (&plain, Some(" "), "warn,sitemon=info"),
            (&quiet, Some("debug"), "warn,sitemon=warn"),
            (&very, None, "trace,sitemon=trace"),
            (&named, Some("debug"), "error,sitemon=error"),
        ] {
            assert_eq!(directives(global, Level::INFO, variable), told);
        }
    }
}
