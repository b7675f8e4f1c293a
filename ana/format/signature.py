"""Signatures of records: a keyed BLAKE3 over the store's id, the record's key and its header.

Pure. The header holds the digests of all chunks, so the signature covers the whole record.
"""

import struct
from collections.abc import Sequence
from typing import NoReturn

import blake3

from ana.format import address

__all__ = ["KEY_BYTES", "Seal"]

KEY_BYTES = 32
_LABEL = b"ana record seal v1"
_FINGERPRINT = "ana 2026-11-26 store key fingerprint v1"
_SIZES = struct.Struct("<QQQ")

Bytes = bytes | bytearray | memoryview


class Seal:
    """Signs and checks the records of one store. Immutable; safe between threads. Its repr hides the keys."""

    __slots__ = ("_keys", "_store")

    def __init__(self, store_id: str, keys: Sequence[bytes]) -> None:
        """Take the store's id and its keys, 32 bytes each: the first one signs, and all of them are accepted."""
        if not keys or any(len(key) != KEY_BYTES for key in keys):
            msg = f"a store's key has {KEY_BYTES} bytes"
            raise ValueError(msg)
        self._store = address.key_bytes(store_id)
        self._keys = tuple(keys)

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """A public identifier of each key: 8 bytes, in hex, of a key derived from it, which do not reveal the key."""
        return tuple(
            blake3.blake3(key + self._store, derive_key_context=_FINGERPRINT).hexdigest(length=8) for key in self._keys
        )

    def sign(self, uuid: str, head: Bytes) -> bytes:
        """Return the signature, 32 bytes, that follows the header in the record of `uuid`."""
        return self._signature(self._keys[0], uuid, head)

    def accepts(self, uuid: str, head: Bytes, signature: Bytes) -> bool:
        """Return, in constant time, whether one of the keys signed this header for this UUID and store."""
        return self.number(uuid, head, signature) is not None

    def number(self, uuid: str, head: Bytes, signature: Bytes) -> int | None:
        """Return the number of the key that signed a header: 0 for the current key; None if no key did."""
        from hmac import compare_digest  # noqa: PLC0415 - takes 2 ms with its imports, and most stores have no key

        given = bytes(signature)
        matches = [compare_digest(self._signature(key, uuid, head), given) for key in self._keys]
        return matches.index(True) if any(matches) else None

    def _signature(self, key: bytes, uuid: str, head: Bytes) -> bytes:
        name = address.key_bytes(uuid)
        hasher = blake3.blake3(key=key)
        hasher.update(_SIZES.pack(len(_LABEL), len(self._store), len(name)) + _LABEL + self._store + name)
        hasher.update(head)
        return hasher.digest()

    def __repr__(self) -> str:
        return f"<Seal of {len(self._keys)} key(s)>"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        """Refuse: a key must not get into a pickle."""
        msg = "a store's key cannot be pickled: let the other process read it from its key file (ANA_KEY_FILE)"
        raise TypeError(msg)
