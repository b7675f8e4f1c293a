"""The second client: a process of its own, which stores and loads through another mount of the same export.

`Client().call(function, *arguments)` runs a function of an importable module there and returns its result, or
raises its exception here. `start` and `result` do the same in two steps, for what shall happen at the same time.
"""

import contextlib
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import raw_tree

import ana

ONE_UUID = "{shard}{number:04x}-7a1e-4b1d-8f00-{number:012x}"


class Model(ana.Storable):
    """What the tests ship: one value."""

    def __init__(self, value: object) -> None:
        self.value = value


def numbered_uuid(number: int, shard: str = "ab12") -> str:
    """Return a UUID whose file lies in a shard folder of the test's choice."""
    return ONE_UUID.format(shard=shard, number=number)


def store(place: str, value: object, uuid: str | None = None) -> str:
    """Store a new object in a tree, as a process that has just started; returns its UUID."""
    with ana.using_dl(ana.DataLayer(pickle_dir=place)):
        model = Model(value)
        model.make_uuid(uuid=uuid)
        return model.ana_store()


def load(place: str, uuid: str) -> object:
    """Load a state from a tree, as a process that has just started; returns the object's value."""
    with ana.using_dl(ana.DataLayer(pickle_dir=place)):
        return Model.ana_load(uuid).value


def store_many(place: str, values: list[object]) -> list[str]:
    """Store new objects in a tree, one after the other, and return their UUIDs."""
    with ana.using_dl(ana.DataLayer(pickle_dir=place)):
        return [Model(value).make_uuid() for value in values]


def load_many(place: str, uuids: list[str]) -> list[object]:
    """Load states from a tree, one after the other, and return the objects' values."""
    with ana.using_dl(ana.DataLayer(pickle_dir=place)):
        return [Model.ana_load(uuid).value for uuid in uuids]


def keep_replacing(place: str, value: object, uuid: str, times: int) -> None:
    """Delete a state and store it again, many times."""
    for _ in range(times):
        raw_tree.path_of(Path(place), uuid).unlink(missing_ok=True)
        store(place, value, uuid)


def at(moment: float, function: Callable[..., Any], *arguments: object) -> Any:
    """Call a function at a moment of the machine's clock: several processes at once."""
    time.sleep(max(0.0, moment - time.time()))
    return function(*arguments)


class Appender:
    """Appends records to a new file, for readers who know offset and size: on the server when `append` returns."""

    def __init__(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o666)
        self.size_bytes = 0

    def append(self, *records: bytes) -> int:
        """Append records and sync once; returns the offset of the first."""
        offset = self.size_bytes
        for record in records:
            assert os.write(self._descriptor, record) == len(record)
            self.size_bytes += len(record)
        os.fdatasync(self._descriptor)
        return offset

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._descriptor)


class Client:
    """A process that runs functions on request. Not for several threads at a time."""

    def __init__(self) -> None:
        self._busy = False
        # The same ana as here, installed or not.
        paths = [str(Path(ana.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        )

    def start(self, function: Callable[..., Any], *arguments: object) -> None:
        """Begin to run a function there."""
        self.settle()
        self._busy = True
        pickle.dump((function, arguments), _open(self._process.stdin))
        _open(self._process.stdin).flush()

    def result(self) -> Any:
        """Wait for what was started; return its result or raise its exception."""
        done, result = pickle.load(_open(self._process.stdout))
        self._busy = False
        if not done:
            raise result
        return result

    def call(self, function: Callable[..., Any], *arguments: object) -> Any:
        """Run a function there."""
        self.start(function, *arguments)
        return self.result()

    def settle(self) -> None:
        """Wait for what a test that failed in between has left running."""
        if self._busy:
            pickle.load(_open(self._process.stdout))
            self._busy = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with contextlib.suppress(BrokenPipeError):
            _open(self._process.stdin).close()
        self._process.wait()
        _open(self._process.stdout).close()


def _open(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None, "the process was started with pipes"
    return stream


def serve() -> None:
    """Run what arrives on standard input, until it ends."""
    replies = sys.stdout.buffer
    while True:
        try:
            function, arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            reply = (True, function(*arguments))
        except Exception as error:
            reply = (False, error)
        pickle.dump(reply, replies)
        replies.flush()


if __name__ == "__main__":
    # Under its own name as well: functions and classes arrive as `clients.…`.
    import clients

    clients.serve()
