"""Which key a tree's records are signed with, and whether a key is that one: a wrong key is not damage."""

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from ana import settings
from ana.errors import CorruptedStateError, StoreError, UntrustedStoreError
from ana.format import record
from ana.format.signature import Seal
from ana.fs import files
from ana.stores.directory import config, keyring
from ana.stores.directory.config import CONFIG, FORMAT, LEVELS, Config

if TYPE_CHECKING:
    from ana.stores.directory.tree import Tree

__all__ = ["check_key", "fields_again", "fields_of", "has_signed", "seal_of"]

_START_BYTES = 64 << 10
_ENOUGH = 8
"""So many states are looked at to see whether a tree's are signed at all."""
_LOOKED_AT = 256
"""So many are looked at to find one that a key has signed."""


def seal_of(said: Config, root: str, given: keyring.KeyRing | None) -> Seal | None:
    """Return what a tree's records are signed with, if it has a key. Never less than what was asked for or is known.

    Raises UntrustedStoreError for a key that is missing, or is not the store's.
    """
    ring = given or keyring.find(said.id, root, said.fingerprint)
    if ring is None:
        if said.keyed:
            cure = f"name its key file with {settings.KEY_FILE.name} or key=, or put it at ~/.config/ana/keys/{said.id}"
            raise UntrustedStoreError(root, f"this store has a key, which this process does not: {cure}")
        return None
    known = ring.path or "the key that is given"
    if not said.keyed or ring.store_id not in ("", said.id):
        reason = f"it has no key or another id, and {known} is for a store with a key: somebody may have replaced it"
        raise UntrustedStoreError(root, f"{reason}; compare {root}/ana.json, use another folder, or no key")
    seal = Seal(said.id, ring.keys)
    if said.fingerprint and said.fingerprint not in seal.fingerprints:
        reason = f"it has another key than {known} holds: that is another store's, or the key was rotated"
        cure = f"name its own key file ({settings.KEY_FILE.name}, key=), as ~/.config/ana/keys/{said.id}"
        raise UntrustedStoreError(root, f"{reason}; {cure}")
    return seal


def fields_of(store_id: str, ring: keyring.KeyRing | None) -> dict[str, object]:
    """Return what a new tree's `ana.json` says."""
    fields: dict[str, object] = {"format": FORMAT, "levels": LEVELS, "id": store_id}
    if ring is None:
        return fields
    return {**fields, "keyed": True, "key": Seal(store_id, ring.keys).fingerprints[0]}


def fields_again(tree: "Tree", store_id: str, given: keyring.KeyRing | None) -> dict[str, object]:
    """Return what the `ana.json` of a tree that has lost it said: with its key where its states are signed.

    Raises UntrustedStoreError where that is not known.
    """
    ring = given or keyring.find("", tree.root)
    signed = any(record.is_signed(head) for _, head in islice(_heads(tree), _ENOUGH))
    if not signed and ring is None:
        return fields_of(store_id, None)
    where = f"{tree.root}/{CONFIG}"
    if not signed:
        reason = "it is gone, and the states here are not signed, though a key is known for them"
        raise UntrustedStoreError(where, f"{reason}: somebody may have replaced them; get it from a backup")
    ids = [] if ring is None else [ring.store_id, *ring.stores]
    for known in filter(None, ids):
        if ring is not None and has_signed(tree, Seal(known, ring.keys)):
            return fields_of(known, ring)
    reason = "it is gone, and the states here are signed with a key, for the id that it held"
    cure = f"get it from a backup, or name the key file that it was made with ({settings.KEY_FILE.name}, key=)"
    raise UntrustedStoreError(where, f"{reason}: {cure}")


def check_key(tree: "Tree", seal: Seal | None) -> None:
    """Refuse to take for damaged what a tree's key, which this process does not have, may have signed.

    Raises UntrustedStoreError.
    """
    if seal is None:
        return
    said = config.read(tree.root, tree.trust)
    if said is not None and said.fingerprint:
        if said.fingerprint not in seal.fingerprints:
            reason = "its key was rotated since this process opened it, so that nothing tells damage from a wrong key"
            raise UntrustedStoreError(tree.root, f"{reason}: start the program anew")
    elif not has_signed(tree, seal):
        reason = "nothing in it is signed with the key that this process has: nothing tells damage from a wrong key"
        raise UntrustedStoreError(tree.root, f"{reason}; see which key is the store's")


def has_signed(tree: "Tree", seal: Seal) -> bool:
    """Return whether one of a tree's states is signed with a key: then that is the tree's."""
    for key, head in islice(_heads(tree), _LOOKED_AT):
        if record.is_signed(head) and seal.accepts(key, *record.signed_parts(head)):
            return True
    return False


def _heads(tree: "Tree") -> Iterator[tuple[str, memoryview]]:
    """Yield keys and headers of a tree's states, as far as they can be read."""
    for path in tree.state_paths():
        try:
            opened = files.open_file(path, _START_BYTES, tree.trust.check_file)
            if opened is None:
                continue
            with opened:
                start = opened.start
                key = record.key_of(start)
                end = record.header_size(start, opened.size_bytes, key, path)
                if end <= len(start):
                    yield key, memoryview(start)[:end]
        except (StoreError, UntrustedStoreError, CorruptedStateError):
            continue
