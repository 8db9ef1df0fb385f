"""That the benchmarks run, and see from the server's side that the work was done. No bound on time: a figure of a busy
machine is worth nothing, and `make bench` tells."""

import tempfile
from pathlib import Path

import pytest

import bench


@pytest.mark.parametrize("part", bench.PARTS)
def test_each_part_measures_and_writes_its_table(part):
    with tempfile.TemporaryDirectory(prefix="sitemon-bench-") as folder:
        Path(folder).chmod(0o755)
        document = Path(folder) / "performance.md"
        document.write_text(bench.figures.DOCUMENT.read_text())
        bench.run(Path(folder), [part], quick=True, document=document)
        section = document.read_text().split(f"<!-- {part}: by make bench -->")[1].split("<!--")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    assert len(rows) > 4 and all(line.count("|") == 7 for line in rows), section
