"""Example classes of the tests, importable by their worker processes; and how the tests reach those."""

import array
import collections
import collections.abc
import dataclasses
import decimal
import functools
import io
import os
import pickle
import random
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

import ana

ROOT = Path(ana.__file__).parents[1]


class A(ana.Storable):
    """The README's example: one attribute."""

    def __init__(self, x: Any) -> None:
        self.x = x

    def shown(self, times: int) -> Any:
        return self.x * times


class Rebuilt:
    """Sends its bytearray out of band, and makes a new one of what comes back."""

    def __init__(self, content: Any) -> None:
        self.content = bytearray(content)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Rebuilt, (pickle.PickleBuffer(self.content),)


class ZeroCopy(bytearray):
    """The example of Python's documentation of pickle for out-of-band buffers, as it stands there."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        return type(self)._reconstruct, (pickle.PickleBuffer(self),), None

    @classmethod
    def _reconstruct(cls, obj: Any) -> Any:
        with memoryview(obj) as view:
            obj = view.obj
            return obj if type(obj) is cls else cls(obj)


class B(A):
    """The same content under another name."""


class Node(ana.Storable):
    """A link of a chain, or of a ring."""

    def __init__(self, number: int, after: Any = None) -> None:
        self.number = number
        self.after = after


class Chained(ana.Storable):
    """One of a chain, which counts its length when it is loaded; and a Ref."""

    def __init__(self, number, after):
        self.ref, self.next = ana.Ref(number), after

    def _ana_getstate(self):
        return self.ref, self.next

    def _ana_setstate(self, s):
        self.ref, self.next = s
        self.length = 1 + (0 if self.next is None else self.next.length)


class Counted(ana.Storable):
    """Counts in this process how often a state was set."""

    loads = 0

    def __init__(self, x: Any) -> None:
        self.x = x

    def _ana_setstate(self, s: Any) -> None:
        type(self).loads += 1
        super()._ana_setstate(s)


class Slotted(ana.Storable):
    """No `__dict__`, slots in a list, one of them private, one never set."""

    __slots__ = ["__private", "never", "shown"]

    def __init__(self, shown: Any, private: Any) -> None:
        self.shown = shown
        self.__private = private

    def private(self) -> Any:
        return self.__private


class SlottedMore(Slotted):
    """Slots on two levels with the same private name, and a dict."""

    __slots__ = ("__dict__", "__private", "more")

    def __init__(self, shown: Any, private: Any) -> None:
        super().__init__(shown, private)
        self.__private = ("more", private)
        self.more = 1
        self.free = 2

    def privates(self) -> Any:
        return self.private(), self.__private


class SlottedProxy(ana.Storable):
    """Hands unknown attributes on to what it holds, and has no `__dict__` of its own."""

    __slots__ = ("inner",)

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class Recursive(ana.Storable):
    """Its `__getattr__` recurses without end while `inner` is not set."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@dataclasses.dataclass(frozen=True)
class Frozen(ana.Storable):
    a: int
    b: Any = None


@dataclasses.dataclass(slots=True)
class SlottedData(ana.Storable):
    a: int
    b: Any = None


@dataclasses.dataclass(frozen=True, slots=True)
class FrozenSlotted(ana.Storable):
    a: int
    b: Any = None


@dataclasses.dataclass
class FieldUUID(ana.Storable):
    """A field of the name that ANA uses itself."""

    uuid: str
    b: int = 0


class AttributeUUID(ana.Storable):
    """An attribute of the name that ANA uses itself."""

    def __init__(self, uuid: Any) -> None:
        self.uuid = uuid


class Properties(ana.Storable):
    """A property without a setter, and one whose setter changes what it is given, over the same names."""

    def __init__(self, x: int) -> None:
        self.__dict__["fixed"] = x
        self.doubled = x

    @property
    def fixed(self) -> Any:
        return self.__dict__["fixed"]

    @property
    def doubled(self) -> int:
        return int(self.__dict__["doubled"])

    @doubled.setter
    def doubled(self, x: int) -> None:
        self.__dict__["doubled"] = 2 * x


class OwnState(ana.Storable):
    """Says itself what its state is."""

    def __init__(self, x: int) -> None:
        self.x = x
        self.scratch = object

    def _ana_getstate(self) -> Any:
        return ("own", self.x)

    def _ana_setstate(self, s: Any) -> None:
        kind, self.x = s
        self.scratch = kind


class Strict(ana.Storable):
    """Cannot be made by accident: `__new__` and `__init__` need arguments, and count their calls."""

    calls = 0

    def __new__(cls, x: int) -> Self:
        cls.calls += 1
        return super().__new__(cls)

    def __init__(self, x: int) -> None:
        type(self).calls += 1
        self.x = x


class DictFirst(dict, ana.Storable):
    pass


class DictLast(ana.Storable, dict):
    pass


class OrderedFirst(collections.OrderedDict, ana.Storable):
    pass


class OrderedLast(ana.Storable, collections.OrderedDict):
    pass


class ListFirst(list, ana.Storable):
    pass


class ListLast(ana.Storable, list):
    pass


class SetFirst(set, ana.Storable):
    pass


class SetLast(ana.Storable, set):
    pass


class Lying(ana.Storable, dict):
    """Its own iteration does not show what it holds."""

    def __iter__(self) -> Any:
        return iter(())

    def keys(self) -> Any:
        return ()

    def items(self) -> Any:
        return ()

    def __setitem__(self, key: Any, value: Any) -> None:
        raise AssertionError("restoring must not go through the class's own methods")

    def update(self, *arguments: Any, **more: Any) -> None:
        raise AssertionError("restoring must not go through the class's own methods")


class Deque(ana.Storable, collections.deque):
    pass


class DefaultDict(ana.Storable, collections.defaultdict):
    pass


class Partial(ana.Storable, functools.partial):
    """The built-in base is a heap type made by C code."""


class Numbers(ana.Storable, array.array):
    pass


class Dice(ana.Storable, random.Random):
    pass


class Money(ana.Storable, decimal.Decimal):
    pass


class Buffer(ana.Storable, io.BytesIO):
    pass


class Text(ana.Storable, str):
    __slots__ = ("__dict__",)


class Frozenset(ana.Storable, frozenset):
    pass


class DequeWithState(ana.Storable, collections.deque):
    def _ana_getstate(self) -> Any:
        return list(self)

    def _ana_setstate(self, s: Any) -> None:
        self.extend(s)


class DefaultDictWithState(ana.Storable, collections.defaultdict):
    def _ana_getstate(self) -> Any:
        return self.default_factory, dict(self)

    def _ana_setstate(self, s: Any) -> None:
        self.default_factory, items = s
        self.update(items)


class Mistake(ana.Storable, ValueError):
    """An exception that says what its state is."""

    def _ana_getstate(self) -> Any:
        return self.args

    def _ana_setstate(self, s: Any) -> None:
        self.args = s


class BareMistake(ana.Storable, ValueError):
    """An exception that leaves its arguments to the default state."""


class Left(ana.Storable):
    __slots__ = ("left",)


class Right:
    __slots__ = ()

    def hello(self) -> str:
        return "right"


class Both(Left, Right):
    def __init__(self) -> None:
        self.left = 1
        self.own = 2


class Mapping(ana.StorableABC, collections.abc.MutableMapping):
    """The README's class over an abstract one; falsy while empty."""

    def __init__(self, **items: Any) -> None:
        self.items_ = items

    def __getitem__(self, key: str) -> Any:
        return self.items_[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.items_[key] = value

    def __delitem__(self, key: str) -> None:
        del self.items_[key]

    def __iter__(self) -> Any:
        return iter(self.items_)

    def __len__(self) -> int:
        return len(self.items_)


class Sequence(ana.StorableABC, collections.abc.MutableSequence):
    def __init__(self, items: Any = ()) -> None:
        self.data = list(items)

    def __getitem__(self, index: Any) -> Any:
        return self.data[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        self.data[index] = value

    def __delitem__(self, index: Any) -> None:
        del self.data[index]

    def __len__(self) -> int:
        return len(self.data)

    def insert(self, index: int, value: Any) -> None:
        self.data.insert(index, value)


class MutableSet(ana.StorableABC, collections.abc.MutableSet):
    def __init__(self, items: Any = ()) -> None:
        self.data = sorted(items)

    def __contains__(self, value: object) -> bool:
        return value in self.data

    def __iter__(self) -> Any:
        return iter(self.data)

    def __len__(self) -> int:
        return len(self.data)

    def add(self, value: Any) -> None:
        self.data.append(value)

    def discard(self, value: Any) -> None:
        self.data.remove(value)


class Caller(ana.StorableABC, collections.abc.Callable):
    def __init__(self, x: int) -> None:
        self.x = x

    def __call__(self, y: int) -> int:
        return self.x + y


class Falsy(A):
    def __bool__(self) -> bool:
        return False


class EqualNoHash(A):
    def __eq__(self, other: object) -> bool:
        return isinstance(other, EqualNoHash) and self.x == other.x


class Raising(A):
    """Nobody may ask it whether it is true, how long it is, or what it equals."""

    def __bool__(self) -> bool:
        raise ValueError("ambiguous")

    def __len__(self) -> int:
        raise ValueError("no length")

    def __eq__(self, other: object) -> bool:
        raise ValueError("incomparable")

    def __hash__(self) -> int:
        raise ValueError("no hash")


class Registered(ana.Storable):
    """Keeps a list of its subclasses."""

    names: list[str] = []  # noqa: RUF012 - shared by all on purpose

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        Registered.names.append(cls.__name__)


class RegisteredChild(Registered):
    def __init__(self, x: int) -> None:
        self.x = x


class Meta(type):
    """Counts its classes, and refuses to be called without a keyword."""

    made: list[str] = []  # noqa: RUF012 - shared by all on purpose

    def __new__(mcs, name: str, bases: Any, namespace: Any, *, word: str = "") -> Any:
        if not word:
            raise TypeError("a class of this kind needs a word")
        mcs.made.append(name)
        return super().__new__(mcs, name, bases, namespace)

    def __init__(cls, name: str, bases: Any, namespace: Any, *, word: str) -> None:
        super().__init__(name, bases, namespace)


class WithMeta(ana.Storable, metaclass=Meta, word="please"):
    def __init__(self, x: int) -> None:
        self.x = x


class Everything(ana.Storable):
    """An ordinary class that has every operation."""

    def __init__(self, x: int) -> None:
        self.x = x

    def __add__(self, other: Any) -> Any:
        return self.x + other

    __radd__ = __add__

    def __pow__(self, other: int, modulus: int | None = None) -> int:
        return pow(self.x, other, modulus)

    def __len__(self) -> int:
        return self.x

    def __iter__(self) -> Any:
        return iter(range(self.x))

    def __getitem__(self, key: Any) -> Any:
        return (self.x, key)

    def __contains__(self, item: Any) -> bool:
        return bool(item == self.x)

    def __call__(self, *arguments: Any) -> Any:
        return (self.x, *arguments)

    def __enter__(self) -> Any:
        return self.x

    def __exit__(self, *arguments: object) -> None:
        pass

    def __await__(self) -> Any:
        return iter(())

    def __index__(self) -> int:
        return self.x

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Everything) and other.x == self.x

    def __hash__(self) -> int:
        return hash(self.x)

    def __repr__(self) -> str:
        return f"Everything({self.x})"


class GetStateRaises(A):
    def _ana_getstate(self) -> Any:
        raise ZeroDivisionError("no state today")


class SetStateRaises(A):
    def _ana_setstate(self, s: Any) -> None:
        raise ZeroDivisionError("not with me")


def value_of(obj: Any) -> Any:
    """Be a worker's task: use the object."""
    return obj.x


def value_of_ref(ref: Any) -> Any:
    """Be a worker's task: use the reference."""
    return ref.value


def loads_here(obj: Counted) -> tuple[int, int]:
    """Be a worker's task: say in which process how often a state was set."""
    return os.getpid(), obj.x and type(obj).loads


def back(obj: Any) -> Any:
    """Be a worker's task: hand back what was handed in."""
    return obj


def make_result(x: Any) -> A:
    """Be a worker's task: make a result, and send it by reference."""
    result = A(x)
    result.make_uuid()
    return result


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a process that nobody configured: no ANA_* variables, the project importable."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ANA_")}
    clean["PYTHONPATH"] = os.pathsep.join((str(ROOT), str(Path(__file__).parents[1])))
    return {**clean, **more}


def run(code: str, *arguments: str, cwd: str | Path, **variables: str) -> str:
    """Run a script's text as a real script in a process of its own; return what it printed."""
    script = Path(cwd) / f"script_{abs(hash(code)):x}.py"
    script.write_text(code)
    return run_file(script, *arguments, cwd=cwd, **variables)


def run_file(script: Path, *arguments: str, cwd: str | Path, **variables: str) -> str:
    """Run a script in a process of its own; return what it printed, raise with what it complained about."""
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        cwd=cwd,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    if done.returncode:
        raise AssertionError(f"exit status {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done.stdout.strip()


def tree(folder: str | Path) -> dict[str, int]:
    """Return all files below a folder with their sizes."""
    return {str(path.relative_to(folder)): path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()}


def states(folder: str | Path) -> list[str]:
    """Return the names of the states in a tree."""
    return sorted(path.name for path in Path(folder).rglob("*.pkl.zst"))


def file_of(folder: str | Path, uuid: str) -> Path:
    """Return the file of a state."""
    (found,) = Path(folder).rglob(f"{uuid}.pkl.zst")
    return found


def damage(file: Path) -> None:
    """Flip a bit of a state's last byte: of its content, not its header."""
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.chmod(0o644)
    file.write_bytes(data)
