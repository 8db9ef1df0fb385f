//! The pass over a body, against the answer on the whole body, with borders anywhere.

use super::extraction::{Extracted, Extraction, Window, extract};
use super::matching::Matching;
use super::threads::Threads;
use super::*;
use crate::http::spec::{ExpectBody, ExpectJson, JsonTest};
use proptest::prelude::*;
use sitemon_testkit::coding;
use std::io::Write;

fn patterns(texts: &[&str]) -> Vec<Pattern> {
    texts.iter().map(|text| Pattern((*text).into())).collect()
}

fn expect(body: ExpectBody) -> Expect {
    Expect { body, ..Expect::default() }
}

fn head<'a>(content_type: Option<&'a str>, content_encoding: &'a [&'a str]) -> Head<'a> {
    Head { url: "http://site.test/", content_type, content_encoding, bodyless: false }
}

/// Feeds `wire` in parts of `part` bytes, granting all memory that is asked for, and counts how much that was.
fn inspect(inspector: &Inspector, head: &Head<'_>, wire: &[u8], part: usize) -> (Seen, usize) {
    let mut inspection = inspector.begin(head);
    let mut granted = inspection.held_bytes();
    let mut settle = |inspection: &mut Inspection, mut step: Step| loop {
        match step {
            Step::More => return true,
            Step::Fault(_) => return false,
            Step::Pause => step = inspection.resume(),
            Step::NeedsMemory(bytes) => {
                granted += bytes;
                assert!(granted >= inspection.held_bytes());
                step = inspection.resume();
            }
        }
    };
    for part in wire.chunks(part.max(1)) {
        let step = inspection.feed(part);
        if !settle(&mut inspection, step) {
            return (inspection.finish(Ending::Broken), granted);
        }
    }
    let step = inspection.end();
    settle(&mut inspection, step);
    (inspection.finish(Ending::Complete), granted)
}

fn seen(body: ExpectBody, limits: Limits, head: &Head<'_>, wire: &[u8], part: usize) -> Seen {
    let inspector = Inspector::compile(&expect(body), &limits, &[]).unwrap();
    inspect(&inspector, head, wire, part).0
}

fn told(causes: &[Cause]) -> Vec<String> {
    causes.iter().map(ToString::to_string).collect()
}

fn gzip(data: &[u8]) -> Vec<u8> {
    // A gzip member by hand around raw deflate, since only the decoding side is a dependency.
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn zlib(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn deflate(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn zstd(data: &[u8]) -> Vec<u8> {
    zstd::stream::encode_all(data, 3).unwrap()
}

/// A brotli stream of uncompressed metablocks, RFC 7932 section 9.2, with a window of 64 KiB.
fn brotli(data: &[u8]) -> Vec<u8> {
    let mut bits: Vec<bool> = vec![false];
    let push = |bits: &mut Vec<bool>, value: usize, count: usize| {
        bits.extend((0..count).map(|bit| value >> bit & 1 == 1));
    };
    for part in data.chunks(1 << 16) {
        // ISLAST 0, MNIBBLES 4, MLEN - 1, ISUNCOMPRESSED 1, up to the next byte.
        push(&mut bits, 0, 1);
        push(&mut bits, 0, 2);
        push(&mut bits, part.len() - 1, 16);
        push(&mut bits, 1, 1);
        bits.resize(bits.len().next_multiple_of(8), false);
        for byte in part {
            push(&mut bits, usize::from(*byte), 8);
        }
    }
    push(&mut bits, 3, 2);
    bits.resize(bits.len().next_multiple_of(8), false);
    bits.chunks(8).map(|byte| byte.iter().rev().fold(0, |value, bit| value << 1 | u8::from(*bit))).collect()
}

const PAGE: &str = "<html><title>Größe — 12 items</title><p>add to basket</p>\n</html>";

fn page_body() -> ExpectBody {
    ExpectBody {
        matches: patterns(&["(?i)ADD TO BASKET", r"</html>\z", r"(?m)^</html>$"]),
        matches_any: patterns(&["nothing", r"\bGröße\b"]),
        absent: patterns(&["Fatal error", r"basket\b</html>"]),
        extract: vec![
            ("items".into(), Pattern(r"(\d+) items".into())),
            ("title".into(), Pattern("<title>.*?</title>".into())),
            ("none".into(), Pattern("x{9}".into())),
        ],
        ..ExpectBody::default()
    }
}

#[test]
fn every_coding_with_borders_at_every_byte() {
    let data = PAGE.as_bytes();
    let twice = [gzip(&data[..20]), gzip(&data[20..])].concat();
    let frames = [zstd(&data[..20]), zstd(&data[20..])].concat();
    let skippable =
        [&[0x53, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3][..], &zstd(data), &[0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0]]
            .concat();
    let bodies: Vec<(&[&str], Vec<u8>)> = vec![
        (&[], data.to_vec()),
        (&["identity"], data.to_vec()),
        (&["gzip"], gzip(data)),
        (&["X-GZip"], twice),
        (&["deflate"], zlib(data)),
        (&["deflate"], deflate(data)),
        (&["br"], brotli(data)),
        (&["br"], coding::encode(&["br"], data).unwrap()),
        (&["zstd"], coding::zstd_with_window(23, data)),
        (&["zstd"], frames),
        (&["zstd"], skippable),
        (&["gzip, br", "deflate, zstd"], zstd(&zlib(&brotli(&gzip(data))))),
    ];
    let inspector = Inspector::compile(&expect(page_body()), &Limits::default(), &[]).unwrap();
    for (codings, wire) in bodies {
        for part in 1..=wire.len() {
            let (seen, _) = inspect(&inspector, &head(Some("text/html"), codings), &wire, part);
            assert_eq!(told(&seen.faults), [""; 0], "{codings:?} in parts of {part}");
            assert_eq!(told(&seen.failed), [""; 0], "{codings:?} in parts of {part}");
            assert_eq!(seen.body, Body { wire_bytes: wire.len() as u64, decoded_bytes: data.len() as u64 });
            assert_eq!(
                seen.extracted,
                [("items".into(), "12".into()), ("title".into(), "<title>Größe — 12 items</title>".into())]
            );
            assert_eq!(&*seen.start, PAGE);
        }
    }
}

#[test]
fn what_is_wrong_with_a_coding_is_told() {
    let data = b"hello hello hello hello";
    let truncated = |wire: Vec<u8>| wire[..wire.len() - 3].to_vec();
    let with_garbage = |wire: Vec<u8>| [wire, b"tail".to_vec()].concat();
    let mut wrong_sum = gzip(data);
    let at = wrong_sum.len() - 6;
    wrong_sum[at] ^= 1;
    let large_window = coding::brotli_with_large_window(data).unwrap();
    let wide = coding::zstd_with_window(24, data);
    let table: Vec<(&[&str], Vec<u8>, &str)> = vec![
        (&["gzip"], truncated(gzip(data)), "body.decode gzip: the body ends before the coding does"),
        (&["deflate"], truncated(zlib(data)), "body.decode deflate: the body ends before the coding does"),
        (&["deflate"], vec![0x78], "body.decode deflate: the body ends before the coding does"),
        (&["br"], truncated(brotli(data)), "body.decode br: the body ends before the coding does"),
        (&["zstd"], truncated(zstd(data)), "body.decode zstd: the body ends before the coding does"),
        (&["gzip"], with_garbage(gzip(data)), "body.decode gzip: bytes after the end"),
        (&["deflate"], with_garbage(zlib(data)), "body.decode deflate: bytes after the end"),
        (&["br"], with_garbage(brotli(data)), "body.decode br: bytes after the end"),
        (&["zstd"], with_garbage(zstd(data)), "body.decode zstd: what follows is no frame"),
        (&["gzip"], gzip(b"").repeat(1002), "body.decode gzip: more than 1000 empty members"),
        (&["gzip"], wrong_sum, "body.decode gzip: broken data"),
        (&["gzip"], b"<html>".to_vec(), "body.decode gzip: broken data"),
        (&["br"], large_window, "body.decode br: a large window, which no web server may send"),
        (&["zstd"], wide, "body.decode zstd: a window of 16777216 bytes, more than 8388608"),
        (&["compress"], b"x".to_vec(), "body.decode unknown coding `compress`"),
        (&["gzip, sdch"], b"x".to_vec(), "body.decode unknown coding `sdch`"),
        (&["gzip"; 5], gzip(data), "body.decode more than 4 codings"),
    ];
    for (codings, wire, message) in table {
        for part in [1, 7, 1000] {
            let seen = seen(ExpectBody::default(), Limits::default(), &head(None, codings), &wire, part);
            assert_eq!(told(&seen.faults), [message], "in parts of {part}");
            assert!(!seen.complete);
        }
    }
    for coding in ["gzip", "deflate", "br", "zstd", "compress"] {
        let seen = seen(ExpectBody::default(), Limits::default(), &head(None, &[coding]), b"", 1);
        assert_eq!(seen.faults, [], "an empty body is fine with {coding}");
        assert!(seen.complete);
    }
}

#[test]
fn a_bomb_ends_at_the_bound_in_bounded_memory() {
    let zeros = vec![0u8; 20 << 20];
    let limits = Limits { body_decoded: 2 << 20, ..Limits::default() };
    let bombs = [
        ("gzip", gzip(&zeros), 1 << 20),
        ("gzip, gzip", gzip(&gzip(&zeros)), 1 << 20),
        // Their windows: 4 MiB, half as much again while it grows, and 2 MiB.
        ("br", coding::encode(&["br"], &zeros).unwrap(), 8 << 20),
        ("zstd", zstd(&zeros), 4 << 20),
    ];
    for (coding, wire, most) in bombs {
        let inspector = Inspector::compile(&expect(page_body()), &limits, &[]).unwrap();
        let (seen, granted) = inspect(&inspector, &head(None, &[coding]), &wire, 64 << 10);
        assert_eq!(told(&seen.faults), ["body.limit more than 2097152 bytes decoded (limits.body_decoded)"]);
        assert!(seen.body.decoded_bytes <= limits.body_decoded + STEP_BYTES as u64);
        assert!(granted < most, "{coding}: {granted}");
    }
    let small = Limits { body_wire: 10, ..limits };
    let seen = seen(ExpectBody::default(), small, &head(None, &[]), b"0123456789a", 4);
    assert_eq!(told(&seen.faults), ["body.limit more than 10 bytes on the wire (limits.body_wire)"]);
}

#[test]
fn a_window_is_asked_for_before_it_is_taken() {
    // Text that no coding shortens much, so that the windows fill.
    let mut state = 1u32;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        b' ' + (state >> 24) as u8 % 64
    })
    .take(3 << 20)
    .collect();
    let small = coding::encode(&["br"], PAGE.as_bytes()).unwrap();
    let table = [
        ("gzip", gzip(&noise), 0..256 << 10),
        ("br", coding::encode(&["br"], &noise).unwrap(), 4 << 20..7 << 20),
        ("br", small, 0..256 << 10),
        ("zstd", coding::zstd_with_window(23, &noise), 8 << 20..9 << 20),
        ("zstd", zstd::bulk::compress(PAGE.as_bytes(), 3).unwrap(), 0..256 << 10),
    ];
    for (coding, wire, expected) in table {
        let inspector = Inspector::compile(&expect(ExpectBody::default()), &Limits::default(), &[]).unwrap();
        let (seen, granted) = inspect(&inspector, &head(Some("text/plain;charset=utf-8"), &[coding]), &wire, 16 << 10);
        assert!(seen.complete, "{:?}", seen.faults);
        assert!(expected.contains(&granted), "{coding}: {granted}, expected {expected:?}");
    }
}

#[test]
fn long_texts_stream() {
    // Over 64 KiB, so that the automata take over, in parts that cut everything somewhere.
    let filler = "größer <b>\r\n".repeat(8000);
    let text = format!("{filler}{PAGE}");
    let inspector = Inspector::compile(&expect(page_body()), &Limits::default(), &[]).unwrap();
    for part in [1, 3, 1000, 100_000, usize::MAX] {
        let (seen, granted) = inspect(&inspector, &head(Some("text/html"), &[]), text.as_bytes(), part);
        assert_eq!(told(&seen.failed), [""; 0]);
        assert_eq!(seen.extracted[0].1, "12".into());
        assert_eq!(&*seen.extracted[1].1, "<title>Größe — 12 items</title>");
        assert!(granted < 3 << 20, "{granted}");
        assert_eq!(&*seen.start, cut(&filler, START_BYTES));
    }
}

#[test]
fn a_match_longer_than_the_window_is_a_finding() {
    let limits = Limits { match_window: 20, ..Limits::default() };
    let body = ExpectBody { extract: vec![("a".into(), Pattern("a+".into()))], ..ExpectBody::default() };
    for prefix in [0, 70_000] {
        let text = format!("{}{}", "-".repeat(prefix), "a".repeat(21));
        let long = seen(body.clone(), limits, &head(None, &[]), text.as_bytes(), 100);
        assert!(long.extracted.is_empty());
        assert_eq!(&*long.findings[0].message, "the match is 21 bytes long, more than 20 (limits.match)");
        assert_eq!((&*long.findings[0].plugin, &*long.findings[0].metric), ("extract", "a"));
        let text = format!("{}{}", "-".repeat(prefix), "a".repeat(20));
        let fits = seen(body.clone(), limits, &head(None, &[]), text.as_bytes(), 100);
        assert_eq!(&*fits.extracted[0].1, "a".repeat(20));
    }
}

#[test]
fn patterns_and_sizes_that_fail_are_all_told() {
    let body = ExpectBody {
        matches: patterns(&["hello", "world"]),
        matches_any: patterns(&["x", "y"]),
        absent: patterns(&["hello", "bye"]),
        size_min: Some(10),
        size_max: Some(3),
        ..ExpectBody::default()
    };
    let seen = seen(body, Limits::default(), &head(None, &[]), b"hello", 2);
    assert_eq!(
        told(&seen.failed),
        [
            "body.pattern_missing `world` does not match",
            "body.pattern_missing none matches of `x`, `y`",
            "body.pattern_present `hello` matches",
            "body.size 5 bytes, expected at least 10",
            "body.size 5 bytes, expected at most 3",
        ]
    );
}

#[test]
fn nothing_is_claimed_about_what_did_not_come() {
    let body = ExpectBody {
        matches: patterns(&["world"]),
        absent: patterns(&["hello$", "hell"]),
        extract: vec![("h".into(), Pattern("h".into()))],
        size_min: Some(100),
        size_max: Some(3),
        ..ExpectBody::default()
    };
    let inspector = Inspector::compile(&expect(body), &Limits::default(), &[]).unwrap();
    let mut inspection = inspector.begin(&head(None, &[]));
    assert_eq!(inspection.feed(b"hello"), Step::More);
    let seen = inspection.finish(Ending::Broken);
    assert_eq!(
        told(&seen.failed),
        ["body.pattern_present `hell` matches", "body.size 5 bytes so far, expected at most 3"]
    );
    assert!(seen.extracted.is_empty() && !seen.complete);
    assert_eq!(&*seen.start, "hello");
}

/// What one coding has still to give when the one around it has come to its end, at each border of a step.
#[test]
fn stacked_codings_give_all_they_have() {
    let codings = ["gzip", "deflate", "br", "zstd"];
    let page: Vec<u8> =
        (0..2 * STEP_BYTES + 70).map(|at| b"shop, basket: <p>5 items</p> "[at % 29 * (1 + at % 3) % 29]).collect();
    for outer in codings {
        for inner in codings {
            for size in (STEP_BYTES - 2..STEP_BYTES + 60).chain(2 * STEP_BYTES - 2..2 * STEP_BYTES + 60) {
                let wire = coding::encode(&[inner, outer], &page[..size]).unwrap();
                for part in [wire.len(), 7] {
                    let stacked = [inner, outer];
                    let seen = seen(ExpectBody::default(), Limits::default(), &head(None, &stacked), &wire, part);
                    let told = format!("{size} bytes by {inner}, {outer} in parts of {part}");
                    assert_eq!(seen.faults, [], "{told}");
                    assert_eq!(seen.body.decoded_bytes, size as u64, "{told}");
                }
            }
        }
    }
}

#[test]
fn the_start_ends_before_a_character_that_does_not_fit() {
    let start = "x".repeat(START_BYTES - 1);
    for more in [0, 100_000] {
        let page = format!("{start}é{}", "m".repeat(more));
        // What comes after that character has room, and is not next to the rest.
        for part in [1, START_BYTES + 1, page.len()] {
            let seen = seen(ExpectBody::default(), Limits::default(), &head(None, &[]), page.as_bytes(), part);
            assert_eq!(&*seen.start, start, "{more} in parts of {part}");
        }
    }
}

#[test]
fn charsets() {
    let check = |content_type: Option<&str>, wire: &[u8], text: &str| {
        for part in 1..=wire.len() {
            let seen = seen(ExpectBody::default(), Limits::default(), &head(content_type, &[]), wire, part);
            assert_eq!(&*seen.start, text, "{content_type:?} in parts of {part}");
        }
    };
    let utf16: Vec<u8> = "Größe".encode_utf16().flat_map(u16::to_be_bytes).collect();
    check(Some("text/html; charset=ISO-8859-1"), b"Gr\xf6\xdfe \x80", "Größe €");
    check(Some("text/html; charset=\"utf-8\""), "\u{feff}Größe".as_bytes(), "Größe");
    check(Some("text/html;charset=utf-16be"), &utf16, "Größe");
    check(Some("text/html;charset=utf-16"), &[b"\xfe\xff", &utf16[..]].concat(), "Größe");
    check(None, &[b"\xfe\xff", &utf16[..]].concat(), "Größe");
    check(None, "\u{feff}Größe".as_bytes(), "Größe");
    check(None, b"<meta charset=latin1>Gr\xf6\xdfe", "<meta charset=latin1>Größe");
    check(Some("text/html; charset=none"), b"<META x CHARSET = 'Latin1' />\xf6", "<META x CHARSET = 'Latin1' />ö");
    check(
        None,
        b"<meta content='text/html; charset=koi8-r' http-equiv=Content-Type>\xc1",
        "<meta content='text/html; charset=koi8-r' http-equiv=Content-Type>а",
    );
    check(None, b"<meta content='charset=koi8-r'>\xc3\xb6", "<meta content='charset=koi8-r'>ö");
    check(None, b"<!-- <meta charset=koi8-r> -->\xc3\xb6", "<!-- <meta charset=koi8-r> -->ö");
    check(None, b"<a title='<meta charset=koi8-r>'>\xc3\xb6", "<a title='<meta charset=koi8-r>'>ö");
    check(None, b"<meta charset=utf-16>\xc3\xb6", "<meta charset=utf-16>ö");
    check(None, b"<?xml version='1.0' encoding='koi8-r'?>\xc1", "<?xml version='1.0' encoding='koi8-r'?>а");
    check(None, b"a\xff\xc3(\xe2\x82", "a\u{fffd}\u{fffd}(\u{fffd}");
    check(Some("application/json"), b"\"<meta charset=latin1>\xc3\xb6\"", "\"<meta charset=latin1>ö\"");
    check(Some("text/html; charset=shift_jis"), b"\x93\xfa\x96\x7b\x81", "日本\u{fffd}");
    let far = format!("{}<meta charset=latin1>", " ".repeat(1024));
    let found = seen(
        ExpectBody { matches: patterns(&["ö"]), ..ExpectBody::default() },
        Limits::default(),
        &head(None, &[]),
        &[far.as_bytes(), "ö".as_bytes()].concat(),
        500,
    );
    assert_eq!(found.failed, [], "only the first 1,024 bytes count");
}

fn json(path: &str, test: JsonTest) -> ExpectJson {
    ExpectJson { path_text: path.into(), path: serde_json_path::JsonPath::parse(path).unwrap(), test }
}

#[test]
fn json_values() {
    let body = r#"{"status":"ok","n":3,"f":3.0,"list":[1,2,5],"deep":{"a":[{"b":1.0}]},"big":18446744073709551615}"#;
    let is = |value: serde_json::Value| JsonTest { equals: Some(value), ..JsonTest::default() };
    let table: Vec<(&str, JsonTest, Option<&str>)> = vec![
        ("$.status", is("ok".into()), None),
        ("$.status", is("OK".into()), Some("$.status is `\"ok\"`, expected `\"OK\"`")),
        ("$.n", is(3.0.into()), None),
        ("$.f", is(3.into()), None),
        ("$.big", is(u64::MAX.into()), None),
        ("$.deep", is(serde_json::json!({"a": [{"b": 1}]})), None),
        ("$.list[*]", JsonTest { less: Some(6.0), greater: Some(0.0), ..JsonTest::default() }, None),
        (
            "$.list[*]",
            JsonTest { less: Some(5.0), ..JsonTest::default() },
            Some("$.list[*] is `5`, expected less than 5"),
        ),
        (
            "$.status",
            JsonTest { greater: Some(5.0), ..JsonTest::default() },
            Some("$.status is `\"ok\"`, expected greater than 5"),
        ),
        ("$.status", JsonTest { matches: Some(Pattern("^o.$".into())), ..JsonTest::default() }, None),
        ("$.list", JsonTest { matches: Some(Pattern(r"^\[1,".into())), ..JsonTest::default() }, None),
        (
            "$.n",
            JsonTest { matches: Some(Pattern("4".into())), ..JsonTest::default() },
            Some("$.n is `3`, expected a match of `4`"),
        ),
        ("$.none", is(1.into()), Some("$.none finds nothing")),
        ("$.none", JsonTest { not_equals: Some(1.into()), ..JsonTest::default() }, Some("$.none finds nothing")),
        ("$.none", JsonTest { exists: Some(true), ..JsonTest::default() }, Some("$.none finds nothing")),
        ("$.none", JsonTest { exists: Some(false), ..JsonTest::default() }, None),
        ("$.n", JsonTest { exists: Some(false), ..JsonTest::default() }, Some("$.n exists, expected that it does not")),
        ("$.n", JsonTest { exists: Some(true), ..JsonTest::default() }, None),
        (
            "$.n",
            JsonTest { not_equals: Some(3.0.into()), ..JsonTest::default() },
            Some("$.n is `3`, expected anything but `3.0`"),
        ),
    ];
    for (path, test, message) in table {
        let body_expected = ExpectBody { json: vec![json(path, test)], ..ExpectBody::default() };
        let with_mark = format!("\u{feff}{body}");
        let seen =
            seen(body_expected, Limits::default(), &head(Some("application/json"), &[]), with_mark.as_bytes(), 7);
        let expected: Vec<String> = message.iter().map(|message| format!("body.json {message}")).collect();
        assert_eq!(told(&seen.failed), expected, "{path}");
    }
}

#[test]
fn json_that_is_none_or_too_long() {
    let body = || ExpectBody { json: vec![json("$.a", JsonTest::default()); 2], ..ExpectBody::default() };
    let none = seen(body(), Limits::default(), &head(None, &[]), b"<html>", 7);
    assert_eq!(told(&none.failed), ["body.json not JSON: expected value at line 1 column 1"]);
    let deep = "[".repeat(100_000);
    let deep = seen(body(), Limits::default(), &head(None, &[]), deep.as_bytes(), 1000);
    assert_eq!(told(&deep.failed), ["body.json not JSON: recursion limit exceeded at line 1 column 128"]);
    let long = format!("\"{}\"", "a".repeat(1 << 20));
    let long = seen(body(), Limits::default(), &head(None, &[]), long.as_bytes(), 1000);
    assert_eq!(
        told(&long.faults),
        ["body.limit more than 1048576 bytes, too many to be read as JSON (limits.body_held)"]
    );
    assert_eq!(long.body.decoded_bytes, (1 << 20) + 2, "the body is still read to its end");
    let many = format!("[{}1]", "1,".repeat(500_000));
    let many = seen(body(), Limits::default(), &head(None, &[]), many.as_bytes(), 10_000);
    assert_eq!(told(&many.faults), ["body.limit too many values to be read as JSON"]);
    // A path that would go through the same values again and again.
    let again = ExpectBody { json: vec![json("$..a..b..c", JsonTest::default())], ..ExpectBody::default() };
    let nested = format!("{}1{}", "[1,".repeat(120), "]".repeat(120));
    let nested = format!("[{}1]", format!("{nested},").repeat(50));
    let nested = seen(again, Limits::default(), &head(None, &[]), nested.as_bytes(), 10_000);
    assert_eq!(told(&nested.faults), ["body.limit too many values to be read as JSON"]);
    let usual = format!("[{}1]", "{\"name\": \"value\", \"number\": 12345},".repeat(25_000));
    let usual = seen(body(), Limits::default(), &head(None, &[]), usual.as_bytes(), 10_000);
    assert_eq!((told(&usual.faults), usual.failed.len()), (vec![], 2), "it is read, and has no $.a");
}

/// Parts of a text, cut at the given places.
fn cut_at<'t>(text: &'t str, cuts: &[usize]) -> Vec<&'t str> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| text.floor_char_boundary(cut % (text.len() + 1))).collect();
    at.extend([0, text.len()]);
    at.sort_unstable();
    at.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect()
}

fn agrees(pattern: &str, text: &str, cuts: &[usize], window: u64) {
    let whole = regex::Regex::new(pattern).unwrap();
    let compiled = pattern::compile(&pattern.into()).unwrap();
    let parts = cut_at(text, cuts);
    let mut matching = Matching::new(&compiled);
    let mut threads = Threads::new(compiled.clone(), true);
    let mut keeping = Window::new(window);
    let mut extraction = Extraction::new(&compiled, window);
    for part in &parts {
        matching.feed(part);
        threads.feed(part);
        keeping.push(part);
        extraction.feed(part, &keeping);
    }
    threads.finish();
    assert_eq!(matching.finish(), whole.is_match(text), "{pattern:?} on {text:?} in {parts:?}");
    assert_eq!(threads.found().is_some(), whole.is_match(text), "threads of {pattern:?} on {text:?} in {parts:?}");
    let expected = match whole.captures(text) {
        None => Extracted::Nothing,
        Some(captures) if captures[0].len() as u64 > window => Extracted::TooLong(captures[0].len() as u64),
        Some(captures) => Extracted::Value(captures.get(1).unwrap_or(captures.get(0).unwrap()).as_str().into()),
    };
    assert_eq!(extraction.finish(&keeping), expected, "extraction of {pattern:?} on {text:?} in {parts:?}");
    assert_eq!(extract(&compiled, text, window), expected, "extraction of {pattern:?} on the whole {text:?}");
}

#[test]
fn matching_agrees_with_the_whole_text_at_every_border() {
    let patterns = [
        "abc",
        "^abc$",
        "(?m)^abc$",
        r"\Aabc\z",
        r"\babc\b",
        r"\bübc\b",
        r"(?-u:\b)bc",
        r"(?-u:\B)",
        "a.c",
        "(?s)a.*z|b",
        "a*?",
        "",
        "$",
        "^",
        r"(?m)^$",
        r"(?mR)^$",
        r"(?mR)c$",
        "(a)|(b)",
        "(?:a|ab)(c|bcd)?",
        "x{3,}",
        r"\d+(?:\.\d+)? items",
        "(?i)größe",
        r"\p{Greek}+",
        r"[^\x00-\x7f]",
        r"\w+\z",
        r"(?s)\A(?:.*abc)",
        r"\b{start}a",
        r"\b{end}",
        r"\B",
        r"(?i)ſ",
        r"\b{start-half}é",
        r"é\b{end-half}",
    ];
    let texts = [
        "",
        "abc",
        "x abc\nabc",
        "übc ab\r\nc\r",
        "a\u{1d4b3}c é Größe",
        "12 items 3.5 items xxxx",
        "Ωab\n\nabcd_é",
        "aéa",
    ];
    for pattern in patterns {
        for text in texts {
            for at in 0..=text.len() {
                agrees(pattern, text, &[at], 4);
                agrees(pattern, text, &[at, at + 1, at + 2], 1000);
            }
        }
    }
}

/// Patterns over a small alphabet, with everything that can stand in one.
fn any_pattern() -> impl Strategy<Value = String> {
    let atom = prop_oneof![
        6 => proptest::sample::select(vec!["a", "b", "é", "Ω", "ab", "\\n", "\\r", " ", "_", "1"]),
        4 => proptest::sample::select(vec![".", "\\w", "\\d", "\\s", "\\W", "[ab]", "[^a]", "[é-ω]", "(?-u:\\w)", "\\p{Lu}"]),
        3 => proptest::sample::select(vec![
            "^", "$", "\\A", "\\z", "\\b", "\\B", "(?-u:\\b)", "(?m:^)", "(?m:$)", "(?mR:^)", "(?mR:$)", "\\b{start}",
            "\\b{end}", "\\b{start-half}", "\\b{end-half}",
        ]),
    ]
    .prop_map(str::to_owned);
    let tree = atom.prop_recursive(4, 16, 4, |inner| {
        prop_oneof![
            3 => proptest::collection::vec(inner.clone(), 1..4).prop_map(|parts| parts.concat()),
            2 => (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("(?:{a}|{b})")),
            2 => inner.clone().prop_map(|part| format!("({part})")),
            3 => (inner, proptest::sample::select(vec!["*", "+", "?", "*?", "+?", "??", "{2}", "{1,3}", "{2,}?"]))
                .prop_map(|(part, times)| format!("(?:{part}){times}")),
        ]
    });
    let flags = proptest::sample::select(vec!["", "", "(?i)", "(?m)", "(?s)", "(?R)", "(?U)", "(?ms)", "(?i-u)"]);
    (flags, tree)
        .prop_map(|(flags, tree)| format!("{flags}{tree}"))
        .prop_filter("a pattern", |p| regex::Regex::new(p).is_ok())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn matching_agrees_with_the_whole_text(
        pattern in any_pattern(),
        text in "[abAéΩω_1 \n\r𝒳]{0,30}",
        cuts in proptest::collection::vec(any::<usize>(), 0..6),
        window in proptest::sample::select(vec![0, 1, 3, 8, 1000]),
    ) {
        agrees(&pattern, &text, &cuts, window);
    }

    #[test]
    fn inspections_agree_in_any_parts(
        text in proptest::collection::vec(any::<u8>(), 0..4000),
        coding in 0..5usize,
        part in 1..5000usize,
    ) {
        let (name, wire) = match coding {
            0 => ("identity", text.clone()),
            1 => ("gzip", gzip(&text)),
            2 => ("deflate", deflate(&text)),
            3 => ("zstd", zstd(&text)),
            _ => ("br", brotli(&text)),
        };
        let codings = [name];
        let inspector = Inspector::compile(&expect(page_body()), &Limits::default(), &[]).unwrap();
        let head = head(Some("text/html; charset=utf-8"), &codings);
        let (in_parts, _) = inspect(&inspector, &head, &wire, part);
        prop_assert!(in_parts.complete, "{:?}", in_parts.faults);
        let whole = String::from_utf8_lossy(&text);
        let whole = whole.strip_prefix('\u{feff}').unwrap_or(&whole);
        prop_assert_eq!(&*in_parts.start, cut(whole, START_BYTES));
        prop_assert_eq!(in_parts.body.decoded_bytes, text.len() as u64);
    }
}
