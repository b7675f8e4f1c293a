"""Import states from folders of the original ANA (`UUID.p`), and from files of `export_states`."""

import json
import pickletools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import NamedTuple

from ana.errors import (
    ANAError,
    CorruptedStateError,
    StateNotFoundError,
    StoreError,
    UnsupportedFormatError,
    UntrustedStoreError,
)
from ana.format import address, record
from ana.format.chunks import Read
from ana.format.signature import Seal
from ana.fs import files, paths
from ana.maintenance import archive
from ana.maintenance.common import (
    LOCK_SECONDS,
    OnProgress,
    Path,
    Problem,
    Progress,
    StoreOrPath,
    absolute,
    locked,
    open_store,
    problem,
)
from ana.maintenance.storing import State, Storing, windows
from ana.runtime import cgroups
from ana.stores.directory import config, ingest, signing
from ana.stores.directory.config import FORMAT
from ana.stores.directory.graph import postorder
from ana.stores.directory.store import DirectoryStore

__all__ = ["Imported", "import_file", "import_old"]

SUFFIX = ".p"
MOST_MANIFEST_BYTES = 32 << 20
"""The size limit of `ana.json` in an exported file: it names at most 860,000 requested UUIDs."""
MOST_STATES = 10**12
D = "ana.d D"
"""The global by which pickles of the original ANA load a reference."""


@dataclass
class Imported:
    """The result of an import. States are named by their UUIDs."""

    found: int = 0
    """States in the source."""
    imported: list[str] = field(default_factory=list)
    """The states that were imported."""
    present: int = 0
    """States that the store already had, with the same content."""
    size_bytes: int = 0
    """The size of the imported states in the source."""
    exported: list[str] = field(default_factory=list)
    """The UUIDs that were requested on export, for an exported file."""
    ignored: list[str] = field(default_factory=list)
    """Files that are not states."""
    problems: list[Problem] = field(default_factory=list)
    """States that were not imported, with the reason."""


def import_old(
    pickle_dir: StoreOrPath,
    old_dir: Path,
    *,
    on_progress: OnProgress = lambda _: None,
    lock_seconds: float = LOCK_SECONDS,
) -> Imported:
    """Import the `UUID.p` files of the original ANA. The states keep their UUIDs.

    Nothing is unpickled: each pickle is read opcode by opcode, which also finds its references. The files do not name
    the states' classes, so `ana ls` shows none. States that exist are compared. A link or special file is reported as
    a problem, and not opened. Can be interrupted and run again.

    Args:
        pickle_dir: The store, which is created if needed.
        old_dir: The folder, which is only read.
        on_progress: Called for each state.
        lock_seconds: How long to wait for the maintenance lock.

    Raises:
        StoreError: The system refused.
        UntrustedStoreError: `old_dir` contains no such files, or `pickle_dir` holds something else.
        UnsupportedFormatError: A newer version made the store.
        LockTimeoutError: Other maintenance holds the lock.
    """
    folder = absolute(old_dir)
    done = Imported()
    old = _OldFolder(folder, done)
    if not old.keys:
        raise UntrustedStoreError(folder, f"it contains no states of the original ANA (UUID{SUFFIX})")
    store = open_store(pickle_dir, create=True)
    with locked(store, lock_seconds):
        importing = _importing(store, lambda state: _put_old(store, old, state), done, on_progress)
        # Children first: a state in a store has its children there.
        order = postorder(sorted(old.keys), lambda key: old.look_into(key).children)
        for window in windows(old.states[key] for key in order if key not in old.broken):
            importing.take(window)
        _finish(importing, done)
    return done


def import_file(
    pickle_dir: StoreOrPath, path: Path, *, on_progress: OnProgress = lambda _: None, lock_seconds: float = LOCK_SECONDS
) -> Imported:
    """Import the states of a file from `export_states`. Each is verified; nothing is unpickled.

    A state whose children are neither in the file nor in the store is left out. From a damaged or truncated file, all
    intact states are imported. Can be interrupted and run again.

    Args:
        pickle_dir: The store, which is created if needed.
        path: The file.
        on_progress: Called for each state.
        lock_seconds: How long to wait for the maintenance lock.

    Raises:
        StoreError: The system refused.
        UntrustedStoreError: `pickle_dir` holds something else, or others can write to it.
        UnsupportedFormatError: `path` is not an exported file, or is from a newer version.
        LockTimeoutError: Other maintenance holds the lock.
    """
    place = absolute(path)
    done = Imported()
    # The user chose the file, so a link is followed.
    opened = files.open_file(paths.resolved(place))
    if opened is None:
        raise StoreError(place, 2, "there is no such file")
    with opened:
        members = archive.members(opened)
        try:
            done.exported, states, said = _manifest(opened, next(members, None), place)
        except ValueError as error:
            raise UntrustedStoreError(place, f"it is damaged, or not a file from ana export: {error}") from None
        # A staged file's records have the signatures of its store.
        source = _Source(opened, signing.seal_of(said, place, None) if said.keyed else None)
        batches = windows(_states(source, members, done, place))
        # No store is created for a file that has nothing to import.
        first = next(batches, None)
        if first is not None:
            store = open_store(pickle_dir, create=True)
            with locked(store, lock_seconds):
                put = partial(_put_record, store, source)
                importing = _importing(store, put, done, on_progress, states)
                for window in chain([first], batches):
                    importing.take(window)
                _finish(importing, done)
    if done.found != states and not any(wrong.name == place for wrong in done.problems):
        text = f"the file is damaged: it holds {done.found} of {states} states"
        done.problems.append(Problem("", place, "damaged", text))
    return done


def _importing(
    store: DirectoryStore, put: Callable[[State], bool], done: Imported, on_progress: OnProgress, states: int = 0
) -> Storing:
    def report(number: int, size_bytes: int) -> None:
        on_progress(Progress("importing", number, states or done.found, size_bytes))

    return Storing(store, put, done.problems, report)


def _finish(importing: Storing, done: Imported) -> None:
    importing.finish()
    done.imported, done.present, done.size_bytes = importing.stored, importing.present, importing.size_bytes


class _OldFolder:
    """A folder of the original ANA."""

    def __init__(self, folder: str, done: Imported) -> None:
        self.folder = folder
        self.broken: set[str] = set()
        self.states: dict[str, State] = {}
        self.keys: set[str] = set()
        self._done = done
        for entry in files.list_folder(folder):
            key = entry.name.removesuffix(SUFFIX)
            if key == entry.name or key.startswith("."):
                if entry.kind == "file":
                    done.ignored.append(entry.name)
            elif entry.kind == "file":
                self.keys.add(key)
            elif entry.kind != "folder":
                done.problems.append(Problem(key, entry.name, "failed", "not a regular file, so it was not opened"))
        done.ignored.sort()
        done.found = len(self.keys)

    def read(self, key: str) -> bytes:
        """Return a state's pickle. Raises StateNotFoundError, StoreError."""
        # Not more, because the data is copied once.
        data = files.read_whole(f"{self.folder}/{key}{SUFFIX}", cgroups.memory_bytes() // 3)
        if data is None:
            raise StateNotFoundError(key, self.folder)
        return data

    def look_into(self, key: str) -> State:
        """Return a state with the states in the folder that it refers to. Problems are noted."""
        name = f"{key}{SUFFIX}"
        children: tuple[str, ...] = ()
        size = 0
        try:
            data = self.read(key)
            size = len(data)
            names, strings = _look_into(key, data, f"{self.folder}/{name}")
            address.check_key(key)
            # A string may equal a UUID of the folder by chance: then too much is kept, never too little.
            children = tuple(sorted((strings & self.keys) - {key})) if D in names else ()
        except (ANAError, ValueError, MemoryError) as error:
            self.broken.add(key)
            wrong = problem(error, key, name) if isinstance(error, ANAError) else None
            reason = str(error) or "it does not fit into memory"
            self._done.problems.append(wrong or Problem(key, name, "failed", reason))
        self.states[key] = State(key, name, size, children)
        return self.states[key]


def _look_into(key: str, data: bytes, where: str) -> tuple[set[str], set[str]]:
    """Return the globals and the strings in a pickle, without executing it. Raises CorruptedStateError."""
    names: set[str] = set()
    strings: set[str] = set()
    last = ""
    end = -1
    try:
        for opcode, argument, position in pickletools.genops(data):
            if opcode.name == "GLOBAL":
                names.add(str(argument))
            elif isinstance(argument, str | bytes):
                text = argument if isinstance(argument, str) else argument.decode("utf-8", "replace")
                # Protocol 4 names a global by two strings in a row.
                names.add(f"{last} {text}")
                strings.add(text)
                last = text
            end = (position or 0) + 1
    except Exception as error:
        raise CorruptedStateError(key, where, f"it is not a whole pickle ({error})") from error
    if end != len(data):
        raise CorruptedStateError(key, where, f"its pickle ends at byte {end} of {len(data)}")
    return names, strings


def _put_old(store: DirectoryStore, old: _OldFolder, state: State) -> bool:
    data = old.read(state.key)
    content = record.content("", [memoryview(data)])
    if store.put(state.key, content, tuple(state.children), repair=False):
        return True
    found = store.get(state.key)
    found.release()
    if found.header.content != content.digest:
        msg = "the store has another state under this UUID, which stays"
        raise ANAError(msg)
    return False


class _Source(NamedTuple):
    """An open file, and the key that has signed its records, if any."""

    opened: files.Opened
    seal: Seal | None


def _manifest(opened: files.Opened, member: archive.Member | None, place: str) -> tuple[list[str], int, config.Config]:
    """Return the requested UUIDs, the number of states, and the fields of `ana.json`.

    Raises ValueError, UnsupportedFormatError.
    """
    if member is None or member.name != "ana.json":
        msg = "it does not begin with ana.json"
        raise ValueError(msg)
    if member.size_bytes > MOST_MANIFEST_BYTES:
        msg = f"its ana.json has {member.size_bytes} bytes"
        raise ValueError(msg)
    try:
        fields = json.loads(archive.part(opened, member.offset, member.size_bytes))
        version, exported, states = fields["format"], fields["exported"], fields["states"]
        said = config.of_fields(fields)
    except (KeyError, TypeError, OverflowError, RecursionError) as error:
        msg = f"its ana.json is invalid ({type(error).__name__}: {error})"
        raise ValueError(msg) from None
    numbers = isinstance(version, int) and isinstance(states, int) and 0 <= states <= MOST_STATES
    if not numbers or not isinstance(exported, list) or not all(isinstance(uuid, str) for uuid in exported):
        msg = "its ana.json is invalid"
        raise ValueError(msg)
    if version != FORMAT:
        raise UnsupportedFormatError(place, version, FORMAT)
    return exported, states, said


def _states(source: _Source, members: Iterator[archive.Member], done: Imported, place: str) -> Iterator[State]:
    """Yield the states of an exported file with valid headers, up to where the file is damaged."""
    try:
        for member in members:
            if not member.is_file or not address.is_file_name(member.name.rpartition("/")[2]):
                done.ignored.append(member.name)
                continue
            done.found += 1
            key = record.key_of(archive.part(source.opened, member.offset, min(member.size_bytes, 1024)))
            named = address.key_of_name(member.name.rpartition("/")[2]) or ""
            try:
                read = _reader(source.opened, member.offset)
                header = ingest.read_header(key, member.size_bytes, read, member.name, source.seal)
            except ANAError as error:
                done.problems.append(problem(error, named, member.name))
            else:
                yield State(key, member.name, member.size_bytes, header.children, member.offset)
    except ValueError as error:
        done.problems.append(Problem("", place, "damaged", f"the file is damaged: {error}"))


def _put_record(store: DirectoryStore, source: _Source, state: State) -> bool:
    read = _reader(source.opened, state.offset)
    return ingest.ingest(store, state.key, state.size_bytes, read, state.name, source.seal)


def _reader(opened: files.Opened, start: int) -> Read:
    return lambda offset, targets: opened.read(start + offset, targets)
