"""States from elsewhere: trees of the original ANA (`UUID.p`), and files that `export_states` wrote."""

import json
import pickletools
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field

from ana import address, files, record
from ana.errors import ANAError, CorruptedStateError, StateNotFoundError, UnsupportedFormatError, UntrustedStoreError
from ana.maintenance.opening import LOCK_SECONDS, Doing, Path, Problem, Tell, absolute, locked, open_store, problem
from ana.stores import adopting
from ana.stores.closure import children_first
from ana.stores.directory import DirectoryStore
from ana.stores.tree import FORMAT

__all__ = ["Imported", "import_file", "import_old"]

SUFFIX = ".p"
LARGEST_BYTES = 1 << 40
D = "ana.d D"
"""How the original ANA's pickles name what loads a reference."""


@dataclass
class Imported:
    """What an import did. States go by their UUIDs."""

    found: int = 0
    """States in what was imported."""
    imported: list[str] = field(default_factory=list)
    present: int = 0
    """Those that the store had already, the same."""
    size_bytes: int = 0
    """Of what was imported, as it was."""
    exported: list[str] = field(default_factory=list)
    """Of an exported file: the UUIDs that were asked for; what they refer to came along."""
    ignored: list[str] = field(default_factory=list)
    """Files that are no states."""
    problems: list[Problem] = field(default_factory=list)
    """States that were not imported, and why."""


def import_old(
    pickle_dir: Path, old_dir: Path, *, tell: Tell = lambda _: None, lock_seconds: float = LOCK_SECONDS
) -> Imported:
    """Store the states of a folder of the original ANA, `UUID.p` each, under their UUIDs; the folder is only read.

    `pickle_dir` becomes a store where it is none yet. Nothing is unpickled: each file is read to the end of its pickle,
    opcode by opcode, and what it refers to is found on the way. Classes are known to references only, so that
    `ana ls` shows none. What is stored already is compared. Can be interrupted, and run again.

    Raises StoreError, UntrustedStoreError for a folder without any such file, UnsupportedFormatError,
    LockTimeoutError.
    """
    folder = absolute(old_dir)
    names = {entry.name for entry in files.list_folder(folder) if entry.kind == "file"}
    keys = {name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX) and not name.startswith(".")}
    if not keys:
        raise UntrustedStoreError(folder, f"it holds no state of the original ANA (UUID{SUFFIX})")
    store = open_store(pickle_dir, create=True)
    done = Imported(found=len(keys), ignored=sorted(names - {f"{key}{SUFFIX}" for key in keys}))
    with locked(store, lock_seconds):
        old = _OldFolder(folder, keys, done)
        # Children first: a state that is in a store has there what it refers to.
        for number, key in enumerate(children_first(sorted(keys), old.children_of), 1):
            if key not in old.broken:
                _store_old(store, old, key, done)
            tell(Doing("importing", number, len(keys), done.size_bytes))
    return done


def import_file(
    pickle_dir: Path, path: Path, *, tell: Tell = lambda _: None, lock_seconds: float = LOCK_SECONDS
) -> Imported:
    """Store the states of a file that `export_states` wrote, as they are, each verified; nothing is unpickled.

    `pickle_dir` becomes a store where it is none yet. A state whose children are neither in the file nor in the store
    is not taken. Can be interrupted, and run again.

    Raises StoreError, UntrustedStoreError, UnsupportedFormatError for what is no such file, LockTimeoutError.
    """
    place = absolute(path)
    done = Imported()
    with files.Reading(place) as reading:
        members = _members(reading, place)
        done.exported, states = _manifest(reading, next(members, None), place)
        store = open_store(pickle_dir, create=True)
        with locked(store, lock_seconds):
            try:
                for number, member in enumerate(members, 1):
                    _adopt(store, reading, member, done)
                    tell(Doing("importing", number, None, done.size_bytes))
            except tarfile.TarError as error:
                done.problems.append(Problem("", place, "damaged", f"the file is cut short or damaged ({error})"))
    if done.found != states:
        text = f"the file is cut short or damaged: it holds {done.found} of {states} states"
        done.problems.append(Problem("", place, "damaged", text))
    return done


class _OldFolder:
    """A folder of the original ANA."""

    def __init__(self, folder: str, keys: set[str], done: Imported) -> None:
        self.folder = folder
        self.keys = keys
        self.broken: set[str] = set()
        self.children: dict[str, tuple[str, ...]] = {}
        self._done = done

    def read(self, key: str) -> bytes:
        """Return a state's pickle. Raises StateNotFoundError, StoreError."""
        data = files.read_whole(f"{self.folder}/{key}{SUFFIX}", LARGEST_BYTES)
        if data is None:
            raise StateNotFoundError(key, self.folder)
        return data

    def children_of(self, key: str) -> tuple[str, ...]:
        """Return which states of the folder a state refers to; note what is wrong with it."""
        try:
            names, strings = _look_into(key, self.read(key), f"{self.folder}/{key}{SUFFIX}")
            address.check_key(key)
        except (ANAError, ValueError) as error:
            self.broken.add(key)
            wrong = problem(error, key, f"{key}{SUFFIX}") if isinstance(error, ANAError) else None
            self._done.problems.append(wrong or Problem(key, f"{key}{SUFFIX}", "failed", str(error)))
            return ()
        # A string that is a UUID of the folder may be one by chance: then too much is kept, never too little.
        found = tuple(sorted((strings & self.keys) - {key})) if D in names else ()
        self.children[key] = found
        return found


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
                # Protocol 4 names a global by two strings, one after the other.
                names.add(f"{last} {text}")
                strings.add(text)
                last = text
            end = (position or 0) + 1
    except Exception as error:
        raise CorruptedStateError(key, where, f"it is no whole pickle ({error})") from error
    if end != len(data):
        raise CorruptedStateError(key, where, f"its pickle ends at byte {end} of {len(data)}")
    return names, strings


def _store_old(store: DirectoryStore, old: _OldFolder, key: str, done: Imported) -> None:
    try:
        missing = [child for child in old.children[key] if child in old.broken]
        if missing:
            done.problems.append(
                Problem(key, f"{key}{SUFFIX}", "missing", f"it refers to {missing[0]}, which is damaged")
            )
            old.broken.add(key)
            return
        data = old.read(key)
        content = record.content("", [memoryview(data)])
        if store.put(key, content, old.children[key], heal=False):
            done.imported.append(key)
            done.size_bytes += len(data)
            return
        found = store.get(key)
        found.release()
        if found.header.content == content.digest:
            done.present += 1
        else:
            reason = "the store has another state under this UUID: the first one stays"
            done.problems.append(Problem(key, f"{key}{SUFFIX}", "failed", reason))
    except ANAError as error:
        done.problems.append(problem(error, key, f"{key}{SUFFIX}"))


def _members(reading: "files.Reading", place: str) -> Iterator[tarfile.TarInfo]:
    """Yield what is in an exported file, as it is read."""
    try:
        with tarfile.open(fileobj=reading, mode="r:", format=tarfile.GNU_FORMAT) as archive:
            yield from archive
    except tarfile.ReadError as error:
        if reading.tell() > tarfile.BLOCKSIZE:
            raise
        raise UntrustedStoreError(place, f"it is no file that ana export wrote ({error})") from None


def _manifest(reading: "files.Reading", member: tarfile.TarInfo | None, place: str) -> tuple[list[str], int]:
    try:
        if member is None or member.name != "ana.json":
            raise ValueError("ana.json")  # noqa: EM101, TRY301 - caught below
        fields = json.loads(reading.part(member.offset_data, member.size))
        exported = [str(uuid) for uuid in fields["exported"]]
        version, states = fields["format"], int(fields["states"])
    except (ValueError, KeyError, TypeError) as error:
        raise UntrustedStoreError(place, f"it is no file that ana export wrote ({error})") from None
    if version != FORMAT:
        raise UnsupportedFormatError(place, version, FORMAT)
    return exported, states


def _adopt(store: DirectoryStore, reading: "files.Reading", member: tarfile.TarInfo, done: Imported) -> None:
    if not member.isreg() or not address.is_file_name(member.name.rpartition("/")[2]):
        done.ignored.append(member.name)
        return
    done.found += 1
    start = reading.part(member.offset_data, min(member.size, 1024))
    key = record.key_of(start)
    read = reading.within(member.offset_data)
    try:
        header = adopting.read_header(key, member.size, read, member.name)
        missing = [child for child in header.children if child != key and not store.has(child)]
        if missing:
            text = f"it refers to {missing[0]}, which is neither in the file nor in the store"
            done.problems.append(Problem(key, member.name, "missing", text))
        elif adopting.adopt(store, key, member.size, read, member.name):
            done.imported.append(key)
            done.size_bytes += member.size
        else:
            done.present += 1
    except ANAError as error:
        done.problems.append(problem(error, key, member.name))
