"""Storable, StorableABC and Ref: the base classes of users' objects, with identity and the pickle protocol."""

import copyreg
from abc import ABCMeta
from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar, cast

from ana import reference
from ana.compat import literal
from ana.errors import ANAError
from ana.format import address
from ana.layers import current, resolve
from ana.objects import (
    attributes,
    class_names,
    ghost,
    hash_callers,
    identity,
    pickling,
    ref_classes,
    states,
    value_repr,
)
from ana.persist import addressing, saving
from ana.runtime.tracebacks import shorten_for_caller, shortened

__all__ = ["Ref", "Storable", "StorableABC"]

Value = TypeVar("Value")

_MISSING = object()
_COPYREG: Any = copyreg
_NEWOBJ = _COPYREG.__newobj__


class _UUID:
    """The `uuid` attribute. Not a data descriptor, so that a class may have an attribute or field of that name."""

    def __get__(self, obj: Any, owner: type) -> str | None:
        if obj is None:
            # Pretend to be absent: dataclasses would take this for the default of a field `uuid`.
            msg = f"type object {owner.__name__!r} has no attribute 'uuid'; its instances have"
            raise AttributeError(msg)
        mark = identity.mark_of(obj)
        return None if mark is None else mark.uuid


class _Token:
    """The method `__dask_tokenize__` of objects that have a UUID, and of Refs, which get one when they are pickled.

    A Ref whose UUID cannot be foreseen has a random token of its own. Other objects do not have the method, so dask
    tokenizes them by value.
    """

    def __get__(self, obj: Any, owner: type) -> Callable[[], tuple[str | int, ...]]:
        mark = None if obj is None else identity.mark_of(obj)
        if mark is None and not isinstance(obj, Ref):
            msg = "__dask_tokenize__: only an object that has a UUID is tokenized by it"
            raise AttributeError(msg)
        return lambda: ("ana", *hash_callers.arguments(obj, _token_to_be(obj) if mark is None else mark.uuid))


class Storable:
    """Base of classes whose objects pickle into a UUID. Their state is stored once.

    An object without a UUID pickles as usual. `make_uuid()` gives it one. After that the object must not change.

    A subclass may define `_ana_getstate` and `_ana_setstate`, which work like `__getstate__` and `__setstate__`.
    Without them, ANA uses pickle's hooks. Unpickling calls neither `__new__` nor `__init__`, unless the class's
    `__reduce__` says so. Classes whose objects cannot be created before their state is known are refused.

    Methods may be called from many threads at once.
    """

    # No slots of our own: their layout would conflict with that of dict and other built-in types.
    __slots__ = ("__weakref__",)

    _ana_lazy = False

    # Type comments: libraries would take annotations for fields of subclasses.
    uuid = cast("str | None", _UUID())  # type: str | None
    """The object's UUID, or None before it has one."""

    __dask_tokenize__ = _Token()  # type: Any

    def __init_subclass__(cls, **arguments: Any) -> None:
        """Refuse classes whose instances cannot be weakly referenced, and so cannot be found by their UUID."""
        super().__init_subclass__(**arguments)
        class_names.note_origin(cls)
        if cls.__weakrefoffset__ == 0:
            base = ghost.builtin_base(cls).__name__
            msg = f"a Storable cannot derive from {base}, whose instances take no weak reference: use ana.Ref(value)"
            raise TypeError(msg)

    def make_uuid(self, uuid: str | None = None) -> str:
        """Return the object's UUID, and give it one if it has none.

        Without `uuid`, the UUID is the address of the object's content: equal content has the same UUID everywhere. The
        state is stored at once. The UUID does not depend on the content if `uuid` is given, if objects refer to each
        other in a cycle, or within the object's own `__init__`. Then the state is stored when the object is first
        pickled, or by `ana_store`.

        Args:
            uuid: A string of 1 to 200 characters. A UUID of version 8 stands for content, so it is accepted only if it
                is the object's own address. Default: the address of the content.

        Returns:
            The UUID. If the object has one already, that one.

        Raises:
            TypeError: `uuid` is not a string, or ANA cannot store objects of this class.
            ValueError: `uuid` is not a UUID, or is the address of other content.
            StoreError: The state could not be stored. The object has no UUID then; the same holds for whatever pickling
                the object raises.
        """
        mark = identity.mark_of(self)
        if mark is not None:
            return mark.uuid
        states.check(self)
        target = saving.storing_into() or current.get_dl()
        given = None if uuid is None else address.check_key(uuid)
        if given is not None and not address.is_content_uuid(given):
            return saving.give_address(target, self, given).uuid
        if given is None and hash_callers.is_under_construction(self):
            return saving.give_address(target, self, address.random_uuid()).uuid
        try:
            return target.make_address(self, given).uuid
        except Exception as error:
            shorten_for_caller(error)
            raise

    @property
    def ana_uuid(self) -> str:
        """The object's UUID. If it has none, it gets one, as by `make_uuid`."""
        try:
            return self.make_uuid()
        except Exception as error:
            shorten_for_caller(error)
            raise

    @property
    def _ana_uuid(self) -> str | None:
        """The object's UUID, or None. Old programs read and assign it."""
        mark = identity.mark_of(self)
        return None if mark is None else mark.uuid

    @_ana_uuid.setter
    def _ana_uuid(self, uuid: str | None) -> None:
        identity.unmark(self)
        if uuid is not None:
            saving.give_address(current.get_dl(), self, address.check_key(uuid))

    def ana_store(self) -> str:
        """Make sure that the object's state is in the current layer and undamaged. Return the object's UUID.

        Gives the object a UUID first if it has none. Reads and verifies the stored state, unless this call has written
        it, and writes it again if it is missing or damaged.

        Returns:
            The UUID.

        Raises:
            StoreError: The state cannot be read or written.
            StateChangedError: The object has changed since it got its UUID.
        """
        try:
            with saving.noting_written() as written:
                uuid = self.make_uuid()
            if uuid not in written:
                current.get_dl().store_again(self)
        except Exception as error:
            shorten_for_caller(error)
            raise
        return uuid

    @classmethod
    def ana_load(cls, uuid: str) -> Self:
        """Return the object of this class with this UUID: the live one, or one loaded from the current layer.

        Args:
            uuid: The object's UUID.

        Returns:
            The object. There is only one for a UUID.

        Raises:
            TypeError: `uuid` is not a string.
            ValueError: `uuid` is not a UUID.
            StateNotFoundError: There is no such state.
            CorruptedStateError: The state is damaged.
            StateLoadError: The state is of another class, or its class has changed.
            StoreError: The store cannot be read.
        """
        found: Self = resolve.load_now(cls, uuid)
        return found

    def to_literal(self, known_set: set[str] | None = None, objects: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the object, and the Storables that it holds, as literals for JSON.

        Every Storable inside gets a UUID. Tuples and sets become lists. Override `_ana_getliteral` to change what a
        class's objects look like.

        Args:
            known_set: The UUIDs of objects that the result only names. The others are added to it. Default: none.
            objects: Gets the literals of the others, by UUID. Default: a new dict.

        Returns:
            {"objects": `objects`, "value": {"ana_uuid": the object's UUID}}. Each item of `objects` is {"class": ...,
            "object": ...}.
        """
        return literal.to_literal(self, known_set, objects)

    def _ana_getstate(self) -> Any:
        """Return the state to store: by default the attributes in `__dict__` and in all slots, by name.

        With a built-in base (dict, list ...), a pair of these attributes and the content.
        """
        if type(self)._ana_getstate is Storable._ana_getstate:
            said = states.hooked(self)
            if said is not None:
                return said
        state = attributes.get(self)
        content = states.CONTENT.get(ghost.builtin_base(type(self)))
        return state if content is None else (state, content[0](self))

    def _ana_summary(self) -> str:
        """Return what `ana ls` says about the object instead of its class; "" for nothing more. 200 bytes at most."""
        return ""

    def _ana_setstate(self, s: Any) -> None:
        """Set the state: by default with `__setstate__`, or attribute by attribute."""
        if type(s) is reference.Reduced:
            states.restore(self, s)
            return
        if states.plan_of(ghost.loaded_class(self)).plain:
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
            # The class made this state: use its properties, but bypass its __setattr__, which may refuse.
            object.__setattr__(self, name, value)

    def _ana_getliteral(self) -> Any:
        """Return what `to_literal` shows of the object. The default is its state."""
        state = self._ana_getstate()
        return attributes.get(self) if type(state) is reference.Reduced else state

    def __reduce__(self) -> Any:
        """Return ANA's own reduction. A class's `__reduce__` may call it by `super().__reduce__()`."""
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
            return reference.hashed, hash_callers.arguments(self, uuid)
        cls = type(self) if mark is None or mark.loader is None else ghost.loaded_class(self)
        plan = states.plan_of(cls)
        if mark is None and plan.plain:
            return _plain(self, cls)
        try:
            if mark is None and isinstance(self, Ref):
                return self.__reduce__()
            if plan.reduction and not plan.asked_first:
                return _theirs(self, mark, plan, protocol)
            if plan.asked_first:
                return self.__reduce__() if plan.asked_first_twice else Storable.__reduce__(self)
            return _reduced(self, mark, cls)
        except Exception as error:
            shorten_for_caller(error)
            raise

    def __copy__(self) -> Any:
        """Return the object itself if it has a UUID, otherwise an ordinary shallow copy. Store nothing."""
        if identity.mark_of(self) is not None:
            return self
        other = getattr(super(), "__copy__", None)
        return states.copied(self, None) if other is None else other()

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """Return the object itself if it has a UUID, otherwise an ordinary deep copy. Store nothing."""
        if identity.mark_of(self) is not None:
            return self
        other = getattr(super(), "__deepcopy__", None)
        return states.copied(self, memo) if other is None else other(memo)


class StorableABC(Storable, metaclass=ABCMeta):
    """Storable for classes that also derive from abstract classes, such as those of collections.abc."""

    __slots__ = ()


class Ref(Storable, Generic[Value]):
    """Passes any object by reference: `ana.Ref(value)` pickles into a UUID, and `.value` is loaded on first access.

    Pickling gives the Ref a UUID. After that the value must not change. Safe to use from many threads.
    """

    __slots__ = ("_value",)

    _ana_lazy = True

    _value: Value

    def __init__(self, value: Value) -> None:
        """Hold a value.

        Args:
            value: Any object that pickles.
        """
        self._value = value

    def __repr__(self) -> str:
        mark = identity.mark_of(self)
        name = "ana.Ref" if mark is None else f"ana.Ref {mark.short_uuid}"
        value = getattr(self, "_value", _MISSING)
        if value is _MISSING:
            return f"<{name}, not loaded>"
        return f"<{name}: {value_repr.describe(value)}>"

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the value's type and size, and the UUID. Loads nothing."""
        from ana.objects import html_repr  # noqa: PLC0415 - in notebooks only

        mark = identity.mark_of(self)
        value = getattr(self, "_value", _MISSING)
        said = "not loaded" if value is _MISSING else value_repr.describe(value)
        uuid = "none yet: it gets one when it is pickled" if mark is None else mark.uuid
        home = getattr(mark.loader, "home", "") if mark is not None else ""
        return html_repr.table("ana.Ref", [("value", said), ("UUID", uuid), *([("store", home)] if home else [])])

    @property
    def value(self) -> Value:
        """The value, loaded from the store on first access. Raises what `ana_load` raises."""
        try:
            return self._value
        except AttributeError:
            pass  # Not in here: the error of a load would be shown as one that followed this one.
        try:
            ghost.use(self)
        except ANAError as error:
            # How ANA found out is of no use to the caller.
            raise shortened(error)  # noqa: B904 - the same error
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

    def _ana_summary(self) -> str:
        return value_repr.summary(self._value)

    def __reduce__(self) -> Any:
        if identity.mark_of(self) is None and not hash_callers.is_asked():
            if addressing.is_foreseeing():
                return reference.load, (type(self), addressing.foreseen(_address_to_be(self).uuid))
            # Inside a state as well: the value of a Ref is loaded on first access, not before.
            self.make_uuid()
        return super().__reduce__()


def _token_to_be(ref: Any) -> str:
    """Return the address that pickling will give a Ref, or a random token if it cannot be foreseen."""
    known = _address_to_be(ref)
    if known.uuid is None:
        hash_callers.insist()
    token: str = known.token
    return token


def _address_to_be(ref: Any) -> Any:
    """Return what is known about the address that pickling will give a Ref. The value is hashed once."""
    known = identity.address_of(ref)
    if known is not None:
        return known
    current.get_dl().foresee_address(ref)
    return identity.address_of(ref)


def _reduced(obj: Any, mark: identity.Mark | None, cls: type) -> Any:
    """Return ANA's reduction of an object: a reference if it has a UUID, otherwise the object by value."""
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
        hint, home = target.store.hint(mark.uuid), resolve.home_of(mark, target)
        return reference.load, (cls, mark.uuid, home, hint) if hint else (cls, mark.uuid, home)
    if not saving.is_known(target, mark):
        if class_names.known_as(cls) is not cls:
            # The UUID is pickled after the class: if the class does not pickle, nothing is stored.
            return reference.load, (cls, _Stored(obj, mark.uuid), target.home)
        saving.store(target, obj)
    hint = target.store.hint(mark.uuid)
    return reference.load, (cls, mark.uuid, target.home, hint) if hint else (cls, mark.uuid, target.home)


def _plain(obj: Any, cls: type) -> Any:
    """Return the reduction of a plain object without a UUID."""
    collector = pickling.collector()
    if collector is None:
        # As pickle would do it by itself, in half the time. Inside states it has always been `new`.
        return _NEWOBJ, (cls,), obj.__dict__ or None
    collector.meet(obj)
    return reference.new, (cls,), (dict(obj.__dict__),), None, None, reference.fill


def _theirs(obj: Any, mark: identity.Mark | None, plan: states.Plan, protocol: Any) -> Any:
    """Return the reduction of an object whose class defines one: a reference if it has a UUID, else the class's own."""
    if plan.is_enum:
        # An Enum member is pickled by name or value, and unpickles into the member itself.
        return states.theirs(obj, protocol)[0]
    if mark is not None and mark.loader is not None:
        return _reduced(obj, mark, ghost.loaded_class(obj))
    collector = pickling.collector()
    is_part = collector is not None and not collector.meet(obj)
    said, calls_ours = states.theirs(obj, protocol)
    return said if mark is None or is_part or calls_ours else _reduced(obj, mark, type(obj))


class _Stored:
    """Stands for the UUID in a reference. Stores the object when it is pickled, which is after the class."""

    def __init__(self, obj: Storable, uuid: str) -> None:
        self.obj = obj
        self.uuid = uuid

    def __reduce__(self) -> tuple[Any, ...]:
        saving.store(current.get_dl(), self.obj)
        return str, (self.uuid,)
