"""A stand-in for the module `os` as ana's modules see it: counts system calls, and makes chosen ones fail."""

import contextlib
import errno
import functools
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ana.fs import append_file, atomic, files, locks, mounts
from ana.stores.directory import trash

CALLS = (
    "access",
    "close",
    "fdatasync",
    "fstat",
    "fsync",
    "ftruncate",
    "link",
    "listdir",
    "makedirs",
    "mkdir",
    "open",
    "preadv",
    "rename",
    "rmdir",
    "scandir",
    "stat",
    "unlink",
    "utime",
    "write",
    "pwritev",
)
CRASHED = 77
"""The exit status of a process that crashed as it was told to."""

Real = Callable[..., Any]
Effect = Callable[[str, Real, tuple[Any, ...], dict[str, Any]], Any]


@dataclass(frozen=True)
class Fault:
    """What happens at the call of a kind with the given number (from 1), and at all later ones if `for_good`."""

    call: str
    number: int
    name: str
    effect: Effect
    for_good: bool = False

    def __str__(self) -> str:
        return f"{self.call} {self.number}{' and all later' if self.for_good else ''}: {self.name}"

    def strikes(self, call: str, number: int) -> bool:
        """Say whether this call is meant."""
        return call == self.call and (number == self.number or (self.for_good and number > self.number))


class FaultyOS:
    """The module `os`, but for one fault."""

    def __init__(self, fault: Fault | None = None) -> None:
        self.fault = fault
        self.seen: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        real = _no_fsync if name in {"fsync", "fdatasync"} else getattr(os, name)
        return functools.partial(self._call, name, real) if name in CALLS else real

    def _call(self, name: str, real: Real, *arguments: Any, **options: Any) -> Any:
        self.seen[name] += 1
        if self.fault is not None and self.fault.strikes(name, self.seen[name]):
            return self.fault.effect(name, real, arguments, options)
        return real(*arguments, **options)


class _Hurried:
    """The module `time` where nobody waits."""

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def sleep(self, seconds: float) -> None:
        """Return at once."""
        if seconds < 0:
            raise ValueError("sleep length must be non-negative")


@contextlib.contextmanager
def under(fault: Fault | None = None) -> Iterator[FaultyOS]:
    """Put the stand-in under ana's modules for the length of a `with` block; without a fault, it only counts."""
    modules = files, atomic, append_file, mounts, locks, trash
    real = [module.os for module in modules]
    stand_in = FaultyOS(fault)
    for module in modules:
        module.os = stand_in
    files.time = _Hurried()
    try:
        yield stand_in
    finally:
        for module, own in zip(modules, real, strict=True):
            module.os = own
        files.time = time


def fails(code: int) -> Effect:
    """Return an effect: the call is not done, and fails. Of close(), Linux does its part whatever it returns."""

    def effect(name: str, real: Real, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if name == "close":
            real(*arguments, **options)
        raise OSError(code, os.strerror(code))

    return effect


def reply_is_lost(code: int) -> Effect:
    """Return an effect: the call is done, and fails, as on NFS when it is sent again after a lost reply."""

    def effect(name: str, real: Real, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        made = real(*arguments, **options)
        if name == "open":
            os.close(made)
        raise OSError(code, os.strerror(code))

    return effect


def is_short(size: Callable[[int], int]) -> Effect:
    """Return an effect on pwritev and preadv: of the buffers' n bytes, at most size(n) are moved."""

    def effect(_: str, real: Real, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        descriptor, buffers, *rest = arguments
        return real(descriptor, _first_bytes(buffers, size(sum(map(len, buffers)))), *rest, **options)

    return effect


def ends_early(_: str, __: Real, ___: tuple[Any, ...], ____: dict[str, Any]) -> int:
    """Read nothing, as at the end of a file that was truncated."""
    return 0


def crash_before(_: str, __: Real, ___: tuple[Any, ...], ____: dict[str, Any]) -> Any:
    """End the process before the call."""
    os._exit(CRASHED)


def crash_after(_: str, real: Real, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """End the process after the call."""
    with contextlib.suppress(OSError):
        real(*arguments, **options)
    os._exit(CRASHED)


def name_of(code: int) -> str:
    """Return an error's name."""
    return errno.errorcode[code]


def _no_fsync(descriptor: int) -> None:
    # What the disk does is the power cut tests' affair; here it would take all the time.
    os.fstat(descriptor)


def _first_bytes(buffers: Any, size_bytes: int) -> list[memoryview]:
    found = []
    for buffer in buffers:
        found.append(memoryview(buffer)[:size_bytes])
        size_bytes -= len(found[-1])
    return [buffer for buffer in found if len(buffer)]
