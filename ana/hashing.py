"""Whether a pickling is done for a hash alone (`joblib.hash`, `dask.tokenize`): nobody will load it.

Such a pickling must write nothing, and must not depend on where the store is. Neither library says so to
the objects that it pickles; it shows in who called the pickler.
"""

import sys
from types import FrameType

__all__ = ["is_asked"]

_JOBLIB, _DASK = "joblib.hashing", "dask.tokenize"
_PICKLERS = frozenset({"pickle", "cloudpickle", "cloudpickle.cloudpickle"})
_REDUCTIONS = frozenset({"__reduce__", "__reduce_ex__", "_theirs", "theirs"})


def is_asked() -> bool:
    """Say whether this thread is pickling for a hash; to be called from within a reduction.

    Costs a look-up or two where neither library is imported.
    """
    if _JOBLIB not in sys.modules and _DASK not in sys.modules:
        return False
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - the public way (inspect) is the same, slower
    while frame is not None:
        module = frame.f_globals.get("__name__")
        if module in (_JOBLIB, _DASK):
            return True
        # A reduction between us and the pickler: a class's own, which calls ours.
        if module not in _PICKLERS and frame.f_code.co_name not in _REDUCTIONS:
            return False
        frame = frame.f_back
    return False
