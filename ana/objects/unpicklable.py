"""Finds what in a state cannot be pickled, where it is, and what to do about it. Runs only after a failure.

The pickler tells which object it met last. The path to that object is searched from the object to be stored, through
containers, attributes and closures.
"""

import collections
import functools
import io
import pickle
import time
from collections.abc import Callable, Iterable, Iterator
from types import CellType, FunctionType, MethodType
from typing import Any

from ana.objects import identity, pickling
from ana.objects.ghost import loaded_class
from ana.objects.out_of_band import PROTOCOL
from ana.runtime.tracebacks import users_frame

__all__ = ["explain"]

MOST_SECONDS = 2.0
"""How long the search may take. The message does not name what was not found by then."""
MOST_OBJECTS = 500_000
_REMEMBERED = 64
"""How many of the last objects that the pickler met are searched for. The very last may exist only for the pickle."""
_MOST_PARTS = 12
_ORDINARY = (AttributeError, NotImplementedError, RecursionError, TypeError, ValueError, pickle.PicklingError)
"""Errors whose `str` is only their message, so that an addition to it shows wherever it is printed."""
_ATOMS = (bool, bytes, bytearray, complex, float, int, str, type, type(None))


def explain(error: Exception, obj: Any) -> None:
    """Add to an error the class, the path to what cannot be pickled, and the cure, if the object has a state."""
    name = loaded_class(obj).__qualname__
    try:
        state = obj._ana_getstate()
    except Exception:  # noqa: BLE001 - the first error is raised, and is enough
        return
    try:
        found = _way(obj, state, name)
    except Exception:  # noqa: BLE001 - the state's own code may raise anything
        found = None
    what = f"in {name}" if found is None else f"{found[0]} is a {found[1]}"
    text = f"{what}. {_theirs(error) or _cure(error)}"
    if type(error) in _ORDINARY and len(error.args) == 1 and isinstance(error.args[0], str):
        error.args = (f"{error.args[0]}: {text}",)
    else:
        error.add_note(text)


def _theirs(error: Exception) -> str:
    """Return what to do about an error that the code of the object's class raised; "" if it is pickle's own."""
    frame = users_frame(error)
    if frame is None:
        return ""
    return f"{frame.f_code.co_qualname} raised this: correct it there, or leave the object out of what holds it"


def _cure(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "What is nested so deeply pickles in pieces: put parts of it into ana.Ref, or keep it as a list"
    without = pickling.cloudpickler() is None
    return (
        "Leave it out in _ana_getstate (or __getstate__) and make it anew in _ana_setstate (or __setstate__)"
        f"{', or install cloudpickle, which can pickle functions and local classes' if without else ''}"
    )


def _way(obj: Any, state: object, name: str) -> tuple[str, str] | None:
    """Return the path from an object to what cannot be pickled, and its type."""
    until = time.monotonic() + MOST_SECONDS
    wanted = {id(met): (place, met) for place, met in enumerate(_last_met(state, until))}
    last = max((place for place, _ in wanted.values()), default=-1)
    best, best_place = None, -1
    for node in _walk(_roots(obj, state), until):
        place = wanted.get(id(node.obj), (-1,))[0]
        if place > best_place:
            best, best_place = node, place
        if best_place == last:
            break
    if best is None:
        return None
    parts = best.steps()
    if len(parts) > _MOST_PARTS:
        half = _MOST_PARTS // 2
        parts = [*parts[:half], " … ", *parts[-half:]]
    kind = type(best.obj)
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return name + "".join(parts), f"{module}{kind.__qualname__}"


def _roots(obj: Any, state: object) -> list["_Node"]:
    if getattr(type(obj), "_ana_lazy", False):
        return [_Node(state, ".value", None)]
    return [_Node(obj, "", None), _Node(state, "._ana_getstate()", None)]


class _Enough(Exception):  # noqa: N818 - an answer, not an error
    pass


def _last_met(state: object, until: float) -> list[Any]:
    """Pickle a state until that fails, and return the last objects that were met, in order."""
    met: collections.deque[Any] = collections.deque(maxlen=_REMEMBERED)
    count = 0
    base: Any = pickling.cloudpickler() or pickle.Pickler

    class Scout(base):  # type: ignore[misc]  # whichever there is
        def persistent_id(self, obj: Any) -> Any:
            nonlocal count
            count += 1
            if not count % 256 and time.monotonic() > until:
                raise _Enough
            if isinstance(obj, _ATOMS) and not isinstance(obj, type):
                return None
            if getattr(type(obj), "_ana_lazy", False) or identity.mark_of(obj) is not None:
                # It goes by reference, which cannot fail but would store the object.
                return "by reference"
            met.append(obj)
            return None

    try:
        Scout(io.BytesIO(), PROTOCOL, buffer_callback=lambda _: None).dump(state)
    except _Enough:
        return []
    except Exception:  # noqa: BLE001 - the objects met last are known
        return list(met)
    finally:
        # Otherwise only the garbage collector frees the class, and Python 3.11 crashes if it finds a PickleBuffer with
        # gaps there.
        met.clear()
    return []


class _Node:
    """An object, and the step from another object to it."""

    __slots__ = ("obj", "parent", "step")

    def __init__(self, obj: Any, step: str, parent: "_Node | None") -> None:
        self.obj = obj
        self.step = step
        self.parent = parent

    def steps(self) -> list[str]:
        """Return the steps from the root."""
        found: list[str] = []
        node: _Node | None = self
        while node is not None:
            found.append(node.step)
            node = node.parent
        return found[::-1]


def _walk(roots: list[_Node], until: float) -> Iterator[_Node]:
    """Yield the reachable objects within the limits, nearest first, each once."""
    todo = collections.deque(roots)
    # Temporary objects stay alive during the walk: otherwise another object could get their id.
    seen: dict[int, Any] = {}
    while todo and len(seen) < MOST_OBJECTS and time.monotonic() < until:
        node = todo.popleft()
        if id(node.obj) in seen:
            continue
        seen[id(node.obj)] = node.obj
        yield node
        for step, child in _children(node.obj):
            if id(child) not in seen and len(todo) < MOST_OBJECTS:
                todo.append(_Node(child, step, node))


def _children(obj: Any) -> Iterator[tuple[str, Any]]:
    """Yield the objects that an object holds, each with the expression for it."""
    if isinstance(obj, _ATOMS):
        return
    if isinstance(obj, dict):
        for key, value in dict.items(obj):
            yield f"[{_short(key)}]", value
            yield f" key {_short(key)}", key
    elif isinstance(obj, list | tuple | collections.deque):
        yield from ((f"[{number}]", value) for number, value in enumerate(obj))
    elif isinstance(obj, set | frozenset):
        yield from ((" element", value) for value in obj)
    yield from _attributes(obj)


def _attributes(obj: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(obj, FunctionType):
        cells: Iterable[tuple[str, Any]] = zip(obj.__code__.co_freevars, obj.__closure__ or (), strict=False)
        yield from ((f".{name}", cell) for name, cell in cells)
        yield from ((f".{name}", obj.__globals__[name]) for name in obj.__code__.co_names if name in obj.__globals__)
        yield ".__defaults__", obj.__defaults__
    elif isinstance(obj, CellType):
        yield "", obj.cell_contents
    elif isinstance(obj, MethodType):
        yield ".__self__", obj.__self__
    elif isinstance(obj, functools.partial):
        yield from ((f".{name}", getattr(obj, name)) for name in ("func", "args", "keywords"))
    elif getattr(type(obj), "_ana_lazy", False) or identity.mark_of(obj) is None:
        # Not by `getattr`, which may run a user's code.
        yield from ((f".{name}", value) for name, value in _held(obj).items())


def _held(obj: Any) -> dict[str, Any]:
    try:
        held = dict(object.__getattribute__(obj, "__dict__"))
    except AttributeError:
        held = {}
    for base in type(obj).__mro__:
        names = vars(base).get("__slots__", ())
        for name in (names,) if isinstance(names, str) else names:
            member: Callable[..., Any] | None = getattr(vars(base).get(name), "__get__", None)
            if member is not None and name not in ("__dict__", "__weakref__"):
                try:
                    held[name] = member(obj)
                except AttributeError:
                    continue
    return held


def _short(key: object) -> str:
    return repr(key) if isinstance(key, str | int) and len(repr(key)) <= 40 else f"<{type(key).__name__}>"  # noqa: PLR2004 - fits a line
