"""Key files, which hold a store's keys outside the store and which only their owner can read.

A key file is JSON: the store's id, the folders where the store is known to be, and its keys in hex, the current key
first.
"""

import errno
import json
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from ana import settings
from ana.errors import ANAError, StoreError, UntrustedStoreError
from ana.format.signature import KEY_BYTES, Seal
from ana.fs import atomic, files, paths
from ana.fs.ownership import EVERYDAY, Trust
from ana.fs.permissions import Access

__all__ = [
    "DEFAULT",
    "KeyRing",
    "Trusted",
    "default_path",
    "find",
    "forget_old",
    "from_option",
    "load",
    "make",
    "note_store",
    "own_file",
    "rotate",
    "save",
]

_LIMIT_BYTES = 64 << 10
_ONLY_OWNER = 0o077


class Trusted(NamedTuple):
    """What a store trusts: files of these owners, signed with these keys."""

    owners: Trust = EVERYDAY
    ring: "KeyRing | None" = None
    """The store's keys; None to look for a key file."""


DEFAULT = Trusted()


class KeyRing:
    """A store's keys, the current one first, and the folders where the store is known to be. The repr hides keys."""

    __slots__ = ("folders", "keys", "path", "store_id", "stores")

    def __init__(self, keys: Sequence[bytes], store_id: str = "", folders: Sequence[str] = (), path: str = "") -> None:
        """Take keys of 32 bytes, the store's id ("" for any store), its folders, and the key file's path."""
        self.keys: tuple[bytes, ...] = tuple(keys)
        self.store_id: str = store_id
        self.folders: tuple[str, ...] = tuple(folders)
        self.path: str = path
        self.stores: dict[str, str] = {}
        """Folders, by id, of the stores created with a key for any store: a store that loses its id is unreadable."""

    def __repr__(self) -> str:
        return f"<KeyRing of {len(self.keys)} key(s) for store {self.store_id!r}>"


def note_store(ring: KeyRing, store_id: str, root: str) -> None:
    """Note a new store in its key file if the file names no store of its own and can be written to."""
    if ring.path and not ring.store_id:
        with suppress(ANAError):
            ring = load(ring.path)
            ring.stores[store_id] = root
            save(ring)


def from_option(key: object) -> KeyRing:
    """Return the keys from the option `key`: 32 bytes, or the path of a key file.

    Raises TypeError, ValueError, StoreError, UntrustedStoreError.
    """
    if isinstance(key, bytes | bytearray | memoryview):
        if len(key) != KEY_BYTES:
            msg = f"a store's key has {KEY_BYTES} bytes, this one has {len(key)}"
            raise ValueError(msg)
        return KeyRing((bytes(key),))
    if isinstance(key, str | os.PathLike):
        return load(paths.absolute(key))
    msg = f"key is {KEY_BYTES} bytes or the path of a key file, not {type(key).__name__}"
    raise TypeError(msg)


def find(store_id: str, root: str, fingerprint: str = "") -> KeyRing | None:
    """Return the keys of a store from the file that `ANA_KEY_FILE` names, or from the user's key folder.

    A file that names the store is preferred to a file that names none, and a file with the key of `fingerprint` to a
    file without it. A file that lists the folder `root` matches even if the store has another id: then somebody has
    replaced the store, and the caller can tell. Raises StoreError, UntrustedStoreError.
    """
    first = None
    for ring in _candidates(store_id, root):
        first = first or ring
        if not fingerprint or fingerprint in Seal(store_id, ring.keys).fingerprints:
            return ring
    return first


def _candidates(store_id: str, root: str) -> Iterator[KeyRing]:
    said = settings.KEY_FILE.value()
    named = load(paths.absolute(said)) if said else None
    if named is not None and (named.store_id == store_id != "" or root in named.folders):
        yield named
    own = _own(store_id, root)
    if own is not None:
        yield own
    if named is not None and not named.store_id:
        yield named


def _own(store_id: str, root: str) -> KeyRing | None:
    """Return the keys of a store from the user's key folder."""
    try:
        _folder()
    except StoreError:
        # The user has no home folder, so no keys in it.
        return None
    # Anyone who can write to the store chose its id, so it must not lead out of the key folder.
    if store_id and "/" not in store_id and not store_id.startswith(".") and os.path.exists(default_path(store_id)):
        return load(default_path(store_id))
    return next((ring for ring in _all() if root in ring.folders), None)


def default_path(store_id: str) -> str:
    """Return the default path of a store's key file: `~/.config/ana/keys/STORE_ID`.

    Raises StoreError if the user has no home folder.
    """
    return f"{_folder()}/{store_id}"


def make(path: str, store_id: str, folders: Iterable[str] = ()) -> KeyRing:
    """Create a new key and its file, mode 0600, and the folder if it is missing. Raises StoreError."""
    ring = KeyRing((os.urandom(KEY_BYTES),), store_id, tuple(folders), path)
    with files.reported(path):
        os.makedirs(os.path.dirname(path) or ".", mode=0o700, exist_ok=True)
    if not _write(ring, replace=False):
        found = files.stat(path)
        empty = "it is empty, as after a full disk: remove it" if found is not None and not found.size_bytes else ""
        raise StoreError(path, errno.EEXIST, empty or "a key file is never overwritten: give another path")
    return ring


def save(ring: KeyRing) -> None:
    """Replace a key file as a whole. Raises StoreError."""
    _write(ring, replace=True)


def own_file(ring: KeyRing, store_id: str, root: str) -> KeyRing:
    """Copy keys from a file that names no store, and may serve several stores, into the store's own key file.

    Raises StoreError, also if the store's own key file exists.
    """
    own = KeyRing(ring.keys, store_id, (root,), default_path(store_id))
    with files.reported(own.path):
        os.makedirs(os.path.dirname(own.path), mode=0o700, exist_ok=True)
    if not _write(own, replace=False):
        raise StoreError(
            own.path, errno.EEXIST, "it does not hold the key that the store was opened with: find out which is right"
        )
    return own


def rotate(path: str) -> KeyRing:
    """Put a new key first in a file; its earlier keys are still accepted. Raises StoreError, UntrustedStoreError."""
    ring = load(path)
    ring = KeyRing((os.urandom(KEY_BYTES), *ring.keys), ring.store_id, ring.folders, path)
    save(ring)
    return ring


def forget_old(path: str) -> KeyRing:
    """Remove all keys but the current one from a file. Raises StoreError, UntrustedStoreError."""
    ring = load(path)
    ring = KeyRing(ring.keys[:1], ring.store_id, ring.folders, path)
    save(ring)
    return ring


def load(path: str) -> KeyRing:
    """Read a key file that only its owner can read. Raises StoreError, UntrustedStoreError."""
    _check_owner(path)
    data = files.read_whole(path, _LIMIT_BYTES)
    if data is None:
        raise StoreError(path, 2, f"there is no key file: make one with `ana key new`, or see {settings.KEY_FILE.name}")
    try:
        fields = json.loads(data)
        keys = tuple(bytes.fromhex(key) for key in fields["keys"])
        folders = tuple(str(folder) for folder in fields.get("folders", ()))
        ring = KeyRing(keys, str(fields.get("store", "")), folders, path)
        ring.stores = {str(store_id): str(root) for store_id, root in fields.get("stores", {}).items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        # Hide the cause, which may quote the file.
        text = (
            "it is a key file that is empty or cut short: remove it, and make or copy it again" if _is_cut(data) else ""
        )
        raise UntrustedStoreError(path, text or "it is not a key file of ana") from None
    if not keys or any(len(key) != KEY_BYTES for key in keys):
        raise UntrustedStoreError(path, f"it is a key file, but its keys are not {KEY_BYTES} bytes each")
    return ring


def _is_cut(data: bytes) -> bool:
    """Return whether a key file was cut short: older versions left such files on a full disk."""
    return b'{\n "store"'.startswith(data[:10]) and not data.rstrip().endswith(b"}")


def _check_owner(path: str) -> None:
    with files.reported(path):
        try:
            found = os.stat(path, follow_symlinks=False)
        except FileNotFoundError:
            return
    if not stat.S_ISREG(found.st_mode):
        raise UntrustedStoreError(path, "a key file must be a regular file")
    if found.st_uid not in (os.geteuid(), 0) or found.st_mode & _ONLY_OWNER:
        reason = f"other users may read or replace its key (owner {found.st_uid}, mode {stat.S_IMODE(found.st_mode):o})"
        raise UntrustedStoreError(path, f"{reason}: chmod 600 {path}, and make a new key if they did")


def _write(ring: KeyRing, *, replace: bool) -> bool:
    """Publish a key file, mode 0600, whole or not at all; return False if it exists and `replace` is not set."""
    text: dict[str, object] = {"store": ring.store_id, "folders": list(ring.folders)}
    text |= {"stores": ring.stores} if ring.stores else {}
    text["keys"] = [key.hex() for key in ring.keys]
    data = json.dumps(text, indent=1).encode() + b"\n"
    folder, _, name = ring.path.rpartition("/")
    return atomic.publish_data(folder or "/", name, data, Access(0o600), replace=replace)


def _folder() -> str:
    config = os.environ.get("XDG_CONFIG_HOME", "")
    # A relative path must be ignored (XDG Base Directory Specification).
    return f"{config if config.startswith('/') else f'{paths.home()}/.config'}/ana/keys"


def _all() -> Iterable[KeyRing]:
    try:
        names = os.listdir(_folder())
    except OSError:
        return
    for name in names:
        # Skip unusable files: they belong to other stores.
        with suppress(ANAError):
            yield load(f"{_folder()}/{name}")
