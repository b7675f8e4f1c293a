"""A store in front of another one: reads go through it, everything else goes to the other one."""

import math
from abc import abstractmethod
from collections.abc import Sequence

from ana.errors import ANAError
from ana.format import record
from ana.runtime.counters import Counters
from ana.stores.base import CacheableStore, Done, Keeper, Put, Store

__all__ = ["Tier"]


class Tier(Store):
    """Base of stores that have copies of another store's states; a subclass defines `store` and `get`.

    A copy in the tier does not last. So states are put into the other store, and only that store is asked whether it
    has them.
    """

    def __init__(self, home: str, counters: Counters) -> None:
        """Take the home and the counters of the other store."""
        self.home = home
        self.counters = counters

    @property
    @abstractmethod
    def store(self) -> CacheableStore:
        """The other store."""

    @property
    def process_local(self) -> bool:
        """As the other store's."""
        return self.store.process_local

    @property
    def durable(self) -> bool:
        """As the other store's."""
        return self.store.durable

    @property
    def high_latency(self) -> bool:
        """As the other store's, because what the tier lacks comes from there."""
        return self.store.high_latency

    @property
    def gathers(self) -> bool:
        """As the other store's."""
        return self.store.gathers

    @property
    def supports_roots(self) -> bool:
        """As the other store's."""
        return self.store.supports_roots

    @property
    def keeps_records(self) -> bool:
        """As the other store's."""
        return self.store.keeps_records

    def is_same(self, other: Store) -> bool:
        """Ask the other store."""
        return self.store.is_same(other.store if isinstance(other, Tier) else other)

    def keep(self, name: str, keys: Sequence[str], *, ttl_seconds: float = math.inf) -> Sequence[ANAError]:
        """Keep the states in the other store."""
        return self.store.keep(name, keys, ttl_seconds=ttl_seconds)

    def keeper(self, name: str, ttl_seconds: float = math.inf) -> Keeper:
        """Keep states in the other store."""
        return self.store.keeper(name, ttl_seconds)

    def forget(self, name: str) -> None:
        """Forget the name in the other store."""
        self.store.forget(name)

    def has(self, key: str) -> bool:
        """Ask the other store."""
        return self.store.has(key)

    def is_whole(self, key: str) -> bool:
        """Ask the other store."""
        return self.store.is_whole(key)

    def put(self, key: str, state: record.Content, children: tuple[str, ...], *, repair: bool) -> bool:
        """Put the state into the other store."""
        return self.store.put(key, state, children, repair=repair)

    def put_many(self, puts: Sequence[Put], done: Done) -> None:
        """Put the states into the other store."""
        self.store.put_many(puts, done)

    def hint(self, key: str) -> str:
        """Ask the other store."""
        return self.store.hint(key)

    def note_hint(self, key: str, said: str) -> None:
        """Tell the other store."""
        self.store.note_hint(key, said)
