"""The demonstration: a large object goes to worker processes as usual and by reference, and all is measured.

Needs nothing but the core: `run(Settings())` returns the measurements. The object's arrays are plain
memory that is pickled out of band, as numpy's are.
"""

from ana.demo.measure import Check, DemoResult, FlippedByte, Progress, Round, Settings, StoredAgain, run
from ana.demo.mesh import Array, Mesh, Region, build_mesh

__all__ = [
    "Array",
    "Check",
    "DemoResult",
    "FlippedByte",
    "Mesh",
    "Progress",
    "Region",
    "Round",
    "Settings",
    "StoredAgain",
    "build_mesh",
    "run",
]
