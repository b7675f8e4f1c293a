"""States with all that they refer to as one file, for another site: a tar file that unpacks into a store."""

import json
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass, field

from ana import access, address, files, publishing, record
from ana.errors import StoreError
from ana.maintenance.looking import find
from ana.maintenance.opening import Doing, Path, Tell, absolute, open_store
from ana.stores import adopting
from ana.stores.closure import children_first
from ana.stores.config import CONFIG, FORMAT
from ana.stores.directory import DirectoryStore
from ana.stores.survey import Survey

__all__ = ["Exported", "export_states"]

BLOCK_BYTES = 4 << 20


@dataclass
class Exported:
    """What is in an exported file."""

    path: str
    uuids: list[str]
    """What was asked for."""
    states: list[str] = field(default_factory=list)
    """All states in the file, children first."""
    size_bytes: int = 0
    """Of the file."""


def export_states(pickle_dir: Path, uuids: Iterable[str], path: Path, *, tell: Tell = lambda _: None) -> Exported:
    """Write states and all that they refer to into one new file; unique beginnings of UUIDs are enough.

    It is a tar file of a store: `ana.json`, then the states' files, children first, as they are. Each is verified.
    The file appears when it is whole; a pipe or a device is written to. Needs no lock; nothing is unpickled, nothing in
    the store is changed (but that states in the trash are brought back, as by any reader).

    Raises StateNotFoundError, AmbiguousPrefixError, CorruptedStateError for what cannot be exported, StoreError
    (errno EEXIST where there is a file of that name); no file is left then.
    """
    store = open_store(pickle_dir)
    place = absolute(path)
    keys = [find(pickle_dir, uuid) for uuid in uuids]
    done = Exported(place, keys)
    done.states = list(children_first(keys, lambda key: _children(store, key)))
    place = access.follow(place)
    special = access.open_special(place)
    if special is not None:
        with files.reported(place), special as file:
            # A pipe, say: it is written from the beginning to the end.
            _Writing(store, done, lambda _, parts: file.writelines(parts), tell).write()
        return done
    folder, _, name = place.rpartition("/")
    if not publishing.publish(
        folder or "/",
        name,
        lambda write: _Writing(store, done, write, tell).write(),
        durable=True,
        make_folders=_no_folder,
    ):
        raise StoreError(place, 17, "there is a file of that name already")
    return done


def _no_folder() -> None:
    """Make nothing: who names a folder that is not there is told so."""


def _children(store: DirectoryStore, key: str) -> tuple[str, ...]:
    found = store.get(key)
    found.release()
    return found.header.children


class _Writing:
    """A tar file while it is written."""

    def __init__(self, store: DirectoryStore, done: Exported, write: record.Write, tell: Tell) -> None:
        self.store = store
        self.done = done
        self.write_at = write
        self.tell = tell
        self.offset = 0

    def write(self) -> None:
        """Write all of it."""
        survey = Survey(self.store)
        fields = {"format": FORMAT, "levels": self.store.config.levels, "id": address.random_uuid()}
        data = json.dumps({**fields, "exported": self.done.uuids, "states": len(self.done.states)}).encode() + b"\n"
        self._begin(CONFIG, len(data))
        self._put(data)
        self._end(len(data))
        for number, key in enumerate(self.done.states, 1):
            self.store.get(key).verify()
            with adopting.opened(self.store, key) as (size_bytes, read):
                if self.store.seal is not None:
                    # Another site has another key, or none.
                    header = adopting.read_header(key, size_bytes, read, self.store.path(key), self.store.seal)
                    read = adopting.resealed(header, read, None)  # noqa: PLW2901 - the same, read otherwise
                self._begin(survey.name_of(key), size_bytes)
                for at in range(0, size_bytes, BLOCK_BYTES):
                    block = bytearray(min(BLOCK_BYTES, size_bytes - at))
                    read(at, [memoryview(block)])
                    self._put(block)
                self._end(size_bytes)
            self.tell(Doing("exporting", number, len(self.done.states), self.offset))
        self._put(bytes(2 * tarfile.BLOCKSIZE))
        self.done.size_bytes = self.offset

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
