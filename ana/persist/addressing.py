"""Objects that get an address while the states of others are pickled for theirs: circles, depth, failures.

An address follows from a state, and a state from the addresses in it. So addresses are made one within the other.
"""

import signal
import threading
from collections.abc import Callable
from typing import Any

from ana.objects.class_names import class_name
from ana.objects.identity import Mark

__all__ = ["address", "foresee", "foreseen", "is_final", "is_foreseeing", "meet"]

Find = Callable[[Any], str | None]
Note = Callable[[Any, str | None], None]

MAX_NESTED = 20
"""So deep do addresses wait for one another on Python's stack; deeper ones are made from further up."""
MOST_WAITING = 1000
"""So often is that done before it is taken for endless: chains of 10,000 Refs are stored."""


class _Cycle(BaseException):
    """An object whose content is being addressed was met in the state of an object that it refers to."""

    def __init__(self, obj: object) -> None:
        super().__init__()
        self.obj = obj


class _TooDeep(BaseException):
    """An object has to be addressed for so many others' sake that Python's stack might not do."""

    def __init__(self, obj: object) -> None:
        super().__init__()
        self.obj = obj


class _Unforeseen(BaseException):
    """No address can be foreseen, whatever else is tried. Not an error: picklers try another way after one."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.error = error


class _State:
    """What one thread is at."""

    def __init__(self) -> None:
        self.addressing: dict[int, Any] = {}
        self.foreseeing: dict[int, Any] = {}
        """The object whose address is asked for, and what was met in it, down to what is being pickled."""
        self.foreseeing_depth = 0
        self.depth = 0
        self.failed: Exception | None = None


class _Local(threading.local):
    def __init__(self) -> None:
        self.state = _State()


_local = _Local()


def meet(obj: object) -> None:
    """Note that the state that is being pickled holds an object that has no UUID yet."""
    if id(obj) in _local.state.addressing:
        raise _Cycle(obj)


def is_final(error: Exception) -> bool:
    """Return whether an error came from addressing another object, which was met, or from a signal's handler.

    To pickle again is no cure for the former, and would swallow the latter.
    """
    return error is _local.state.failed or _is_from_signal(error)


def address(obj: Any, make: Callable[[Any], Mark], give: Callable[[Any], Mark]) -> Mark:
    """Return the mark that `make` gives to an object, and to others before it where depth demands that.

    Where it is met again meanwhile, `give` gives it one that does not follow from its state. Raises what `make` raises;
    RecursionError where there is no end.
    """
    state = _local.state
    if id(obj) in state.addressing:
        raise _Cycle(obj)
    if state.depth >= MAX_NESTED:
        raise _TooDeep(obj)
    waiting = [obj]
    state.depth += 1
    state.addressing[id(obj)] = obj
    try:
        try:
            return make(obj)
        except (_Cycle, _TooDeep) as met:
            _prepare(state, waiting, met, give)
            return _address_all(state, waiting, make, give)
    except Exception as error:
        state.failed = error
        raise
    finally:
        for one in waiting:
            state.addressing.pop(id(one), None)
        state.depth -= 1
        if not state.depth:
            state.failed = None


def foresee(obj: Any, find: Find, note: Note) -> None:
    """Tell `note` which address `find` says an object would get, which nothing is given and nothing is stored for.

    None where there is none: in circles, where pickling fails, where what is met has none. So for all objects that
    are met: each is pickled once or twice, not once for each way to it. Raises what a signal's handler raises.
    """
    state = _local.state
    if state.foreseeing:
        _foresee_within(state, obj, find, note)
        return
    try:
        _foresee_all(state, obj, find, note)
    except _Unforeseen as unforeseen:
        if unforeseen.error is not None and _is_from_signal(unforeseen.error):
            raise unforeseen.error from None
        for one in state.foreseeing.values():
            note(one, None)
    finally:
        state.foreseeing.clear()


def foreseen(uuid: str | None) -> str:
    """Return an address that was foreseen, within a state whose own one is asked for; where there is none, end that."""
    if uuid is None:
        raise _Unforeseen
    return uuid


def _foresee_all(state: _State, obj: Any, find: Find, note: Note) -> None:
    """Foresee an object's address; first those of others, one after the other, where it has many within each other."""
    above = state.foreseeing
    above[id(obj)] = obj
    while above:
        # The last of those that wait for others, which it stays below: to meet one of them is a circle.
        one = above.popitem()[1]
        try:
            _foresee_within(state, one, find, note)
        except _TooDeep as met:
            above[id(met.obj)] = met.obj
            if len(above) > MOST_WAITING * MAX_NESTED:
                raise _Unforeseen from None


def _foresee_within(state: _State, obj: Any, find: Find, note: Note) -> None:
    if id(obj) in state.foreseeing:
        raise _Unforeseen
    if state.foreseeing_depth >= MAX_NESTED:
        raise _TooDeep(obj)
    # It stays there where this fails: what is there then has no address, or waits for another.
    state.foreseeing[id(obj)] = obj
    state.foreseeing_depth += 1
    try:
        found = foreseen(find(obj))
    except Exception as error:  # noqa: BLE001 - whatever pickling raises; whoever pickles will be told
        raise _Unforeseen(error) from None
    finally:
        state.foreseeing_depth -= 1
    del state.foreseeing[id(obj)]
    note(obj, found)


def is_foreseeing() -> bool:
    """Return whether this thread pickles a state for its address alone, so that nothing may be stored."""
    return bool(_local.state.foreseeing)


def _address_all(state: _State, waiting: list[Any], make: Callable[[Any], Mark], give: Callable[[Any], Mark]) -> Mark:
    """Address the last object that waits, and so on, up to the first, whose mark is returned."""
    while True:
        obj = waiting[-1]
        state.addressing[id(obj)] = obj
        try:
            mark = make(obj)
        except (_Cycle, _TooDeep) as met:
            _prepare(state, waiting, met, give)
        else:
            del state.addressing[id(obj)]
            waiting.pop()
            if not waiting:
                return mark


def _prepare(state: _State, waiting: list[Any], met: _Cycle | _TooDeep, give: Callable[[Any], Mark]) -> None:
    """Do what the last object that waits needs before it can be addressed. Raises `met` where others have to do it."""
    if isinstance(met, _Cycle):
        if not any(met.obj is one for one in waiting):
            raise met
        give(met.obj)
        return
    # Only half of the stack is taken down: states further up, perhaps large, go on being pickled.
    if state.depth > MAX_NESTED // 2:
        raise met
    _check_depth(waiting, met.obj)
    waiting.append(met.obj)


def _check_depth(waiting: list[Any], obj: object) -> None:
    """Raise RecursionError where there is no end: states, say, that make a new Ref each time they are asked for."""
    if len(waiting) >= MOST_WAITING:
        msg = f"{class_name(type(obj))}: nested in others that have no UUID yet, too deeply or without an end"
        raise RecursionError(msg) from None


def _is_from_signal(error: Exception) -> bool:
    """Say whether a signal's handler raised an error: somebody wants to end what goes on, and it says nothing of it."""
    handlers = {getattr(signal.getsignal(number), "__code__", None) for number in signal.valid_signals()} - {None}
    trace = error.__traceback__
    while handlers and trace is not None:
        if trace.tb_frame.f_code in handlers:
            return True
        trace = trace.tb_next
    return False
