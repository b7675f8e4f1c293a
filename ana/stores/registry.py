"""Which kind of store a home belongs to, and what opens it: the one table of kinds.

A home is an absolute path, or a scheme, a colon and whatever the scheme's stores make of the rest.
"""

import re
from collections.abc import Callable

from ana.errors import StoreError
from ana.stores.base import Store

__all__ = ["PATHS", "Opener", "is_home", "is_process_local", "open_home", "register", "scheme_of"]

Opener = Callable[[str], Store]

PATHS = ""
"""Stands for a scheme where a home is an absolute path."""
ENTRY_POINTS = "ana.stores"
"""The group of entry points in which installed packages name the functions that open their stores."""

# Compiled when they are needed: that takes as long as importing a module.
_SCHEME = r"[a-z][a-z0-9+.-]+"
_HOME = rf"({_SCHEME}):"

_openers: dict[str, Opener | None] = {}


def register(scheme: str, open_store: Opener) -> None:
    """Have homes that begin with a scheme opened by a function, in this process.

    References carry a store's home, and children of this process take it over: each process that is to follow them
    has to register the scheme as well. Importing the store's module does that if the module calls `register`; a package
    can instead name the function as an entry point of the group `ana.stores`, by the scheme, and need not be imported.
    Registering a function of the same module and name again replaces it. Safe between threads.

    Args:
        scheme: What homes begin with, before the colon: at least two of `a-z 0-9 + . -`, a letter first.
        open_store: Takes a home and returns the store that is there. It makes none, and raises StoreError
            where there is none.

    Raises:
        TypeError: `scheme` is no string, or `open_store` is not callable.
        ValueError: `scheme` is no scheme, or belongs to another kind of store.

    """
    _check(scheme, open_store)
    add(scheme, open_store)


def add(scheme: str, open_store: Opener | None) -> None:
    """Register a kind of ana's own: `PATHS`, or one that only the process that made it can open (None)."""
    known = _openers.setdefault(scheme, open_store)
    if known is open_store:
        return
    if known is None or open_store is None or _name(known) != _name(open_store):
        msg = f"the scheme {scheme!r} belongs to {'ana' if known is None else _name(known)}: choose another one"
        raise ValueError(msg)
    _openers[scheme] = open_store


def open_home(home: str) -> Store:
    """Open the store that is at a home; none is made. Raises StoreError, and what the kind's own function raises."""
    scheme = scheme_of(home)
    if scheme not in _openers:
        _find_installed(scheme)
    open_store = _openers.get(scheme)
    if open_store is None:
        hint = (
            "only the process that made it can open it"
            if scheme in _openers
            else f"no store is registered for {scheme!r} in this process: import the module that calls "
            f"ana.stores.register({scheme!r}, ...), or install a package with such an entry point in {ENTRY_POINTS!r}"
        )
        raise StoreError(home, 0, hint)
    return open_store(home)


def scheme_of(home: str) -> str:
    """Return the scheme of a home, or `PATHS`."""
    found = re.match(_HOME, home)
    return PATHS if found is None else found[1]


def is_process_local(home: str) -> bool:
    """Return whether a home is the memory of one process: no other one can open it."""
    return _openers.get(scheme_of(home), open_home) is None


def is_home(place: str) -> bool:
    """Return whether a place that a user names is the home of a store, as "sqlite:/shared/states.db", and no folder."""
    scheme = scheme_of(place)
    return scheme != PATHS and place.startswith(":/", len(scheme))


def _check(scheme: object, open_store: object) -> None:
    if not isinstance(scheme, str) or not callable(open_store):
        msg = f"a scheme is a string, and what opens its stores a function, not {scheme!r:.100} and {open_store!r:.100}"
        raise TypeError(msg)
    if re.fullmatch(_SCHEME, scheme) is None:
        msg = f"a store's scheme is two or more of a-z, 0-9, '+', '.' and '-', a letter first, not {scheme!r:.100}"
        raise ValueError(msg)


def _name(open_store: Opener) -> str:
    return f"{open_store.__module__}.{getattr(open_store, '__qualname__', type(open_store).__qualname__)}"


def _find_installed(scheme: str) -> None:
    """Register what an installed package says opens a scheme."""
    from importlib import metadata  # noqa: PLC0415 - takes 20 ms, and only a home of an unknown kind needs it

    for entry in metadata.entry_points(group=ENTRY_POINTS, name=scheme):
        register(scheme, entry.load())
        return
