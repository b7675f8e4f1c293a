"""ProxyStore: a connector that keeps the bytes of proxies in an ANA store.

```python
with Store("results", AnaConnector("/shared/store"), register=True) as store:
    proxy = store.proxy(array)          # resolves in any process that sees the folder
```

Equal bytes are stored once, in one file, and each read is verified: damaged bytes raise instead of becoming data.
"""

import secrets
from collections.abc import Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self, Unpack

from proxystore.serialize import BytesLike

from ana import settings
from ana.errors import StateNotFoundError
from ana.format import address, parts, record
from ana.layers import opening
from ana.persist import keeping
from ana.tasks.depot import Depot

__all__ = ["AnaConnector", "AnaKey"]


class AnaKey(NamedTuple):
    """The key of one `put`. Keys of equal bytes name the same state."""

    uuid: str
    """The UUID of the state: the address of the bytes."""
    hint: str
    """Where the state lies, if it is in a pack; otherwise ""."""
    number: int
    """Distinguishes the puts of equal bytes: 64 random bits."""


class AnaConnector:
    """ProxyStore's `DeferrableConnector` over a folder. Safe to use from many threads and processes.

    Objects are states like any other: `ana ls`, `ana verify` and `ana gc` see them. Only a root keeps them from
    collection: put them inside `with dl.keeping(NAME):`, or keep their UUIDs by `ana keep NAME UUID`.

    `evict` makes this connector forget a key, and no other key. It removes nothing, because another key, process or
    object may have the same bytes: `ana gc` removes the state when no root keeps it. Other processes still find it.
    """

    def __init__(self, pickle_dir: str, **options: Unpack[settings.DataLayerOptions]) -> None:
        """Open the store in a folder, or make it.

        Args:
            pickle_dir: The folder, on a filesystem that all processes see.
            **options: Options of `ana.set_dl` for folders, such as `durable`. Processes that get a proxy use them, too.

        Raises:
            TypeError, ValueError: An option is invalid.
            StoreError: The folder cannot be opened or made.
            UntrustedStoreError: The folder is neither empty nor a store, or others may write to it.

        """
        said = settings.checked({**options, "pickle_dir": pickle_dir})
        if said.pickle_dir is None or said.store is not None:
            msg = "AnaConnector takes the path of a folder, pickle_dir, not " + (
                "None" if pickle_dir is None else "store="
            )
            raise TypeError(msg)
        store = opening.store(said)
        self._config: dict[str, Any] = {**options, "pickle_dir": store.home}
        # Nothing is kept in memory: ProxyStore has a cache of its own.
        self._depot = Depot(store, keep_bytes=0, durable=True)
        self._evicted: set[int] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._config['pickle_dir']!r})"

    def close(self) -> None:
        """Do nothing: objects stay in the store, and the connector stays usable."""

    def config(self) -> dict[str, Any]:
        """Return the folder's absolute path and the options, for `from_config`."""
        return dict(self._config)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Return a connector to the same folder. Raises as the class does."""
        return cls(**config)

    def put(self, obj: BytesLike) -> AnaKey:
        """Store bytes, unless the store has them. Raises StoreError, and StateChangedError if they change meanwhile."""
        return self.put_batch([obj])[0]

    def put_batch(self, objs: Sequence[BytesLike]) -> list[AnaKey]:
        """Store several objects; on a network filesystem, at the same time. Raises as `put`."""
        found = self._depot.put_all([(memoryview(obj).cast("B"), True) for obj in objs])
        return [AnaKey(uuid, hint, secrets.randbits(64)) for uuid, hint, _ in found]

    def new_key(self, obj: BytesLike | None = None) -> AnaKey:  # noqa: ARG002 - the protocol's signature
        """Return a key for bytes that `set` stores later, as `Store.future` needs it.

        Args:
            obj: Not used: the bytes are not known yet. Default: None.
        """
        return AnaKey(address.random_uuid(), "", secrets.randbits(64))

    def set(self, key: AnaKey, obj: BytesLike) -> None:
        """Store bytes under a new key, in a file of its own. The first `set` of a key wins. Raises what `put` does.

        Args:
            key: A key from `new_key`.
            obj: The bytes.
        """
        content = record.content(parts.CLASS_NAME, [memoryview(obj).cast("B")], None, (0,))
        self._depot.store.put(key.uuid, content, (), repair=False)
        keeping.note(self._depot.store, key.uuid)

    def get(self, key: AnaKey) -> bytes | None:
        """Return the bytes; None if they are not in the store or the key was evicted.

        Raises CorruptedStateError if they are damaged, StoreError if the store cannot be read.
        """
        if key.number in self._evicted:
            return None
        try:
            return bytes(self._depot.shared([(key.uuid, key.hint, True)])[0])
        except StateNotFoundError:
            return None

    def get_batch(self, keys: Sequence[AnaKey]) -> list[bytes | None]:
        """Return what `get` returns for each key."""
        return [self.get(key) for key in keys]

    def exists(self, key: AnaKey) -> bool:
        """Return whether `get` would find the bytes, after one look-up. Raises StoreError."""
        return key.number not in self._evicted and self._depot.store.has(key.uuid)

    def evict(self, key: AnaKey) -> None:
        """Make this connector forget a key. The state stays until it is collected: see the class."""
        self._evicted.add(key.number)
