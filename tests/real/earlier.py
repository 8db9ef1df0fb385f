"""The files of the earlier systems, their addresses changed to local servers, run as they are."""

import re
import shutil
import signal
import time

from harness import ROOT, Authority, Nginx, Sitemon, by_site, export, micros, real_pages, sitemon

FILES = ROOT / "tests" / "data" / "earlier"


def run(folder):
    authority = Authority(folder)
    real_pages(folder)
    www = folder / "www"
    (www / "docs").mkdir()
    (www / "docs" / "index.html").write_text("<!doctype html><html><title>Docs</title><h1>Contents</h1>\n</html>\n")
    (www / "shop").write_text("<!doctype html>\n<title>Shop</title>\n<h1>The shop</h1>\n<p>12 items\n</html>\n")
    trust = {"SSL_CERT_FILE": str(authority.ca)}
    with Nginx(folder, authority) as nginx:
        files = folder / "files"
        shutil.copytree(FILES, files)
        for file in files.rglob("*.*"):
            text = file.read_text()
            text = re.sub(r"(127\.0\.0\.1|localhost):8081", rf"\1:{nginx.http}", text)
            file.write_text(text.replace("https://shop.example/", f"https://localhost:{nginx.https}/shop"))

        found = {}
        for name, seconds in (("monitors.yml", 12), ("config/config.yml", 16), ("config.json", 12)):
            path = files / name
            with Sitemon(path, folder, env=trust) as watching:
                time.sleep(seconds)
                assert watching.process.poll() is None, watching.said()
                watching.process.send_signal(signal.SIGHUP)
                time.sleep(0.5)
                assert watching.stop() == 0, watching.said()
            found[name] = by_site(export(path)), watching.said()
            # What is printed as its native form is the same configuration.
            code, native, err = sitemon("config", "convert", path)
            assert code == 0, err
            (folder / "native.yaml").write_text(native)
            code, _, err = sitemon("config", "check", folder / "native.yaml")
            assert code == 0, err
    return found, nginx.requests(), nginx
