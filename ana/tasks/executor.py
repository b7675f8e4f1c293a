"""`ana.Executor`: an executor whose tasks see plain values, while what is large of them travels by reference."""

import concurrent.futures
import itertools
import pickle
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

from ana import arguments, settings, units
from ana.fs import temporary
from ana.layers import current, opening
from ana.layers.layer import DataLayer
from ana.objects import pickling
from ana.persist import keeping
from ana.tasks import futures, packing, worker
from ana.tasks.depot import Depot
from ana.tasks.rooting import Rooting

if TYPE_CHECKING:
    import typing_extensions

    from ana.storable import Ref

    Results = typing_extensions.TypeVar("Results", bound=Literal["value", "ref"], default=Literal["value"])
else:
    # Only type checkers need its default.
    Results = TypeVar("Results")

__all__ = ["Executor"]

Result = TypeVar("Result")

MIN_BYTES = 100_000


class Executor(concurrent.futures.Executor, Generic[Results]):
    """Wraps an executor, so that large arguments and results travel by reference.

    Tasks stay as they are: they take and return plain values. Large arrays and other buffers, and `bytes` objects, are
    found anywhere in a task: in a `partial`, a closure, a bound method's object, a list, a DataFrame, a torch module.
    Each is stored once, in the current layer's folder, and loaded once per worker process. Arguments that are large
    without holding large buffers (a long list, a `str`) are stored as a whole. A `Ref` among the arguments arrives as
    its value. Small values travel with the task, as usual.

    Arrays that tasks take are read-only, because all tasks of a process share them. Results are the caller's own.

    If the layer is in memory, a temporary folder of this host is used until the executor is shut down and its results
    are loaded. Workers on other hosts need `ana.set_dl(pickle_dir=...)` before the Executor is made.

    Safe to use from many threads. In a forked child it is as usable as the wrapped executor.

    Example:
        ```python
        with ProcessPoolExecutor() as pool, ana.Executor(pool) as executor:
            results = list(executor.map(simulate, [mesh] * 1000, parameters))
        ```

    """

    @overload
    def __init__(
        self: "Executor[Literal['value']]",
        executor: concurrent.futures.Executor,
        *,
        min_bytes: int | str = MIN_BYTES,
        writable: bool = False,
        results: Literal["value"] = "value",
        durable: bool = False,
    ) -> None: ...

    @overload
    def __init__(
        self: "Executor[Literal['ref']]",
        executor: concurrent.futures.Executor,
        *,
        min_bytes: int | str = MIN_BYTES,
        writable: bool = False,
        results: Literal["ref"],
        durable: bool = False,
    ) -> None: ...

    def __init__(
        self,
        executor: concurrent.futures.Executor,
        *,
        min_bytes: int | str = MIN_BYTES,
        writable: bool = False,
        results: Literal["value", "ref"] = "value",
        durable: bool = False,
    ) -> None:
        """Wrap an executor.

        Args:
            executor: Any executor with processes: ProcessPoolExecutor, loky's, mpi4py's, Dask's
                (`client.get_executor()`), executorlib's, Parsl's (`ParslPoolExecutor`).
            min_bytes: Values of at least this size travel by reference; a number of bytes, or a size such as "1MB".
                `bytes` objects below 64 KiB never do. Default: 100,000.
            writable: Whether each task gets copies of its arrays, which it may write to. Default: False.
            results: "value", or "ref" if each result is to stay in the store, as an `ana.Ref` that is loaded on first
                access. Default: "value".
            durable: Whether to wait for the disk, so that what is sent survives a power cut. Default: False, because
                it can be sent again.

        Raises:
            TypeError: `executor` is not an executor, or runs its tasks in subinterpreters; or another argument is of a
                wrong type.
            ValueError: `min_bytes` or `results` is invalid, or `results` is "ref" and the layer is in memory, where
                results cannot stay.
            StoreError: The current layer's folder cannot be opened.

        """
        self._executor = _checked(executor)
        self._asked = {
            "durable": arguments.checked("durable", arguments.true_or_false, settings.A_BOOL, durable),
            "min_bytes": max(1, arguments.checked("min_bytes", units.size_bytes, settings.A_SIZE, min_bytes)),
            "by_name": _run_the_same_script(executor),
            "writable": arguments.checked("writable", arguments.true_or_false, settings.A_BOOL, writable),
            "as_ref": results == "ref",
        }
        if results not in ("value", "ref"):
            msg = f'results must be "value" or "ref", not {results!r:.100}'
            raise ValueError(msg)
        self._layer: DataLayer | None = current.get_dl()
        if results == "ref" and self._layer.store.process_local:
            msg = 'results="ref" needs a store that outlives the executor: call ana.set_dl(pickle_dir=...) before'
            raise ValueError(msg)
        self._lock = threading.Lock()
        self._sending: _Sending | None = None

    def __repr__(self) -> str:
        return f"<ana.Executor of {self._executor!r}>"

    @overload
    def submit(
        self: "Executor[Literal['value']]", fn: Callable[..., Result], /, *args: Any, **kwargs: Any
    ) -> "concurrent.futures.Future[Result]": ...

    @overload
    def submit(
        self: "Executor[Literal['ref']]", fn: Callable[..., Result], /, *args: Any, **kwargs: Any
    ) -> "concurrent.futures.Future[Ref[Result]]": ...

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "concurrent.futures.Future[Any]":
        """Send a task. Function and arguments are pickled before this returns, so they may change afterwards.

        Args:
            fn: The function.
            *args: Its arguments. A Ref becomes its value.
            **kwargs: Its keyword arguments. A Ref becomes its value.

        Returns:
            The wrapped executor's future. Its `result()` loads a large result from the store.

        Raises:
            pickle.PicklingError: Something does not pickle; or the function is a lambda or of `__main__`, and
                cloudpickle is not installed. Other errors of pickling pass as they are.
            StoreError: A large argument could not be stored.
            StateChangedError: Another thread changed an argument meanwhile.
            RuntimeError: The executor has been shut down.

        """
        sending = self._begin()
        if isinstance(fn, _Prepared):
            return self._send(sending, fn.packed, fn.pack_call(sending.packer, args), fn.kind)
        call = sending.packer.pack((fn, args, kwargs), packing.pieces_of((fn, *args, *kwargs.values())))
        return self._send(sending, None, call, worker.ONE)

    @overload
    def map(
        self: "Executor[Literal['value']]",
        fn: Callable[..., Result],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        **more: Any,
    ) -> Iterator[Result]: ...

    @overload
    def map(
        self: "Executor[Literal['ref']]",
        fn: Callable[..., Result],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        **more: Any,
    ) -> "Iterator[Ref[Result]]": ...

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        **more: Any,
    ) -> Iterator[Any]:
        """Call a function with the items of iterables, in tasks. The function is pickled once for all of them.

        Args:
            fn: The function.
            *iterables: Its arguments. A Ref becomes its value.
            timeout: How many seconds to wait for all results, from this call on. Default: for ever.
            chunksize: How many items go into one task. Default: 1.
            **more: `buffersize`, from Python 3.14 on: how many tasks may be under way or done before their results are
                taken. Default: all.

        Returns:
            An iterator over the results, in order.

        Raises:
            TypeError: An option does not exist in this version of Python, or is of a wrong type.
            ValueError: An option's value is invalid.
            TimeoutError: From the iterator, if the results take longer than `timeout`.

        """
        chunksize = arguments.at_least_one("chunksize", chunksize)
        options = {"timeout": timeout, **more}
        if chunksize == 1:
            return super().map(self._prepared(fn, worker.ONE), *iterables, **options)
        rows = zip(*iterables, strict=False)
        chunks = iter(lambda: list(itertools.islice(rows, chunksize)), [])
        return _flat(super().map(self._prepared(fn, worker.EACH), chunks, **options))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - as everywhere
        """Shut the wrapped executor down, and give up what was shipped: `ana gc` may take it.

        A large result can be loaded afterwards, too.

        Args:
            wait: Whether to wait for the tasks. Default: True.
            cancel_futures: Whether to cancel tasks that have not begun. Default: False.

        """
        with self._lock:
            sending, self._sending, self._layer = self._sending, None, None
        # Not every executor knows the other argument.
        self._executor.shutdown(wait, **({"cancel_futures": True} if cancel_futures else {}))
        if sending is not None and sending.rooting is not None:
            sending.rooting.end()

    def _begin(self) -> "_Sending":
        """Return what is needed to send; the first time, open the store for it."""
        with self._lock:
            if self._sending is None:
                if self._layer is None:
                    msg = "cannot schedule new futures after shutdown"
                    raise RuntimeError(msg)
                self._sending = _Sending(self._layer, self._asked)
            return self._sending

    def _prepared(self, function: Callable[..., Any], kind: int) -> "_Prepared":
        return _Prepared(self._begin().packer.pack(function, packing.pieces_of((function,))), kind)

    def _send(
        self, sending: "_Sending", function: packing.Packed | None, call: packing.Packed, kind: int
    ) -> concurrent.futures.Future[Any]:
        payload = pickle.dumps((sending.settings, sending.roots(), function, call, kind), 5)
        return futures.open_with(self._executor.submit(worker.run, payload), sending.open)


class _Prepared:
    """The function of a `map`, pickled once for all of its tasks."""

    def __init__(self, packed: packing.Packed, kind: int) -> None:
        self.packed = packed
        self.kind = kind

    def pack_call(self, packer: packing.Packer, arguments: tuple[Any, ...]) -> packing.Packed:
        """Pack the arguments of a call, or those of the calls in a chunk, and no keyword arguments."""
        if self.kind == worker.ONE:
            return packer.pack((arguments, {}), packing.pieces_of(arguments))
        (chunk,) = arguments
        return packer.pack((chunk, {}), packing.pieces_of(itertools.chain.from_iterable(chunk)))

    def __call__(self, *arguments: Any) -> Any:
        """Do nothing: this stands for the function until `submit` sends it."""


class _Sending:
    """The store that an executor ships to, and what it tells its workers. Futures hold it until they are opened."""

    def __init__(self, layer: DataLayer, asked: dict[str, Any]) -> None:
        folder = temporary.TemporaryFolder("ana-tasks-") if layer.store.process_local else None
        store = layer.store if folder is None else opening.folder(folder.path, durable=False)
        made_on = "" if folder is None else temporary.host()
        said = packing.Settings(store.home, made_on, layer.live.keep_bytes, **asked)
        self._folder = folder
        self.depot = Depot(store, said.keep_bytes, durable=said.durable)
        self.rooting = Rooting(self.depot.store) if folder is None else None
        if self.rooting is not None:
            self.depot.on_stored = self.rooting.note
        self.settings = tuple(said)
        self.packer = packing.Packer(self.depot, said.min_bytes, by_name=said.by_name)

    def roots(self) -> list[keeping.Told]:
        """Return the roots that keep what a task stores. Nothing collects a temporary folder."""
        return [] if self.rooting is None else self.rooting.told()

    def open(self, reply: bytes) -> Any:
        """Return the result in a reply."""
        return worker.opened(reply, self.depot)


def _checked(executor: Any) -> Any:
    """Return what can be wrapped. Raises TypeError for anything else."""
    is_class = isinstance(executor, type)
    if is_class or not all(callable(getattr(executor, name, None)) for name in ("submit", "shutdown")):
        what = f"the class {executor.__name__}" if is_class else type(executor).__name__
        msg = (
            f"ana.Executor wraps an executor (concurrent.futures.Executor), not {what}: "
            "for tasks of other engines, see ana.unwrap"
        )
        raise TypeError(msg)
    if any(cls.__name__ == "InterpreterPoolExecutor" for cls in type(executor).__mro__):
        msg = "ana does not run in subinterpreters: use a ProcessPoolExecutor"
        raise TypeError(msg)
    return executor


def _run_the_same_script(executor: Any) -> bool:
    """Return whether an executor's workers have this program's `__main__`, so that its names mean the same there.

    Then tasks see the globals that an initializer has set, as without ANA. A notebook or an interactive session is not
    a script.
    """
    classes = type(executor).__mro__
    if any(cls.__name__ == "ThreadPoolExecutor" for cls in classes):
        return True
    if not any(cls.__module__ in _OF_SCRIPTS or cls.__module__.startswith("mpi4py.") for cls in classes):
        return False
    main = sys.modules["__main__"]
    is_script = hasattr(main, "__file__") and not hasattr(sys, "ps1") and not hasattr(sys, "ps2")
    return is_script or pickling.cloudpickler() is None


_OF_SCRIPTS = frozenset({"concurrent.futures.process"})


def _flat(chunks: Iterator[list[Result]]) -> Iterator[Result]:
    for chunk in chunks:
        yield from chunk
