"""What an operator does with a run: a second one, a bad file, a good file, a copy, its metrics, a stop."""

import json
import signal
import sqlite3
import time
import urllib.request

from harness import (
    MICRO,
    Authority,
    Nginx,
    Sitemon,
    by_site,
    export,
    free_port,
    now_us,
    real_pages,
    sitemon,
    slots,
    write_config,
)


def get(port, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        return answer.status, answer.read().decode()


def run(folder):
    authority, pages = Authority(folder), real_pages(folder)
    metrics = free_port()
    with Nginx(folder, authority) as nginx:

        def site(name):
            url = f"http://{name}.{nginx.domain}:{nginx.http}{pages[0][0]}"
            return {"name": name, "url": url, "plugins": ["html-stats"]}

        keys = {
            "store": {"kind": "sqlite", "path": "sites.db"},
            "metrics": {"listen": f"127.0.0.1:{metrics}"},
            "defaults": {"interval": 0.5, "timeout": 0.5, "request": {"connect_to": f"127.0.0.1:{nginx.http}"}},
        }
        config = write_config(folder / "sites.json", [site("a"), site("b")], **keys)
        with Sitemon(config, folder) as watching:
            time.sleep(2)

            begun = time.monotonic()
            code, _, err = sitemon("run", "-c", config, timeout=10)
            assert code == 4 and time.monotonic() - begun < 5, (code, err)
            assert str(watching.pid) in err, f"a second run does not name the first, {watching.pid}: {err}"

            good = config.read_text()
            config.write_text(good.replace('"interval"', '"intervall"', 1))
            watching.process.send_signal(signal.SIGHUP)
            watching.wait_until(lambda: "intervall" in watching.said(), 3, "word on the bad file")
            config.write_text("{not yaml")
            watching.process.send_signal(signal.SIGHUP)
            time.sleep(1)
            refused_us = now_us()
            time.sleep(1)

            write_config(config, [site("a"), site("c")], **keys)
            reload_us = now_us()
            watching.process.send_signal(signal.SIGHUP)
            time.sleep(2)

            copy = folder / "copy.db"
            with sqlite3.connect(folder / "sites.db") as source, sqlite3.connect(copy) as target:
                source.backup(target)
            status, text = get(metrics, "/metrics")
            assert status == 200 and "# TYPE" in text
            assert get(metrics, "/healthz")[0] == 200 and get(metrics, "/readyz")[0] == 200
            stopped_us = now_us()
            assert watching.stop() == 0, watching.said()
        stopped_in = (now_us() - stopped_us) / MICRO
        assert stopped_in < 3, f"a clean stop took {stopped_in:.1f} s"

    interval = MICRO // 2
    stored = by_site(export(config))
    due = {
        "a": (watching.ready_us, stopped_us),
        "b": (watching.ready_us, reload_us),
        "c": (reload_us + MICRO, stopped_us),
    }
    for name, (since, until) in due.items():
        missing = set(slots(name, interval, since, until)) - set(stored[name])
        assert not missing, f"{name}: slots without observation {missing}"
    assert set(slots("a", interval, refused_us, reload_us)) <= set(stored["a"]), "a bad file stopped what ran"
    assert max(stored["b"]) < reload_us + MICRO, "a removed site is still checked"
    assert stored["a"][max(stored["a"])]["metrics"]["html-stats"]

    # The copy is a store of its own.
    elsewhere = write_config(folder / "copy.json", [site("a")], store={"kind": "sqlite", "path": str(copy)})
    copied = {(line["site"], line["scheduled_at"]) for line in export(elsewhere)}
    assert copied <= {(line["site"], line["scheduled_at"]) for line in export(config)} and len(copied) > 10

    before = sitemon("export", "-c", config)
    for _ in range(2):
        code, _, err = sitemon("compact", "-c", config)
        assert code == 0, err
        assert sitemon("export", "-c", config) == before, "compact changed what export prints"
    with sqlite3.connect(folder / "sites.db") as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)

    code, out, err = sitemon("stats", "a", "-c", config, "--json")
    assert code == 0, err
    figures = json.loads(out.splitlines()[0])
    assert figures["availability"] == 1 and figures["latency_us"]["p99"] > 0
    print("second run refused, bad files refused, reload, copy, metrics, stop, compact: as promised")


def slots_from_outside(folder):
    """`sitemon sites --slots` prints what the documented hash says."""
    names = {"shop": 15, "a": 1, "https://shop.example/": 60}
    sites = [{"name": name, "url": "https://shop.example/", "interval": seconds} for name, seconds in names.items()]
    config = write_config(folder / "sites.json", sites, defaults={"timeout": 1})
    window = "--slots", "--from", "2026-11-30T00:53:20Z", "--to", "2026-11-30T00:54:20Z"
    code, out, err = sitemon("sites", "-c", config, *window, "--json")
    assert code == 0, err
    found = {name: [] for name in names}
    for line in out.splitlines():
        value = json.loads(line)
        found[value["site"]].append(value["scheduled_at"])
    start = 1796000000 * MICRO
    assert [len(found[name]) for name in names] == [4, 60, 1]
    assert found["shop"][0] == "2026-11-30T00:53:22.243673Z"
    assert found["a"][0] == "2026-11-30T00:53:20.738719Z"
    assert found["https://shop.example/"][0] == "2026-11-30T00:53:35.029497Z"
    assert list(slots("shop", 15 * MICRO, start, start + 15 * MICRO)) == [start + 2243673]
