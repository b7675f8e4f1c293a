"""Export states, and all that they refer to, to one file: a tar archive that unpacks into a store."""

import errno
import json
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass, field

from ana.errors import ANAError, StoreError
from ana.format import address, record
from ana.format.chunks import Read
from ana.fs import atomic, files, permissions
from ana.maintenance.common import OnProgress, Path, Progress, StoreOrPath, absolute, open_store, outside
from ana.maintenance.import_ import MOST_MANIFEST_BYTES
from ana.maintenance.listing import find_in
from ana.stores.directory import ingest
from ana.stores.directory.config import CONFIG, FORMAT
from ana.stores.directory.graph import postorder
from ana.stores.directory.scan import Survey
from ana.stores.directory.store import DirectoryStore

__all__ = ["Exported", "export_states"]

BLOCK_BYTES = 4 << 20


@dataclass
class Exported:
    """What is in an exported file."""

    path: str
    uuids: list[str]
    """The states that were requested."""
    states: list[str] = field(default_factory=list)
    """All states in the file, children first."""
    size_bytes: int = 0
    """The size of the file."""


def export_states(
    pickle_dir: StoreOrPath, uuids: Iterable[str], path: Path, *, on_progress: OnProgress = lambda _: None
) -> Exported:
    """Export states, and all that they refer to, to a new file.

    The file is a tar archive of a store: `ana.json`, then the states' files, children first. Each is verified. The file
    appears once it is complete. Needs no lock. Does not change the store, except that exporting a state from the trash
    brings it back, as any read does.

    Args:
        pickle_dir: The store.
        uuids: The states. Unique prefixes are enough.
        path: The new file. It must be outside of any store. Pipes and devices are written to directly.
        on_progress: Called for each state.

    Raises:
        StateNotFoundError: A state does not exist. In every case, no file is left.
        AmbiguousPrefixError: One of `uuids` is the prefix of several.
        CorruptedStateError: A state is damaged.
        StoreError: The file exists (errno EEXIST), or the system refused.
        ValueError: `path` is in a store.
    """
    store = open_store(pickle_dir)
    place, real = absolute(path), outside(path)
    keys = list(dict.fromkeys(find_in(store, uuid) for uuid in uuids))
    done = Exported(place, keys)
    survey = Survey(store)
    known = _all_children(survey, keys)
    done.states = list(postorder(keys, lambda key: known[key] if key in known else _children(store, key)))
    manifest = _manifest(store, done)
    if len(manifest) > MOST_MANIFEST_BYTES:
        hint = f"{len(keys)} UUIDs are too many for one file: export them into several"
        raise StoreError(place, errno.EFBIG, hint)
    place = real
    special = permissions.open_special(place)
    if special is not None:
        with files.reported(place), special as file:
            # A pipe or a device: written from the beginning to the end.
            _Writing(survey, done, lambda _, parts: file.writelines(parts), on_progress).write(manifest)
        return done
    folder, _, name = place.rpartition("/")
    if not atomic.publish(
        folder or "/",
        name,
        lambda write: _Writing(survey, done, write, on_progress).write(manifest),
        atomic.Policy(durable=True),
    ):
        raise StoreError(place, 17, "a file of that name exists already")
    return done


def _manifest(store: DirectoryStore, done: Exported) -> bytes:
    fields = {"format": FORMAT, "levels": store.config.levels, "id": address.random_uuid()}
    return json.dumps({**fields, "exported": done.uuids, "states": len(done.states)}).encode() + b"\n"


def _all_children(survey: Survey, keys: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return the children of states and of all below them, looked up many at once. Failures are left out."""
    known: dict[str, tuple[str, ...]] = {}
    level = list(keys)
    while level:
        looked = survey.each(level, lambda key: _children(survey.store, key))
        known |= {key: found for key, found in looked if not isinstance(found, ANAError)}
        below = dict.fromkeys(child for key in level for child in known.get(key, ()))
        level = [child for child in below if child not in known]
    return known


def _children(store: DirectoryStore, key: str) -> tuple[str, ...]:
    found = store.get(key)
    found.release()
    return found.header.children


class _Writing:
    """A tar file being written."""

    def __init__(self, survey: Survey, done: Exported, write: record.Write, on_progress: OnProgress) -> None:
        self.survey = survey
        self.store = survey.store
        self.done = done
        self.write_at = write
        self.on_progress = on_progress
        self.offset = 0

    def write(self, manifest: bytes) -> None:
        """Write the whole file."""
        self._put_file(CONFIG, len(manifest), record.reader(manifest))
        for number, (key, small) in enumerate(self.survey.each(self.done.states, self._read), 1):
            if isinstance(small, bytearray):
                self._put_file(self.survey.name_of(key), len(small), record.reader(small))
            else:
                # Large, or there is a problem: this reports it, or finds the state intact at the second try.
                self.store.get(key).verify()
                with ingest.opened(self.store, key) as source:
                    self._put_file(self.survey.name_of(key), source.size_bytes, self._unsealed(key, source))
            self.on_progress(Progress("exporting", number, len(self.done.states), self.offset))
        self._put(bytes(2 * tarfile.BLOCKSIZE))
        self.done.size_bytes = self.offset

    def _read(self, key: str) -> bytearray | None:
        """Return a small state's record, verified; None for a large one."""
        with ingest.opened(self.store, key) as source:
            size_bytes, read, where = source
            if size_bytes > ingest.START_BYTES:
                return None
            record.verify(ingest.read_header(key, size_bytes, read, where, self.store.seal), read, where)
            data = bytearray(size_bytes)
            self._unsealed(key, source)(0, [memoryview(data)])
            return data

    def _unsealed(self, key: str, source: ingest.Source) -> Read:
        """Return a function that reads a record without its signature: another site has another key, or none."""
        size_bytes, read, where = source
        if self.store.seal is None:
            return read
        return ingest.resealed(ingest.read_header(key, size_bytes, read, where, self.store.seal), read, None)

    def _put_file(self, name: str, size_bytes: int, read: Read) -> None:
        self._begin(name, size_bytes)
        for at in range(0, size_bytes, BLOCK_BYTES):
            block = bytearray(min(BLOCK_BYTES, size_bytes - at))
            read(at, [memoryview(block)])
            self._put(block)
        self._end(size_bytes)

    def _begin(self, name: str, size_bytes: int) -> None:
        member = tarfile.TarInfo(name)
        member.size = size_bytes
        member.mtime = files.now_ns() // 10**9
        self._put(member.tobuf(tarfile.GNU_FORMAT))

    def _end(self, size_bytes: int) -> None:
        self._put(bytes(-size_bytes % tarfile.BLOCKSIZE))

    def _put(self, data: bytes | bytearray) -> None:
        self.write_at(self.offset, [memoryview(data)])
        self.offset += len(data)
