"""MPI: one rank of each node loads first, the others after it, from what the node then has in its memory.

    model = ana.integrations.mpi.bcast(model)     # on all ranks; only the root's argument counts

Without this, `comm.bcast(model)` does as well; but then all ranks of a node read the shared filesystem at once.
"""

import pickle
from typing import Any

from mpi4py import MPI

from ana.layers import resolve
from ana.storable import Ref

__all__ = ["bcast"]


def bcast(obj: Any, root: int = 0, comm: MPI.Intracomm = MPI.COMM_WORLD) -> Any:
    """Return on each rank of `comm` what the root gave: addressed objects, in whatever holds them, go as references.

    Collective. The first rank of each node loads, while the others of the node wait in a barrier; then they load,
    from the node's page cache or tier. A `Ref` itself is loaded, too; those within other objects stay lazy.

    A state that cannot be had makes an object that raises when it is used, as ever. Raises on all ranks what pickling
    raises on the root; on one rank, after the barrier, what unpickling raises there: then nobody hangs.
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
    except Exception as error:  # noqa: BLE001 - whatever it is, the other ranks wait to hear of it
        return b"", error


def _loaded(data: bytes) -> Any:
    obj = pickle.loads(data)  # noqa: S301 - from the root, as all that MPI brings
    if isinstance(obj, Ref):
        resolve.prefetch([obj])
    return obj
