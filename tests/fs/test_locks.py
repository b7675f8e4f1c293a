"""Lock files: how long they are waited for."""

import time

import filelock
import pytest

import ana
from ana.fs import locks


def test_the_time_until_the_first_attempt_counts(tmp_path, monkeypatch):
    """Where imports and folders take long, a lock that is held is still told from a server that does not answer."""
    asked = []

    def held(self, timeout, **options):
        asked.append(timeout)
        raise filelock.Timeout(self.lock_file)

    monkeypatch.setattr(filelock.FileLock, "acquire", held)
    with (
        pytest.raises(ana.LockTimeoutError),
        locks.exclusive(str(tmp_path / "lock"), 60.0, prepare=lambda: time.sleep(0.2)),
    ):
        pass
    first, second = asked
    assert first == 0
    assert 0 < second <= 59.8
