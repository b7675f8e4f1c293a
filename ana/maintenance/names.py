"""What users call states: UUIDs, unique prefixes of UUIDs, and names of roots."""

import re
from collections.abc import Iterable

from ana.errors import ANAError, StateNotFoundError
from ana.format import address
from ana.maintenance.common import StoreOrPath, open_store
from ana.stores.directory import roots
from ana.stores.directory.scan import Survey
from ana.stores.directory.store import DirectoryStore

__all__ = ["AmbiguousPrefixError", "beginning", "find", "find_in", "states_of"]

_HEX = re.compile(r"[0-9a-f]{1,8}(-[0-9a-f-]*)?")

NEITHER = "it is neither a root's name nor the beginning of a UUID there"
A_ROOT = "it is a root's name, and this needs a UUID: `ana show {}` lists the states that it names"


class AmbiguousPrefixError(ANAError, ValueError):
    """Several UUIDs begin with a prefix.

    Attributes:
        prefix: The prefix.
        uuids: Some of the UUIDs.
    """

    def __init__(self, prefix: str, uuids: list[str]) -> None:
        super().__init__(f"more than one UUID begins with {prefix!r}: {', '.join(uuids)} ...: give a longer prefix")
        self.prefix = prefix
        self.uuids = uuids


def find(pickle_dir: StoreOrPath, prefix: str) -> str:
    """Return the only UUID with a prefix.

    Args:
        pickle_dir: The store.
        prefix: The first characters of the UUID, or all of it.

    Raises:
        StateNotFoundError: No UUID begins with the prefix.
        AmbiguousPrefixError: Several UUIDs do.
        StoreError: The store cannot be read.
    """
    return find_in(open_store(pickle_dir), prefix)


def beginning(pickle_dir: StoreOrPath, prefix: str) -> list[str]:
    """Return all UUIDs with a prefix, sorted.

    Args:
        pickle_dir: The store.
        prefix: The first characters of the UUIDs.

    Raises:
        StoreError: The store cannot be read.
    """
    store = open_store(pickle_dir)
    return sorted(
        _beginning(Survey(store), prefix, prefix[: 2 * store.config.levels] if _HEX.fullmatch(prefix) else "")
    )


def states_of(
    pickle_dir: StoreOrPath, names: Iterable[str], named_roots: dict[str, list[roots.Root]] | None = None
) -> list[str]:
    """Return the UUIDs of the states that names stand for, each once, in their order.

    Each name is taken as a UUID, else as a root, which stands for all that it names, else as a unique prefix of a UUID.

    Args:
        pickle_dir: The store.
        names: The names.
        named_roots: Gets the files of the roots among them, by name.

    Raises:
        StateNotFoundError: A name stands for nothing. That a UUID exists is not checked.
        AmbiguousPrefixError: Several UUIDs begin with a name.
        StoreError: The store cannot be read.

    """
    store = open_store(pickle_dir)
    survey = Survey(store)
    found: list[str] = []
    for name in names:
        kept: list[roots.Root] = []
        if not (address.is_canonical(address.check_key(name)) or survey.is_there(name)):
            # Files that cannot be read are left out.
            kept = roots.read(store, {}, name=name)
        if kept and named_roots is not None:
            named_roots[name] = kept
        found += [uuid for root in kept for uuid in root.uuids] if kept else [find_in(store, name)]
    return list(dict.fromkeys(found))


def find_in(store: DirectoryStore, prefix: str) -> str:
    """Return the only UUID with this prefix in an open store."""
    survey = Survey(store)
    if address.is_canonical(address.check_key(prefix)) or survey.is_there(prefix):
        return prefix
    # The first digits name the folder, so one listing usually suffices.
    found = _beginning(survey, prefix, prefix[: 2 * store.config.levels]) if _HEX.fullmatch(prefix) else []
    found = found or _beginning(survey, prefix, "")
    if len(found) > 1:
        raise AmbiguousPrefixError(prefix, sorted(found)[:3])
    if not found:
        # It may be in a folder that cannot be listed.
        hint = A_ROOT.format(prefix) if roots.read(store, {}, name=prefix) else NEITHER
        raise next(iter(survey.unreadable.values()), StateNotFoundError(prefix, store.home, hint))
    return found[0]


def _beginning(survey: Survey, prefix: str, digits: str) -> list[str]:
    names = (name.rpartition("/")[2] for name in survey.states(digits, trash=True))
    keys = {address.key_of_name(name) for name in names}
    return [key for key in keys if key is not None and key.startswith(prefix)]
