//! `sitemon export`: observations, one a line, page by page, so that memory is bounded however many there are.

use super::args::{self, ExportForm, Global};
use super::terminal::{self, Output};
use super::wanted::{Wanted, ordered};
use super::{Exit, Outcome, on_this_thread, show};
use crate::config::Source;
use sitemon_model::{Observation, Phase, Timestamp, line};
use sitemon_store::{Scan, Window};
use std::fmt::Write as _;

/// Observations held at one time. Evidence makes one up to 16 KiB larger, so this is 16 MiB at the worst.
const PAGE: usize = 1000;

/// Prints the observations that are asked for.
pub fn run(args: &args::Export, source: &Source, global: &Global) -> Outcome {
    on_this_thread(async {
        let wanted = Wanted::open(source).await?;
        let window = Window {
            sites: wanted.known(&args.sites)?,
            from: args.from.unwrap_or(Timestamp::MIN),
            to: args.to.unwrap_or(Timestamp::MAX),
        };
        ordered(window.from, window.to)?;
        let mut output = Output::data();
        let mut buffer = Vec::with_capacity(4096);
        if args.format == ExportForm::Csv {
            output.line(COLUMNS.join(","))?;
        }
        if let Some(store) = &wanted.store {
            let busy = terminal::busy(global.quiet > 0 || terminal::stdout_is_terminal(), "exporting");
            let mut lines = 0;
            let mut scan = Scan { window, after: None, limit: PAGE, newest_first: false };
            loop {
                let page = store.scan(&scan).await?;
                for observation in &page.observations {
                    buffer.clear();
                    match args.format {
                        ExportForm::Jsonl => line::write(observation, &mut buffer),
                        ExportForm::Csv => csv(observation, &mut buffer),
                    }
                    buffer.push(b'\n');
                    output.bytes(&buffer)?;
                }
                lines += page.observations.len();
                scan.after = page.next;
                let Some(reached) = &scan.after else { break };
                let (lines, at) = (show::count(lines as u64), show::time(reached.scheduled_at));
                busy.set_message(format!("exported {lines} observations, up to {at} UTC"));
            }
            busy.finish_and_clear();
        }
        output.flush()?;
        wanted.close().await;
        Ok(Exit::Done)
    })
}

/// The columns of csv, in their order.
pub const COLUMNS: [&str; 30] = [
    "site",
    "location",
    "reason",
    "scheduled_at",
    "started_at",
    "interval_us",
    "timeout_us",
    "verdict",
    "causes",
    "message",
    "response_time_us",
    "dns_us",
    "connect_us",
    "proxy_us",
    "tls_us",
    "send_us",
    "wait_us",
    "receive_us",
    "hops",
    "url",
    "address",
    "http_version",
    "status",
    "method",
    "content_type",
    "wire_bytes",
    "decoded_bytes",
    "certificate_not_after",
    "extracted",
    "metrics",
];

/// Appends the fields of an observation, without a line end.
fn csv(observation: &Observation, out: &mut Vec<u8>) {
    let o = observation;
    let mut row = Row { out, text: String::new(), first: true };
    row.text(&o.site);
    row.text(&o.location);
    row.text(o.reason.as_str());
    row.show(Some(o.scheduled_at));
    row.show(o.started_at);
    row.show(Some(o.interval_us));
    row.show(Some(o.timeout_us));
    row.text(o.verdict.as_str());
    let codes: Vec<&str> = o.verdict.causes().iter().map(|cause| cause.code.as_str()).collect();
    row.text(&codes.join(" "));
    row.text(o.verdict.causes().first().map_or("", |cause| &cause.message));
    row.show(o.response_time_us);
    for phase in Phase::ALL {
        let mut times = o.hops.iter().filter_map(|hop| hop.phases.get(phase)).map(|time| time.us).peekable();
        let sum = times.peek().is_some().then(|| times.sum::<u64>());
        row.show(sum);
    }
    row.show(Some(o.hops.len()));
    let last = o.hops.last();
    row.text(last.map_or("", |hop| &hop.url));
    row.show(last.and_then(|hop| hop.address));
    row.text(last.and_then(|hop| hop.http_version).map_or("", |version| version.as_str()));
    row.show(o.status);
    row.text(o.method.as_deref().unwrap_or_default());
    row.text(o.content_type.as_deref().unwrap_or_default());
    row.show(o.body.map(|body| body.wire_bytes));
    row.show(o.body.map(|body| body.decoded_bytes));
    row.show(o.certificate.as_ref().map(|certificate| certificate.not_after));
    let extracted: serde_json::Map<String, serde_json::Value> =
        o.extracted.iter().map(|(name, value)| (name.to_string(), (&**value).into())).collect();
    row.object(extracted);
    let metrics = o.metrics.iter().map(|metrics| {
        let values: serde_json::Map<String, serde_json::Value> =
            metrics.values.iter().map(|(metric, value)| (metric.to_string(), show::number(*value))).collect();
        (metrics.plugin.to_string(), values.into())
    });
    row.object(metrics.collect());
}

/// A line of csv being written; the comma is set before each field but the first.
struct Row<'a> {
    out: &'a mut Vec<u8>,
    text: String,
    first: bool,
}

impl Row<'_> {
    fn text(&mut self, value: &str) {
        if !std::mem::take(&mut self.first) {
            self.out.push(b',');
        }
        if value.contains(['"', ',', '\n', '\r']) {
            self.out.push(b'"');
            self.out.extend_from_slice(value.replace('"', "\"\"").as_bytes());
            self.out.push(b'"');
        } else {
            self.out.extend_from_slice(value.as_bytes());
        }
    }

    /// As JSON; nothing where there is nothing in it.
    fn object(&mut self, object: serde_json::Map<String, serde_json::Value>) {
        let text = if object.is_empty() { String::new() } else { serde_json::Value::Object(object).to_string() };
        self.text(&text);
    }

    fn show(&mut self, value: Option<impl std::fmt::Display>) {
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        if let Some(value) = value {
            let _ = write!(text, "{value}");
        }
        self.text(&text);
        self.text = text;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sitemon_model::{Cause, Code, Hop, State, Verdict};

    #[test]
    fn a_row_has_a_field_for_each_column() {
        let mut first = Hop { url: "http://a/".into(), ..Hop::default() };
        first.phases.set(Phase::Connect, 7, State::Done);
        let mut second = Hop { url: "http://a/b,c".into(), status: Some(503), ..Hop::default() };
        second.phases.set(Phase::Connect, 5, State::Done);
        let observation = Observation {
            site: "shop".into(),
            location: "default".into(),
            scheduled_at: Timestamp(0),
            interval_us: 1,
            timeout_us: 2,
            verdict: Verdict::Down(vec![
                Cause::new(Code::HttpStatus, "status \"503\", expected 200-299"),
                Cause::new(Code::BodySize, ""),
            ]),
            hops: vec![first, second],
            extracted: vec![("items".into(), "12".into())],
            ..Observation::default()
        };
        let mut out = Vec::new();
        csv(&observation, &mut out);
        expect_test::expect![[r#"shop,default,schedule,1970-01-01T00:00:00.000000Z,,1,2,down,http.status body.size,"status ""503"", expected 200-299",,,12,,,,,,2,"http://a/b,c",,,,,,,,,"{""items"":""12""}","#]]
            .assert_eq(&String::from_utf8(out).unwrap());
        let mut empty = Vec::new();
        csv(&Observation::default(), &mut empty);
        assert_eq!(empty.split(|byte| *byte == b',').count(), COLUMNS.len());
    }
}
