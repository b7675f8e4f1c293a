"""Other processes of this program: the store that child processes inherit, and the objects that go to them by value.

multiprocessing copies the configuration of the process that starts a child into the child, also through a fork server
that already runs. Workers of loky, joblib and dask's LocalCluster are such children.
"""

import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ana.objects import hash_callers

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

__all__ = ["hand_down", "inherited_home", "inherited_roots", "leaves", "tell_by_value"]

_MODULE = "multiprocessing.process"
_HOME, _ROOTS = "ana_home", "ana_roots"

_is_fork = False
_copied_until = -math.inf
"""Forked relatives also have what was stored in memory before this moment (time.monotonic, s)."""
_told = False


class _Entry:
    """An entry of the configuration. Pickles into what `find` returns when a child is started."""

    def __init__(self, find: Callable[[], str], inherited: str) -> None:
        self.find = find
        self.inherited = inherited

    def __reduce__(self) -> tuple[Any, ...]:
        return str, (self.find(),)


class _OnImport:
    """Waits on `sys.meta_path` for the import of multiprocessing, which takes 10 ms and which ana itself avoids."""

    def __init__(self, then: Callable[[], None]) -> None:
        self.then = then

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> "ModuleSpec | None":
        """Find the module with the other finders, and call `then` once it has been executed."""
        if name != _MODULE:
            return None
        sys.meta_path.remove(self)
        found = (finder.find_spec(name, path, target) for finder in list(sys.meta_path))
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_tell(module: ModuleType) -> None:
                execute(module)
                self.then()

            # On this one loader only.
            vars(spec.loader)["exec_module"] = execute_and_tell
        return spec


def hand_down(find_home: Callable[[], str], find_roots: Callable[[], str]) -> None:
    """Have children that are started from now on inherit what the functions then return.

    Args:
        find_home: Returns the home of the current layer's store; "" for none.
        find_roots: Returns the roots that keep what this process stores, as a text.

    """
    module = sys.modules.get(_MODULE)
    if module is not None:
        said = module.current_process()._config  # noqa: SLF001 - it is what descendants inherit
        said[_HOME] = _Entry(find_home, inherited_home())
        said[_ROOTS] = _Entry(find_roots, inherited_roots())
    elif not any(isinstance(finder, _OnImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _OnImport(lambda: hand_down(find_home, find_roots)))


def inherited_home() -> str:
    """Return the home that this process inherited from its parent, or ""."""
    return _inherited(_HOME)


def inherited_roots() -> str:
    """Return the roots that this process inherited from its parent, or ""."""
    return _inherited(_ROOTS)


def _inherited(name: str) -> str:
    module = sys.modules.get(_MODULE)
    said = "" if module is None else module.current_process()._config.get(name, "")  # noqa: SLF001 - see hand_down
    return said.inherited if isinstance(said, _Entry) else str(said)


def leaves(looked: float) -> bool:
    """Return whether what is pickled now goes to a process that does not have this process's memory.

    `looked`: when the state was last seen in memory (time.monotonic, s). A child's pickles go to its parent, and an
    engine's to its workers. Forked children have what their parent had stored before the fork.
    """
    asks = hash_callers.engine()
    if asks and (asks != "multiprocessing" or not _all_forked()):
        return True
    if asks or _is_one_of_many():
        return looked >= _copied_until
    return False


def tell_by_value(what: str) -> None:
    """Warn once per process that something goes to other processes by value."""
    global _told  # noqa: PLW0603 - once
    if _told:
        return
    _told = True
    cure = "to send references, call ana.set_dl(pickle_dir=...) before the workers start, or set ANA_PICKLE_DIR"
    # If the user turned warnings into errors, raising here would fail the task, or hang a pool.
    with suppress(RuntimeWarning):
        warnings.warn(
            f"the layer is in memory, which other processes cannot see, so {what} goes to them by value: {cure}",
            RuntimeWarning,
            stacklevel=4,
        )


def _is_one_of_many() -> bool:
    """Return whether this process was started by another process of the same program, or is an MPI rank."""
    module = sys.modules.get(_MODULE)
    if _is_fork or (module is not None and module.parent_process() is not None):
        return True
    mpi: Any = sys.modules.get("mpi4py.MPI")
    # mpi4py pickles in compiled code, which no frame shows.
    return mpi is not None and mpi.Is_initialized() and not mpi.Is_finalized() and mpi.COMM_WORLD.size > 1


def _all_forked() -> bool:
    """Return whether all running children were forked, and none is being started in another way."""
    context = sys.modules["multiprocessing.context"]
    if context.get_spawning_popen() is not None:
        return False
    children = list(sys.modules[_MODULE]._children)  # noqa: SLF001 - active_children() would reap them
    return all(getattr(child._popen, "method", "") == "fork" for child in children)  # noqa: SLF001 - nowhere else


def _before_fork() -> None:
    global _copied_until  # noqa: PLW0603 - of this process
    module = sys.modules.get(_MODULE)
    if module is None or not module._children:  # noqa: SLF001 - active_children() would reap them
        _copied_until = time.monotonic()


def _after_fork() -> None:
    global _is_fork, _copied_until  # noqa: PLW0603 - of this process
    _is_fork = True
    _copied_until = time.monotonic()


os.register_at_fork(before=_before_fork, after_in_child=_after_fork)
