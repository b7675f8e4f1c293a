"""The demonstration: sends a large object to worker processes by value and by reference, and measures both.

Needs only the core package: `run(Settings())` returns the measurements. The object's arrays are plain memory that is
pickled out of band, like numpy's.
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
