"""The files of the earlier systems, their addresses changed to local servers, run as they are."""

import re
import shutil
import time

from harness import (
    MICRO,
    ROOT,
    Authority,
    Nginx,
    Sitemon,
    by_site,
    export,
    now_us,
    real_pages,
    sitemon,
    slots,
)

FILES = ROOT / "crates" / "sitemon" / "tests" / "data" / "earlier"


class Run:
    """What came of running one file for a while: observations by site, what was said, and the slots that were due."""

    def __init__(self, folder, file, nginx, trust, seconds):
        place = folder / file.replace("/", "-")
        shutil.copytree(FILES, place)
        self.path = place / file
        text = self.path.read_text()
        # One of the addresses becomes HTTPS.
        self.secure = f"https://localhost:{nginx.https}/shop"
        text = text.replace("- url: http://127.0.0.1:8081/\n", f"- url: {self.secure}\n")
        text = re.sub(r"(127\.0\.0\.1|localhost):8081", rf"\1:{nginx.http}", text)
        self.path.write_text(text)
        with Sitemon(self.path, place, env=trust) as watching:
            time.sleep(seconds)
            self.until_us = now_us()
            assert watching.stop() == 0, watching.said()
        self.since_us, self.said = watching.ready_us, watching.said()
        self.sites = by_site(export(self.path))
        _, self.native, _ = sitemon("config", "convert", self.path)
        self.check = sitemon("config", "check", self.path)
        native = place / "native.yaml"
        native.write_text(self.native)
        code, _, err = sitemon("config", "check", native)
        assert code == 0, f"the native form of {file} is not understood: {err}\n{self.native}"

    def all_up(self, name, interval_s):
        """Every slot of a site was served, and all were up; returns one observation."""
        due = set(slots(name, round(interval_s * MICRO), self.since_us, self.until_us))
        lines = self.sites.get(name, {})
        assert due, f"{name}: no slot came due"
        assert due <= set(lines), f"{name}: slots without observation {due - set(lines)}; sites {list(self.sites)}"
        assert all(line["verdict"] == "up" for line in lines.values()), lines
        return next(iter(lines.values()))


def serve(folder):
    """nginx with the two pages that the files ask for."""
    authority = Authority(folder)
    real_pages(folder)
    www = folder / "www"
    (www / "docs").mkdir()
    (www / "docs" / "index.html").write_text("<!doctype html><html><title>Docs</title><h1>Contents</h1>\n</html>\n")
    (www / "shop").write_text("<!doctype html>\n<title>Shop</title>\n<h1>The shop</h1>\n<p>12 items\n</html>\n")
    return authority, Nginx(folder, authority, extra="absolute_redirect off;")


def run(folder):
    authority, server = serve(folder)
    with server as nginx:
        trust = {"SSL_CERT_FILE": str(authority.ca)}

        one = Run(folder, "monitors.yml", nginx, trust, 8)
        one.all_up("docs", 5)
        one.all_up("shop", 5)
        one.all_up(one.secure, 5)
        assert set(one.sites) == {"docs", "shop", one.secure}
        code, _, err = one.check
        assert code == 2 and "monitors[3]" in err and "monitors[4]" in err, (code, err)
        # What is wrong is told by `run` too, and the others run.
        assert "monitors[3]" in one.said and "monitors[4]" in one.said, one.said

        two = Run(folder, "config/config.yml", nginx, trust, 16)
        two.all_up("docs", 15)
        two.all_up("shop", 2.5)
        assert set(two.sites) == {"docs", "shop"}
        # The pattern holds at the body's start, the dot matches newlines.
        assert r"(?s)\A(?:.*[0-9]+ items)" in two.native, two.native

        base = f"http://127.0.0.1:{nginx.http}"
        three = Run(folder, "config.json", nginx, trust, 11)
        assert three.all_up(f"{base}/docs/", 10)["extracted"] == {"title": "Docs"}
        assert three.all_up(f"{base}/shop", 10)["extracted"] == {"title": "The shop"}
        assert "customer: acme" in three.native, three.native

        checks = sum(len(lines) for found in (one, two, three) for lines in found.sites.values())
        requests = nginx.requests()
        assert len(requests) >= checks, f"{checks} stored, {len(requests)} in the server's log"
        print(f"three files, {checks} observations, all up; bad entries told, the others ran")
