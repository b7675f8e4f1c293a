"""Export states, and all that they refer to, to one file: a tar archive that unpacks into a store.

A staged file (`ana.maintenance.staging`) is such a file with an index behind its end, so that tasks read it in place.
"""

import errno
import json
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass, field

from ana.errors import StoreError
from ana.format import address, pack, record
from ana.format.chunks import Read
from ana.fs import atomic, files, permissions
from ana.maintenance.choosing import Chosen, choose
from ana.maintenance.common import OnProgress, Path, Progress, StoreOrPath, absolute, open_store, outside
from ana.maintenance.import_ import MOST_MANIFEST_BYTES
from ana.maintenance.names import states_of
from ana.stores.directory import config, ingest
from ana.stores.directory.config import CONFIG, FORMAT

__all__ = ["Exported", "Writing", "chosen_by", "export_states", "write_states"]

BLOCK_BYTES = 4 << 20


@dataclass
class Exported:
    """What is in an exported file."""

    path: str
    """The file."""
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
    restores it, as any read does.

    Args:
        pickle_dir: The store.
        uuids: The states: UUIDs, unique prefixes of UUIDs, or names of roots.
        path: The new file. It must be outside of any store. Pipes and devices are written to directly.
        on_progress: Called for each state.

    Raises:
        StateNotFoundError: A state does not exist. In every case, no file is left.
        AmbiguousPrefixError: One of `uuids` is the prefix of several.
        CorruptedStateError: A state is damaged.
        StoreError: The file exists (errno EEXIST), or the system refused.
        ValueError: `path` is in a store.
    """
    return write_states(chosen_by(pickle_dir, uuids), path, on_progress, staged=False)


def chosen_by(pickle_dir: StoreOrPath, names: Iterable[str]) -> Chosen:
    """Find the states that names stand for, and all that they refer to. Raises as `export_states`."""
    store = open_store(pickle_dir)
    return choose(store, states_of(store, names))


def write_states(chosen: Chosen, path: Path, on_progress: OnProgress, *, staged: bool) -> Exported:
    """Write states to a new file. Arguments and errors as for `export_states`; `staged`: as `Writing`."""
    place, real = absolute(path), outside(path)
    done = Exported(place, chosen.uuids, chosen.states)

    def fill(write: record.Write) -> None:
        done.size_bytes = Writing(chosen, write, on_progress, staged=staged).write()

    special = permissions.open_special(real)
    if special is not None:
        with files.reported(real), special as file:
            # A pipe or a device: written from the beginning to the end.
            fill(lambda _, parts: file.writelines(parts))
        return done
    folder, _, name = real.rpartition("/")
    # Tasks refuse what others may write, and nobody shall read who may not read the store.
    access = permissions.Access(chosen.survey.store.tree.mode & 0o644 | 0o600) if staged else permissions.FREE
    if not atomic.publish(folder or "/", name, fill, atomic.Policy(durable=True, access=access)):
        raise StoreError(real, errno.EEXIST, "a file of that name exists already")
    return done


class Writing:
    """A file being written. If it is staged, records keep their signatures, and it ends with an index of them."""

    def __init__(self, chosen: Chosen, write: record.Write, on_progress: OnProgress, *, staged: bool) -> None:
        self._chosen = chosen
        self._survey = chosen.survey
        self._store = chosen.survey.store
        self._write_at = write
        self._on_progress = on_progress
        self._staged = staged
        self._offset = 0
        self._spots: dict[int, pack.Spot] = {}

    def write(self) -> int:
        """Write the whole file; return its size."""
        manifest = self._manifest()
        self._put_file(CONFIG, len(manifest), record.reader(manifest))
        states = self._chosen.states
        for number, (key, small) in enumerate(self._survey.each(states, self._read), 1):
            if isinstance(small, bytearray):
                self._put_record(key, len(small), record.reader(small))
            else:
                # Large, or there is a problem: this reports it, or finds the state intact at the second try.
                self._store.get(key).verify()
                with ingest.opened(self._store, key) as source:
                    self._put_record(key, source.size_bytes, self._unsealed(key, source))
            self._on_progress(Progress("staging" if self._staged else "exporting", number, len(states), self._offset))
        self._put(bytes(2 * tarfile.BLOCKSIZE))
        if self._staged:
            about = json.dumps(self._about()).encode()
            self._put(pack.wide_index_frame(self._spots, self._offset, about))
        return self._offset

    def _about(self) -> dict[str, object]:
        """Return the fields of the store's `ana.json` that readers of its records need, and where the store is."""
        said = self._store.config
        marks = config.Config(FORMAT, said.levels, said.id, keyed=said.keyed, fingerprint=said.fingerprint)
        return {**config.fields_of(marks), "home": self._store.home}

    def _manifest(self) -> bytes:
        states, keys = len(self._chosen.states), self._chosen.uuids
        fields: dict[str, object] = {"format": FORMAT, "levels": self._store.config.levels, "id": address.random_uuid()}
        if self._staged:
            fields = self._about()
        manifest = json.dumps({**fields, "exported": keys, "states": states}).encode() + b"\n"
        if len(manifest) > MOST_MANIFEST_BYTES:
            hint = f"{len(keys)} UUIDs are too many for one file: export them into several"
            raise StoreError(self._store.home, errno.EFBIG, hint)
        return manifest

    def _read(self, key: str) -> bytearray | None:
        """Return a small state's record, verified; None for a large one."""
        with ingest.opened(self._store, key) as source:
            size_bytes, read, where = source
            if size_bytes > ingest.START_BYTES:
                return None
            record.verify(ingest.read_header(key, size_bytes, read, where, self._store.seal), read, where)
            data = bytearray(size_bytes)
            self._unsealed(key, source)(0, [memoryview(data)])
            return data

    def _unsealed(self, key: str, source: ingest.Source) -> Read:
        """Return a function that reads a record without its signature: another site has another key, or none."""
        size_bytes, read, where = source
        if self._staged or self._store.seal is None:
            return read
        return ingest.resealed(ingest.read_header(key, size_bytes, read, where, self._store.seal), read, None)

    def _put_record(self, key: str, size_bytes: int, read: Read) -> None:
        self._spots[pack.wide_number_of(key)] = pack.Spot(self._offset + tarfile.BLOCKSIZE, size_bytes)
        self._put_file(self._survey.name_of(key), size_bytes, read)

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
        self._write_at(self._offset, [memoryview(data)])
        self._offset += len(data)
