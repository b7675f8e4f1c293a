"""Addresses: the UUID of a content, the valid keys, and the file for a key.

Pure functions that never touch a filesystem.
"""

import re
import struct
import sys
from collections.abc import Sequence
from functools import lru_cache

try:
    import blake3
except ImportError as _error:
    if "subinterpreter" not in str(_error):
        raise
    msg = "ana does not run in subinterpreters, because blake3 cannot be loaded there: use threads or processes"
    raise ImportError(msg) from _error

__all__ = ["MAX_KEY_CHARACTERS", "SUFFIX", "check_key", "content_uuid", "file_name", "key_bytes", "place", "shard"]

MAX_KEY_CHARACTERS = 200
MAX_NAME_BYTES = 200
"""The longest file name without its suffix: NAME_MAX is 255, and a temporary name is longer."""

SUFFIX = ".pkl.zst"

_VARIANT = {f"{digit:x}": f"{digit & 3 | 8:x}" for digit in range(16)}
_SIZE = struct.Struct("<Q")
_LABEL = b"ana content address v1"
_HEAD = _SIZE.pack(len(_LABEL)) + _LABEL
# Stricter than uuid.UUID(), which accepts braces, "urn:", underscores, blanks and Arabic digits.
CANONICAL = "[0-9a-f]{8}-[0-9a-f]{4}-[48][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
"""The regular expression of the keys that `is_canonical` accepts."""
_CANONICAL = re.compile(CANONICAL, re.ASCII)
_SAFE_BYTES = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")


def content_digest(class_name: str, lengths: Sequence[int], leaves: Sequence[bytes]) -> bytes:
    """Return the 32 bytes of blake3 that identify a state of a class.

    `class_name` is "module:qualified.name", `lengths` are the sizes in bytes of the pickle stream and of each
    out-of-band buffer, and `leaves` are the blake3 digests of the pieces from `record.plan(lengths)`. Every part is
    length-prefixed, so that two states with different parts cannot feed the same bytes to the hash.
    """
    count, digests = len(lengths), b"".join(leaves)
    # One update, because every small load runs this.
    sizes = struct.pack(f"<{count + 2}Q", 8 * count, *lengths, len(digests))
    return blake3.blake3(_named(class_name) + sizes + digests).digest()


@lru_cache(maxsize=256)
def _named(class_name: str) -> bytes:
    """Return what the hash of a state begins with: the label and the name of its class."""
    name = class_name.encode("utf-8", "surrogatepass")
    return _HEAD + _SIZE.pack(len(name)) + name


def content_uuid(digest: bytes) -> str:
    """Return the UUIDv8 (RFC 9562, section 5.8) that carries the first 122 bits of a content digest."""
    digits = digest[:16].hex()
    return f"{digits[:8]}-{digits[8:12]}-8{digits[13:16]}-{_VARIANT[digits[16]]}{digits[17:20]}-{digits[20:]}"


def random_uuid() -> str:
    """Return a UUIDv4, for objects without a content address."""
    import uuid  # noqa: PLC0415 - takes 3 ms with its imports, and few objects need it

    return str(uuid.uuid4())


def check_key(key: object) -> str:
    """Return `key` if it is valid: any string of 1 to 200 characters; a `uuid.UUID` is converted to a string.

    Raises TypeError for another type, ValueError for another length.
    """
    if not isinstance(key, str):
        if is_uuid_object(key):
            return str(key)
        msg = f"a UUID is a string (or a uuid.UUID), not {type(key).__name__}: {key!r:.100}"
        raise TypeError(msg)
    if not 1 <= len(key) <= MAX_KEY_CHARACTERS:
        msg = f"a UUID has 1 to {MAX_KEY_CHARACTERS} characters, this one has {len(key)}: {key!r:.100}"
        raise ValueError(msg)
    # A subclass of str could return something else after the check.
    return key if type(key) is str else str.__str__(key)


def is_uuid_object(key: object) -> bool:
    """Return whether `key` is a `uuid.UUID`, without importing `uuid`: no UUID exists before it is imported."""
    module = sys.modules.get("uuid")
    return module is not None and isinstance(key, module.UUID)


def is_canonical(key: str) -> bool:
    """Return whether `key` is a lower-case canonical UUID of version 4 or 8, with evenly distributed digits."""
    return _CANONICAL.fullmatch(key) is not None


# One operation asks several times about the same key.
@lru_cache(maxsize=256)
def is_content_uuid(key: str) -> bool:
    """Return whether `key` has the form of a content address, so that equal keys mean equal contents."""
    return _CANONICAL.fullmatch(key) is not None and key[14] == "8"


def is_right(key: str, digest: bytes) -> bool:
    """Return whether content with this digest may be stored under `key`; a content address must match the digest."""
    return key[14:15] != "8" or content_uuid(digest) == key or not is_content_uuid(key)


def key_bytes(key: str) -> bytes:
    """Return `key` encoded for records, names and hashes; lone surrogates survive."""
    return key.encode("utf-8", "surrogatepass")


def short_digest(text: str) -> str:
    """Return a digest of a text, 16 hex digits."""
    return blake3.blake3(key_bytes(text)).hexdigest(length=8)


def shard(key: str, levels: int) -> tuple[str, ...]:
    """Return the folders of a key, two hex digits each: ("5f", "3a") for levels = 2."""
    digits = key.replace("-", "") if is_canonical(key) else blake3.blake3(key_bytes(key)).hexdigest()
    return tuple(digits[2 * level : 2 * level + 2] for level in range(levels))


def file_name(key: str) -> str:
    """Return the file name for a key: the key itself if it is canonical, else percent-encoded.

    Injective: letters, digits, "_" and "-" stand for themselves, every other byte is "%XX" (including ".", so no name
    starts with a dot or looks like a suffix). A name longer than 200 bytes is cut and ends with "~" and the first 16
    bytes of blake3(key) in hex; "~" is not used otherwise.
    """
    if is_canonical(key):
        return key + SUFFIX
    raw = key_bytes(key)
    name = "".join(chr(byte) if byte in _SAFE_BYTES else f"%{byte:02X}" for byte in raw)
    if len(name) > MAX_NAME_BYTES:
        name = f"{name[:120]}~{blake3.blake3(raw).hexdigest(length=16)}"
    return name + SUFFIX


def place(key: str, levels: int) -> tuple[str, str]:
    """Return the folders of a key as a relative path, and its file name: ("5f/3a", "5f3ac0e1-….pkl.zst")."""
    if levels == 2 and _CANONICAL.fullmatch(key):  # noqa: PLR2004 - the usual tree, on the path of every small state
        return f"{key[:2]}/{key[2:4]}", key + SUFFIX
    return "/".join(shard(key, levels)), file_name(key)


def is_file_name(name: str) -> bool:
    """Return whether a file name is that of a state."""
    return name.endswith(SUFFIX) and not name.startswith(".")


def key_of_name(name: str) -> str | None:
    """Return the key that a file name encodes; None if the name was shortened or is not that of a state."""
    if not name.endswith(SUFFIX):
        return None
    stem = name.removesuffix(SUFFIX)
    if is_canonical(stem):
        return stem
    if "~" in stem:
        return None
    parts = stem.split("%")
    try:
        raw = parts[0].encode("ascii") + b"".join(
            bytes.fromhex(part[:2]) + part[2:].encode("ascii") for part in parts[1:]
        )
        key = raw.decode("utf-8", "surrogatepass")
    except ValueError:
        return None
    return key if 1 <= len(key) <= MAX_KEY_CHARACTERS and file_name(key) == name else None
