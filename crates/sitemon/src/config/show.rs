//! Shows what is in force: defaults filled in, secrets hidden.

use super::{Limits, Metrics, Spool, Watched};
use serde_json::{Map, Value, json};
use sitemon_model::site::PluginChoice;
use sitemon_model::unit::{show_duration, show_size};
use sitemon_store::Retention;
use std::time::Duration;

/// Everything but the sites.
#[expect(clippy::too_many_arguments, reason = "one for each key at the top")]
pub fn top(
    location: &str,
    limits: &Limits,
    refuse: &[String],
    store: &dyn sitemon_store::Config,
    flush: Duration,
    retention: &Retention,
    bus: &dyn sitemon_bus::Config,
    spool: &Spool,
    metrics: Option<Metrics>,
    grace: Option<Duration>,
) -> Map<String, Value> {
    let mut shown = Map::new();
    let mut put = |name: &str, value: Value| shown.insert(name.to_owned(), value);
    put("location", json!(location));
    put(
        "limits",
        json!({
            "checks_in_flight": limits.checks_in_flight,
            "checks_in_flight_per_host": limits.checks_in_flight_per_host,
            "memory": show_size(limits.memory),
        }),
    );
    put("network", json!({"refuse": refuse}));
    let mut keys = Map::new();
    keys.insert("kind".to_owned(), json!(store.kind()));
    keys.extend(store.show());
    keys.insert("flush".to_owned(), json!(show_duration(flush)));
    put("store", Value::Object(keys));
    put(
        "retention",
        json!({
            "observations": show_duration(retention.observations),
            "evidence": show_duration(retention.evidence),
            "hour": show_duration(retention.hour),
            "day": show_duration(retention.day),
        }),
    );
    let mut keys = Map::new();
    keys.insert("kind".to_owned(), json!(bus.kind()));
    keys.extend(bus.show());
    put("bus", Value::Object(keys));
    put("spool", json!({"path": spool.path.to_string_lossy(), "size": show_size(spool.size)}));
    if let Some(metrics) = metrics {
        put("metrics", json!({"listen": metrics.listen.to_string(), "sites": metrics.sites}));
    }
    if let Some(grace) = grace {
        put("grace", json!(show_duration(grace)));
    }
    shown
}

/// Makes paths absolute, so that they mean the same in whatever folder what is shown is kept.
pub fn absolute_paths(shown: &mut Map<String, Value>) {
    for key in ["store", "spool"] {
        if let Some(Value::String(path)) = shown.get_mut(key).and_then(|keys| keys.get_mut("path"))
            && let Ok(absolute) = std::path::absolute(&*path)
        {
            *path = absolute.to_string_lossy().into_owned();
        }
    }
}

/// A site.
pub fn site(watched: &Watched) -> Value {
    let (site, spec) = (&watched.site, &watched.site.spec);
    let mut shown = Map::new();
    let mut put = |name: &str, value: Value| shown.insert(name.to_owned(), value);
    put("name", json!(&*site.name));
    put("kind", json!(&*spec.kind));
    put("url", json!(&*site.url));
    put("enabled", json!(spec.enabled));
    put("interval", json!(show_duration(spec.interval)));
    put("jitter", json!(show_duration(spec.jitter)));
    put("timeout", json!(show_duration(spec.timeout)));
    if !spec.labels.is_empty() {
        put("labels", json!(spec.labels));
    }
    for (name, value) in watched.check.show() {
        put(&name, value);
    }
    if !spec.plugins.is_empty() {
        put("plugins", Value::Array(spec.plugins.iter().map(plugin).collect()));
    }
    Value::Object(shown)
}

fn plugin(choice: &PluginChoice) -> Value {
    if choice.options.is_empty() {
        return json!(&*choice.name);
    }
    let mut named = Map::new();
    named.insert(choice.name.to_string(), Value::Object(choice.options.clone()));
    Value::Object(named)
}
