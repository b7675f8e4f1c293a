"""Parsl: importing this module makes Parsl use cloudpickle for tasks, arguments and results, also in its workers.

    import ana.integrations.parsl

Parsl's own serializer, dill, gives a script's functions the worker's globals instead of the script's. It also makes a
new class each time it unpickles a class of `__main__`, so objects from the store are not instances of it.
"""

from typing import Any

import cloudpickle
from parsl.serialize import facade
from parsl.serialize.base import SerializerBase

__all__ = ["CloudpickleSerializer"]


class CloudpickleSerializer(SerializerBase):
    """Serializes with cloudpickle. Workers find this class by its name, which is sent with the data."""

    def serialize(self, data: Any) -> bytes:
        """Return a pickle. If that raises, Parsl tries its own serializers."""
        pickled: bytes = cloudpickle.dumps(data)
        return pickled

    def deserialize(self, payload: bytes) -> Any:
        """Return the unpickled data. Raises what unpickling raises."""
        return cloudpickle.loads(payload)


def _come_first() -> None:
    for methods in (facade.methods_for_code, facade.methods_for_data):
        others = list(methods.values())
        methods.clear()
        for serializer in (CloudpickleSerializer(), *others):
            methods[serializer.identifier] = serializer


_come_first()
