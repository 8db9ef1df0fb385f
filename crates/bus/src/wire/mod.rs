//! Messages as bytes, for buses that leave the process: protobuf as `proto/sitemon/v1/messages.proto` says, or JSON.
//!
//! What a message is stands in its headers, so that readers need not guess, and a version that they do not know is told
//! from bytes that are damaged. Both forms are read, whichever is written.

mod json;
mod protobuf;

/// Generated from `proto/`, as the test `it_is_fresh` says; never edited by hand.
#[rustfmt::skip]
#[allow(missing_docs, unused_qualifications, clippy::all, clippy::pedantic)]
mod messages;

use crate::{Message, Topic};

/// The version that is written, and the newest that is read.
pub const VERSION: u32 = 1;
/// The header that says what a message is.
pub const TYPE_HEADER: &str = "type";
/// The header that says in which version.
pub const VERSION_HEADER: &str = "version";
/// The header that says in which form.
pub const FORM_HEADER: &str = "content-type";

/// How a message is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// As the schema says.
    #[default]
    Protobuf,
    /// An observation as its exported line, a job as an object like it.
    Json,
}

impl Format {
    /// All of them by the names of the configuration; the first is the default.
    pub const ALL: [(&'static str, Self); 2] = [("protobuf", Self::Protobuf), ("json", Self::Json)];

    /// As in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Protobuf => "protobuf",
            Self::Json => "json",
        }
    }

    /// The value of [`FORM_HEADER`].
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Protobuf => "application/protobuf",
            Self::Json => "application/json",
        }
    }
}

/// What the headers of a message say; `None` where one is absent, as clients may leave them out.
#[derive(Debug, Clone, Copy, Default)]
pub struct Head<'a> {
    /// [`TYPE_HEADER`]
    pub kind: Option<&'a [u8]>,
    /// [`VERSION_HEADER`]
    pub version: Option<&'a [u8]>,
    /// [`FORM_HEADER`]
    pub form: Option<&'a [u8]>,
}

/// The value of [`TYPE_HEADER`] of what a topic carries.
pub const fn type_of(topic: Topic) -> &'static str {
    match topic {
        Topic::Jobs => "job",
        Topic::Observations => "observation",
    }
}

/// The bytes of a message.
pub fn write(message: &Message, format: Format) -> Vec<u8> {
    match (message, format) {
        (Message::Job(job), Format::Protobuf) => protobuf::write_job(job),
        (Message::Job(job), Format::Json) => json::write_job(job),
        (Message::Observation(observation), Format::Protobuf) => protobuf::write_observation(observation),
        (Message::Observation(observation), Format::Json) => {
            let mut line = Vec::with_capacity(1024);
            sitemon_model::line::write(observation, &mut line);
            line
        }
    }
}

/// The message of bytes that came by a topic, or why they are none, for people.
pub fn read(topic: Topic, head: Head<'_>, bytes: &[u8]) -> Result<Message, String> {
    let wanted = type_of(topic);
    if let Some(kind) = head.kind
        && kind != wanted.as_bytes()
    {
        return Err(format!("its type is `{}`, expected `{wanted}`", shown(kind)));
    }
    if let Some(version) = head.version {
        let number = std::str::from_utf8(version).ok().and_then(|text| text.parse::<u32>().ok());
        match number {
            Some(1..=VERSION) => {}
            Some(newer) if newer > VERSION => {
                return Err(format!("its version is {newer}, and the newest that is known is {VERSION}"));
            }
            _ => return Err(format!("its version is `{}`, expected a number from 1 on", shown(version))),
        }
    }
    let format = match head.form {
        // No field of the schema begins with this byte.
        None if bytes.first() == Some(&b'{') => Format::Json,
        None => Format::Protobuf,
        Some(form) => *Format::ALL
            .iter()
            .map(|(_, format)| format)
            .find(|format| form == format.content_type().as_bytes())
            .ok_or_else(|| format!("its content-type is `{}`, which is not known", shown(form)))?,
    };
    let damaged = |error: String| format!("it is no {wanted} in {}: {error}", format.as_str());
    match (topic, format) {
        (Topic::Jobs, Format::Protobuf) => protobuf::read_job(bytes).map(Message::Job),
        (Topic::Jobs, Format::Json) => json::read_job(bytes).map(Message::Job),
        (Topic::Observations, Format::Protobuf) => protobuf::read_observation(bytes).map(observation),
        (Topic::Observations, Format::Json) => json::read_observation(bytes).map(observation),
    }
    .map_err(damaged)
}

fn observation(observation: sitemon_model::Observation) -> Message {
    Message::Observation(std::sync::Arc::new(observation))
}

/// The beginning of a header's value.
fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};
    use sitemon_model::{Job, Observation, Reason, Timestamp, line};
    use sitemon_store::sample::{EPOCH, Sample};
    use std::fmt::Write as _;
    use std::path::Path;
    use std::sync::Arc;

    fn job() -> Message {
        Message::Job(Job {
            site: "shop".into(),
            scheduled_at: Timestamp(1_796_000_002_243_673),
            reason: Reason::Request,
            locations: vec!["here".into(), "there".into()],
            expires_at: Some(Timestamp(1_796_000_062_243_673)),
        })
    }

    fn observation_of(seed: u64) -> Message {
        let slot = EPOCH.plus(7_243_673);
        let observation = Sample::new(seed).regular(&"shop".into(), &"default".into(), slot, 15_000_000);
        Message::Observation(Arc::new(observation))
    }

    fn topic(message: &Message) -> Topic {
        match message {
            Message::Job(_) => Topic::Jobs,
            Message::Observation(_) => Topic::Observations,
        }
    }

    fn hex(bytes: &[u8]) -> String {
        let mut text = String::new();
        for row in bytes.chunks(48) {
            for byte in row {
                let _ = write!(text, "{byte:02x}");
            }
            text.push('\n');
        }
        text
    }

    /// What was written once is read for ever, and is still written so.
    fn golden(message: &Message, format: Format, expected: &Expect) {
        let bytes = write(message, format);
        match format {
            Format::Protobuf => expected.assert_eq(&hex(&bytes)),
            Format::Json => expected.assert_eq(&String::from_utf8_lossy(&bytes)),
        }
        assert_eq!(read(topic(message), Head::default(), &bytes).as_ref(), Ok(message));
    }

    #[test]
    fn golden_bytes() {
        golden(
            &job(),
            Format::Protobuf,
            &expect![[r#"
            0a0473686f7010d9f899b1bdae980318012204686572652205746865726528d986e8cdbdae9803
        "#]],
        );
        golden(
            &job(),
            Format::Json,
            &expect![[
                r#"{"site":"shop","scheduled_at":"2026-11-30T00:53:22.243673Z","reason":"request","locations":["here","there"],"expires_at":"2026-11-30T00:54:22.243673Z"}"#
            ]],
        );
        golden(
            &observation_of(1),
            Format::Protobuf,
            &expect![[r#"
            0a0473686f70120764656661756c7420998ffdceefab9803289c0130c0c393073880ade20450e6cb065a5c0a15687474
            70733a2f2f73686f702e6578616d706c652f12034745541a0d3139322e302e322e373a3434332203312e3128c8013a03
            10b3063a05080110e64f3a06080310f8b0013a040804102a3a0608051093bc043a05080610960868c80172034745547a
            18746578742f68746d6c3b20636861727365743d7574662d38820106089f2010bf50920137088080e2c4f2a29903121b
            434e3d5231312c4f3d4c6574277320456e63727970742c433d55531a0f434e3d73686f702e6578616d706c65
        "#]],
        );
        golden(
            &observation_of(1),
            Format::Json,
            &expect![[
                r#"{"site":"shop","location":"default","reason":"schedule","scheduled_at":"2026-11-29T00:00:07.243673Z","started_at":"2026-11-29T00:00:07.243751Z","interval_us":15000000,"timeout_us":10000000,"verdict":"up","causes":[],"response_time_us":108006,"hops":[{"url":"https://shop.example/","method":"GET","address":"192.0.2.7:443","http_version":"1.1","status":200,"phases":{"dns":{"us":819,"state":"done"},"connect":{"us":10214,"state":"done"},"tls":{"us":22648,"state":"done"},"send":{"us":42,"state":"done"},"wait":{"us":73235,"state":"done"},"receive":{"us":1046,"state":"done"}}}],"status":200,"method":"GET","content_type":"text/html; charset=utf-8","body":{"wire_bytes":4127,"decoded_bytes":10303},"certificate":{"not_after":"2027-01-15T08:00:00Z","issuer":"CN=R11,O=Let's Encrypt,C=US","subject":"CN=shop.example"}}"#
            ]],
        );
    }

    #[test]
    fn every_field_comes_back() {
        let mut sample = Sample::new(3);
        for _ in 0..2000 {
            let mut observation = sample.any();
            // A plugin speaks once.
            observation.metrics.truncate(1);
            for (_, format) in Format::ALL {
                let message = Message::Observation(Arc::new(observation.clone()));
                let form = Some(format.content_type().as_bytes());
                let head = Head { kind: Some(b"observation"), version: Some(b"1"), form };
                let back = read(Topic::Observations, head, &write(&message, format));
                let Ok(Message::Observation(back)) = back else { panic!("{format:?}: {back:?}") };
                match format {
                    Format::Protobuf => assert_eq!(*back, observation),
                    // JSON says as much as an export does.
                    Format::Json => assert_eq!(line::to_string(&back), line::to_string(&observation)),
                }
            }
        }
    }

    #[test]
    fn damaged_bytes_are_an_answer() {
        let mut sample = Sample::new(4);
        for _ in 0..50 {
            let message = Message::Observation(Arc::new(sample.any()));
            for (_, format) in Format::ALL {
                let bytes = write(&message, format);
                for at in 0..bytes.len() {
                    let _ = read(Topic::Observations, Head::default(), &bytes[..at]);
                    let mut flipped = bytes.clone();
                    flipped[at] ^= 1 << (at % 8);
                    let _ = read(Topic::Observations, Head::default(), &flipped);
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        let told = |head: Head<'_>, bytes: &[u8]| read(Topic::Observations, head, bytes).unwrap_err();
        let bytes = write(&observation_of(1), Format::Protobuf);
        let kind = Head { kind: Some(b"job"), ..Head::default() };
        assert_eq!(told(kind, &bytes), "its type is `job`, expected `observation`");
        let version = |text: &'static [u8]| Head { version: Some(text), ..Head::default() };
        assert_eq!(told(version(b"2"), &bytes), "its version is 2, and the newest that is known is 1");
        assert_eq!(told(version(b"x"), &bytes), "its version is `x`, expected a number from 1 on");
        let form = Head { form: Some(b"text/xml"), ..Head::default() };
        assert_eq!(told(form, &bytes), "its content-type is `text/xml`, which is not known");
        assert!(told(Head::default(), b"{").starts_with("it is no observation in json: "));
        assert!(told(Head::default(), b"\xff\xff").starts_with("it is no observation in protobuf: "));
        assert_eq!(told(Head::default(), b""), "it is no observation in protobuf: it names no site");
    }

    #[test]
    fn it_is_small() {
        let Message::Observation(one) = observation_of(5) else { unreachable!() };
        let bytes = write(&Message::Observation(one), Format::Protobuf);
        assert!(bytes.len() < 300, "{} bytes", bytes.len());
        // Nothing but what was set is written.
        let bare = Observation { site: "a".into(), ..Observation::default() };
        assert_eq!(write(&Message::Observation(Arc::new(bare)), Format::Protobuf), [10, 1, b'a']);
    }

    #[test]
    fn it_is_fresh() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let schema = protox::compile(["sitemon/v1/messages.proto"], [root.join("proto")]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        prost_build::Config::new().out_dir(folder.path()).compile_fds(schema).unwrap();
        let made = std::fs::read_to_string(folder.path().join("sitemon.v1.rs")).unwrap();
        let kept = root.join("src/wire/messages.rs");
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write(&kept, &made).unwrap();
        }
        let kept = std::fs::read_to_string(kept).unwrap();
        assert!(kept == made, "proto/ has changed: UPDATE_EXPECT=1 cargo test -p sitemon-bus it_is_fresh");
    }
}
