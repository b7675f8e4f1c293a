"""How many calls of a method run at the same time."""

import threading
from typing import Any

import pytest

COMPANY_SECONDS = 0.5
"""How long a call waits for others to come in, as long as none has: then there is overlap or there will never be."""


class Gauge:
    """Counts calls of a class's method, and how many of them ran at once at the most."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cls: type, name: str, enough: int = 2) -> None:
        """Watch `cls.name` until the test is over; calls wait for each other until `enough` are there."""
        self.most = self.calls = 0
        self._enough = enough
        self._now = 0
        self._changed = threading.Condition()
        method = getattr(cls, name)

        def measured(*arguments: Any, **options: Any) -> Any:
            self._enter()
            try:
                return method(*arguments, **options)
            finally:
                self._leave()

        monkeypatch.setattr(cls, name, measured)

    def _enter(self) -> None:
        with self._changed:
            self._now += 1
            self.calls += 1
            self.most = max(self.most, self._now)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self.most >= self._enough, timeout=COMPANY_SECONDS)

    def _leave(self) -> None:
        with self._changed:
            self._now -= 1
