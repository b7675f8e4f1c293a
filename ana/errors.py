"""The error tree, grouped by what the caller does about an error. Each error carries what it is about as attributes.

Every error survives pickling, because workers send errors back.
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
    """Base of the errors that ANA raises on purpose.

    Attributes:
        message: What happened, where, and what to do about it.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        # KeyError would print the message in quotes, OSError would not print it at all.
        return self.message

    def __reduce__(self) -> tuple[object, ...]:
        # The only one of OSError's own attributes that is used. It is not in __dict__.
        own = {"errno": self.errno} if isinstance(self, OSError) else {}
        return (_rebuild, (type(self), self.args, {**self.__dict__, **own}))


def _rebuild(cls: type[ANAError], args: tuple[object, ...], state: dict[str, object]) -> ANAError:
    """Rebuild an error from its attributes, whatever arguments its class takes."""
    error = cls.__new__(cls)
    error.args = args
    for name, value in state.items():
        setattr(error, name, value)
    return error


def _place(where: str) -> str:
    """Return a place with its host and process, because mounts differ between nodes."""
    return f"{where} (host {os.uname().nodename}, pid {os.getpid()})"


class StateNotFoundError(ANAError, KeyError):
    """No store that was searched has a state with this UUID, or a root with this name.

    Attributes:
        uuid: The UUID, or the name.
        store: The places that were searched.
    """

    def __init__(self, uuid: str, store: str, hint: str = "", *, what: str = "state") -> None:
        message = f"no {what} {uuid!r} in {_place(store)}"
        super().__init__(f"{message}: {hint}" if hint else message)
        # Python takes a KeyError with one argument that is raised within dict(a=1, **it) for a repeated keyword.
        self.args: tuple[object, ...] = (self.message, uuid)
        self.uuid = uuid
        self.store = store


class CorruptedStateError(ANAError):
    """A state's bytes are not the bytes that were written. Such a state is never returned.

    The file is left as it is. Storing the same object again replaces it.

    Attributes:
        uuid: The state's UUID.
        path: The file.
        reason: What is wrong with it.
    """

    def __init__(self, uuid: str, path: str, reason: str) -> None:
        super().__init__(
            f"state {uuid!r} is damaged: {reason}, in {_place(path)}; the file is left as it is, "
            "and storing the same object again (ana_store) repairs it"
        )
        self.uuid = uuid
        self.path = path
        self.reason = reason


class StateChangedError(ANAError):
    """An object's state changed while it was being stored, or after the object got its UUID. Nothing was stored.

    Attributes:
        uuid: The object's UUID.
        class_name: The object's class.
        what: What changed.
    """

    def __init__(self, uuid: str, class_name: str, what: str) -> None:
        super().__init__(
            f"state {uuid!r} of {_place(f'class {class_name}')} is not stored: {what}; do not modify an object "
            "that has a UUID, nor its arrays while it is being stored (by another thread, a memory map): store a copy"
        )
        self.uuid = uuid
        self.class_name = class_name
        self.what = what


class UnsupportedFormatError(ANAError):
    """A store or a state has a format that this version of ana does not know.

    Attributes:
        path: The store or the file.
        found: The version of its format.
        supported: The versions that this ana reads.
    """

    def __init__(
        self, path: str, found: object, supported: object, cure: str = "use a newer ana, or another folder"
    ) -> None:
        super().__init__(f"{_place(path)} has format {found}, and this version of ana reads {supported}: {cure}")
        self.path = path
        self.found = found
        self.supported = supported


class UntrustedStoreError(ANAError):
    """The store holds something that a store must not hold: a symlink, a device, a folder of someone else's.

    Attributes:
        path: Where it is.
        reason: What is wrong with it.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{_place(path)} is refused: {reason}")
        self.path = path
        self.reason = reason


class StoreError(ANAError, OSError):
    """The store's filesystem refused: it is full, over quota or read-only, denies permission, or has an I/O error.

    Attributes:
        path: What was read or written.
        errno: The number of the system's error.
        hint: The cure.
    """

    def __init__(self, path: str, errno: int, hint: str = "") -> None:
        reason = os.strerror(errno) if errno else "failed"
        message = f"{_place(path)}: {reason}"
        super().__init__(f"{message}: {hint}" if hint else message)
        self.path = path
        self.errno: int = errno
        self.hint = hint


class LockTimeoutError(ANAError, TimeoutError):
    """A lock could not be acquired in time.

    Attributes:
        path: The lock file.
        seconds: How long was waited for it.
    """

    def __init__(self, path: str, seconds: float, holder: str = "") -> None:
        held = f", held by {holder}" if holder else ""
        super().__init__(f"no lock on {_place(path)} within {seconds:g} s{held}")
        self.path = path
        self.seconds = seconds


class UUIDConflictError(ANAError):
    """Another state is already stored under this explicit UUID. Raised only with `strict=True`.

    Attributes:
        uuid: The UUID.
        store: Where the other state is.
    """

    def __init__(self, uuid: str, store: str) -> None:
        super().__init__(
            f"UUID {uuid!r} already names a different state in {_place(store)}: the first writer "
            "wins; choose another UUID, or call make_uuid() without one to get the content's own"
        )
        self.uuid = uuid
        self.store = store


class StateLoadError(ANAError, pickle.UnpicklingError):
    """A state is intact, but cannot become an object here: its class has changed, is missing, or refuses the state.

    The original exception is the `__cause__`, in this process only.

    Attributes:
        uuid: The state's UUID.
        class_name: The class that was stored with it.
        path: Where the state is.
        reason: Why it cannot be loaded.
    """

    def __init__(self, uuid: str, class_name: str, path: str, reason: str) -> None:
        super().__init__(
            f"state {uuid!r} of class {class_name or '(none)'} in {_place(path)} cannot be loaded: {reason}"
        )
        self.uuid = uuid
        self.class_name = class_name
        self.path = path
        self.reason = reason
