"""Write records of packs into new packs: without what is dead or damaged, or signed anew. For maintenance."""

import math
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

from ana.errors import CorruptedStateError, StoreError
from ana.format import pack, record
from ana.format.pack import Spot
from ana.format.signature import Seal
from ana.fs import append_file, atomic, files
from ana.stores.directory import signing, trash
from ana.stores.directory.pack_copier import PackCopier
from ana.stores.directory.pack_survey import PackFile, PackSurvey
from ana.stores.directory.pack_table import read_table
from ana.stores.directory.store import DirectoryStore

__all__ = ["Item", "check", "finish", "set_aside", "sign_anew", "whole", "write"]


class Item(NamedTuple):
    """A verified record and its key's number."""

    number: int
    data: bytes


def check(store: DirectoryStore, key: str, data: memoryview, where: str) -> record.Header:
    """Verify all of a record; return its header. Raises CorruptedStateError, UnsupportedFormatError."""
    header = record.parse_header(data, len(data), key, where, store.seal)
    record.verify(header, record.reader(data), where)
    return header


def whole(survey: PackSurvey, one: PackFile, spots: Iterable[tuple[int, Spot]]) -> Iterator[Item]:
    """Yield those of a pack's records that are whole, in the order in which they lie. Raises StoreError."""
    for number, spot, data in survey.records(one, spots):
        if data is not None:
            with suppress(CorruptedStateError):
                check(survey.store, pack.key_of_number(number), data, one.where(spot))
                yield Item(number, bytes(data))


def write(store: DirectoryStore, items: Iterable[Item], modified: float) -> list[str]:
    """Write records into new packs that are as old as `modified`, verify them, and return the names of the packs.

    On return they are sealed and on the disk. Raises StoreError, CorruptedStateError.
    """
    copier = PackCopier(store)
    try:
        for number, data in items:
            copier.add(pack.key_of_number(number), data, modified)
            if copier.is_due:
                copier.write()
    finally:
        copier.seal()
    for name in copier.names:
        _verify(store, f"{store.packs.folder}/{name}")
    return copier.names


def set_aside(survey: PackSurvey, one: PackFile) -> str | None:
    """Copy the whole records of a pack with damage into a new one, and rename it to `.bad-…`; return its new name.

    Returns None if it has gone. Raises StoreError, and UntrustedStoreError if a wrong key may be the reason.
    """
    store = survey.store
    signing.check_key(store.tree, store.seal)
    found = files.stat(one.path)
    if found is None:
        return None
    hidden = ((pack.number_of(key), spot) for key, spot in survey.hidden(one))
    write(store, whole(survey, one, {**dict(one.table.items()), **dict(hidden)}.items()), one.modified)
    aside = atomic.set_aside(one.path, found.identity)
    trash.forget(one.own_path, found.identity)
    return aside


def sign_anew(survey: PackSurvey, one: PackFile) -> tuple[int, list[Spot]]:
    """Write a pack's records into a new one, signed with the store's current key, unless all of them are.

    Returns how many were signed, and where damaged ones lie. Without any, the old pack goes into the trash. Raises
    StoreError.
    """
    seal = survey.store.seal
    # A copy outside of the trash has been signed by now.
    left = {number: spot for number, spot in one.table.items() if not one.trashed or survey.first(number) is None}
    if seal is None or all(_is_current(seal, number, data) for number, _, data in survey.records(one, left.items())):
        return 0, []
    items = [_signed(seal, item, one.path) for item in whole(survey, one, left.items())]
    write(survey.store, items, one.modified)
    for number, _ in items:
        del left[number]
    if not (left or one.trashed):
        trash.discard(one.path, math.inf)
    return len(items), sorted(left.values())


def _is_current(seal: Seal, number: int, data: memoryview | None) -> bool:
    """Return whether a record is signed with the current key, or has gone."""
    if data is None:
        return True
    key = pack.key_of_number(number)
    with suppress(CorruptedStateError):
        end = record.header_size(data, len(data), key, key)
        return seal.number(key, *record.signed_parts(data[:end])) == 0
    return False


def _signed(seal: Seal, item: Item, where: str) -> Item:
    key = pack.key_of_number(item.number)
    end = record.header_size(item.data, len(item.data), key, where)
    return Item(item.number, record.sealed_anew(item.data[:end], key, seal) + item.data[end:])


def finish(survey: PackSurvey, one: PackFile) -> bool:
    """Seal the pack of a killed writer: append its index or, if that cannot be, write its records into a new pack.

    Returns False if somebody has changed it meanwhile. Raises StoreError.
    """
    table = one.table
    if table.end == one.size_bytes:
        with suppress(StoreError):
            return append_file.finish(one.path, table.end, pack.index_frame(table.walked, table.end))
    write(survey.store, whole(survey, one, table.items()), one.modified)
    return trash.discard(one.path, math.nextafter(one.modified, math.inf)) == trash.MOVED


def _verify(store: DirectoryStore, path: str) -> None:
    """Read and verify a new pack from end to end."""
    file = append_file.KeptFile.open(path, store.tree.trust.check_file)
    if file is None:
        raise StoreError(path, 2, "it vanished after it was written")
    table = read_table(file, None, store.seal)
    for number, spot in table.items():
        check(store, pack.key_of_number(number), memoryview(file.read(*spot)), f"{path}:{spot.offset}")
