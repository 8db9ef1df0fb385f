"""`make bench`: what a check, an idle site and a stored observation cost, beside what one would write in an afternoon.

Each figure is taken in rounds that alternate with its baseline's, on cores of their own, as user and system time of the
whole process; a run counts only if the server saw all of the work: a connection, a full handshake and a request for each
observation that is stored. The tables go to stdout and into docs/performance.md.
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "real"))

import checks
import figures
import schedule
import storing

PARTS = {"check": checks, "schedule": schedule, "store": storing}


def run(folder, parts, quick=False, document=figures.DOCUMENT):
    """Measures these parts; with `quick` only that it can be done, in seconds."""

    def say(rows):
        for row in rows:
            print(row.row(), flush=True)

    for part in parts:
        place = folder / part
        place.mkdir()
        place.chmod(0o755)
        print(f"\n{PARTS[part].TITLE}\n{figures.HEAD}", flush=True)
        found = PARTS[part].run(place, quick, say)
        figures.write(part, PARTS[part].TITLE, found, document)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help="all, if none is named")
    parser.add_argument("--quick", action="store_true", help="only whether it works; the figures are worth nothing")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sitemon-bench-") as scratch:
        written = figures.DOCUMENT
        if options.quick:
            written = Path(scratch) / "performance.md"
            written.write_text(figures.DOCUMENT.read_text())
        run(Path(scratch), options.parts or list(PARTS), options.quick, written)
