"""Creates stores, also shared ones and ones with a key. Creates keys, and rotates a store's key."""

from dataclasses import dataclass, field

from ana import settings, units
from ana.errors import ANAError, StoreError, UntrustedStoreError
from ana.format import address
from ana.format.signature import Seal
from ana.fs import files
from ana.layers import opening
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
    unlisted,
)
from ana.stores.directory import ingest, keyring, repack
from ana.stores.directory.pack_survey import PackFile
from ana.stores.directory.scan import Survey
from ana.stores.directory.store import DirectoryStore

__all__ = ["Initialised", "Rotated", "init", "new_key", "rotate_key"]


@dataclass(frozen=True)
class Initialised:
    """A new store: its path, id, mode, and key file ("" for none)."""

    path: str
    """The store's folder."""
    store_id: str
    """Its id."""
    mode: str
    """The folder's mode, in octal: 0700, or 2770 for a group."""
    key_file: str = ""
    """The file with its key; "" for none."""


@dataclass
class Rotated:
    """The result of a rotation. `finished`: the old keys are gone."""

    key_file: str
    """The file with the key."""
    states: int = 0
    """The number of states."""
    signed: int = 0
    """States that were signed with the new key."""
    resumed: bool = False
    """An interrupted rotation was finished, and no further key was created."""
    finished: bool = False
    """Whether the old key is no longer valid."""
    problems: list[Problem] = field(default_factory=list)
    """States that could not be signed, such as damaged ones."""


def init(
    pickle_dir: Path,
    *,
    keyed: bool = False,
    shared: bool = False,
    key_file: Path | None = None,
    pack_bytes: int | str = 0,
    ttl: float | str | None = None,
) -> Initialised:
    """Create a store in a new or empty folder.

    Args:
        pickle_dir: The folder.
        keyed: Create a key, too. Readers accept only what it has signed.
        shared: Share the store with a group that is trusted (mode 2770).
        key_file: Where to put the key; default: `~/.config/ana/keys/STORE_ID`, where this user's processes find it.
        pack_bytes: States of at most this raw size share files, for all programs that do not say otherwise.
        ttl: How long states that no root keeps should stay, in s, or as in "30d": `gc` takes them then. Default: as
            long as whoever runs `gc` says.

    Raises:
        ValueError: `pack_bytes` is no size, or too large; or `ttl` is invalid.
        StoreError: The store or the key file exists (errno EEXIST), or the system refused.
        UntrustedStoreError: The folder holds something else.
    """
    root = absolute(pickle_dir)
    largest = settings.checked({"pack_bytes": pack_bytes}).pack_bytes or 0
    ttl_seconds = 0.0 if ttl is None else units.ttl_seconds(ttl)
    try:
        open_store(root)
    except StoreError as error:
        if error.errno != 2:  # noqa: PLR2004 - ENOENT, as expected
            raise
    else:
        raise StoreError(root, 17, "there is a store already, and what `ana init` chooses is for new ones only")
    believed = opening.trust(shared=shared or None)
    if not keyed:
        store = opening.folder(root, trusted=keyring.Trusted(believed))
        _note(store, largest, ttl_seconds)
        return Initialised(root, store.config.id, f"{store.tree.mode:04o}")
    store_id = address.random_uuid()
    where = keyring.default_path(store_id) if key_file is None else absolute(key_file)
    keyring.make(where, store_id, [root])
    try:
        store = opening.folder(root, trusted=keyring.Trusted(believed, keyring.from_option(where)))
    except BaseException:
        files.remove(where)
        raise
    _note(store, largest, ttl_seconds)
    return Initialised(root, store.config.id, f"{store.tree.mode:04o}", where)


def _note(store: DirectoryStore, pack_bytes: int, ttl_seconds: float) -> None:
    """Note in `ana.json` what programs should do with the store."""
    if pack_bytes:
        store.tree.begin_packs(pack_bytes)
    if ttl_seconds:
        store.tree.amend(ttl=ttl_seconds)


def new_key(path: Path) -> str:
    """Create a key for a future store, in a new file with mode 0600, and return its path. Raises StoreError."""
    where = absolute(path)
    keyring.make(where, "")
    return where


def rotate_key(
    pickle_dir: StoreOrPath, *, on_progress: OnProgress = lambda _: None, lock_seconds: float = LOCK_SECONDS
) -> Rotated:
    """Replace a store's key: create a new one, sign all states with it, drop the old one.

    Resumes an interrupted rotation. Until it is finished, both keys are valid for processes that read the key file from
    now on. Jobs that opened the store before do not know the new key. What it has signed looks damaged to them, so
    restart them.

    Args:
        pickle_dir: The store.
        on_progress: Called for each state.
        lock_seconds: How long to wait for the maintenance lock.

    Raises:
        StoreError: The system refused.
        UntrustedStoreError: The store has no key, or its key is not in a file.
        LockTimeoutError: Other maintenance holds the lock.
    """
    store = open_store(pickle_dir)
    ring = keyring.find(store.config.id, store.home, store.config.fingerprint)
    if ring is None:
        raise UntrustedStoreError(store.home, "this store has no key file, so there is no key to rotate")
    with locked(store, lock_seconds):
        if not ring.store_id:
            # Another store may use this key, so its file stays as it is.
            ring = keyring.own_file(ring, store.config.id, store.home)
        done = Rotated(ring.path, resumed=len(ring.keys) > 1)
        if not done.resumed:
            ring = keyring.rotate(ring.path)
        # From now on, only processes that know the new key can open the store.
        fingerprint = Seal(store.config.id, ring.keys).fingerprints[0]
        store.tree.amend(key=fingerprint)
        # Opened again, so that it knows the new key, too.
        store = open_store(store.home)
        survey = Survey(store)
        names = list(survey.names_to_sign())
        done.problems += unlisted(survey.unreadable)
        done.states = len(names)
        for number, name in enumerate(names, 1):
            _sign(store, survey, name, done)
            on_progress(Progress("signing", number, done.states))
        _sign_packs(survey, done, on_progress)
        if all(wrong.kind == "damaged" for wrong in done.problems):
            # Again: a process that amended `ana.json` at the same time may have undone it.
            store.tree.amend(key=fingerprint)
            keyring.forget_old(ring.path)
            done.finished = True
    return done


def _sign(store: DirectoryStore, survey: Survey, name: str, done: Rotated) -> None:
    try:
        found = survey.header(name)
        if found is not None and ingest.sign_anew(store, name, found[0]):
            done.signed += 1
    except ANAError as error:
        done.problems.append(problem(error, name=name))


def _sign_packs(survey: Survey, done: Rotated, on_progress: OnProgress) -> None:
    for trashed in (False, True):
        unreadable: dict[str, ANAError] = {}
        survey.packed.look(unreadable)
        done.problems += [] if trashed else unlisted(unreadable)
        for one in [one for one in survey.packed.files if one.trashed == trashed]:
            done.states += 0 if trashed else len(one.table)
            _sign_pack(survey, one, done)
            on_progress(Progress("signing", done.signed, done.states))


def _sign_pack(survey: Survey, one: PackFile, done: Rotated) -> None:
    try:
        signed, damaged = repack.sign_anew(survey.packed, one)
    except ANAError as error:
        done.problems.append(problem(error, name=one.relative))
        return
    done.signed += signed
    for spot in damaged:
        reason = "it cannot be read, so it was not signed"
        done.problems.append(Problem("", f"{one.relative}:{spot.offset}", "damaged", reason))
