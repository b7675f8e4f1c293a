"""New stores of a kind (shared, with a key), and another key for a store that has one."""

from dataclasses import dataclass, field

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
from ana.stores.directory import ingest, keyring
from ana.stores.directory.scan import Survey
from ana.stores.directory.store import DirectoryStore

__all__ = ["Initialised", "Rotated", "init", "new_key", "rotate_key"]


@dataclass(frozen=True)
class Initialised:
    """A new store, its mode, and the file that its key is in ("" for none)."""

    path: str
    store_id: str
    mode: str
    key_file: str = ""


@dataclass
class Rotated:
    """What a rotation did; `finished` says whether the old keys are gone."""

    key_file: str
    states: int = 0
    signed: int = 0
    """States that were signed anew."""
    resumed: bool = False
    """An earlier rotation had not come to its end: that was done, and no other key was made."""
    finished: bool = False
    problems: list[Problem] = field(default_factory=list)
    """States that were left as they are: damaged ones are of no use with any key."""


def init(pickle_dir: Path, *, keyed: bool = False, shared: bool = False, key_file: Path | None = None) -> Initialised:
    """Make a store in a folder that is not there yet, or is empty; `keyed` with a new key in a file of its own.

    The key file is `~/.config/ana/keys/STORE_ID`, where every process of this user finds it, or `key_file`. Raises
    StoreError (errno EEXIST where there is a store, or a key file, already), UntrustedStoreError for a folder that
    holds something else.
    """
    root = absolute(pickle_dir)
    try:
        open_store(root)
    except StoreError as error:
        if error.errno != 2:  # noqa: PLR2004 - ENOENT, as it has to be
            raise
    else:
        raise StoreError(root, 17, "there is a store already")
    believed = opening.trust(shared=shared or None)
    if not keyed:
        store = opening.folder(root, believed=believed)
        return Initialised(root, store.config.id, f"{store.tree.mode:04o}")
    store_id = address.random_uuid()
    where = keyring.default_path(store_id) if key_file is None else absolute(key_file)
    keyring.make(where, store_id, [root])
    try:
        store = opening.folder(root, key=where, believed=believed)
    except BaseException:
        files.remove(where)
        raise
    return Initialised(root, store.config.id, f"{store.tree.mode:04o}", where)


def new_key(path: Path) -> str:
    """Make a key that is for no store yet, in a new file with mode 0600: for `key=`; return where.

    Raises StoreError.
    """
    where = absolute(path)
    keyring.make(where, "")
    return where


def rotate_key(
    pickle_dir: StoreOrPath, *, on_progress: OnProgress = lambda _: None, lock_seconds: float = LOCK_SECONDS
) -> Rotated:
    """Give a store another key: it is made, all states are signed with it, then the old one is forgotten.

    Until then both are believed, by processes that read the key file from now on. One that was interrupted is gone on
    with. Running jobs that have opened the store before do not know the new key: they take what is signed with it
    for damaged, and have to be started anew.

    Raises StoreError, UntrustedStoreError for a store whose key is in no file, LockTimeoutError.
    """
    store = open_store(pickle_dir)
    ring = keyring.find(store.config.id, store.home, store.config.fingerprint)
    if ring is None:
        raise UntrustedStoreError(store.home, "this store has no key that is in a file, so there is none to rotate")
    with locked(store, lock_seconds):
        if not ring.store_id:
            # Another store may have this key: that file stays as it is.
            ring = keyring.own_file(ring, store.config.id, store.home)
        done = Rotated(ring.path, resumed=len(ring.keys) > 1)
        if not done.resumed:
            ring = keyring.rotate(ring.path)
        # From now on nobody opens the store who does not know the new key.
        fingerprint = Seal(store.config.id, ring.keys).fingerprints[0]
        store.tree.amend(key=fingerprint)
        # Opened once more, with the new key, too.
        store = open_store(store.home)
        survey = Survey(store)
        names = list(survey.names_to_sign())
        done.problems += unlisted(survey.unreadable)
        done.states = len(names)
        for number, name in enumerate(names, 1):
            _sign(store, survey, name, done)
            on_progress(Progress("signing", number, done.states))
        if all(wrong.kind == "damaged" for wrong in done.problems):
            # Once more: who noted something else there at the same moment may have taken it away.
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
