"""MPI: one rank of each node loads first; the others then load from the node's page cache.

    model = ana.integrations.mpi.bcast(model)     # on all ranks; only rank 0's argument is used

`comm.bcast(model)` works, too, but then all ranks of a node read the shared filesystem at once.
"""

import pickle
from typing import Any

from mpi4py import MPI

from ana.layers import resolve
from ana.storable import Ref

__all__ = ["bcast"]


def bcast(obj: Any, root: int = 0, comm: MPI.Intracomm = MPI.COMM_WORLD) -> Any:
    """Return one rank's object on every rank of `comm`; objects with a UUID inside it travel as references.

    Collective. The first rank of each node loads, while the node's other ranks wait in a barrier and then load from the
    node's page cache or node cache. If `obj` is a `Ref`, its value is loaded, too; a `Ref` inside other objects stays
    lazy. A missing or damaged state gives an object that raises on first use.

    Args:
        obj: The object. Only that of the sending rank is used.
        root: The sending rank.
        comm: The communicator.

    Returns:
        The object, on every rank.

    Raises:
        Exception: On all ranks, what pickling raised on the sending rank. On one rank, after the barrier, what
            unpickling raised there. No rank hangs.
    """
    data, error = comm.bcast(_pickled(obj) if comm.rank == root else None, root)
    if error is not None:
        raise error
    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    try:
        if node.rank > 0:
            node.Barrier()
            return _loaded(data)
        try:
            return _loaded(data)
        finally:
            node.Barrier()
    finally:
        node.Free()


def _pickled(obj: Any) -> tuple[bytes, Exception | None]:
    try:
        return pickle.dumps(obj, pickle.HIGHEST_PROTOCOL), None
    except Exception as error:  # noqa: BLE001 - the other ranks wait, so they must get any error
        return b"", error


def _loaded(data: bytes) -> Any:
    obj = pickle.loads(data)  # noqa: S301 - from a rank of this program
    if isinstance(obj, Ref):
        resolve.prefetch([obj])
    return obj
