"""Storable, StorableABC, Ref: identity and the pickle protocol, as seen by the classes of users."""

import copyreg
import sys
from abc import ABCMeta
from collections.abc import Callable
from types import FrameType
from typing import Any, Generic, Self, TypeVar

from ana import reference
from ana.compat import literal
from ana.format import address
from ana.layers import current, resolve
from ana.objects import attributes, class_names, ghost, hash_callers, identity, pickling, ref_classes, states
from ana.persist import addressing, saving

__all__ = ["Ref", "Storable", "StorableABC"]

Value = TypeVar("Value")

_MISSING = object()
_COPYREG: Any = copyreg
_NEWOBJ = _COPYREG.__newobj__


class _UUID:
    """The `uuid` attribute; no data descriptor, so that a class may have an attribute or field of that name."""

    def __get__(self, obj: Any, owner: type) -> str | None:
        if obj is None:
            # As absent: dataclasses would take what they find here for the default of a field `uuid`.
            msg = f"type object {owner.__name__!r} has no attribute 'uuid'; its instances have"
            raise AttributeError(msg)
        mark = identity.mark_of(obj)
        return None if mark is None else mark.uuid


class _Token:
    """The method `__dask_tokenize__` of an object that has a UUID, and of a Ref, which gets one when it is pickled.

    A Ref whose UUID nobody can foresee has a random token of its own. Absent on others, which dask tokenizes by value.
    """

    def __get__(self, obj: Any, owner: type) -> Callable[[], tuple[str | int, ...]]:
        mark = None if obj is None else identity.mark_of(obj)
        if mark is None and not isinstance(obj, Ref):
            msg = "__dask_tokenize__: only an object that has a UUID is tokenized by it"
            raise AttributeError(msg)
        return lambda: ("ana", *_hash_arguments(obj, _token_to_be(obj) if mark is None else mark.uuid))


class Storable:
    """Base of classes whose objects pickle into a UUID, their state being stored once.

    An object without a UUID pickles as ever. `make_uuid()` gives it one; from then on it should not
    change. A subclass may define `_ana_getstate` and `_ana_setstate`, which are like `__getstate__` and
    `__setstate__`; those count where it does not. Unpickling calls neither `__new__` nor `__init__`, unless the
    class's `__reduce__` says so. Classes whose objects cannot be made before their state is there are refused.

    Methods may be called from many threads at once.
    """

    # No slots of our own: they would not go together with the layout of dict and other built-in types.
    __slots__ = ("__weakref__",)

    _ana_lazy = False

    uuid = _UUID()
    """The object's UUID, or None before it has one."""

    __dask_tokenize__ = _Token()

    def __init_subclass__(cls, **arguments: Any) -> None:
        """Refuse classes whose instances cannot be held weakly, so not be found again by their UUID."""
        super().__init_subclass__(**arguments)
        class_names.note_origin(cls)
        if cls.__weakrefoffset__ == 0:
            base = ghost.builtin_base(cls).__name__
            msg = f"a Storable cannot derive from {base}, whose instances take no weak reference: use ana.Ref(value)"
            raise TypeError(msg)

    def make_uuid(self, uuid: str | None = None) -> str:
        """Return the object's UUID, giving it one if it has none.

        Without `uuid`: the address of its content; its state is stored at once, and equal content has
        the same UUID everywhere. With `uuid` (any string of 1 to 200 characters), or where objects refer to
        each other in a circle, or within its own `__init__`: a UUID that does not follow from the
        content, and the state is stored when the object is first pickled, or by `ana_store`. A `uuid` of version 8
        stands for content: only the object's own address is accepted.

        Raises TypeError or ValueError for what is no UUID, and what pickling or the store raises; the
        object has no UUID then.
        """
        mark = identity.mark_of(self)
        if mark is not None:
            return mark.uuid
        states.check(self)
        target = saving.storing_into() or current.get_dl()
        given = None if uuid is None else address.check_key(uuid)
        if given is not None and not address.is_content_uuid(given):
            return saving.give_address(target, self, given).uuid
        if given is None and _is_under_construction(self):
            return saving.give_address(target, self, address.random_uuid()).uuid
        return target.make_address(self, given).uuid

    @property
    def ana_uuid(self) -> str:
        """The object's UUID; it is given one if it has none, as by `make_uuid`."""
        return self.make_uuid()

    @property
    def _ana_uuid(self) -> str | None:
        """The object's UUID or None; old programs read and assign it."""
        mark = identity.mark_of(self)
        return None if mark is None else mark.uuid

    @_ana_uuid.setter
    def _ana_uuid(self, uuid: str | None) -> None:
        identity.unmark(self)
        if uuid is not None:
            saving.give_address(current.get_dl(), self, address.check_key(uuid))

    def ana_store(self) -> str:
        """Make sure that the object's whole, undamaged state is in the current layer; return its UUID.

        Gives it a UUID first if it has none. What is there is read and verified, and written again if it is
        missing or damaged. Raises what pickling or the store raises.
        """
        uuid = self.make_uuid()
        current.get_dl().store_again(self)
        return uuid

    @classmethod
    def ana_load(cls, uuid: str) -> Self:
        """Return the object of this class with this UUID: the live one, or one loaded from the current layer.

        Raises TypeError or ValueError for what is no UUID, StateNotFoundError, CorruptedStateError,
        StateLoadError (it is of another class, or its class has changed), StoreError.
        """
        found: Self = resolve.load_now(cls, uuid)
        return found

    def to_literal(self, known_set: set[str] | None = None, objects: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the object, and the Storables that it holds, as literals that go into JSON.

        See `ana.compat.literal.to_literal`; override `_ana_getliteral` to say what a class's objects look like.
        """
        return literal.to_literal(self, known_set, objects)

    def _ana_getstate(self) -> Any:
        """Return the state to be stored: by default the attributes, of `__dict__` and of all slots, by name.

        With a built-in base (dict, list ...), a pair of that and the content.
        """
        if type(self)._ana_getstate is Storable._ana_getstate:
            said = states.hooked(self)
            if said is not None:
                return said
        state = attributes.get(self)
        content = states.CONTENT.get(ghost.builtin_base(type(self)))
        return state if content is None else (state, content[0](self))

    def _ana_setstate(self, s: Any) -> None:
        """Take a state on: by default as it was taken, by `__setstate__` or each attribute by its name."""
        if type(s) is reference.Reduced:
            states.restore(self, s)
            return
        if states.plan_of(type(self)).plain:
            attributes.fill_plain(self, s)
            return
        content = states.CONTENT.get(ghost.builtin_base(type(self)))
        if content is not None:
            s, items = s
            content[1](self, items)
        if type(self)._ana_getstate is Storable._ana_getstate:
            attributes.put(self, s)
            return
        for name, value in s.items():
            # A state of the class's own making: by its properties, but past its __setattr__, which may refuse.
            object.__setattr__(self, name, value)

    def _ana_getliteral(self) -> Any:
        """Return what `to_literal` shows of the object: by default its state."""
        state = self._ana_getstate()
        return attributes.get(self) if type(state) is reference.Reduced else state

    def __reduce__(self) -> Any:
        """Return ANA's own reduction; that of a class, which pickle calls, may call it by `super().__reduce__()`."""
        if states.is_asked_by_value(self):
            return reference.new, (ghost.loaded_class(self),), (None,), None, None, reference.fill
        return _reduced(self, identity.mark_of(self), ghost.loaded_class(self))

    def __reduce_ex__(self, protocol: Any) -> Any:
        mark = identity.mark_of(self)
        if mark is not None:
            uuid = mark.uuid if hash_callers.is_asked() else None
        else:
            uuid = _token_to_be(self) if isinstance(self, Ref) and hash_callers.is_asked(hash_callers.DASK) else None
        if uuid is not None:
            reference.met[uuid] = self
            return reference.hashed, _hash_arguments(self, uuid)
        cls = type(self) if mark is None or mark.loader is None else ghost.loaded_class(self)
        plan = states.plan_of(cls)
        if mark is None and plan.plain:
            return _plain(self, cls)
        if mark is None and isinstance(self, Ref):
            return self.__reduce__()
        if plan.reduction and not plan.asked_first:
            return _theirs(self, mark, plan, protocol)
        if plan.asked_first:
            return self.__reduce__() if plan.asked_first_twice else Storable.__reduce__(self)
        return _reduced(self, mark, cls)

    def __copy__(self) -> Any:
        """Return the object itself if it has a UUID, else an ordinary shallow copy. Nothing is stored."""
        if identity.mark_of(self) is not None:
            return self
        other = getattr(super(), "__copy__", None)
        return states.copied(self, None) if other is None else other()

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """Return the object itself if it has a UUID, else an ordinary deep copy. Nothing is stored."""
        if identity.mark_of(self) is not None:
            return self
        other = getattr(super(), "__deepcopy__", None)
        return states.copied(self, memo) if other is None else other(memo)


class StorableABC(Storable, metaclass=ABCMeta):
    """Storable for classes that derive from abstract ones, as of collections.abc, too."""

    __slots__ = ()


class Ref(Storable, Generic[Value]):
    """Passes any object by reference: `ana.Ref(value)` pickles into a UUID, and `.value` loads on first use.

    Pickling it gives it a UUID. Afterwards the value should not change. Safe between threads.
    """

    __slots__ = ("_value",)

    _ana_lazy = True

    _value: Value

    def __init__(self, value: Value) -> None:
        """Hold a value, of any type that pickles."""
        self._value = value

    def __repr__(self) -> str:
        mark = identity.mark_of(self)
        name = "ana.Ref" if mark is None else f"ana.Ref {mark.short_uuid}"
        value = getattr(self, "_value", _MISSING)
        if value is _MISSING:
            return f"<{name}, not loaded>"
        from ana.objects import value_repr  # noqa: PLC0415 - for who looks only

        return f"<{name}: {value_repr.describe(value)}>"

    @property
    def value(self) -> Value:
        """The value, loaded from the store at the first use. Raises what loading raises."""
        try:
            return self._value
        except AttributeError:
            ghost.use(self)
            return self._value

    def _ana_getstate(self) -> Value:
        try:
            value = self._value
        except AttributeError:
            value = self.value
        if type(self) is not Ref:
            ref_classes.check(self)
        return value

    def _ana_setstate(self, s: Value) -> None:
        self._value = s

    def __reduce__(self) -> Any:
        if identity.mark_of(self) is None and not hash_callers.is_asked():
            if addressing.is_foreseeing():
                return reference.load, (type(self), addressing.foreseen(_address_to_be(self).uuid))
            # Inside of a state, too: what is in a Ref is loaded when it is asked for, not before.
            self.make_uuid()
        return super().__reduce__()


def _hash_arguments(obj: object, uuid: str) -> tuple[str | int, ...]:
    """Return what a hash is made of: the UUID, and, of a class that was defined again, which definition it is."""
    number = class_names.generation(ghost.loaded_class(obj))
    return (uuid, number) if number else (uuid,)


def _token_to_be(ref: Any) -> str:
    """Return the address that pickling will give a Ref, or a random token where that cannot be said."""
    known = _address_to_be(ref)
    if known.uuid is None:
        hash_callers.insist()
    token: str = known.token
    return token


def _address_to_be(ref: Any) -> Any:
    """Return what is known of the address that pickling will give a Ref; it is hashed once."""
    known = identity.address_of(ref)
    if known is not None:
        return known
    current.get_dl().foresee_address(ref)
    return identity.address_of(ref)


def _reduced(obj: Any, mark: identity.Mark | None, cls: type) -> Any:
    """Return ANA's reduction of an object: a reference if it has a UUID, else the object by value."""
    collector = pickling.collector()
    is_part = collector is not None and not collector.meet(obj)
    if mark is None or is_part:
        said = states.newly(obj)
        return said or (reference.new, (cls,), (obj._ana_getstate(),), None, None, reference.fill)
    if collector is not None:
        return reference.load, (cls, mark.uuid)
    target = current.get_dl()
    if target.store.process_local and mark.loader is None and target.sends_by_value(mark):
        return reference.new, (cls, mark.uuid), (obj._ana_getstate(),), None, None, reference.fill
    if mark.loader is not None:
        return reference.load, (cls, mark.uuid, resolve.home_of(mark, target))
    if not saving.is_known(target, mark):
        if class_names.known_as(cls) is not cls:
            # Pickled after the class: nothing is stored if that does not pickle.
            return reference.load, (cls, _Stored(obj, mark.uuid), target.home)
        saving.store(target, obj)
    return reference.load, (cls, mark.uuid, target.home)


def _plain(obj: Any, cls: type) -> Any:
    """Return the reduction of a plain object without a UUID."""
    collector = pickling.collector()
    if collector is None:
        # As pickle would do it by itself, in half the time; inside of states it has always been `new`.
        return _NEWOBJ, (cls,), obj.__dict__ or None
    collector.meet(obj)
    return reference.new, (cls,), (dict(obj.__dict__),), None, None, reference.fill


def _theirs(obj: Any, mark: identity.Mark | None, plan: states.Plan, protocol: Any) -> Any:
    """Return the reduction of an object whose class has one of its own: that, unless the object goes by reference."""
    if plan.is_enum:
        # A member is found by its name or value, and is the member then.
        return states.theirs(obj, protocol)[0]
    if mark is not None and mark.loader is not None:
        return _reduced(obj, mark, ghost.loaded_class(obj))
    collector = pickling.collector()
    is_part = collector is not None and not collector.meet(obj)
    said, calls_ours = states.theirs(obj, protocol)
    return said if mark is None or is_part or calls_ours else _reduced(obj, mark, type(obj))


class _Stored:
    """Stands for a UUID in a reference, and is pickled after the class: nothing is stored if that does not pickle."""

    def __init__(self, obj: Storable, uuid: str) -> None:
        self.obj = obj
        self.uuid = uuid

    def __reduce__(self) -> tuple[Any, ...]:
        saving.store(current.get_dl(), self.obj)
        return str, (self.uuid,)


def _is_under_construction(obj: object) -> bool:
    """Say whether the object's own `__init__` is still running: its content is not complete then."""
    frame: FrameType | None = sys._getframe(2)  # noqa: SLF001 - the public way (inspect) is the same, slower
    while frame is not None:
        code = frame.f_code
        if code.co_name == "__init__" and code.co_argcount and frame.f_locals.get(code.co_varnames[0]) is obj:
            return True
        frame = frame.f_back
    return False
