//! What is generated from the command line and the causes: completions, manual pages, and the pages of
//! docs/reference, which are checked in and held against this by a test.

use super::args::Cli;
use super::terminal::{Output, say};
use super::{Exit, Failure, Outcome};
use clap::CommandFactory as _;
use sitemon_model::{Area, Code};
use std::fmt::Write as _;
use std::path::Path;

/// Prints the completions of a shell.
pub fn completions(shell: clap_complete::Shell) -> Outcome {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "sitemon", &mut text);
    let mut output = Output::data();
    output.bytes(&text)?;
    output.flush()?;
    Ok(Exit::Done)
}

/// Prints the manual page, or writes all of them into a folder.
pub fn manual(folder: Option<&Path>) -> Outcome {
    let Some(folder) = folder else {
        let mut text = Vec::new();
        clap_mangen::Man::new(Cli::command())
            .render(&mut text)
            .map_err(|error| Failure::Own(format!("cannot print the manual page: {error}")))?;
        let mut output = Output::data();
        output.bytes(&text)?;
        output.flush()?;
        return Ok(Exit::Done);
    };
    std::fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), folder))
        .map_err(|error| Failure::Own(format!("cannot write manual pages into {}: {error}", folder.display())))?;
    say(format_args!("wrote the manual pages into {}", folder.display()));
    Ok(Exit::Done)
}

/// docs/reference/commands.md: what each command says of itself.
pub fn commands_markdown() -> String {
    let mut text = String::from(
        "# Commands\n\nGenerated from the command line; `UPDATE_REFERENCE=1 cargo test -p sitemon` renews it.\n\n",
    );
    // The width is fixed, so that the page does not depend on the terminal of whoever renews it.
    let mut root = Cli::command().term_width(100).version("").disable_version_flag(true);
    root.build();
    section(&mut text, &root, "sitemon");
    text
}

fn section(text: &mut String, command: &clap::Command, name: &str) {
    let help = command.clone().term_width(100).render_long_help().to_string();
    let help: Vec<&str> = help.trim_end().lines().map(str::trim_end).collect();
    let _ = write!(text, "## `{name}`\n\n```text\n{}\n```\n\n", help.join("\n"));
    for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
        // What stands in the first section is not said again in each.
        let inner = inner.clone().mut_args(|argument| {
            let global = argument.is_global_set() || argument.get_id() == "help";
            argument.hide(global)
        });
        section(text, &inner, &format!("{name} {}", inner.get_name()));
    }
    while text.ends_with("\n\n\n") {
        text.pop();
    }
}

/// docs/reference/causes.md: each code with its number and meaning.
pub fn causes_markdown() -> String {
    let mut text = String::from(
        "# Causes\n\nGenerated from the code; `UPDATE_REFERENCE=1 cargo test -p sitemon` renews it. What to do about \
         each: [causes](../causes.md).\n\nA code is `area.class`; it and its number never change. With `unknown` \
         nothing is said about the site: it was not checked, or we failed.\n\n\
         | number | code | area | verdict | meaning |\n| ---: | --- | --- | --- | --- |\n",
    );
    for code in Code::ALL {
        let _ = writeln!(
            text,
            "| {} | `{}` | {} | {} | {} |",
            code.number(),
            code.as_str(),
            area(code.area()),
            verdict(*code),
            code.meaning()
        );
    }
    text
}

const fn area(area: Area) -> &'static str {
    match area {
        Area::Dns => "name lookup",
        Area::Connect => "connection",
        Area::Proxy => "proxy",
        Area::Tls => "TLS",
        Area::Send => "request",
        Area::Wait => "wait for the answer",
        Area::Receive => "answer",
        Area::Http => "HTTP",
        Area::Header => "headers",
        Area::Body => "body",
        Area::Certificate => "certificate",
        Area::ResponseTime => "response time",
        Area::Policy => "policy",
        Area::Skipped => "slot not served",
        Area::Stopped => "stop",
        Area::Own => "Sitemon itself",
    }
}

/// The verdict that a cause alone leads to.
const fn verdict(code: Code) -> &'static str {
    match code {
        Code::ResponseTimeExceeded => "degraded",
        Code::CertificateExpiring => "degraded or down",
        Code::PolicyAddress
        | Code::ProxyUnreachable
        | Code::ProxyAuthentication
        | Code::SkippedOverload
        | Code::SkippedOverlap
        | Code::SkippedHandover
        | Code::Stopped
        | Code::OwnFailure => "unknown",
        _ => "down",
    }
}
