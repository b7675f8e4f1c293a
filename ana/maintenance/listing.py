"""Looking at states: lists, headers, children, raw pickles. Nothing is unpickled."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from ana.errors import ANAError, CorruptedStateError, StateNotFoundError
from ana.format import address, chunks
from ana.format.parts import CLASS_NAME as PART_CLASS
from ana.format.record import Header
from ana.maintenance.common import Problem, StoreOrPath, host_now, open_store, problem, unlisted
from ana.maintenance.names import find_in
from ana.stores import parts
from ana.stores.directory.naming import PACKS
from ana.stores.directory.scan import File, Survey, plain_name, trash_name
from ana.stores.directory.store import DirectoryStore

__all__ = [
    "Child",
    "Shown",
    "StateInfo",
    "cat",
    "ls",
    "show",
    "tree",
]

_METHODS = {chunks.ZSTD: "zstd", chunks.RAW: "raw", chunks.PART: "part"}


@dataclass(frozen=True)
class StateInfo:
    """One state, as `ls` lists it. Sizes in bytes, ages in s by this host's clock."""

    uuid: str
    """The state's UUID."""
    class_name: str
    """Its class, as in `package.module:Class`."""
    size_bytes: int
    """The size of its file, or of its record in a pack."""
    raw_bytes: int
    """Its size before compression, with its parts."""
    children: int
    """The number of states that it refers to."""
    age_seconds: float
    """Time since it was stored, or restored from the trash; in a pack, since the last state was added to it."""
    name: str
    """Its file, relative to the store; in a pack, the file that it would have."""
    problem: Problem | None = None
    """Set if its header cannot be read; its class and raw size are unknown then. A folder that cannot be listed has a
    `name` and no `uuid`."""
    pack: str = ""
    """The file name of its pack; "" if it has a file of its own."""
    summary: str = ""
    """What the writer said about the value: of a Ref its type and shape, as in `ndarray (1000, 1000) float64`."""


@dataclass(frozen=True)
class Shown:
    """A state's header. Times in s since 1970."""

    uuid: str
    """The state's UUID."""
    class_name: str
    """Its class, as in `package.module:Class`; "" for a bare state."""
    path: str
    """Its file, or its pack."""
    size_bytes: int
    """The size of its file, or of its record in a pack."""
    raw_bytes: int
    """Its size before compression, with its parts."""
    header_bytes: int
    """The size of the record's header."""
    stored_bytes: int
    """The size of the record's compressed chunks."""
    segments: list[int]
    """The size of the pickle stream, then of each out-of-band buffer."""
    chunks: list[dict[str, object]]
    """For each chunk: `stored` and `raw` size, `method` (`zstd`, `raw` or `part`), `digest`."""
    children: list[str]
    """The UUIDs of the states that it refers to."""
    parts: list[dict[str, Any]]
    """For each buffer that is a state of its own: `segment` (its number), `size_bytes`, `uuid`."""
    content_digest: str
    """The BLAKE3 digest of its raw content, in hex."""
    created: float
    """By the writer's clock."""
    modified: float
    """By the server's clock. `gc` counts its age from here."""
    in_trash: bool = False
    """Whether a collection has moved it to the trash."""
    pack: str = ""
    """The file name of its pack; "" if it has a file of its own."""
    offset: int = 0
    """Where its record begins in the file at `path`."""
    summary: str = ""
    """What the writer said about the value: of a Ref its type and shape."""

    @property
    def is_part(self) -> bool:
        """Whether it is a part: the bytes of a buffer, and no pickle."""
        return self.class_name == PART_CLASS


@dataclass(frozen=True)
class Child:
    """A state in a tree of references."""

    uuid: str
    """The state's UUID."""
    class_name: str
    """Its class, as in `package.module:Class`; "" if its header cannot be read."""
    size_bytes: int
    """The size of its file, or of its record in a pack."""
    problem: Problem | None = None
    """Set if the state is missing or damaged."""
    children: list["Child"] = field(default_factory=list)
    """The states that it refers to."""
    repeated: bool = False
    """Whether its children are listed at another place in the tree."""
    summary: str = ""
    """What the writer said about the value: of a Ref its type and shape."""


Filter = Callable[[StateInfo], bool]


def ls(
    pickle_dir: StoreOrPath,
    *,
    class_pattern: str | None = None,
    larger_than: int | None = None,
    smaller_than: int | None = None,
    older_than_seconds: float | None = None,
    newer_than_seconds: float | None = None,
) -> Iterator[StateInfo]:
    """Yield the states that pass all given filters, in the order of their folders, then of their packs.

    Each file is opened once. Packs are read from end to end.

    Args:
        pickle_dir: The store.
        class_pattern: A regular expression to search for in "module:Class".
        larger_than: Only states whose file, or record in a pack, is larger than this, in bytes.
        smaller_than: Only states whose file, or record in a pack, is smaller than this, in bytes.
        older_than_seconds: Only states stored longer ago than this, by this host's clock.
        newer_than_seconds: Only states stored more recently than this.

    Raises:
        re.error: `class_pattern` is not a regular expression.
        StoreError: The store does not exist, or the system refused.
        UntrustedStoreError: The folder is not a store.
        UnsupportedFormatError: A newer version made the store.
    """
    pattern = None if class_pattern is None else re.compile(class_pattern)
    store = open_store(pickle_dir)
    right_now = host_now()
    survey = Survey(store)
    tests: list[Filter] = []
    if pattern is not None:
        tests.append(lambda state: pattern.search(state.class_name) is not None)
    if larger_than is not None:
        tests.append(lambda state: state.size_bytes > larger_than)
    if smaller_than is not None:
        tests.append(lambda state: state.size_bytes < smaller_than)
    if older_than_seconds is not None:
        tests.append(lambda state: state.age_seconds > older_than_seconds)
    if newer_than_seconds is not None:
        tests.append(lambda state: state.age_seconds < newer_than_seconds)
    return chain(
        (state for state in _listed(survey, right_now) if all(test(state) for test in tests)), _unlisted(survey)
    )


def show(pickle_dir: StoreOrPath, uuid: str) -> Shown:
    """Return a state's header. A state in the trash is shown from there, and not restored.

    Args:
        pickle_dir: The store.
        uuid: The state's UUID, or a unique prefix of it.

    Raises:
        StateNotFoundError: The state does not exist.
        AmbiguousPrefixError: Several UUIDs begin with `uuid`.
        CorruptedStateError: The header is damaged.
        UnsupportedFormatError: A newer version stored the state.
        StoreError: The store cannot be read.
    """
    store = open_store(pickle_dir)
    key = find_in(store, uuid)
    survey = Survey(store)
    name = survey.name_of(key)
    found = survey.header(name) or survey.header(trash_name(name))
    if found is None:
        raise StateNotFoundError(key, store.home)
    return _shown(store, *found)


def tree(pickle_dir: StoreOrPath, uuid: str) -> Child:
    """Return a state and all that it refers to, as a tree. A missing or damaged state has its `problem` set.

    A state that is referred to several times has its children at the first place only.

    Args:
        pickle_dir: The store.
        uuid: The state's UUID, or a unique prefix of it.

    Raises:
        StateNotFoundError: The state does not exist.
        AmbiguousPrefixError: Several UUIDs begin with `uuid`.
        StoreError: The store cannot be read.
    """
    store = open_store(pickle_dir)
    survey = Survey(store)
    key = find_in(store, uuid)
    top: list[Child] = []
    seen: set[str] = set()
    # Depth first, without recursion: chains may be long.
    todo: list[tuple[str, list[Child]]] = [(key, top)]
    while todo:
        key, siblings = todo.pop()
        if key in seen:
            siblings.append(Child(key, "", 0, repeated=True))
            continue
        seen.add(key)
        child, below = _child(survey, key)
        siblings.append(child)
        todo += [(name, child.children) for name in reversed(below)]
    return top[0]


def cat(pickle_dir: StoreOrPath, uuid: str) -> list[bytes | memoryview]:
    """Return a state's verified pickle stream and out-of-band buffers, or the bytes of a part.

    Args:
        pickle_dir: The store.
        uuid: The state's UUID, or a unique prefix of it.

    Raises:
        StateNotFoundError: The state, or one of its parts, does not exist.
        AmbiguousPrefixError: Several UUIDs begin with `uuid`.
        CorruptedStateError: The state is damaged.
        UnsupportedFormatError: A newer version stored the state.
        StoreError: The store cannot be read.
    """
    store = open_store(pickle_dir)
    return parts.segments(store, store.get(find_in(store, uuid)))


def _listed(survey: Survey, right_now: float) -> Iterator[StateInfo]:
    for name, found in survey.headers():
        if isinstance(found, ANAError):
            looked = _stat(survey, name)
            if looked is not None:
                key = address.key_of_name(name.rpartition("/")[2]) or name
                wrong = problem(found, key, name)
                age = right_now - looked.modified
                yield StateInfo(key, "", looked.size_bytes, 0, 0, age, name, wrong, looked.pack)
        elif found is not None:
            header, file = found
            age = right_now - file.modified
            yield StateInfo(
                header.key,
                header.class_name,
                file.size_bytes,
                header.raw_bytes,
                len(header.children),
                age,
                name,
                pack=file.pack,
                summary=header.summary,
            )


def _unlisted(survey: Survey) -> Iterator[StateInfo]:
    # Known once all others are listed. No filter applies to them.
    for wrong in unlisted(survey.unreadable):
        yield StateInfo("", "", 0, 0, 0, 0.0, wrong.name, wrong)


def _stat(survey: Survey, name: str) -> File | None:
    try:
        return survey.stat(name)
    except ANAError:
        return File(name, 0, 0.0)


def _shown(store: DirectoryStore, header: Header, file: File) -> Shown:
    return Shown(
        uuid=header.key,
        class_name=header.class_name,
        path=f"{store.home}/{_place(file)}",
        size_bytes=file.size_bytes,
        raw_bytes=header.raw_bytes,
        header_bytes=header.header_bytes,
        stored_bytes=header.stored_bytes,
        segments=list(header.segments),
        chunks=[
            {
                "stored": chunk.stored,
                "raw": chunk.raw,
                "method": _METHODS[chunk.method],
                "digest": chunk.digest.hex(),
            }
            for chunk in header.chunks
        ],
        children=list(header.children),
        parts=[{"segment": part.segment, "size_bytes": part.size, "uuid": part.key} for part in header.parts],
        content_digest=header.content.hex(),
        created=header.created_ns / 1e9,
        modified=file.modified,
        in_trash=plain_name(file.name) != file.name,
        pack=file.pack,
        offset=file.offset,
        summary=header.summary,
    )


def _place(file: File) -> str:
    """Return the file that holds a state, relative to the store."""
    if not file.pack:
        return file.name
    name = f"{PACKS}/{file.pack}"
    return name if plain_name(file.name) == file.name else trash_name(name)


def _child(survey: Survey, key: str) -> tuple[Child, tuple[str, ...]]:
    try:
        found = survey.header(survey.name_of(key))
    except CorruptedStateError as error:
        return Child(key, "", 0, problem(error, key)), ()
    if found is None:
        return Child(key, "", 0, problem(StateNotFoundError(key, survey.root), key)), ()
    header, file = found
    return Child(key, header.class_name, file.size_bytes, summary=header.summary), header.children
