"""Classes whose state is set in two steps, between which a test may hold the thread that sets it."""

import dataclasses
import threading

import ana

WAIT_SECONDS = 30


class Gate:
    """Holds the first thread that comes, if it is closed. Others pass."""

    def __init__(self):
        self.open()

    def close(self, *, fails=False):
        """Hold the next thread until the gate opens; then raise an error in it, if it is to fail."""
        self.reached, self.opened, self.fails = threading.Event(), threading.Event(), fails

    def open(self):
        """Let pass whoever comes."""
        self.reached, self.opened, self.fails = threading.Event(), threading.Event(), False
        self.reached.set()

    def pass_(self):
        """Wait, if the gate is closed and no other thread has come before."""
        opened, fails = self.opened, self.fails
        if self.reached.is_set():
            return
        self.reached.set()
        assert opened.wait(WAIT_SECONDS)
        if fails:
            raise ValueError("not today")


gate = Gate()


class Steps:
    """Has its first half before it waits, and its second half after that."""

    __slots__ = ()

    def half(self, first, second):
        self.first = first
        assert self.first == first
        assert self.__class__.total is type(self).total
        gate.pass_()
        self.second = second
        assert self.total() == first + second

    def total(self):
        return self.first + self.second

    def __add__(self, other):
        return self.total() + other

    def __iter__(self):
        return iter((self.first, self.second))

    def __len__(self):
        return self.total()

    def __eq__(self, other):
        return self.total() == other

    def __hash__(self):
        return hash(self.total())

    def __call__(self):
        return self.total()

    def __repr__(self):
        return f"{self.first}+{self.second}"


class OwnHooks(Steps, ana.Storable):
    def _ana_getstate(self):
        return 1, 2

    def _ana_setstate(self, s):
        self.half(*s)


class PickleHooks(Steps, ana.Storable):
    def __getstate__(self):
        return {"both": (1, 2)}

    def __setstate__(self, state):
        self.half(*state["both"])


class Slots(Steps, ana.Storable):
    __slots__ = ("first", "second")

    def _ana_getstate(self):
        return 1, 2

    def _ana_setstate(self, s):
        self.half(*s)


@dataclasses.dataclass(eq=False, repr=False)
class Data(Steps, ana.Storable):
    first: int = 1
    second: int = 2

    def __setstate__(self, state):
        self.half(state["first"], state["second"])

    def __getstate__(self):
        return dict(vars(self))


@dataclasses.dataclass(eq=False, repr=False, frozen=True)
class FrozenData(Steps, ana.Storable):
    first: int = 1
    second: int = 2

    def __getstate__(self):
        return dict(vars(self))

    def __setstate__(self, state):
        object.__setattr__(self, "first", state["first"])
        gate.pass_()
        object.__setattr__(self, "second", state["second"])


class Reduced(Steps, ana.Storable):
    def __init__(self, first=1, second=2):
        self.half(first, second)

    def __reduce__(self):
        return Reduced, (1, 2)


class Properties(Steps, ana.Storable):
    """The default state goes through a property, whose setter waits."""

    def __init__(self):
        self.first, self.second = 1, 2

    def _ana_getstate(self):
        return {"first": 1, "second": 2}

    @property
    def second(self):
        return self.__dict__["second"]

    @second.setter
    def second(self, value):
        gate.pass_()
        self.__dict__["second"] = value


class Listed(Steps, ana.Storable, list):
    __hash__ = Steps.__hash__

    def _ana_getstate(self):
        return 1, 2

    def _ana_setstate(self, s):
        assert list.__len__(self) == 0
        self.extend(s)
        self.half(*s)


class Mapped(Steps, ana.Storable, dict):
    __hash__ = Steps.__hash__

    def _ana_getstate(self):
        return 1, 2

    def _ana_setstate(self, s):
        self["first"] = s[0]
        self.half(*s)
        assert list(self.items()) == [("first", s[0])]


class Members(Steps, ana.Storable, set):
    __hash__ = Steps.__hash__

    def _ana_getstate(self):
        return 1, 2

    def _ana_setstate(self, s):
        self.add(s[0])
        self.half(*s)


class Counting(OwnHooks):
    """Counts its objects as they are filled, and makes another one."""

    filled = 0

    def _ana_setstate(self, s):
        type(self).filled += 1
        assert type(type(self)()) is Counting
        super()._ana_setstate(s)


class Delegating(Steps, ana.Storable):
    """Answers for unknown attributes."""

    def _ana_getstate(self):
        return 1, 2

    def _ana_setstate(self, s):
        self.half(*s)

    def __getattr__(self, name):
        if name == "second":
            raise AttributeError(name)
        return f"no {name}"


class OwnRef(Steps, ana.Ref):
    """A Ref that says itself what its state is."""

    def __init__(self):
        super().__init__((1, 2))

    def _ana_getstate(self):
        return 1, 2

    def _ana_setstate(self, s):
        super()._ana_setstate(s)
        self.half(*s)


KINDS = [
    *(OwnHooks, PickleHooks, Slots, Data, FrozenData, Reduced, Properties),
    *(Listed, Mapped, Members, Counting, Delegating),
]
