"""The error tree: grouped by what the caller does about them, each carrying what it is about.

All of them survive pickling, because they come back from workers.
"""

import os
import pickle

__all__ = [
    "ANAError",
    "CorruptedStateError",
    "LockTimeoutError",
    "StateChangedError",
    "StateLoadError",
    "StateNotFoundError",
    "StoreError",
    "UUIDConflictError",
    "UnsupportedFormatError",
    "UntrustedStoreError",
]


class ANAError(Exception):
    """Base of everything that ANA raises on purpose.

    The keyword arguments of a subclass become attributes, and are all that a pickle of it holds.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        # KeyError and OSError would print the message in quotes or not at all.
        return self.message

    def __reduce__(self) -> tuple[object, ...]:
        # Of OSError's own, errno alone is used; it is not in __dict__.
        own = {"errno": self.errno} if isinstance(self, OSError) else {}
        return (_rebuild, (type(self), self.args, {**self.__dict__, **own}))


def _rebuild(cls: type[ANAError], args: tuple[object, ...], state: dict[str, object]) -> ANAError:
    """Make an error again from its attributes, whatever arguments its class takes."""
    error = cls.__new__(cls)
    error.args = args
    for name, value in state.items():
        setattr(error, name, value)
    return error


def _place(where: str) -> str:
    """Say where something was looked for, and on which host: mounts differ between nodes."""
    return f"{where} (host {os.uname().nodename}, pid {os.getpid()})"


class StateNotFoundError(ANAError, KeyError):
    """No store that was asked has a state under this UUID.

    Attributes: `uuid`, `store` (where was looked).
    """

    def __init__(self, uuid: str, store: str, hint: str = "") -> None:
        message = f"no state {uuid!r} in {_place(store)}"
        super().__init__(f"{message}: {hint}" if hint else message)
        # Python takes a KeyError with one argument, raised within dict(a=1, **it), for a keyword that is there twice.
        self.args = (self.message, uuid)
        self.uuid = uuid
        self.store = store


class CorruptedStateError(ANAError):
    """A state is there, and its bytes are not what was written: it is never returned.

    Attributes: `uuid`, `path`, `reason`. The file is left where it is; storing the same object
    again replaces it.
    """

    def __init__(self, uuid: str, path: str, reason: str) -> None:
        super().__init__(
            f"state {uuid!r} is damaged: {reason}, in {_place(path)}; the file is left as it is, "
            "and storing the same object again (ana_store) heals it"
        )
        self.uuid = uuid
        self.path = path
        self.reason = reason


class StateChangedError(ANAError):
    """An object's state changed while it was stored, or since the object got its UUID: nothing was stored.

    Attributes: `uuid`, `class_name`, `what` (changed).
    """

    def __init__(self, uuid: str, class_name: str, what: str) -> None:
        super().__init__(
            f"state {uuid!r} of {_place(f'class {class_name}')} is not stored: {what}; do not modify an object "
            "that has a UUID, nor its arrays while it is stored (by another thread, a memory map ...): store a copy"
        )
        self.uuid = uuid
        self.class_name = class_name
        self.what = what


class UnsupportedFormatError(ANAError):
    """A tree or a state is of a format that this version does not know.

    Attributes: `path`, `found`, `supported` (versions).
    """

    def __init__(
        self, path: str, found: object, supported: object, cure: str = "use a newer ana, or another folder"
    ) -> None:
        super().__init__(f"{_place(path)} is of format {found}, this version of ana reads {supported}: {cure}")
        self.path = path
        self.found = found
        self.supported = supported


class UntrustedStoreError(ANAError):
    """Something in the store is not what a store may hold: a symlink, a device, a foreign folder.

    Attributes: `path`, `reason`.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{_place(path)} is refused: {reason}")
        self.path = path
        self.reason = reason


class StoreError(ANAError, OSError):
    """The store's filesystem said no: full, over quota, read-only, no permission, I/O error.

    Attributes: `path`, `errno` (of the system's error), `hint` (the cure).
    """

    def __init__(self, path: str, errno: int, hint: str = "") -> None:
        reason = os.strerror(errno) if errno else "failed"
        message = f"{_place(path)}: {reason}"
        super().__init__(f"{message}: {hint}" if hint else message)
        self.path = path
        self.errno = errno
        self.hint = hint


class LockTimeoutError(ANAError, TimeoutError):
    """A lock was not to be had within its time.

    Attributes: `path`, `seconds`.
    """

    def __init__(self, path: str, seconds: float, holder: str = "") -> None:
        held = f", held by {holder}" if holder else ""
        super().__init__(f"no lock on {_place(path)} within {seconds:g} s{held}")
        self.path = path
        self.seconds = seconds


class UUIDConflictError(ANAError):
    """Another state is already stored under this explicit UUID (`strict=True`).

    Attributes: `uuid`, `store`.
    """

    def __init__(self, uuid: str, store: str) -> None:
        super().__init__(
            f"UUID {uuid!r} already names a different state in {_place(store)}: the first writer "
            "wins; choose another UUID, or call make_uuid() without one to get the content's own"
        )
        self.uuid = uuid
        self.store = store


class StateLoadError(ANAError, pickle.UnpicklingError):
    """A state is whole, but cannot become an object here: its class changed, vanished, or refused it.

    Attributes: `uuid`, `class_name`, `path`, `reason`. The original exception is its `__cause__`
    (in this process only).
    """

    def __init__(self, uuid: str, class_name: str, path: str, reason: str) -> None:
        super().__init__(
            f"state {uuid!r} of class {class_name or '(none)'} in {_place(path)} cannot be loaded: {reason}"
        )
        self.uuid = uuid
        self.class_name = class_name
        self.path = path
        self.reason = reason
