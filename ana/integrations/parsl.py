"""Parsl: tasks, arguments and results go through cloudpickle, in the program that imports this and in its workers.

    import ana.integrations.parsl

Parsl's own serializer, dill, gives the functions of a script the worker's globals instead of the script's, and makes a
new class each time that it meets one of `__main__`, which then is not the class of the objects in the store.
"""

from typing import Any

import cloudpickle
from parsl.serialize import facade
from parsl.serialize.base import SerializerBase

__all__ = ["CloudpickleSerializer"]


class CloudpickleSerializer(SerializerBase):
    """Serializes all that cloudpickle can. Workers find it by its name, which is sent along."""

    def serialize(self, data: Any) -> bytes:
        """Return a pickle. Raises what pickling raises; Parsl tries its own serializers then."""
        pickled: bytes = cloudpickle.dumps(data)
        return pickled

    def deserialize(self, payload: bytes) -> Any:
        """Return what was pickled. Raises what unpickling raises."""
        return cloudpickle.loads(payload)


def _come_first() -> None:
    for methods in (facade.methods_for_code, facade.methods_for_data):
        others = list(methods.values())
        methods.clear()
        for serializer in (CloudpickleSerializer(), *others):
            methods[serializer.identifier] = serializer


_come_first()
