//! The JSON Schema of a native file, and the reference that is written from it. Both are put together from the
//! `KINDS` tables, so a new driver is in them by itself.

use super::load::{BUSES_LATER, STORES_LATER};
use serde_json::{Map, Value, json};
use std::fmt::Write as _;

/// The JSON Schema (2020-12) of a native file.
pub fn schema() -> Value {
    let mut properties = Map::new();
    let mut put = |name: &str, value: Value| properties.insert(name.to_owned(), value);
    put(
        "location",
        described(
            "text",
            Some(json!("default")),
            "Where this checker runs: part of every observation. 1 to 128 printable ASCII characters.",
        ),
    );
    put(
        "include",
        json!({
            "anyOf": [{"type": "string"}, {"type": ["array", "null"], "items": {"type": "string"}}],
            "description": "Other files with sites: paths, also with `*`, `?`, `[…]` and `**`. Each has a list `sites` (and keys `x-…`), and relative paths in it are relative to it.",
        }),
    );
    put(
        "defaults",
        nullable(
            site(false),
            "Any key of a site but `name` and `url`: what each site has where it says nothing of its own. Merged key by key at every depth; a list replaces a list, and a key without a value takes a default away.",
        ),
    );
    put("limits", limits());
    put("network", network());
    put("store", kinds(store_kinds(), "Where observations are kept."));
    put("retention", retention());
    put("bus", kinds(bus_kinds(), "What carries observations from checkers to the store."));
    put(
        "spool",
        object(
            "What a bus does not take is kept here meanwhile; used only where the bus is not `local`.",
            &[
                ("path", described("text", Some(json!("spool")), "The folder.")),
                (
                    "size",
                    described(
                        "size",
                        Some(json!("1GiB")),
                        "What it may hold; at the bound the oldest is given up, and counted.",
                    ),
                ),
            ],
        ),
    );
    put(
        "metrics",
        object(
            "Metrics for Prometheus, and `/healthz` and `/readyz`; off unless `listen` is given.",
            &[
                ("listen", described("text", None, "ADDRESS:PORT to listen on, such as 127.0.0.1:9464.")),
                (
                    "sites",
                    count(
                        0,
                        super::load::METRICS_SITES as u64,
                        "Series of single sites (`probe_…`) are shown while there are no more sites than these; 0: never.",
                    ),
                ),
            ],
        ),
    );
    put(
        "grace",
        described(
            "duration",
            Some(json!("10s")),
            "How long a stop waits for running checks, and for a store that is away; checks that outlast it are `unknown` with `stopped`, and what the store does not take by then is told and counted as lost.",
        ),
    );
    put("sites", json!({"type": ["array", "null"], "items": site(true), "description": "What is watched."}));
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Sitemon",
        "description": "A configuration of Sitemon.",
        "type": ["object", "null"],
        "additionalProperties": false,
        "patternProperties": {"^x-": {"description": "Anything, for YAML anchors."}},
        "properties": properties,
        "$defs": definitions(),
    })
}

fn definitions() -> Value {
    let variable = r"\$\{";
    json!({
        "text": {
            "type": ["string", "number", "boolean", "null"],
            "description": "A text; `${NAME}` and `${NAME:-default}` in it stand for an environment variable.",
        },
        "secret": {
            "anyOf": [
                {"type": ["string", "number", "boolean", "null"]},
                {"type": "object", "additionalProperties": false, "required": ["file"], "properties": {"file": {"type": "string"}}},
            ],
            "description": "A text that may be a secret: written out, with `${NAME}`, or `{file: PATH}`, whose content it then is.",
        },
        "duration": {
            "anyOf": [
                {"type": "number", "minimum": 0},
                {"type": "string", "pattern": format!("^[0-9.]+$|^([0-9.]+(us|ms|s|m|h|d|y))+$|{variable}")},
                {"type": "null"},
            ],
            "description": "`250ms`, `15s`, `1m30s`, `14d`, or a number of seconds. Units: us, ms, s, m, h, d, y (365 d).",
        },
        "size": {
            "anyOf": [
                {"type": "integer", "minimum": 0},
                {"type": "string", "pattern": format!("^[0-9]+$|^[0-9.]+ *([kKMGT]?B|[KMGT]iB)$|{variable}")},
                {"type": "null"},
            ],
            "description": "`64KiB`, `10MB`, or a number of bytes.",
        },
        "pattern": {
            "type": ["string", "number", "boolean"],
            "description": "A regular expression in the syntax of the Rust regex crate: linear time, without look-around and backreferences.",
        },
    })
}

/// A reference to a definition, with what is said of it here.
fn count(minimum: u64, default: u64, description: &str) -> Value {
    json!({"type": ["integer", "null"], "minimum": minimum, "default": default, "description": description})
}

fn described(name: &str, default: Option<Value>, description: &str) -> Value {
    let mut schema = json!({"$ref": format!("#/$defs/{name}")});
    if let Some(default) = default {
        schema["default"] = default;
    }
    schema["description"] = description.into();
    schema
}

/// A closed map.
fn object(description: &str, properties: &[(&str, Value)]) -> Value {
    let properties: Map<String, Value> =
        properties.iter().map(|(name, schema)| ((*name).to_owned(), schema.clone())).collect();
    json!({
        "type": ["object", "null"],
        "additionalProperties": false,
        "description": description,
        "properties": properties,
    })
}

/// The same schema, or nothing.
fn nullable(mut schema: Value, description: &str) -> Value {
    schema["description"] = description.into();
    if schema.get("type").is_some() {
        schema["type"] = json!(["object", "null"]);
    }
    schema
}

/// One of several closed maps, told apart by `kind`; the first is meant where it is absent.
fn kinds(kinds: Vec<Value>, description: &str) -> Value {
    match <[Value; 1]>::try_from(kinds) {
        Ok([only]) => nullable(only, description),
        Err(kinds) => json!({"anyOf": kinds, "description": description}),
    }
}

/// A closed map with the key `kind`, its own keys, and others before and after them.
fn kind(
    index: usize,
    name: &str,
    about: &str,
    before: &[(&str, Value)],
    own: Map<String, Value>,
    after: &[(&str, Value)],
) -> Value {
    let shared = |list: &[(&str, Value)]| -> Map<String, Value> {
        list.iter().map(|(name, schema)| ((*name).to_owned(), schema.clone())).collect()
    };
    let mut properties = Map::new();
    let default = if index == 0 { json!({"default": name}) } else { json!({}) };
    let mut of_kind =
        json!({"enum": if index == 0 { json!([name, null]) } else { json!([name]) }, "description": "The kind."});
    if let (Value::Object(of_kind), Value::Object(default)) = (&mut of_kind, default) {
        of_kind.extend(default);
    }
    properties.insert("kind".to_owned(), of_kind);
    properties.extend(shared(before));
    properties.extend(own);
    properties.extend(shared(after));
    let mut schema = json!({
        "type": ["object", "null"],
        "additionalProperties": false,
        "description": about,
        "properties": properties,
    });
    if index > 0 {
        schema["required"] = json!(["kind"]);
    }
    schema
}

fn store_kinds() -> Vec<Value> {
    let flush =
        described("duration", Some(json!("200ms")), "The longest time that an observation waits for its transaction.");
    let own = |kind: &sitemon_store::Kind| (kind.schema)();
    sitemon_store::KINDS
        .iter()
        .enumerate()
        .map(|(index, store)| kind(index, store.name, store.about, &[], own(store), &[("flush", flush.clone())]))
        .collect()
}

fn bus_kinds() -> Vec<Value> {
    let own = |kind: &sitemon_bus::Kind| (kind.schema)();
    sitemon_bus::KINDS
        .iter()
        .enumerate()
        .map(|(index, bus)| kind(index, bus.name, bus.about, &[], own(bus), &[]))
        .collect()
}

fn limits() -> Value {
    object(
        "What all running checks may use.",
        &[
            (
                "checks_in_flight",
                count(
                    1,
                    10_000,
                    "Checks that run at one time. One whose turn has come waits, at most until the site's next slot; then it is recorded as `unknown` with `skipped.overload`.",
                ),
            ),
            ("checks_in_flight_per_host", count(1, 16, "Checks that run at one time against one host and port.")),
            (
                "memory",
                described(
                    "size",
                    Some(json!("64MiB")),
                    "Memory that all running checks hold above idle. A check that needs more waits, and is `unknown` with `own.failure` if its time runs out meanwhile.",
                ),
            ),
        ],
    )
}

fn network() -> Value {
    let refuse = json!({
        "anyOf": [{"type": "string"}, {"type": ["array", "null"], "items": {"type": "string"}}],
        "default": ["metadata", "link-local"],
        "description": "Addresses that are never dialled: `metadata`, `link-local`, `loopback`, `private`, `multicast`, `reserved`, addresses and ranges such as 10.0.0.0/8.",
    });
    object("What may be dialled.", &[("refuse", refuse)])
}

fn retention() -> Value {
    object(
        "How long each is kept.",
        &[
            ("observations", described("duration", Some(json!("400d")), "Observations.")),
            ("evidence", described("duration", Some(json!("90d")), "The evidence of observations.")),
            ("hour", described("duration", Some(json!("5y")), "Statistics by the hour.")),
            ("day", described("duration", Some(json!("20y")), "Statistics by the day.")),
        ],
    )
}

/// A site of any kind; without name and URL it is what `defaults` may hold.
fn site(named: bool) -> Value {
    let mut others = Vec::new();
    if named {
        others.push((
            "name",
            described("text", None, "Unique; 1 to 128 printable ASCII characters. The URL where none is given."),
        ));
        others.push(("url", json!({"type": "string", "description": "What is asked for."})));
    }
    others.push((
        "enabled",
        json!({"type": ["boolean", "null"], "default": true, "description": "Whether it is checked."}),
    ));
    others.push(("interval", described("duration", Some(json!("60s")), "From slot to slot; 100ms or longer.")));
    others.push((
        "jitter",
        described(
            "duration",
            Some(json!("0s")),
            "A window after the slot within which the check starts; at most the interval.",
        ),
    ));
    others.push((
        "timeout",
        described(
            "duration",
            Some(json!("10s")),
            "Of the whole check. By default 10s, or the interval where that is shorter.",
        ),
    ));
    others.push((
        "labels",
        json!({
            "type": ["object", "null"],
            "additionalProperties": {"$ref": "#/$defs/text"},
            "description": "Names and texts, for grouping.",
        }),
    ));
    let plugins = [("plugins", plugins())];
    let all = sitemon_probe::KINDS.iter().enumerate().map(|(index, probe)| {
        let mut schema = kind(index, probe.name, probe.about, &others, (probe.schema)(), &plugins);
        if named {
            schema["type"] = json!("object");
            let mut required = vec![json!("url")];
            required.extend((index > 0).then(|| json!("kind")));
            schema["required"] = Value::Array(required);
        }
        schema
    });
    match <[Value; 1]>::try_from(all.collect::<Vec<_>>()) {
        Ok([only]) => only,
        Err(all) => json!({"anyOf": all}),
    }
}

fn plugins() -> Value {
    let names: Vec<&str> = sitemon_plugin::KINDS.iter().map(|kind| kind.name).collect();
    let options: Map<String, Value> = sitemon_plugin::KINDS
        .iter()
        .map(|kind| {
            let mut schema = (kind.schema)();
            schema["description"] = kind.about.into();
            (kind.name.to_owned(), json!({"anyOf": [schema, {"type": "null"}]}))
        })
        .collect();
    let one = json!({"anyOf": [
        {"enum": names},
        {"type": "object", "additionalProperties": false, "minProperties": 1, "maxProperties": 1, "properties": options},
    ]});
    json!({
        "anyOf": [{"enum": ["all", null]}, one.clone(), {"type": "array", "items": one}],
        "description": "What looks at the content: names of plugins, each also as a map of its name to its options, or `all`. One alone needs no list.",
    })
}

/// The reference of all keys, in Markdown.
pub fn reference() -> String {
    let schema = schema();
    let mut text = String::from(
        "# Configuration: all keys\n\n\
         Generated from the code; a test keeps it fresh. What the keys are for, with examples, stands in\n\
         [configuration.md](../configuration.md). `sitemon config schema` prints the same as JSON Schema.\n\n\
         Kinds of values:\n\n",
    );
    for (name, definition) in schema["$defs"].as_object().into_iter().flatten() {
        let _ = writeln!(text, "- *{name}*: {}", definition["description"].as_str().unwrap_or_default());
    }
    section(&schema, "", "At the top", &mut text);
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        match name.as_str() {
            // The keys of a site are told once.
            "defaults" => {}
            "sites" => site_sections(&property["items"], &mut text),
            "store" => section_of_kinds(property, name, STORES_LATER, &mut text),
            "bus" => section_of_kinds(property, name, BUSES_LATER, &mut text),
            _ => section(property, name, &format!("`{name}`"), &mut text),
        }
    }
    let _ = writeln!(text, "\n## Plugins\n");
    for kind in sitemon_plugin::KINDS {
        let _ = writeln!(text, "### `{}`\n\n{}", kind.name, kind.about);
        rows(&(kind.schema)(), "", &mut text);
    }
    text
}

fn section_of_kinds(property: &Value, name: &str, later: &[&str], text: &mut String) {
    let one = std::slice::from_ref(property);
    for property in property["anyOf"].as_array().map_or(one, Vec::as_slice) {
        section(property, name, &format!("`{name}`"), text);
    }
    let _ = writeln!(text, "\nKinds that come with later versions: {}.", later.join(", "));
}

fn site_sections(property: &Value, text: &mut String) {
    let one = std::slice::from_ref(property);
    for property in property["anyOf"].as_array().map_or(one, Vec::as_slice) {
        let _ = writeln!(text, "\n## A site: an item of `sites`, or `defaults`\n\n{}", description(property));
        rows(property, "", text);
        for name in ["request", "expect"] {
            section(&property["properties"][name], name, &format!("`{name}` of a site"), text);
        }
    }
}

fn section(schema: &Value, path: &str, title: &str, text: &mut String) {
    if schema["properties"].is_object() {
        let _ = writeln!(text, "\n## {title}\n\n{}", description(schema));
        rows(schema, path, text);
    }
}

/// The table of a map's keys, those of maps in it included.
fn rows(schema: &Value, path: &str, text: &mut String) {
    if schema["properties"].as_object().is_none_or(Map::is_empty) {
        return;
    }
    let _ = writeln!(text, "\n| key | value | default | |\n| --- | --- | --- | --- |");
    add_rows(schema, path, text);
}

fn add_rows(schema: &Value, path: &str, text: &mut String) {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let full = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let default = property.get("default").map(|default| format!("`{}`", in_yaml(default))).unwrap_or_default();
        let _ = writeln!(
            text,
            "| `{full}` | {} | {default} | {} |",
            value_of(property),
            description(property).replace('|', "\\|")
        );
        // The large maps have sections of their own.
        let own_section = path.is_empty();
        if !own_section {
            add_rows(property, &full, text);
            for choice in property["anyOf"].as_array().into_iter().flatten() {
                add_rows(choice, &full, text);
            }
            add_rows(&property["items"], &format!("{full}[]"), text);
        }
    }
}

fn description(schema: &Value) -> &str {
    schema["description"].as_str().unwrap_or_default()
}

/// What a value is, in a word or two.
fn value_of(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str() {
        return name.rsplit('/').next().unwrap_or_default().to_owned();
    }
    if let Some(words) = schema["enum"].as_array() {
        let mut words: Vec<String> =
            words.iter().filter(|word| !word.is_null()).map(|word| format!("`{}`", in_yaml(word))).collect();
        words.dedup();
        let mut seen = Vec::new();
        words.retain(|word| {
            !seen.contains(word) && {
                seen.push(word.clone());
                true
            }
        });
        return words.join(", ");
    }
    if let Some(choices) = schema["anyOf"].as_array() {
        let mut choices: Vec<String> = choices.iter().map(value_of).filter(|choice| !choice.is_empty()).collect();
        choices.dedup();
        return choices.join(", or ");
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(several) => several.iter().filter_map(Value::as_str).filter(|word| *word != "null").collect(),
        _ => return "anything".to_owned(),
    };
    types
        .iter()
        .map(|word| match *word {
            "array" => format!("list of {}", value_of(&schema["items"])),
            "object" if schema["additionalProperties"].is_object() => {
                format!("map of {}", value_of(&schema["additionalProperties"]))
            }
            "object" => "map".to_owned(),
            "string" => "text".to_owned(),
            "integer" => "whole number".to_owned(),
            "boolean" => "`true`, `false`".to_owned(),
            "null" => String::new(),
            other => other.to_owned(),
        })
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" or ")
}

fn in_yaml(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(in_yaml).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}
