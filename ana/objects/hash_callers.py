"""Who is pickling: a hash function (`joblib.hash`, `dask.tokenize`), or an engine that sends objects to its workers.

A hash must not write to the store, nor depend on where the store is. No library tells an object why it is pickled, so
this module looks at who called the pickler.
"""

import sys
from collections.abc import Container
from types import FrameType

__all__ = ["DASK", "engine", "insist", "is_asked"]

_JOBLIB, _DASK = "joblib.hashing", "dask.tokenize"
DASK = (_DASK,)
_PICKLERS = frozenset({"pickle", "cloudpickle", "cloudpickle.cloudpickle"})
_ENGINES = frozenset(
    {"dask", "distributed", "executorlib", "joblib", "loky", "mpi4py", "multiprocessing", "parsl", "ray", "submitit"}
)
_SAME_NOWHERE = object()
_REDUCTIONS = frozenset({"__reduce__", "__reduce_ex__", "_theirs", "theirs"})


def is_asked(by: Container[str] = (_JOBLIB, _DASK)) -> bool:
    """Return whether this thread is pickling only for a hash. Call it from within a reduction.

    Costs one or two look-ups if neither library is imported.
    """
    if _JOBLIB not in sys.modules and _DASK not in sys.modules:
        return False
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - the public way (inspect) is the same, slower
    while frame is not None:
        module = frame.f_globals.get("__name__")
        if module in (_JOBLIB, _DASK):
            return module in by
        # A class's own reduction, which calls ours, is between us and the pickler.
        if module not in _PICKLERS and frame.f_code.co_name not in _REDUCTIONS:
            return False
        frame = frame.f_back
    return False


def insist() -> None:
    """Raise dask's TokenizationError if dask insists on tokens that are the same in every process."""
    dask = sys.modules.get(_DASK)
    if dask is not None:
        dask.normalize_token(_SAME_NOWHERE)


def engine() -> str:
    """Return the name of the engine whose code called the pickler, or "". Call it from within a reduction."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - as above
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        package = module.partition(".")[0]
        if package in _ENGINES or module.startswith("ana.integrations."):
            return package
        if package not in ("ana", "pickle", "cloudpickle") and frame.f_code.co_name not in _REDUCTIONS:
            return ""
        frame = frame.f_back
    return ""
