"""The demonstration's object: a mesh of arrays, and Python objects that describe them."""

import math
import pickle
import random
import sys
from array import array
from dataclasses import dataclass
from typing import Any, ClassVar

from ana import Storable

__all__ = ["Array", "Mesh", "Region", "build_mesh"]

POINT_BYTES = 89
"""Bytes per point: three coordinates, eight corners of its cell, four field values, a region number."""


class Array:
    """Numbers of one type in one block of memory, which protocol 5 pickles out of band without a copy."""

    __slots__ = ("data", "typecode")

    def __init__(self, data: bytes | bytearray | memoryview, typecode: str) -> None:
        self.data: bytes | bytearray | memoryview = data
        self.typecode: str = typecode

    @property
    def values(self) -> "memoryview[Any]":
        """The numbers, without a copy."""
        numbers: memoryview[Any] = memoryview(self.data).cast(self.typecode)  # type: ignore[call-overload]  # any of the typecodes
        return numbers

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        memory = pickle.PickleBuffer(self.data) if protocol >= 5 else bytes(self.data)  # noqa: PLR2004 - PEP 574
        return Array, (memory, self.typecode)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Array):
            return NotImplemented
        # Compares numbers, not bytes: one comparison per eight bytes.
        return self.typecode == other.typecode and self.values == other.values

    __hash__: ClassVar[None] = None  # type: ignore[assignment]  # equal by content, which is large


@dataclass(frozen=True, slots=True)
class Region:
    """A named range of cells, and its material."""

    name: str
    material: str
    first_cell: int
    cell_count: int
    neighbours: tuple[str, ...]


class Mesh(Storable):
    """A periodic box of cells with fields, regions and materials: the object that every task needs."""

    copies: ClassVar[int] = 0
    """The number of meshes that this process made from pickles or from a store."""

    def __init__(
        self,
        arrays: dict[str, Array],
        regions: dict[str, Region],
        materials: dict[str, dict[str, float]],
    ) -> None:
        self.arrays = arrays
        self.regions = regions
        self.materials = materials

    def _ana_setstate(self, state: Any) -> None:
        super()._ana_setstate(state)
        Mesh.copies += 1

    @property
    def point_count(self) -> int:
        """The number of points, which is also the number of cells."""
        return len(self.arrays["x"].values)

    def heat(self, number: int) -> float:
        """Integrate the temperature over a region, roughly: the work of a task."""
        regions = list(self.regions.values())
        region = regions[number % len(regions)]
        cells = self.arrays["temperature"].values[region.first_cell : region.first_cell + region.cell_count]
        material = self.materials[region.material]
        return math.fsum(cells) * material["density"] * material["heat_capacity"]


def build_mesh(size_bytes: int) -> Mesh:
    """Build a mesh of about that size; equal sizes give equal meshes."""
    side = max(4, round((size_bytes / POINT_BYTES) ** (1 / 3)))
    points = side**3
    arrays = {**_coordinates(side), **_corners(side)}
    noise = _noise(points)
    for number, field in enumerate(("temperature", "flow_x", "flow_y", "flow_z")):
        arrays[field] = Array(_rotated(noise, number * side * 8), "d")
    regions = _regions(points)
    tags = (bytes([number % 256]) * region.cell_count for number, region in enumerate(regions.values()))
    arrays["region"] = Array(b"".join(tags), "B")
    return Mesh(arrays, regions, _materials())


def _coordinates(side: int) -> dict[str, Array]:
    steps = [number / side for number in range(side)]
    line = array("d", steps).tobytes()
    plane = b"".join(array("d", [step]).tobytes() * side for step in steps)
    box = b"".join(array("d", [step]).tobytes() * side**2 for step in steps)
    return {"x": Array(line * side**2, "d"), "y": Array(plane * side, "d"), "z": Array(box, "d")}


def _corners(side: int) -> dict[str, Array]:
    """Return the eight corners of each cell. The box is periodic, so each column is a rotation of the first."""
    numbers = array("i", range(side**3))
    first, width = numbers.tobytes(), numbers.itemsize
    square = (0, 1, 1 + side, side)
    offsets = square + tuple(offset + side**2 for offset in square)
    return {f"corner_{number}": Array(_rotated(first, offset * width), "i") for number, offset in enumerate(offsets)}


def _rotated(data: bytes, start: int) -> bytes:
    return data[start:] + data[:start]


def _noise(count: int) -> bytes:
    """Make doubles between 1 and 2 with random mantissas, like measured fields: they barely compress."""
    data = bytearray(random.Random(1).randbytes(count * 8))  # noqa: S311 - the same for everyone
    top, second = (7, 6) if sys.byteorder == "little" else (0, 1)
    data[top::8] = b"\x3f" * count
    data[second::8] = (bytes(range(0xF0, 0x100)) * (count // 16 + 1))[:count]
    return bytes(data)


def _regions(points: int) -> dict[str, Region]:
    names = [f"region-{number:04}" for number in range(min(1000, points // 64))]
    materials = list(_materials())
    bounds = [points * number // len(names) for number in range(len(names) + 1)]
    return {
        name: Region(
            name,
            materials[number % len(materials)],
            bounds[number],
            bounds[number + 1] - bounds[number],
            (names[number - 1], names[(number + 1) % len(names)]),
        )
        for number, name in enumerate(names)
    }


def _materials() -> dict[str, dict[str, float]]:
    """Return densities in kg/m³, heat capacities in J/(kg K) and conductivities in W/(m K)."""
    table = {
        "steel": (7850.0, 490.0, 45.0),
        "copper": (8960.0, 385.0, 401.0),
        "aluminium": (2700.0, 897.0, 237.0),
        "glass": (2500.0, 840.0, 1.0),
        "water": (997.0, 4186.0, 0.6),
    }
    return {
        name: {"density": density, "heat_capacity": capacity, "conductivity": conductivity}
        for name, (density, capacity, conductivity) in table.items()
    }
