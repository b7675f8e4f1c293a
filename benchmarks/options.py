"""What the command line says to all parts."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

__all__ = ["SIZES", "CannotRunError", "Options"]

SIZES = ("tiny", "small", "full")
"""Tiny shows that the scripts run; small takes some minutes; full is what docs/performance.md quotes."""

Value = TypeVar("Value")


class CannotRunError(Exception):
    """A part cannot run on this machine; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Options:
    """How much is measured, and where. `folder` is empty and the part's own; what is None the size decides."""

    folder: Path
    size: str = "small"
    rounds: int | None = None
    durable: bool = False
    states: int | None = None
    tasks: int | None = None
    workers: int = 2

    def pick(self, tiny: Value, small: Value, full: Value) -> Value:
        """Return the value for the size that was asked for."""
        return {"tiny": tiny, "small": small, "full": full}[self.size]

    def round_count(self, full: int) -> int:
        """Return how often each thing is measured: as was asked for, or by the size."""
        return self.rounds or self.pick(1, max(3, full // 2), full)
