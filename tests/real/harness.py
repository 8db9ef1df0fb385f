"""Real web servers with real pages, names of their own, and the built binary beside them.

Everything lives in a temporary folder and on free ports of the loopback, runs as the current user, and is ended by its
own process id. The servers' access logs are the witness: what they say happened did happen.
"""

import contextlib
import json
import math
import os
import re
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import defaultdict
from datetime import datetime
from pathlib import Path

import xxhash

ROOT = Path(__file__).resolve().parents[2]
SITEMON = Path(os.environ.get("SITEMON", ROOT / "target" / "release" / "sitemon"))
PAGES = ROOT / "target" / "pages"
MICRO = 1_000_000
os.environ["PATH"] += ":/usr/sbin:/sbin"


# Names, times, numbers


def shift(name, interval_us):
    """The shift of a site's slots, as docs/measuring.md says."""
    return xxhash.xxh3_64_intdigest(name.encode()) % interval_us


def slots(name, interval_us, since_us, until_us):
    """All slots of a site from `since_us` (inclusive) to `until_us` (exclusive), in microseconds."""
    offset = shift(name, interval_us)
    first = offset + math.ceil((since_us - offset) / interval_us) * interval_us
    return range(first, max(until_us, first), interval_us)


def slot_before(name, interval_us, at_us):
    """The slot at or right before an instant."""
    offset = shift(name, interval_us)
    return offset + (at_us - offset) // interval_us * interval_us


def micros(text):
    """Microseconds since the epoch of an RFC 3339 time in UTC."""
    when = datetime.fromisoformat(text)
    return round(when.replace(microsecond=0).timestamp()) * MICRO + when.microsecond


def now_us():
    return time.time_ns() // 1000


def quantile(values, share):
    """The smallest value that at least `share` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# Processes


class Process:
    """A process that ends with the `with` block, by its own process id."""

    def __init__(self, command, folder, name, files=None, env=None, core=None):
        self.name = name
        self.log = Path(folder) / f"{name}.stderr"

        def confine():
            if files:
                resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
            if core is not None:
                os.sched_setaffinity(0, {core})

        self.started_us = now_us()
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,
                env={**os.environ, **(env or {})},
                preexec_fn=confine if files or core is not None else None,
            )
        self.pid = self.process.pid

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def said(self):
        return self.log.read_text(errors="replace")

    def wait_until(self, done, seconds, what):
        end = time.monotonic() + seconds
        while not done():
            if self.process.poll() is not None:
                raise AssertionError(
                    f"{self.name} ended with {self.process.returncode} before {what}:\n{self.said()[-3000:]}"
                )
            if time.monotonic() > end:
                raise AssertionError(f"{self.name}: no {what} within {seconds} s:\n{self.said()[-3000:]}")
            time.sleep(0.005)

    def cpu_seconds(self):
        """Processor time of the whole process so far, user and system, all threads, to the nanosecond."""
        return time.clock_gettime((~self.pid << 3) | 2)

    def resident_bytes(self):
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize()

    def kill(self):
        """kill -9. Returns when it was sent."""
        at = now_us()
        self.process.kill()
        self.process.wait()
        return at

    def stop(self, seconds=20):
        """SIGTERM, and SIGKILL to what outlasts it. Returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        return self.process.returncode


def listening(port):
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Sitemon(Process):
    """`sitemon run`, from its start until it is ready."""

    count = 0

    def __init__(self, config, folder, files=None, env=None, ready_seconds=30, core=None):
        Sitemon.count += 1
        super().__init__([SITEMON, "run", "-c", config], folder, f"sitemon-{Sitemon.count}", files, env, core)
        try:
            self.wait_until(lambda: re.search(r"\bready\b", self.said()), ready_seconds, "word `ready`")
        except BaseException:
            self.stop(1)
            raise
        # Every slot from here on must be served; those since the start may have been.
        self.ready_us = now_us()


def sitemon(*arguments, cwd=None, env=None, timeout=120):
    """A command that ends: its exit code, stdout and stderr."""
    done = subprocess.run(
        [str(SITEMON), *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        timeout=timeout,
    )
    return done.returncode, done.stdout, done.stderr


def export(config, *arguments):
    """All observations that are stored."""
    code, out, err = sitemon("export", "-c", config, *arguments)
    assert code == 0, f"export ended with {code}: {err}"
    return [json.loads(line) for line in out.splitlines()]


def by_site(observations):
    """Observations of each site by slot; two of one slot are an error."""
    found = defaultdict(dict)
    for line in observations:
        slot = micros(line["scheduled_at"])
        assert slot not in found[line["site"]], f"{line['site']}: two observations of slot {slot}"
        found[line["site"]][slot] = line
    return found


def write_config(path, sites, **keys):
    """A native configuration; JSON is YAML."""
    path.write_text(json.dumps({**keys, "sites": sites}))
    return path


# Namespaces


def in_namespaces(flags, script, *arguments, seconds):
    """Runs a script of this folder in Linux namespaces of its own, as root there, and prints what it printed."""
    space = ["unshare", *([] if os.getuid() == 0 else ["-r"]), *flags]
    command = [*space, sys.executable, script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    print(done.stdout)
    assert done.returncode == 0, (
        f"{done.stdout}{done.stderr}\n(Namespaces of its own are needed: root, or a kernel that lets users make them: "
        "sysctl kernel.unprivileged_userns_clone=1)"
    )


@contextlib.contextmanager
def small_disk(folder, size):
    """A file system of its own, which can be filled without harm. Only in a mount namespace."""
    place = folder / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


# Certificates


class Authority:
    """Root, intermediate and a server's certificate as Let's Encrypt makes them: P-384 above, P-256 below."""

    def __init__(self, folder):
        self.folder = folder
        self.ca, self.chain, self.key = folder / "ca.pem", folder / "chain.pem", folder / "key.pem"
        self._issue("ca", "secp384r1", None, "basicConstraints=critical,CA:true\nkeyUsage=critical,keyCertSign")
        self._issue(
            "middle", "secp384r1", "ca", "basicConstraints=critical,CA:true,pathlen:0\nkeyUsage=critical,keyCertSign"
        )
        self._issue(
            "leaf",
            "prime256v1",
            "middle",
            "subjectAltName=DNS:*.nginx.test,DNS:*.lighttpd.test,DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth",
        )
        (folder / "leaf-key.pem").rename(self.key)
        self.chain.write_text((folder / "leaf.pem").read_text() + (folder / "middle.pem").read_text())
        # lighttpd wants key and certificates in one file.
        (folder / "both.pem").write_text(self.key.read_text() + self.chain.read_text())

    def _openssl(self, *arguments):
        subprocess.run(["openssl", *arguments], cwd=self.folder, check=True, capture_output=True)

    def _issue(self, name, curve, issuer, extensions):
        (self.folder / f"{name}.ext").write_text(extensions)
        self._openssl("ecparam", "-name", curve, "-genkey", "-noout", "-out", f"{name}-key.pem")
        self._openssl("req", "-new", "-key", f"{name}-key.pem", "-subj", f"/CN=test {name}", "-out", f"{name}.csr")
        by = (
            ["-CA", f"{issuer}.pem", "-CAkey", f"{issuer}-key.pem", "-CAcreateserial"]
            if issuer
            else ["-signkey", "ca-key.pem"]
        )
        self._openssl(
            "x509",
            "-req",
            "-in",
            f"{name}.csr",
            *by,
            "-days",
            "90",
            "-sha384",
            "-extfile",
            f"{name}.ext",
            "-out",
            f"{name}.pem",
        )


# Names


class Names(threading.Thread):
    """A resolver for `.test`: 127.0.0.1 for all names; `six-…` is ::1 alone, `dual-…` both, `hang-…` never answered.

    Other names do not exist. When they have `moved`, 127.0.0.2 is said instead.
    """

    def __init__(self, port=0, ttl=60):
        super().__init__(daemon=True)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.socket.bind(("127.0.0.1", port))
        self.address = f"127.0.0.1:{self.socket.getsockname()[1]}"
        self.ttl, self.moved = ttl, False
        # What was asked: name, kind, and when.
        self.questions = []

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        # An empty datagram ends the thread.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self.socket.getsockname())
        self.join()
        self.socket.close()

    def run(self):
        while True:
            query, peer = self.socket.recvfrom(4096)
            if not query:
                return
            with contextlib.suppress(OSError, IndexError, struct.error):
                answer = self.answer(query)
                if answer:
                    self.socket.sendto(answer, peer)

    def answer(self, query):
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode("latin-1").lower())
            at += 1 + query[at]
        question = query[12 : at + 5]
        (kind,) = struct.unpack_from("!H", query, at + 1)
        self.questions.append((".".join(labels), kind, now_us()))
        if labels[0].startswith("hang-"):
            return None
        addresses = []
        known = labels[-1:] == ["test"]
        six, dual = labels[0].startswith("six-"), labels[0].startswith("dual-")
        if known and kind == 1 and not six:
            addresses = [socket.inet_aton("127.0.0.2" if self.moved else "127.0.0.1")]
        if known and kind == 28 and (six or dual):
            addresses = [socket.inet_pton(socket.AF_INET6, "::1")]
        flags = 0x8580 if known else 0x8583
        head = struct.pack("!2sHHHHH", query[:2], flags, 1, len(addresses), 0, 0)
        records = b"".join(b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, self.ttl, len(a)) + a for a in addresses)
        return head + question + records


# Web servers


class Request:
    """A line of an access log: what a server says that it answered."""

    __slots__ = ("start_us", "end_us", "host", "secure", "status", "resumed")

    def __init__(self, start_us, end_us, host, secure, status, resumed=False):
        self.start_us, self.end_us, self.host = start_us, end_us, host
        self.secure, self.status, self.resumed = secure, status, resumed


class Nginx(Process):
    domain = "nginx.test"

    def __init__(self, folder, authority, name="nginx", extra="", buffer="", events=4096, core=None):
        self.http, self.https, self.status_port = free_port(), free_port(), free_port()
        self.access = folder / f"{name}.access"
        self.access.touch()
        config = folder / f"{name}.conf"
        config.write_text(f"""
            {"user root;" if os.getuid() == 0 else ""}
            worker_processes 1;
            pid {folder}/{name}.pid;
            error_log stderr warn;
            worker_rlimit_nofile {2 * events};
            events {{ worker_connections {events}; }}
            http {{
                types {{ text/html html; }}
                default_type text/html;
                charset utf-8;
                log_format witness '$msec $request_time $host $scheme $status $ssl_session_reused';
                access_log {self.access} witness {buffer};
                {"".join(f"{kind}_temp_path {folder}/{name}-{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))}
                ssl_certificate {authority.chain};
                ssl_certificate_key {authority.key};
                ssl_session_cache shared:all:1m;
                open_file_cache max=1000;
                server {{
                    listen 127.0.0.1:{self.http} backlog=4096;
                    listen 127.0.0.1:{self.https} ssl backlog=4096;
                    root {folder}/www;
                    {extra}
                }}
                server {{
                    listen 127.0.0.1:{self.status_port};
                    access_log off;
                    location / {{ stub_status; }}
                }}
            }}
        """)
        super().__init__(
            ["nginx", "-p", folder, "-c", config, "-e", "stderr", "-g", "daemon off;"], folder, name, core=core
        )
        self.wait_until(lambda: listening(self.https) and listening(self.status_port), 10, "listening")

    def requests(self):
        found = []
        for line in self.access.read_text().splitlines():
            at, took, host, scheme, status, resumed = line.split(" ")
            end = round(float(at) * MICRO)
            found.append(
                Request(end - round(float(took) * MICRO), end, host, scheme == "https", int(status), resumed == "r")
            )
        return found


class Lighttpd(Process):
    domain = "lighttpd.test"

    def __init__(self, folder, authority):
        self.http, self.https = free_port(), free_port()
        self.access = folder / "lighttpd.access"
        config = folder / "lighttpd.conf"
        config.write_text(f"""
            server.document-root = "{folder}/www"
            server.bind = "127.0.0.1"
            server.port = {self.http}
            server.modules = ("mod_openssl", "mod_accesslog")
            server.max-fds = 8192
            server.max-connections = 4096
            server.listen-backlog = 4096
            index-file.names = ("index.html")
            mimetype.assign = (".html" => "text/html; charset=utf-8")
            accesslog.filename = "{self.access}"
            accesslog.format = "%{{begin:usec}}t %{{end:usec}}t %{{Host}}i %p %s"
            $SERVER["socket"] == "127.0.0.1:{self.https}" {{
                ssl.engine = "enable"
                ssl.pemfile = "{authority.folder}/both.pem"
            }}
        """)
        super().__init__(["lighttpd", "-D", "-f", config], folder, "lighttpd")
        self.wait_until(lambda: listening(self.http) and listening(self.https), 10, "listening")

    def requests(self):
        """Complete only after `stop`: lighttpd writes its log in pieces."""
        found = []
        for line in self.access.read_text().splitlines():
            begin, end, host, port, status = line.split(" ")
            host = host.split(":")[0]
            if host != "-":  # the end of an HTTP/2 connection is no request
                found.append(Request(int(begin), int(end), host, int(port) == self.https, int(status)))
        return found


class Deaf:
    """Two addresses: one where no connection ever stands, one where connections stand and nothing is answered."""

    def __enter__(self):
        self.full, self.silent = socket.socket(), socket.socket()
        for listener, backlog in ((self.full, 0), (self.silent, 4096)):
            listener.bind(("127.0.0.1", 0))
            listener.listen(backlog)
        # The queue of the first is filled, so that the kernel drops what comes after.
        self.fill = []
        for _ in range(4):
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(self.full.getsockname())
            self.fill.append(one)
        self.no_connection, self.no_answer = self.full.getsockname()[1], self.silent.getsockname()[1]
        return self

    def __exit__(self, *_):
        for one in (*self.fill, self.full, self.silent):
            one.close()


def real_pages(folder, count=60, smallest=3_000, largest=60_000):
    """Puts real pages below `folder`/www; returns for each its path and a pattern that only its last bytes match."""
    www = folder / "www"
    www.mkdir()
    pages = []
    for source in sorted(path for path in PAGES.rglob("*.html") if path.is_file()):
        text = source.read_bytes()
        if smallest <= len(text) <= largest and text.rstrip().lower().endswith(b"</html>"):
            name = f"page-{len(pages)}.html"
            shutil.copy(source, www / name)
            pages.append((f"/{name}", r"(?i)</html>\s*\z"))
            if len(pages) == count:
                break
    assert len(pages) >= 12, f"only {len(pages)} pages below {PAGES}: run scripts/install-test-needs"
    (www / "index.html").write_text("<!doctype html><title>index</title><p>index</html>\n")
    for folder_of_pages in (www, folder):
        folder_of_pages.chmod(0o755)
    return pages
