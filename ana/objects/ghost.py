"""Ghosts: objects without their state. Every use of a ghost loads its state first, or raises the reason.

Raising while a reference is unpickled would hang `multiprocessing.Pool` and kill Dask workers. So the object is made
anyway, and its class is replaced by a subclass in which every operation loads the state first.
"""

import collections
import enum
import operator
import sys
import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import wraps
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

from ana.errors import ANAError
from ana.objects import identity
from ana.runtime.tracebacks import shortened

__all__ = ["ghostify", "has_ghost_class", "is_ghost", "loaded_class", "make", "member", "restore_class"]

_IMMUTABLE_TYPE = 1 << 8
"""Py_TPFLAGS_IMMUTABLETYPE: most classes made in C."""


class _Poison:
    """Fills a ghost that is a dict or list, so that C code which looks only at the size does not take it for empty."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<state not loaded>"


_POISON = _Poison()
_FILL: dict[type, Callable[[Any], object]] = {
    dict: lambda obj: dict.__setitem__(obj, _POISON, _POISON),
    collections.OrderedDict: lambda obj: collections.OrderedDict.__setitem__(obj, _POISON, _POISON),
    list: lambda obj: list.append(obj, _POISON),
}
_EMPTY: dict[type, Callable[[Any], object]] = {
    dict: dict.clear,
    collections.OrderedDict: collections.OrderedDict.clear,
    list: list.clear,
}

_builtin_bases: "weakref.WeakKeyDictionary[type, type]" = weakref.WeakKeyDictionary()
_classes: "weakref.WeakKeyDictionary[type, weakref.ref[type]]" = weakref.WeakKeyDictionary()
"""The ghost class of each class. Only its objects hold it, because it holds the class that it derives from."""


def is_made_in_c(cls: type) -> bool:
    """Return whether a class was made in C, and so lays out its instances itself."""
    new = vars(cls).get("__new__")
    return bool(cls.__flags__ & _IMMUTABLE_TYPE) or (isinstance(new, BuiltinFunctionType) and new.__self__ is cls)


def builtin_base(cls: type) -> type:
    """Return the type that lays out the instances of `cls`: the first of its bases that was made in C."""
    found = _builtin_bases.get(cls)
    if found is None:
        found = _builtin_bases[cls] = next(base for base in cls.__mro__ if is_made_in_c(base))
    return found


def make(cls: type) -> Any:
    """Make an instance of `cls` without calling its `__new__` or `__init__`.

    Raises TypeError for a class whose built-in base cannot be made without arguments.
    """
    new: Any = cls.__new__
    if new is not object.__new__:
        new = builtin_base(cls).__new__
    return new(cls)


def ghostify(obj: Any, uuid: str, load: Callable[[], None]) -> None:
    """Make every use of `obj` call `load` first. `load` calls `restore_class` and fills the object, or raises."""
    cls = loaded_class(obj)
    identity.mark(obj, uuid, given=True).defer(load)
    fill = _FILL.get(builtin_base(cls))
    if fill is not None and not has_ghost_class(obj):
        fill(obj)
    object.__setattr__(obj, "__class__", _ghost_class(cls))


def restore_class(obj: Any) -> None:
    """Make a ghost an ordinary, empty object of its class again, to be filled with its state."""
    if not has_ghost_class(obj):
        return
    cls = loaded_class(obj)
    object.__setattr__(obj, "__class__", cls)
    empty = _EMPTY.get(builtin_base(cls))
    if empty is not None:
        empty(obj)


def member(obj: Any) -> Any:
    """Return the member of an Enum that a filled object stands for. For other objects, return the object."""
    if not isinstance(obj, enum.Enum):
        return obj
    found = type(obj).__members__.get(obj.name)
    return type(obj)(obj.value) if found is None else found


def has_ghost_class(obj: object) -> bool:
    """Return whether an object's class is replaced by a ghost class."""
    return _Ghost in type(obj).__mro__


def is_ghost(obj: object) -> bool:
    """Return whether an object has no state yet: it has a ghost class, or loads lazily by itself (a Ref)."""
    found = identity.mark_of(obj)
    return found is not None and found.loader is not None


def loaded_class(obj: object) -> type:
    """Return an object's class as its users know it."""
    cls = type(obj)
    order = cls.__mro__
    return order[2] if _Ghost in order else cls


def _ghost_class(cls: type) -> type:
    """Return the subclass of `cls` in which every operation loads first. It is made once per class.

    A metaclass's `mro` puts `_Ghost` second in the MRO, while `cls` stays the only base. So the layout is that of
    `cls`, and neither `__init_subclass__` nor the metaclass of `cls` is called.
    """
    known = _classes.get(cls)
    made = None if known is None else known()
    if made is None:
        meta = type(cls)
        # Without `set`: C code reads a set directly, past all methods. Anything else it iterates.
        bases = [base for base in cls.__mro__ if base is not set]
        order = {"mro": lambda new: [new, _Ghost, *bases]}
        quiet_meta: type = type.__new__(type(meta), meta.__name__, (meta,), order)
        namespace: dict[str, Any] = {"__slots__": (), "__module__": cls.__module__, "__qualname__": cls.__qualname__}
        by_identity: object = object.__hash__
        if cls.__hash__ is by_identity:
            # The hash is by identity and needs no state. So dicts and sets that hold a ghost can be unpickled.
            namespace["__hash__"] = object.__hash__
        made = type.__new__(quiet_meta, cls.__name__, (cls,), namespace)
        # Two threads may each make one. Either will do.
        _classes[cls] = weakref.ref(made)
    return made


def not_loaded(obj: Any) -> str:
    """Return the repr of a ghost."""
    cls, found = loaded_class(obj), identity.mark_of(obj)
    uuid = "" if found is None else f" {found.short_uuid}…"
    return f"<{cls.__module__}.{cls.__qualname__}{uuid} not loaded>"


def use(obj: Any) -> None:
    """Load the state of a ghost. Raises whatever prevents that."""
    found = identity.mark_of(obj)
    if found is not None and found.loader is not None:
        try:
            found.loader()
        except ANAError as error:
            # How ANA found out is of no use to the caller.
            raise shortened(error)  # noqa: B904 - the same error


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


def _method(cls: type, name: str) -> Callable[..., Any] | None:
    """Return a function that loads, then calls the method of that name; None if the class has none.

    Pools get bound methods as tasks: `pool.map(obj.method, ...)`. Unpickling one looks it up, and must not raise.
    """
    for base in cls.__mro__:
        if name in vars(base):
            found = vars(base)[name]
            break
    else:
        return None
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
