"""Who calls: a hash function (`joblib.hash`, `dask.tokenize`), an engine that sends objects, or an object's `__init__`.

A hash must not write to the store, nor depend on where the store is. No library tells an object why it is pickled, so
this module looks at the frames of the callers.
"""

import sys
from collections.abc import Container
from types import FrameType

from ana.objects import class_names, ghost

__all__ = ["DASK", "arguments", "engine", "insist", "is_asked", "is_under_construction"]

_JOBLIB, _DASK = "joblib.hashing", "dask.tokenize"
DASK = (_DASK,)
_PICKLERS = frozenset({"pickle", "cloudpickle", "cloudpickle.cloudpickle"})
_ENGINES = frozenset(
    {"dask", "distributed", "executorlib", "joblib", "loky", "mpi4py", "multiprocessing", "parsl", "ray", "submitit"}
)
_OUR_ENGINES = ("ana.integrations.", "ana.tasks.")
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
        if package in _ENGINES or module.startswith(_OUR_ENGINES):
            return package
        if package not in ("ana", "pickle", "cloudpickle") and frame.f_code.co_name not in _REDUCTIONS:
            return ""
        frame = frame.f_back
    return ""


def arguments(obj: object, uuid: str) -> tuple[str | int, ...]:
    """Return what a hash is made of: the UUID and, if the class was redefined, the number of its definition."""
    number = class_names.generation(ghost.loaded_class(obj))
    return (uuid, number) if number else (uuid,)


def is_under_construction(obj: object) -> bool:
    """Return whether the object's own `__init__` is still running, so that its content is not complete yet."""
    frame: FrameType | None = sys._getframe(2)  # noqa: SLF001 - as above
    while frame is not None:
        code = frame.f_code
        if code.co_name == "__init__" and code.co_argcount and frame.f_locals.get(code.co_varnames[0]) is obj:
            return True
        frame = frame.f_back
    return False
