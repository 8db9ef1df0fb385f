"""`make soak`: the test with real input, for as long and as large as asked."""

import argparse
import tempfile
from pathlib import Path

import real_input

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--sites", type=int, default=1000)
    parser.add_argument("--interval", type=int, default=5, help="seconds")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sitemon-soak-") as folder:
        real_input.run(Path(folder), options.minutes * 60, options.sites, options.interval)
    print("every slot has its observation, and every observation its line in a server's log")
