"""Rounds, their median and spread, and the table that they become."""

import os
import re
import statistics
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from harness import ROOT, sitemon

DOCUMENT = ROOT / "docs" / "performance.md"
HEAD = "| figure | Sitemon | baseline | ratio | rounds | to reach |\n| --- | --- | --- | --- | --- | --- |"


@dataclass
class Figure:
    """A row of the table."""

    what: str
    ours: str
    baseline: str = ""
    ratio: str = ""
    rounds: str = ""
    goal: str = ""

    def row(self):
        return f"| {self.what} | {self.ours} | {self.baseline} | {self.ratio} | {self.rounds} | {self.goal} |"


def spread(values, digits=3):
    """The values of all rounds, the smallest and the largest."""
    if len(values) < 2:
        return "1"
    return f"{len(values)}: {min(values):.{digits}f} to {max(values):.{digits}f}"


def against(what, unit, ours, baseline, name, goal="", digits=0):
    """A row from the values of alternating rounds; the ratio is the median of the rounds' own ratios."""
    ratios = [mine / other for mine, other in zip(ours, baseline, strict=True)]
    return Figure(
        what,
        f"{statistics.median(ours):,.{digits}f} {unit}",
        f"{statistics.median(baseline):,.{digits}f} {unit} ({name})",
        f"{statistics.median(ratios):.3f}",
        spread(ratios),
        goal,
    )


def alternate(rounds, *sides):
    """What each side gave in each round; every second round begins with the last side."""
    found = [[] for _ in sides]
    for number in range(rounds):
        order = list(enumerate(sides))
        for index, side in order if number % 2 == 0 else reversed(order):
            found[index].append(side())
    return found


def machine():
    """What the figures depend on, without the machine's name."""
    text = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*:\s*(.*)", text)
    memory = int(re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text()).group(1)) / 1048576
    return (
        f"{model.group(1) if model else os.uname().machine}, {os.cpu_count()} cores, {memory:.0f} GiB of memory, "
        f"Linux {re.match(r'[0-9]+[.][0-9]+', os.uname().release).group()}"
    )


def commit():
    """The commit of the binary that was measured, as it says itself."""
    _, said, _ = sitemon("--version")
    found = re.search(r"\(([0-9a-f]{10})", said)
    return found.group(1) if found else "unknown"


def write(part, title, figures, document=DOCUMENT):
    """Puts a part's table between its marks in the document."""
    begin, end = f"<!-- {part}: by make bench -->", f"<!-- {part}: end -->"
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    table = "\n".join([HEAD, *(figure.row() for figure in figures)])
    section = f"{begin}\n### {title}\n\n{when}, commit {commit()}; {machine()}.\n\n{table}\n{end}"
    text = document.read_text()
    assert begin in text and end in text, f"{document} has no marks for {part}"
    head, tail = text.split(begin)[0], text.split(end)[1]
    document.write_text(head + section + tail)
