"""The worker's half of an executor: puts a task together again, runs it, and packs its result.

Engines pickle `run` by its name, and a task's payload and reply as bytes. So nothing of a task is touched, and nothing
of it can fail, before the task runs.
"""

import pickle
from collections.abc import Sequence
from typing import Any

from ana import reference
from ana.persist import keeping
from ana.storable import Ref
from ana.tasks import depot, packing, unwrapping

__all__ = ["EACH", "ONE", "opened", "run"]

ONE, EACH = 0, 1
"""Whether a task is one call, or a call for each item of a chunk of a `map`."""
_VALUE, _REF, _REFS = 0, 1, 2
"""What a reply holds: a packed value, or the UUIDs of Refs and the hints where their states lie."""


def run(payload: bytes) -> bytes:
    """Run a task: the settings, the roots, the packed function, the packed call, and whether it is one call or many.

    The roots keep what the task stores.

    The function is None if it is part of the call. Returns the pickled reply. Raises what the task raises, or what
    keeps its arguments or its result from travelling.
    """
    values, *task = pickle.loads(payload)  # noqa: S301 - what an engine does with its tasks
    settings = packing.Settings(*values)
    try:
        return pickle.dumps(_reply(settings, *task), 5)
    except BaseException as error:
        if isinstance(error, ValueError) and "read-only" in str(error) and not settings.writable:
            error.add_note("Arrays that an ana.Executor sends are read-only: copy this one, or set writable=True.")
        if not settings.by_name:
            packing.make_portable(error)
        raise


def _reply(
    settings: packing.Settings,
    roots: list[keeping.Told],
    function: packing.Packed | None,
    call: packing.Packed,
    kind: int,
) -> tuple[int, Any]:
    place = depot.of_home(settings.home, settings.keep_bytes, durable=settings.durable, made_on=settings.made_on)
    with keeping.within(place.store, roots):
        return _reply_from(place, settings, function, call, kind)


def _reply_from(
    place: depot.Depot,
    settings: packing.Settings,
    function: packing.Packed | None,
    call: packing.Packed,
    kind: int,
) -> tuple[int, Any]:
    result = _result(_copies_of(place.shared) if settings.writable else place.shared, function, call, kind)
    if not settings.as_ref:
        return _VALUE, packing.Packer(place, settings.min_bytes, by_name=settings.by_name).pack(result)
    if kind == EACH:
        return _REFS, [_kept(place, one) for one in result]
    return _REF, _kept(place, result)


def _result(fetch: packing.Fetch, function: packing.Packed | None, call: packing.Packed, kind: int) -> Any:
    if function is None:
        task, arguments, named = packing.unpack(call, fetch)
    else:
        task = packing.unpack(function, fetch)
        arguments, named = packing.unpack(call, fetch)
    if kind == EACH:
        return [unwrapping.call(task, item, named) for item in arguments]
    return unwrapping.call(task, arguments, named)


def _kept(place: depot.Depot, result: object) -> tuple[str, str]:
    """Store a result as a Ref. Return its UUID, and the hint where its state lies."""
    mark = place.layer.make_address(Ref(result), None)
    return mark.uuid, place.store.hint(mark.uuid)


def _copies_of(fetch: packing.Fetch) -> packing.Fetch:
    def copies(parts: Sequence[depot.Part]) -> list[depot.Buffer]:
        return [data if isinstance(data, bytes) else memoryview(bytearray(data)) for data in fetch(parts)]

    return copies


def opened(reply: bytes, place: depot.Depot) -> Any:
    """Return the result in a reply, in the process that has sent the task. Raises what loading raises."""
    kind, said = pickle.loads(reply)  # noqa: S301 - from our own worker
    if kind == _VALUE:
        return packing.unpack(said, place.private)
    found = [reference.load(Ref, uuid, place.store.home, hint) for uuid, hint in (said if kind == _REFS else [said])]
    return found if kind == _REFS else found[0]
