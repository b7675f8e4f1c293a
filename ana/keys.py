"""Files that hold a store's key: outside the store, for its owner's eyes only.

A key file is JSON: the store's id, the folders where that store is known to be, and its keys in hex, the current one
first.
"""

import json
import os
import stat
from collections.abc import Iterable, Sequence
from contextlib import suppress

from ana import files, paths
from ana.errors import ANAError, StoreError, UntrustedStoreError
from ana.seals import KEY_BYTES

__all__ = [
    "ENVIRONMENT",
    "KeyRing",
    "default_path",
    "find",
    "forget_old",
    "from_option",
    "load",
    "make",
    "rotate",
    "save",
]

ENVIRONMENT = "ANA_KEY_FILE"
_LIMIT_BYTES = 64 << 10
_ONLY_OWNER = 0o077


class KeyRing:
    """The keys of one store, the current one first, and where that store is known to be. Shows its keys to nobody."""

    __slots__ = ("folders", "keys", "path", "store_id")

    def __init__(self, keys: Sequence[bytes], store_id: str = "", folders: Sequence[str] = (), path: str = "") -> None:
        """Take keys of 32 bytes, the store's id ("" for whichever they are given for), and the file they are from."""
        self.keys = tuple(keys)
        self.store_id = store_id
        self.folders = tuple(folders)
        self.path = path

    def __repr__(self) -> str:
        return f"<KeyRing of {len(self.keys)} key(s) for store {self.store_id!r}>"


def from_option(key: object) -> KeyRing:
    """Return the keys that an option gives: 32 bytes, or the path of a key file.

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


def find(store_id: str, root: str) -> KeyRing | None:
    """Return the keys of a store: out of the file that `ANA_KEY_FILE` names, or the user's own folder of keys.

    Also where only the folder `root` is that of a store with a key, though it says it is another: then somebody has
    replaced it. Raises StoreError, UntrustedStoreError.
    """
    said = os.environ.get(ENVIRONMENT)
    if said:
        ring = load(paths.absolute(said))
        if ring.store_id in ("", store_id) or root in ring.folders:
            return ring
    try:
        _folder()
    except StoreError:
        # Nobody's home: there are no keys in it.
        return None
    # The id is what somebody wrote into the store: it names a file in the folder of keys, and none elsewhere.
    if store_id and "/" not in store_id and not store_id.startswith(".") and os.path.exists(default_path(store_id)):
        return load(default_path(store_id))
    return next((ring for ring in _all() if root in ring.folders), None)


def default_path(store_id: str) -> str:
    """Return where a store's key file is unless one says otherwise: `~/.config/ana/keys/STORE_ID`.

    Raises StoreError where there is no home folder.
    """
    return f"{_folder()}/{store_id}"


def make(path: str, store_id: str, folders: Iterable[str] = ()) -> KeyRing:
    """Make a new key and its file, mode 0600, in a folder that is made where it is missing. Raises StoreError."""
    ring = KeyRing((os.urandom(KEY_BYTES),), store_id, tuple(folders), path)
    with files.reported(path):
        os.makedirs(os.path.dirname(path) or ".", mode=0o700, exist_ok=True)
        _write(path, ring, os.O_EXCL)
    return ring


def save(ring: KeyRing) -> None:
    """Replace a key file as a whole. Raises StoreError."""
    temporary = files.temporary_name(os.path.dirname(ring.path))
    with files.reported(ring.path):
        try:
            _write(temporary, ring, os.O_EXCL)
            os.rename(temporary, ring.path)
        except BaseException:
            files.remove(temporary)
            raise


def rotate(path: str) -> KeyRing:
    """Put a new key before those of a file, which are still believed. Raises StoreError, UntrustedStoreError."""
    ring = load(path)
    ring = KeyRing((os.urandom(KEY_BYTES), *ring.keys), ring.store_id, ring.folders, path)
    save(ring)
    return ring


def forget_old(path: str) -> KeyRing:
    """Leave only the current key in a file. Raises StoreError, UntrustedStoreError."""
    ring = load(path)
    ring = KeyRing(ring.keys[:1], ring.store_id, ring.folders, path)
    save(ring)
    return ring


def load(path: str) -> KeyRing:
    """Read a key file that only its owner can read. Raises StoreError, UntrustedStoreError."""
    _check_owner(path)
    data = files.read_whole(path, _LIMIT_BYTES)
    if data is None:
        raise StoreError(path, 2, f"there is no key file: make one with `ana key new`, or see {ENVIRONMENT}")
    try:
        fields = json.loads(data)
        keys = tuple(bytes.fromhex(key) for key in fields["keys"])
        folders = tuple(str(folder) for folder in fields.get("folders", ()))
        ring = KeyRing(keys, str(fields.get("store", "")), folders, path)
    except (ValueError, KeyError, TypeError, AttributeError):
        # Without the cause: it may quote what is in the file.
        raise UntrustedStoreError(path, "it is no key file of ana") from None
    if not keys or any(len(key) != KEY_BYTES for key in keys):
        raise UntrustedStoreError(path, f"it is a key file, but its keys are not {KEY_BYTES} bytes each")
    return ring


def _check_owner(path: str) -> None:
    with files.reported(path):
        try:
            found = os.stat(path, follow_symlinks=False)
        except FileNotFoundError:
            return
    if not stat.S_ISREG(found.st_mode):
        raise UntrustedStoreError(path, "a key file is a regular file")
    if found.st_uid not in (os.geteuid(), 0) or found.st_mode & _ONLY_OWNER:
        reason = f"others may know or replace its key (owner {found.st_uid}, mode {stat.S_IMODE(found.st_mode):o})"
        raise UntrustedStoreError(path, f"{reason}: chmod 600 {path}, and make a new key if they did")


def _write(path: str, ring: KeyRing, flags: int) -> None:
    text = {"store": ring.store_id, "folders": list(ring.folders), "keys": [key.hex() for key in ring.keys]}
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | flags, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        json.dump(text, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(descriptor)


def _folder() -> str:
    config = os.environ.get("XDG_CONFIG_HOME", "")
    # One that is no path from / on does not count (XDG Base Directory Specification).
    return f"{config if config.startswith('/') else f'{paths.home()}/.config'}/ana/keys"


def _all() -> Iterable[KeyRing]:
    try:
        names = os.listdir(_folder())
    except OSError:
        return
    for name in names:
        # One that cannot be used is another store's trouble.
        with suppress(ANAError):
            yield load(f"{_folder()}/{name}")
