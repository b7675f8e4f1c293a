"""Options of the command line for all parts."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

__all__ = ["SIZES", "CannotRunError", "Options"]

SIZES = ("tiny", "small", "full")
"""`tiny` only shows that the scripts run; `small` takes a few minutes; docs/performance.md quotes `full`."""

Value = TypeVar("Value")


class CannotRunError(Exception):
    """A part cannot run on this machine; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Options:
    """How much to measure, and where. `folder` is empty and belongs to the part; None means a default by size."""

    folder: Path
    size: str = "small"
    rounds: int | None = None
    durable: bool = False
    states: int | None = None
    tasks: int | None = None
    workers: int = 2

    def pick(self, tiny: Value, small: Value, full: Value) -> Value:
        """Return the value for the requested size."""
        return {"tiny": tiny, "small": small, "full": full}[self.size]

    def round_count(self, full: int) -> int:
        """Return the number of rounds: the requested one, or a default by size."""
        return self.rounds or self.pick(1, max(3, full // 2), full)
