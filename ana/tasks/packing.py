"""Values to what is sent in their place, and back: a pickle stream, and the buffers that it leaves in the depot.

A large buffer or `bytes` object leaves the stream wherever it hides. If the rest is still large, each piece of the
value that the caller names (an argument, say) and that is large by itself leaves the stream, too, with a stream of its
own. A stream that is large all the same goes into the depot as a whole.
"""

import functools
import io
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import MethodType
from typing import Any, NamedTuple

from ana.objects import pickling
from ana.objects.out_of_band import PROTOCOL, write
from ana.tasks.depot import Buffer, Depot, Part

__all__ = ["Packed", "Packer", "Settings", "make_portable", "pieces_of", "unpack"]

Packed = tuple[bytes | None, tuple[Part, ...], tuple[Any, ...]]
"""The stream (None: it is the first part), the parts, and the pieces, each `Packed` without pieces of its own."""

Large = list[tuple[memoryview, bool]]
"""Buffers, each with whether it is a `bytes` object."""

Fetch = Callable[[Sequence[Part]], list[Buffer]]

_ATOMS = (int, float, complex, bool, type(None))


class Settings(NamedTuple):
    """What both halves of an executor need to know. Sent with each task, as a plain tuple."""

    home: str
    """The store's home."""
    made_on: str
    """The host of a temporary store; "" for any other."""
    keep_bytes: int
    """How many bytes of buffers a worker keeps."""
    durable: bool
    """Whether to wait for the disk."""
    min_bytes: int
    """From which size on a value goes by reference."""
    by_name: bool
    """Whether classes and functions of `__main__` go by name, because workers run the same script."""
    writable: bool
    """Whether each task gets private copies of its buffers."""
    as_ref: bool
    """Whether results stay by reference."""


class Packer:
    """Packs values for one depot. Safe to use from many threads."""

    def __init__(self, depot: Depot, min_bytes: int, *, by_name: bool) -> None:
        self.depot = depot
        self.min_bytes = min_bytes
        self.by_name = by_name

    def pack(self, value: object, pieces: Iterable[object] = ()) -> Packed:
        """Pickle a value, and put what is large of it into the depot.

        Args:
            value: The value.
            pieces: What in it leaves the stream if it is large by itself, inner ones first. All are alive until the
                call returns.

        Raises:
            PicklingError: Something in it does not pickle, or needs cloudpickle, which is not installed.
            StoreError: A buffer could not be stored.
            StateChangedError: A buffer was changed meanwhile.

        """
        stream, large = self._pickle(value, {})
        if len(stream) < self.min_bytes:
            return stream, self.depot.put_all(large) if large else (), ()
        numbers: dict[int, int] = {}
        packed: list[Packed] = []
        for piece in pieces:
            if isinstance(piece, _ATOMS) or id(piece) in numbers:
                continue
            # Pieces found before may be in it: they stay the same objects.
            alone = self._pickle(piece, numbers)
            if len(alone[0]) >= self.min_bytes:
                numbers[id(piece)] = len(packed)
                packed.append(self._ship(*alone, ()))
        if packed:
            stream, large = self._pickle(value, numbers)
        return self._ship(stream, large, tuple(packed))

    def _ship(self, stream: bytes, large: Large, pieces: tuple[Packed, ...]) -> Packed:
        if len(stream) >= self.min_bytes:
            return None, self.depot.put_all([(memoryview(stream), True), *large]), pieces
        return stream, self.depot.put_all(large) if large else (), pieces

    def _pickle(self, value: object, numbers: dict[int, int]) -> tuple[bytes, Large]:
        """Return the stream, and the large buffers that it leaves out."""
        error: Exception | None = None
        try:
            stream, large = self._pickle_plainly(value, numbers)
        except Exception as problem:  # noqa: BLE001 - cloudpickle may know a way
            error = problem
        else:
            modules = () if self.by_name else pickling.by_value_modules()
            may_name = any(name in stream for name in modules)
            if not may_name or (_cloudpickler() is None and not pickling.names_any(value, modules)):
                return stream, large
        pickler = _cloudpickler()
        if pickler is None:
            what = "a class or function of __main__, which workers cannot import" if error is None else str(error)
            msg = f"{what}: install cloudpickle (pip install cloudpickle), or move it to a module"
            raise pickle.PicklingError(msg) from error
        return self._write(pickler, value, numbers)

    def _pickle_plainly(self, value: object, numbers: dict[int, int]) -> tuple[bytes, Large]:
        if numbers or pickling.with_reducers(pickle.Pickler) is not pickle.Pickler:
            return self._write(pickle.Pickler, value, numbers)
        # In one call, as most values are small, or arrays.
        large: Large = []

        def keep(buffer: pickle.PickleBuffer) -> bool:
            view = buffer.raw()
            if view.nbytes < self.min_bytes:
                return True
            large.append((view, False))
            return False

        stream = pickle.dumps(value, PROTOCOL, buffer_callback=keep)
        return (stream, large) if len(stream) < self.min_bytes else self._write(pickle.Pickler, value, numbers)

    def _write(self, cls: type, value: object, numbers: dict[int, int]) -> tuple[bytes, Large]:
        """Pickle with a class of picklers. `bytes` objects leave the stream, too."""
        make = pickling.with_reducers(_numbering(cls, numbers) if numbers else cls)
        pickled = write(make, value, least_bytes=self.min_bytes, large_bytes=self.min_bytes)
        stream, *buffers = pickled.segments()
        large = [(_joined(views), number in pickled.bytes_segments) for number, views in enumerate(buffers, 1)]
        return b"".join(stream), large


def unpack(packed: Packed, fetch: Fetch) -> Any:
    """Return a packed value. Raises what `fetch` raises, and what unpickling raises."""
    pieces: list[Any] = []
    for piece in packed[2]:
        pieces.append(_unpickled(piece, fetch, pieces))
    return _unpickled(packed, fetch, pieces)


def _unpickled(packed: Packed, fetch: Fetch, pieces: list[Any]) -> Any:
    stream, parts, _ = packed
    buffers = fetch(parts) if parts else []
    if stream is None:
        stream = bytes(buffers.pop(0))
    if not pieces:
        return pickle.loads(stream, buffers=buffers)  # noqa: S301 - what an engine does with its tasks
    unpickler = _Unpickler(io.BytesIO(stream), buffers=buffers)
    unpickler.pieces = pieces
    return unpickler.load()


def pieces_of(values: Iterable[object]) -> Iterator[object]:
    """Yield values, and before each what a partial or a bound method among them holds."""
    for value in values:
        if isinstance(value, functools.partial):
            yield from pieces_of((value.func, *value.args, *value.keywords.values()))
        elif isinstance(value, MethodType):
            yield from pieces_of((value.__self__,))
        yield value


def make_portable(error: BaseException) -> None:
    """Let an error of a class that came by value be pickled by value, whatever pickler an engine has for errors."""
    module = type(error).__module__.encode()
    pickler = _cloudpickler() if module in pickling.by_value_modules() else None
    if pickler is None:
        return
    file = io.BytesIO()
    pickler(file, PROTOCOL).dump(error)
    data = file.getvalue()
    error.__reduce_ex__ = lambda _protocol: (pickle.loads, (data,))  # type: ignore[method-assign]  # of this one


def _joined(views: list[memoryview]) -> memoryview:
    return views[0] if len(views) == 1 else memoryview(b"".join(views))


def _numbering(cls: Any, numbers: dict[int, int]) -> type:
    """Return a class of picklers that write the numbers of objects, given by their ids, in place of the objects."""

    class Numbering(cls):  # type: ignore[misc]  # one of two
        def persistent_id(self, obj: Any) -> int | None:
            return numbers.get(id(obj))

    return Numbering


class _Unpickler(pickle.Unpickler):
    """Reads what picklers write that number pieces."""

    pieces: list[Any]

    def persistent_load(self, number: Any) -> Any:
        return self.pieces[number]


_made: list[Any] = []


def _cloudpickler() -> Any:
    """Return cloudpickle's pickler, or None. Made once: a class takes 50 µs to make."""
    if not _made:
        found = pickling.cloudpickler()
        if found is None:
            return None
        _made.append(found)
    return _made[0]
