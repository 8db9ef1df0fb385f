"""What all tests from outside have: a folder of their own, and their figures in the report."""

import tempfile
from pathlib import Path

import pytest

from harness import SITEMON


@pytest.fixture
def folder():
    # Not below /tmp/pytest-of-…: what a server of another user must read needs a path that it may walk.
    with tempfile.TemporaryDirectory(prefix="sitemon-test-") as path:
        Path(path).chmod(0o755)
        yield Path(path)


def pytest_sessionstart():
    if not SITEMON.exists():
        pytest.exit(f"{SITEMON} is missing: run scripts/test, or cargo build --release", returncode=2)
