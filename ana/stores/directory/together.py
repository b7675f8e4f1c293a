"""Puts states into a pack together: with one write, and one wait for the disk."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ana.errors import ANAError
from ana.stores.base import Done, Put

if TYPE_CHECKING:
    from ana.stores.directory.store import DirectoryStore

__all__ = ["put"]


def put(store: "DirectoryStore", puts: Sequence[Put], done: Done) -> list[int]:
    """Put those states that go into a pack, and tell `done` of them; return the numbers of the others."""
    others, waiting = [], []
    for number, one in enumerate(puts):
        began = time.perf_counter()
        try:
            data = store.record_for_pack(one)
        except Exception as error:  # noqa: BLE001 - told to the caller
            done(number, error=error)
            continue
        if data is None:
            others.append(number)
        elif data:
            waiting.append((number, data, began))
        else:
            store.counters.note_found(one.key, one.state.own_bytes, began)
            done(number)
    if waiting:
        _append(store, puts, waiting, done)
    return others


def _append(
    store: "DirectoryStore", puts: Sequence[Put], waiting: Sequence[tuple[int, bytes, float]], done: Done
) -> None:
    try:
        store.packs.append([(puts[number].key, data) for number, data, _ in waiting])
    except ANAError as error:
        for number, _, began in waiting:
            if store.is_there_anyway(puts[number].key, error):
                store.counters.note_found(puts[number].key, puts[number].state.own_bytes, began)
                done(number)
            else:
                done(number, error=error)
        return
    for number, data, began in waiting:
        store.counters.note_stored(puts[number].key, puts[number].state.own_bytes, len(data), began)
        done(number, written=True)
