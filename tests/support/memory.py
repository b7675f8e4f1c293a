"""Folders in memory, for tests that make thousands of trees: no disk has to be waited for."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

SHARED_MEMORY = "/dev/shm"


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """Make a folder, in memory if there is such a place, for the length of a `with` block."""
    place = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="ana-test-", dir=place) as made:
        yield Path(made)
