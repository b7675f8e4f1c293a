"""The classes of ghosts, which take the place of an object's own class while it is not whole.

In a `_Ghost` class every operation loads the state first. In a `_Filling` class, which an object has while its state is
being set, so does every operation of a thread that has no part in that.
"""

import operator
import sys
import threading
import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import wraps
from types import FunctionType, MethodType
from typing import Any

from ana.errors import ANAError
from ana.objects import identity
from ana.runtime.tracebacks import shortened

__all__ = ["admit", "close", "has_ghost_class", "is_closed", "loaded_class", "restore", "use"]


class _Thread(threading.local):
    def __init__(self) -> None:
        # Not its number: a thread that is started later may get the same.
        self.token = object()


_this_thread = _Thread()


def has_ghost_class(obj: object) -> bool:
    """Return whether an object's class is replaced, because it has no state or is being filled."""
    return _is_ghost_class(type(obj))


def loaded_class(obj: object) -> type:
    """Return an object's class as its users know it."""
    # Once: another thread may be restoring it.
    cls = type(obj)
    return cls.__mro__[2] if _is_ghost_class(cls) else cls


def is_closed(obj: object) -> bool:
    """Return whether every operation on an object loads its state first."""
    return _Ghost in type(obj).__mro__


def admit(obj: Any) -> None:
    """Let the calling thread use a ghost as it is: it fills the ghost, or needs it for that. Other threads wait."""
    found = identity.mark_of(obj)
    if found is not None and found.loader is not None:
        found.admit(_this_thread.token)
        _set_class(obj, _class_for(loaded_class(obj), _Filling))


def close(obj: Any) -> None:
    """Give an object a class in which every operation loads its state first."""
    _set_class(obj, _class_for(loaded_class(obj), _Ghost))


def restore(obj: Any) -> None:
    """Give an object its own class back."""
    _set_class(obj, loaded_class(obj))


def _set_class(obj: Any, cls: type) -> None:
    if type(obj) is not cls:
        object.__setattr__(obj, "__class__", cls)


def _is_ghost_class(cls: type) -> bool:
    order = cls.__mro__
    return len(order) > 2 and (order[1] is _Ghost or order[1] is _Filling)  # noqa: PLR2004 - see `_class_for`


def _class_for(cls: type, ghost: type) -> type:
    """Return the subclass of `cls` whose operations are those of `_Ghost` or `_Filling`. It is made once per class.

    A metaclass's `mro` puts `ghost` second in the MRO, while `cls` stays the only base. So the layout is that of
    `cls`, and neither `__init_subclass__` nor the metaclass of `cls` is called.
    """
    classes = _GHOSTS_OF[ghost]
    known = classes.get(cls)
    made = None if known is None else known()
    if made is None:
        meta = type(cls)
        own_meta: dict[str, Any] = {"mro": lambda new: [new, ghost, *_bases(cls, ghost)]}
        namespace: dict[str, Any] = {"__slots__": (), "__module__": cls.__module__, "__qualname__": cls.__qualname__}
        if ghost is _Filling:
            namespace.update(_guards(cls))
            # A class may count its objects as they are filled, or make others: type(self).count += 1.
            own_meta["__setattr__"] = lambda _, name, value: setattr(cls, name, value)
            own_meta["__call__"] = lambda _, *arguments, **options: cls(*arguments, **options)
        quiet_meta: type = type.__new__(type(meta), meta.__name__, (meta,), own_meta)
        by_identity: object = object.__hash__
        if cls.__hash__ is by_identity:
            # The hash is by identity and needs no state. So dicts and sets that hold a ghost can be unpickled.
            namespace["__hash__"] = object.__hash__
        made = type.__new__(quiet_meta, cls.__name__, (cls,), namespace)
        # Two threads may each make one. Either will do.
        classes[cls] = weakref.ref(made)
    return made


def _bases(cls: type, ghost: type) -> Iterable[type]:
    # A ghost without `set`: C code reads a set directly, past all methods. Anything else it iterates.
    return cls.__mro__ if ghost is _Filling else (base for base in cls.__mro__ if base is not set)


def not_loaded(obj: Any) -> str:
    """Return the repr of a ghost."""
    cls, found = loaded_class(obj), identity.mark_of(obj)
    uuid = "" if found is None else f" {found.short_uuid}…"
    return f"<{cls.__module__}.{cls.__qualname__}{uuid} not loaded>"


def use(obj: Any) -> None:
    """Load the state of a ghost. Raises whatever prevents that."""
    found = identity.mark_of(obj)
    if found is None:
        return
    while (loader := found.loader) is not None:
        try:
            loader()
        except ANAError as error:
            # How ANA found out is of no use to the caller.
            raise shortened(error)  # noqa: B904 - the same error
        # Borrowed: whoever fills it waits for this thread, or is this thread. Unless that load has failed meanwhile.
        if not has_ghost_class(obj) or _is_admitted(obj):
            return
    # It may have been completed while a thread was being admitted.
    restore(obj)


_FREE = frozenset(
    {"_ana_uuid", "ana_uuid", "make_uuid", "ana_store", "__reduce__", "__reduce_ex__", "__copy__", "__deepcopy__"}
)
"""What a ghost can do without its state: tell its UUID, be pickled, be copied."""


_LINKS = frozenset({"__cause__", "__context__", "__notes__", "__suppress_context__", "__traceback__"})
"""What tblib, which Dask installs, sets on every exception that it unpickles. None of it is state."""


class _Ghost:
    """Comes before the class of a ghost in the MRO. Each operation loads the state, then runs again."""

    __slots__ = ()

    def __init_subclass__(cls) -> None:
        """Do not call the class's own hook: a ghost class is not one of the user's subclasses."""

    def __del__(self) -> None:
        """Nothing was loaded, so there is nothing for the class's own destructor to undo."""

    def __getattribute__(self, name: str) -> Any:
        if name in _FREE:
            return object.__getattribute__(self, name)
        if name == "__class__":
            return loaded_class(self)
        if name.startswith("__") and name.endswith("__") and name != "__dict__":
            # Engines probe for protocols outside any task, where an error would kill the worker.
            return object.__getattribute__(self, name)
        method = _method(loaded_class(self), name)
        if method is not None:
            return MethodType(method, self)
        try:
            use(self)
        except ANAError:
            if name == "uuid" and not _defines_uuid(loaded_class(self)):
                # The UUID is known without the state.
                return object.__getattribute__(self, "_ana_uuid")
            __tracebackhide__ = True  # by IPython and pytest
            raise
        return getattr(self, name)

    def __setattr__(self, name: str, value: object) -> None:
        if name in _LINKS and isinstance(self, BaseException):
            object.__setattr__(self, name, value)
            return
        use(self)
        setattr(self, name, value)

    def __delattr__(self, name: str) -> None:
        use(self)
        delattr(self, name)

    def __dir__(self) -> list[str]:
        use(self)
        return dir(self)

    def __repr__(self) -> str:
        """Never raise: logs and tracebacks call it, and an error here would hide the first one."""
        with suppress(Exception):
            use(self)
        return not_loaded(self) if has_ghost_class(self) else repr(self)


def _defined(cls: type, name: str) -> Any:
    """Return what a class or one of its bases defines under a name, past its metaclass; None if there is nothing."""
    return next((vars(base)[name] for base in cls.__mro__ if name in vars(base)), None)


def _method(cls: type, name: str) -> Callable[..., Any] | None:
    """Return a function that loads, then calls the method of that name; None if the class has none.

    Pools get bound methods as tasks: `pool.map(obj.method, ...)`. Unpickling one looks it up, and must not raise.
    """
    found = _defined(cls, name)
    if not isinstance(found, FunctionType):
        return None

    @wraps(found)
    def call(self: Any, *arguments: Any, **options: Any) -> Any:
        use(self)
        return getattr(self, name)(*arguments, **options)

    call.__name__ = name
    return call


def _defines_uuid(cls: type) -> bool:
    """Return whether a class defines a `uuid` of its own, such as a field, besides Storable's."""
    for base in cls.__mro__:
        if "uuid" in vars(base) or "uuid" in _annotated(base):
            return not base.__module__.startswith("ana.")
    return False


def _annotated(cls: type) -> Iterable[str]:
    """Return the names that a class itself annotates, without evaluating the annotations."""
    if sys.version_info >= (3, 14):
        import annotationlib  # noqa: PLC0415 - needed after an error only

        with suppress(Exception):  # a class may have an __annotate__ of its own
            return annotationlib.get_annotations(cls, format=annotationlib.Format.STRING)
        return ()
    found: Iterable[str] = vars(cls).get("__annotations__", ())
    return found


def _loading(operation: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: Any, *arguments: Any, **options: Any) -> Any:
        use(self)
        return operation(self, *arguments, **options)

    return method


_BINARY = (
    "add sub mul matmul truediv floordiv mod pow lshift rshift and or xor".split()  # noqa: SIM905 - readable
)
_KEYWORDS = {"and": "and_", "or": "or_"}
_OPERATIONS: dict[str, Callable[..., Any]] = {
    "__len__": len,
    "__length_hint__": operator.length_hint,
    "__iter__": iter,
    "__next__": next,
    "__reversed__": reversed,
    "__contains__": operator.contains,
    "__getitem__": operator.getitem,
    "__setitem__": operator.setitem,
    "__delitem__": operator.delitem,
    "__call__": lambda self, *arguments, **options: self(*arguments, **options),
    "__bool__": bool,
    "__hash__": hash,
    "__str__": str,
    "__bytes__": bytes,
    "__format__": format,
    "__int__": int,
    "__float__": float,
    "__complex__": complex,
    "__index__": operator.index,
    "__round__": round,
    "__trunc__": lambda self: self.__trunc__(),
    "__floor__": lambda self: self.__floor__(),
    "__ceil__": lambda self: self.__ceil__(),
    "__fspath__": lambda self: self.__fspath__(),
    "__neg__": operator.neg,
    "__pos__": operator.pos,
    "__abs__": abs,
    "__invert__": operator.invert,
    "__eq__": operator.eq,
    "__ne__": operator.ne,
    "__lt__": operator.lt,
    "__le__": operator.le,
    "__gt__": operator.gt,
    "__ge__": operator.ge,
    "__divmod__": divmod,
    "__rdivmod__": lambda self, other: divmod(other, self),
    "__enter__": lambda self: self.__enter__(),
    "__exit__": lambda self, *arguments: self.__exit__(*arguments),
    "__aenter__": lambda self: self.__aenter__(),
    "__aexit__": lambda self, *arguments: self.__aexit__(*arguments),
    "__await__": lambda self: self.__await__(),
    "__aiter__": lambda self: self.__aiter__(),
    "__anext__": lambda self: self.__anext__(),
}


def _reflected(operation: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, other: operation(other, self)


def _install() -> None:
    for name, operation in _OPERATIONS.items():
        setattr(_Ghost, name, _loading(operation))
    for name in _BINARY:
        operation = getattr(operator, _KEYWORDS.get(name, name))
        setattr(_Ghost, f"__{name}__", _loading(pow if name == "pow" else operation))
        setattr(_Ghost, f"__r{name}__", _loading(_reflected(operation)))
        setattr(_Ghost, f"__i{name}__", _loading(getattr(operator, f"i{name}")))


_install()


class _Filling:
    """Comes before the class of a ghost that is being filled. Threads that were admitted use the object as it is.

    Other threads wait for the load, or get its error, as with any ghost.
    """

    __slots__ = ()

    def __init_subclass__(cls) -> None:
        """Do not call the class's own hook, as in a ghost."""

    def __del__(self) -> None:
        """Do nothing: the state is not whole, so there is nothing for the class's own destructor to undo."""

    def __getattribute__(self, name: str) -> Any:
        if name != "__class__" and _is_admitted(self):
            cls: Any = loaded_class(self)
            return cls.__getattribute__(self, name)
        return vars(_Ghost)["__getattribute__"](self, name)


_GHOSTS_OF: dict[type, weakref.WeakKeyDictionary[type, weakref.ref[type]]] = {
    _Ghost: weakref.WeakKeyDictionary(),
    _Filling: weakref.WeakKeyDictionary(),
}
"""The ghost classes of each class. Only their objects hold them, because they hold the class that they derive from."""
_GUARDED = {name for name, own in vars(_Ghost).items() if isinstance(own, FunctionType)} - set(vars(_Filling))


def _is_admitted(obj: object) -> bool:
    found = identity.mark_of(obj)
    return found is not None and _this_thread.token in found.admitted


def _guards(cls: type) -> dict[str, Any]:
    """Return the operations that a class has, for its `_Filling` class."""
    names = {"__setattr__", "__delattr__"}.union(*(vars(base) for base in cls.__mro__ if base is not object))
    # A class may say that it has none: __hash__ = None.
    return {name: _guarded(name) for name in _GUARDED & names if _defined(cls, name) is not None}


def _guarded(name: str) -> Callable[..., Any]:
    after_loading = vars(_Ghost)[name]

    def method(self: Any, *arguments: Any, **options: Any) -> Any:
        if not _is_admitted(self):
            return after_loading(self, *arguments, **options)
        cls = loaded_class(self)
        own = _defined(cls, name)
        bound = own.__get__(self, cls) if hasattr(own, "__get__") else own
        return bound(*arguments, **options)

    return method
