//! `sitemon config`: check, convert, show, schema.

use super::args::{self, Global};
use super::terminal::{Output, say};
use super::{Exit, Failure, Outcome, show};
use crate::config::{self, Source};
use std::path::PathBuf;

/// Does a `config` command.
pub fn run(command: args::Config, source: &Source, global: &Global) -> Outcome {
    let mut output = Output::data();
    match command {
        args::Config::Check(args) => {
            let path = file(args, source)?;
            let (sources, faults) = config::check(&path);
            for fault in &faults {
                say(config::render(&sources, fault));
            }
            if faults.iter().any(|fault| !fault.warning) {
                return Ok(Exit::Faulty);
            }
            if global.quiet == 0 {
                let and = match faults.len() {
                    0 => String::new(),
                    warnings => format!(", {}", show::counted(warnings as u64, "warning")),
                };
                say(format_args!("{}: no faults{and}", path.display()));
            }
        }
        args::Config::Convert(args) => {
            let converted = config::convert(&file(args, source)?)?;
            converted.warnings.iter().for_each(say);
            output.bytes(converted.yaml.as_bytes())?;
        }
        args::Config::Show(args) => {
            let source = Source { file: args.file.or_else(|| source.file.clone()), local: source.local };
            let shown = config::show(&source)?;
            shown.warnings.iter().for_each(say);
            output.bytes(shown.yaml.as_bytes())?;
        }
        args::Config::Schema => output.line(format_args!("{:#}", config::schema()))?,
    }
    output.flush()?;
    Ok(Exit::Done)
}

/// The file that a command is about: the one that is named, else the one that all commands would read.
fn file(args: args::ConfigFile, source: &Source) -> Result<PathBuf, Failure> {
    let source = Source { file: args.file.or_else(|| source.file.clone()), local: source.local };
    Ok(config::find(&source)?)
}
