"""Random bytes in place of records, guided by coverage: only ANA's own errors come out, and memory stays bounded."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[1] / "fuzz" / "records.py"
SECONDS = 60
LEAST_RUNS = 10_000
"""Some 20,000 a second are usual, on an idle machine."""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="no atheris: pip install atheris")
def test_a_minute_of_fuzzing_finds_nothing(tmp_path):
    """The header's parser and all of the read path, with digests and signatures made right where they stop it."""
    command = [sys.executable, PROGRAM, f"-max_total_time={SECONDS}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=10 * SECONDS)
    assert done.returncode == 0, done.stderr[-3000:]
    assert list(tmp_path.iterdir()) == []
    runs = re.search(r"^Done (\d+) runs", done.stderr, re.MULTILINE)
    assert int(runs[1]) > LEAST_RUNS
