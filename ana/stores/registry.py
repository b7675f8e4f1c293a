"""The table of store kinds: which kind a home belongs to, and the function that opens it.

A home is an absolute path, or a scheme, a colon and an address in a form that the scheme defines.
"""

import re
from collections.abc import Callable

from ana.errors import StoreError
from ana.stores.base import Store

__all__ = ["PATHS", "Opener", "is_home", "is_process_local", "open_home", "register", "scheme_of"]

Opener = Callable[[str], Store]

PATHS = ""
"""The scheme of homes that are absolute paths."""
ENTRY_POINTS = "ana.stores"
"""The entry-point group in which installed packages name the functions that open their stores."""

# Compiled when they are needed: that takes as long as importing a module.
_SCHEME = r"[a-z][a-z0-9+.-]+"
_HOME = rf"({_SCHEME}):"

_openers: dict[str, Opener | None] = {}


def register(scheme: str, open_store: Opener) -> None:
    """Register the function that opens homes with a scheme, in this process.

    References carry a store's home, and child processes inherit it, so each process that loads them must register the
    scheme too. Importing the store's module does so if the module calls `register`. Alternatively, a package names the
    function as an entry point in the group `ana.stores`, under the scheme's name, and need not be imported.
    Registering a function of the same module and name again replaces it. Safe between threads.

    Args:
        scheme: The part of a home before the colon: two or more of `a-z 0-9 + . -`, starting with a letter.
        open_store: Takes a home and returns the existing store. It must not create a store, and raises StoreError
            if there is none.

    Raises:
        TypeError: `scheme` is not a string, or `open_store` is not callable.
        ValueError: `scheme` is not a valid scheme, or belongs to another kind of store.

    """
    _check(scheme, open_store)
    add(scheme, open_store)


def add(scheme: str, open_store: Opener | None) -> None:
    """Register a scheme, including `PATHS`; None if only the process that created a store can open it."""
    known = _openers.setdefault(scheme, open_store)
    if known is open_store:
        return
    if known is None or open_store is None or _name(known) != _name(open_store):
        msg = f"the scheme {scheme!r} belongs to {'ana' if known is None else _name(known)}: choose another one"
        raise ValueError(msg)
    _openers[scheme] = open_store


def open_home(home: str) -> Store:
    """Open the existing store at a home. Raises StoreError, and whatever the scheme's function raises."""
    scheme = scheme_of(home)
    if scheme not in _openers:
        _find_installed(scheme)
    open_store = _openers.get(scheme)
    if open_store is None:
        hint = (
            "only the process that created it can open it"
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
    """Return whether only the process that created a home's store can open it."""
    return _openers.get(scheme_of(home), open_home) is None


def is_home(place: str) -> bool:
    """Return whether a user's argument is a home with a scheme, like "sqlite:/shared/states.db", and not a folder."""
    scheme = scheme_of(place)
    return scheme != PATHS and place.startswith(":/", len(scheme))


def _check(scheme: object, open_store: object) -> None:
    if not isinstance(scheme, str) or not callable(open_store):
        msg = f"a scheme is a string, and its opener a function, not {scheme!r:.100} and {open_store!r:.100}"
        raise TypeError(msg)
    if re.fullmatch(_SCHEME, scheme) is None:
        msg = f"a scheme is two or more of a-z, 0-9, '+', '.' and '-', starting with a letter, not {scheme!r:.100}"
        raise ValueError(msg)


def _name(open_store: Opener) -> str:
    return f"{open_store.__module__}.{getattr(open_store, '__qualname__', type(open_store).__qualname__)}"


def _find_installed(scheme: str) -> None:
    """Register the function that an installed package names for a scheme."""
    from importlib import metadata  # noqa: PLC0415 - takes 20 ms, and only an unknown scheme needs it

    for entry in metadata.entry_points(group=ENTRY_POINTS, name=scheme):
        register(scheme, entry.load())
        return
