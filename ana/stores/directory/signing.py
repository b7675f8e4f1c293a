"""Finds the key that signs a tree's records, and checks it, so that a wrong key is not mistaken for damage."""

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from ana import settings
from ana.errors import CorruptedStateError, StoreError, UntrustedStoreError
from ana.format import record
from ana.format.signature import Seal
from ana.fs import files
from ana.fs.append_file import KeptFile
from ana.stores.directory import config, keyring
from ana.stores.directory.config import CONFIG, FORMAT, LEVELS, Config

if TYPE_CHECKING:
    from ana.stores.directory.tree import Tree

__all__ = ["check_key", "fields_again", "fields_of", "has_signed", "seal_of"]

_START_BYTES = 64 << 10
_ENOUGH = 8
"""How many states to read to see whether a tree's states are signed at all."""
_LOOKED_AT = 256
"""How many states to read to find a state that a key has signed."""


def seal_of(said: Config, root: str, given: keyring.KeyRing | None) -> Seal | None:
    """Return the seal for a tree's records; None if neither the tree nor this process has a key.

    Raises UntrustedStoreError if the key is missing or does not belong to the store.
    """
    ring = given or keyring.find(said.id, root, said.fingerprint)
    if ring is None:
        if said.keyed:
            cure = f"name its key file with {settings.KEY_FILE.name} or key=, or put it at ~/.config/ana/keys/{said.id}"
            raise UntrustedStoreError(root, f"this store has a key, which this process does not: {cure}")
        return None
    known = ring.path or "the given key"
    if not said.keyed or ring.store_id not in ("", said.id):
        reason = f"it has no key or another id, but {known} is for a store with a key: somebody may have replaced it"
        raise UntrustedStoreError(root, f"{reason}; compare {root}/ana.json, use another folder, or pass no key")
    seal = Seal(said.id, ring.keys)
    if said.fingerprint and said.fingerprint not in seal.fingerprints:
        reason = f"it has another key than {known}: wrong key file, or the store's key was rotated"
        cure = f"name its own key file ({settings.KEY_FILE.name}, key=), such as ~/.config/ana/keys/{said.id}"
        raise UntrustedStoreError(root, f"{reason}; {cure}")
    return seal


def fields_of(store_id: str, ring: keyring.KeyRing | None) -> dict[str, object]:
    """Return the fields of a new tree's `ana.json`."""
    fields: dict[str, object] = {"format": FORMAT, "levels": LEVELS, "id": store_id}
    if ring is None:
        return fields
    return {**fields, "keyed": True, "key": Seal(store_id, ring.keys).fingerprints[0]}


def fields_again(tree: "Tree", store_id: str, given: keyring.KeyRing | None) -> dict[str, object]:
    """Return the fields of an `ana.json` that was lost, with the key's fingerprint if the states are signed.

    Raises UntrustedStoreError if they cannot be determined.
    """
    ring = given or keyring.find("", tree.root)
    signed = any(record.is_signed(head) for _, head in islice(_heads(tree), _ENOUGH))
    if not signed and ring is None:
        return fields_of(store_id, None)
    where = f"{tree.root}/{CONFIG}"
    if not signed:
        reason = "it is gone, and the states here are not signed, although a key is known for them"
        raise UntrustedStoreError(where, f"{reason}: somebody may have replaced them; get it from a backup")
    ids = [] if ring is None else [ring.store_id, *ring.stores]
    for known in filter(None, ids):
        if ring is not None and has_signed(tree, Seal(known, ring.keys)):
            return fields_of(known, ring)
    reason = "it is gone, and the states here are signed with a key for the id that it held"
    cure = f"get it from a backup, or name the key file it was created with ({settings.KEY_FILE.name}, key=)"
    raise UntrustedStoreError(where, f"{reason}: {cure}")


def check_key(tree: "Tree", seal: Seal | None) -> None:
    """Check that a process has the tree's current key before it treats states as damaged.

    Raises UntrustedStoreError if a wrong key may be the reason that signatures do not match.
    """
    if seal is None:
        return
    said = config.read(tree.root, tree.trust)
    if said is not None and said.fingerprint:
        if said.fingerprint not in seal.fingerprints:
            reason = "its key was rotated after this process opened it, so damage looks the same as a wrong key"
            raise UntrustedStoreError(tree.root, f"{reason}: restart the program")
    elif not has_signed(tree, seal):
        reason = "no state in it is signed with this process's key, so damage looks the same as a wrong key"
        raise UntrustedStoreError(tree.root, f"{reason}: find out which key the store has")


def has_signed(tree: "Tree", seal: Seal) -> bool:
    """Return whether any state of a tree is signed with a key; then the key is the tree's."""
    for key, head in islice(_heads(tree), _LOOKED_AT):
        if record.is_signed(head) and seal.accepts(key, *record.signed_parts(head)):
            return True
    return False


def _heads(tree: "Tree") -> Iterator[tuple[str, memoryview]]:
    """Yield the UUIDs and headers of those states in a tree that can be read."""
    for path in tree.state_paths():
        try:
            opened = files.open_file(path, _START_BYTES, tree.trust.check_file)
            if opened is None:
                continue
            with opened:
                found = _head(memoryview(opened.start), opened.size_bytes, path)
        except (StoreError, UntrustedStoreError, CorruptedStateError):
            continue
        if found is not None:
            yield found
    for path in tree.pack_paths():
        yield from _packed_heads(tree, path)


def _packed_heads(tree: "Tree", path: str) -> Iterator[tuple[str, memoryview]]:
    """Yield the UUIDs and headers of the first records of a pack, as far as they can be read."""
    try:
        file = KeptFile.open(path, tree.trust.check_file)
        start = memoryview(b"" if file is None else file.read(0, _START_BYTES))
        while (found := _head(start, len(start), path)) is not None:
            yield found
            start = start[record.record_size(start, found[0], path) :]
    except (StoreError, UntrustedStoreError, CorruptedStateError):
        return


def _head(start: memoryview, size_bytes: int, path: str) -> tuple[str, memoryview] | None:
    """Return the UUID and the header of the record that begins like this; None if the header is longer."""
    key = record.key_of(start)
    end = record.header_size(start, size_bytes, key, path)
    return (key, start[:end]) if end <= len(start) else None
