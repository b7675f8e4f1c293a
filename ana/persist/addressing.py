"""Addresses of objects that refer to one another: nesting, cycles, depth and failures.

An address follows from a state, and a state contains the addresses of the objects in it. So the inner addresses are
made while the outer state is being pickled.
"""

import threading
from collections.abc import Callable
from typing import Any

from ana.objects.class_names import class_name
from ana.objects.identity import Mark

__all__ = ["address", "foresee", "foreseen", "is_final", "is_foreseeing", "meet"]

Find = Callable[[Any], str | None]
Note = Callable[[Any, str | None], None]

MAX_NESTED = 20
"""How many addresses may wait for one another on Python's stack. Deeper objects are addressed from further up."""
MOST_WAITING = 1000
"""How often that may happen before the nesting counts as endless. Chains of 10,000 Refs are stored."""


class _Cycle(BaseException):
    """An object was met in the state of an object that it refers to: a cycle."""

    def __init__(self, obj: object) -> None:
        super().__init__()
        self.obj = obj


class _TooDeep(BaseException):
    """An object is nested so deeply that Python's stack might not suffice to address it."""

    def __init__(self, obj: object) -> None:
        super().__init__()
        self.obj = obj


class _Unforeseen(BaseException):
    """The address cannot be foreseen. Not an Exception: after one of those, picklers would try another way."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.error = error


class _State:
    """What one thread is addressing."""

    def __init__(self) -> None:
        self.addressing: dict[int, Any] = {}
        self.foreseeing: dict[int, Any] = {}
        """The object whose address is asked for, and the objects met in it, down to the one that is being pickled."""
        self.foreseeing_depth = 0
        self.depth = 0
        self.failed: Exception | None = None


class _Local(threading.local):
    def __init__(self) -> None:
        self.state = _State()


_local = _Local()


def meet(obj: object) -> None:
    """Note an object without a UUID in the state that is being pickled."""
    if id(obj) in _local.state.addressing:
        raise _Cycle(obj)


def is_final(error: Exception) -> bool:
    """Return whether an error came from addressing an object in the state, or from a signal handler.

    Pickling again would not cure the former, and would swallow the latter.
    """
    return error is _local.state.failed or _is_from_signal(error)


def address(obj: Any, make: Callable[[Any], Mark], give: Callable[[Any], Mark]) -> Mark:
    """Return the mark that `make` gives to an object. At great depth, `make` marks inner objects first.

    An object that is part of a cycle gets its mark from `give`, which does not use the state. Raises what `make`
    raises, and RecursionError if the nesting is endless.
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
    """Find the address that an object would get, and pass it to `note`. Nothing is stored, and no object gets a UUID.

    The address is None in cycles, if pickling fails, or if an object in the state has none. Every object that is met is
    noted as well, so each is pickled once or twice, not once for each path to it. Raises what a signal handler raises.
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
    """Return the foreseen address of an object in a state. Without one, end the search for the state's own address."""
    if uuid is None:
        raise _Unforeseen
    return uuid


def _foresee_all(state: _State, obj: Any, find: Find, note: Note) -> None:
    """Foresee an object's address. If objects are deeply nested in it, foresee theirs first, one after the other."""
    above = state.foreseeing
    above[id(obj)] = obj
    while above:
        # The last object that waits for others. The objects above it stay noted: to meet one of them is a cycle.
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
    # It stays there if this fails: the objects that are there then have no address, or wait for another.
    state.foreseeing[id(obj)] = obj
    state.foreseeing_depth += 1
    try:
        found = foreseen(find(obj))
    except Exception as error:  # noqa: BLE001 - whatever pickling raises; the caller that pickles will see it
        raise _Unforeseen(error) from None
    finally:
        state.foreseeing_depth -= 1
    del state.foreseeing[id(obj)]
    note(obj, found)


def is_foreseeing() -> bool:
    """Return whether this thread pickles a state only for its address, so that nothing may be stored."""
    return bool(_local.state.foreseeing)


def _address_all(state: _State, waiting: list[Any], make: Callable[[Any], Mark], give: Callable[[Any], Mark]) -> Mark:
    """Address the waiting objects from the last to the first, and return the mark of the first."""
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
    """Prepare the last waiting object for another try. Raises `met` if a caller further up has to do it."""
    if isinstance(met, _Cycle):
        if not any(met.obj is one for one in waiting):
            raise met
        give(met.obj)
        return
    # Unwind only half of the stack: the states further up, perhaps large, keep being pickled.
    if state.depth > MAX_NESTED // 2:
        raise met
    _check_depth(waiting, met.obj)
    waiting.append(met.obj)


def _check_depth(waiting: list[Any], obj: object) -> None:
    """Raise RecursionError if the nesting is endless, as in states that make a new Ref each time they are pickled."""
    if len(waiting) >= MOST_WAITING:
        msg = f"{class_name(type(obj))}: nested in others that have no UUID yet, too deeply or without an end"
        raise RecursionError(msg) from None


def _is_from_signal(error: Exception) -> bool:
    """Return whether a signal handler raised an error. Such an error says nothing about the object."""
    import signal  # noqa: PLC0415 - takes 1 ms, and only a failure gets here

    handlers = {getattr(signal.getsignal(number), "__code__", None) for number in signal.valid_signals()} - {None}
    trace = error.__traceback__
    while handlers and trace is not None:
        if trace.tb_frame.f_code in handlers:
            return True
        trace = trace.tb_next
    return False
