//! The JSON Schema of `request` and `expect`. The words `#/$defs/…` that it uses are defined by whoever puts
//! the whole schema together: `text`, `secret`, `duration`, `size`, `pattern`.

use super::{HttpChoice, Request};
use serde_json::{Map, Value, json};
use sitemon_model::unit::{show_duration, show_size};

/// A map of property name to schema.
pub fn schema() -> Map<String, Value> {
    let mut properties = Map::new();
    properties.insert("request".to_owned(), request());
    properties.insert("expect".to_owned(), expect());
    properties
}

fn refer(name: &str, description: &str) -> Value {
    json!({"$ref": format!("#/$defs/{name}"), "description": description})
}

fn refer_default(name: &str, default: impl Into<Value>, description: &str) -> Value {
    json!({"$ref": format!("#/$defs/{name}"), "default": default.into(), "description": description})
}

fn patterns(description: &str) -> Value {
    json!({
        "anyOf": [{"$ref": "#/$defs/pattern"}, {"type": ["array", "null"], "items": {"$ref": "#/$defs/pattern"}}],
        "description": description,
    })
}

fn request() -> Value {
    let Request { redirects, connect_timeout, limits, http, .. } = Request::default();
    debug_assert!(http == HttpChoice::Auto, "the words below are the defaults of the code");
    json!({
        "type": ["object", "null"],
        "additionalProperties": false,
        "description": "How the site is asked.",
        "properties": {
            "method": refer_default("text", "GET", "The method, such as GET, HEAD or POST."),
            "headers": {
                "type": ["object", "null"],
                "additionalProperties": {"anyOf": [{"$ref": "#/$defs/secret"}, {"type": "null"}]},
                "description": "Headers to send, by name. Those of `authorization`, `cookie` and `proxy-authorization`, and every value written with `${NAME}` or `{file: PATH}`, are secrets and never shown. Without others, `user-agent`, `accept: */*` and `accept-encoding` are sent. `host` sets `Host` and `:authority`.",
            },
            "body": refer("text", "The body to send."),
            "body_file": refer("text", "The path of a file with the body to send, instead of `body`."),
            "auth": {
                "type": ["object", "null"],
                "additionalProperties": false,
                "description": "Who we say that we are, to the origin of the site's URL only. One of the two.",
                "properties": {
                    "basic": {
                        "type": ["object", "null"],
                        "additionalProperties": false,
                        "required": ["username", "password"],
                        "description": "A user's name and password (RFC 7617).",
                        "properties": {
                            "username": refer("secret", "The user's name."),
                            "password": refer("secret", "The password."),
                        },
                    },
                    "bearer": refer("secret", "A token (RFC 6750)."),
                },
            },
            "redirects": {
                "type": ["integer", "null"], "minimum": 0, "default": redirects,
                "description": "How many redirects are followed; 0: a redirect is the answer.",
            },
            "http": {
                "enum": ["auto", "1.1", "2", 1.1, 2, null], "default": "auto",
                "description": "The version of HTTP: `auto` is HTTP/2 where the server agrees on it (ALPN), else 1.1; `2` at http:// is HTTP/2 by prior knowledge.",
            },
            "ip": {
                "enum": ["any", "4", "6", 4, 6, "each", null], "default": "any",
                "description": "Which addresses are tried: `any` races both families as RFC 8305 says, `4` and `6` use that family only (an address of the other one in `url` or `connect_to` is a fault, and a redirect to one is invalid), `each` checks every address.",
            },
            "resolver": {
                "anyOf": [
                    {"enum": ["system", "libc", null]},
                    {"type": "string"},
                    {"type": "array", "minItems": 1, "items": {"type": "string"}},
                ],
                "default": "system",
                "description": "Who is asked for names: `system` asks the machine's own name servers and hosts file, `libc` uses getaddrinfo, ADDRESS:PORT, or a list of them, are name servers.",
            },
            "dns_cache": {
                "enum": ["none", "ttl", null], "default": "none",
                "description": "`none`: each check asks for the name; `ttl`: a name is kept as long as it allows.",
            },
            "connect_to": refer("text", "ADDRESS:PORT that is dialled instead of what the name resolves to. `Host`, SNI and the name that is verified stay the URL's."),
            "proxy": refer("secret", "The proxy: http://HOST:PORT, socks5://HOST:PORT (names are resolved here) or socks5h://HOST:PORT (by the proxy). Credentials stand in it, percent-encoded, and are never shown."),
            "connection": {
                "enum": ["new", "reuse", null], "default": "new",
                "description": "`new`: each check opens a connection of its own, as a new visitor does; `reuse` keeps it for the next check.",
            },
            "tls": {
                "type": ["object", "null"],
                "additionalProperties": false,
                "description": "TLS towards the site.",
                "properties": {
                    "ca": refer("text", "The path of a PEM file with the roots to trust, instead of the built-in ones."),
                    "certificate": refer("text", "The path of a PEM file with the client's certificate and its chain."),
                    "key": refer("secret", "The path of a PEM file with the client's key."),
                    "server_name": refer("text", "The name for SNI and verification, instead of the URL's host."),
                    "insecure": {"type": ["boolean", "null"], "default": false, "description": "Whether the server's certificate is left unverified."},
                },
            },
            "connect_timeout": refer_default("duration", show_duration(connect_timeout), "For each address that is tried."),
            "limits": {
                "type": ["object", "null"],
                "additionalProperties": false,
                "description": "What is read from the site at most.",
                "properties": {
                    "body_wire": refer_default("size", show_size(limits.body_wire), "Bytes of the body as they come."),
                    "body_decoded": refer_default("size", show_size(limits.body_decoded), "Bytes of the body after decompression."),
                    "body_held": refer_default("size", show_size(limits.body_held), "Bytes of the body that are held in memory to be read as JSON. Patterns are followed over any length."),
                    "match": refer_default("size", show_size(limits.match_window), "The longest text that `extract` takes out of the body."),
                    "headers": refer_default("size", show_size(limits.headers), "Bytes of the headers."),
                    "idle_connections": {"type": ["integer", "null"], "minimum": 0, "default": limits.idle_connections, "description": "Connections kept open with `connection: reuse`."},
                },
            },
        },
    })
}

fn expect() -> Value {
    let status = json!({"anyOf": [
        {"type": "integer", "minimum": 100, "maximum": 999},
        {"type": "string", "pattern": "^([1-9][0-9]{2}(-[1-9][0-9]{2})?|[1-9](xx|XX))$|\\$\\{"},
    ]});
    let version = json!({"enum": ["1.0", "1.1", "2", 1.0, 1.1, 2]});
    json!({
        "type": ["object", "null"],
        "additionalProperties": false,
        "description": "What is expected of the answer.",
        "properties": {
            "status": {
                "anyOf": [status.clone(), {"type": ["array", "null"], "minItems": 1, "items": status}],
                "default": ["200-299"],
                "description": "The statuses that are fine, of the answer after redirects: numbers, ranges such as 200-299, classes such as 2xx; one, or a list.",
            },
            "http_version": {
                "anyOf": [version.clone(), {"type": ["array", "null"], "items": version}],
                "description": "The versions of HTTP that are fine; one, or a list.",
            },
            "headers": {
                "type": ["object", "null"],
                "additionalProperties": {"anyOf": [{"$ref": "#/$defs/pattern"}, {"type": "null"}]},
                "description": "Names of headers, each with a pattern that one of its values must match.",
            },
            "body": {
                "type": ["object", "null"],
                "additionalProperties": false,
                "description": "What is expected of the body.",
                "properties": {
                    "matches": patterns("Patterns that must all match; one, or a list."),
                    "matches_any": patterns("Patterns of which at least one must match; one, or a list."),
                    "absent": patterns("Patterns that must not match; one, or a list."),
                    "extract": {
                        "type": ["object", "null"],
                        "additionalProperties": {"anyOf": [{"$ref": "#/$defs/pattern"}, {"type": "null"}]},
                        "description": "Names, each with a pattern whose first group, else whole match, becomes the value of that name in the observation.",
                    },
                    "json": {
                        "type": ["array", "null"],
                        "description": "What is expected of a body in JSON.",
                        "items": {
                            "type": "object",
                            "additionalProperties": false,
                            "required": ["path"],
                            "properties": {
                                "path": refer("text", "A JSONPath (RFC 9535); every value that it finds must fit."),
                                "equals": {"description": "The value is equal to this; 3 equals 3.0."},
                                "not_equals": {"description": "The value is not equal to this."},
                                "matches": refer("pattern", "The value matches this pattern."),
                                "less": {"type": ["number", "null"], "description": "The value is a number less than this."},
                                "greater": {"type": ["number", "null"], "description": "The value is a number greater than this."},
                                "exists": {"type": ["boolean", "null"], "description": "Whether the path finds anything at all."},
                            },
                        },
                    },
                    "size": {
                        "type": ["object", "null"],
                        "additionalProperties": false,
                        "description": "Bytes of the body after decompression.",
                        "properties": {
                            "min": refer("size", "At least."),
                            "max": refer("size", "At most."),
                        },
                    },
                },
            },
            "response_time": refer("duration", "A slower answer is degraded."),
            "certificate": {
                "anyOf": [
                    {"$ref": "#/$defs/duration"},
                    {
                        "type": "object",
                        "additionalProperties": false,
                        "properties": {
                            "degraded": refer("duration", "With less left the site is degraded."),
                            "down": refer("duration", "With less left the site is down."),
                        },
                    },
                ],
                "description": "How long the certificate must still be valid: one duration (less is degraded), or `degraded` and `down`.",
            },
        },
    })
}
