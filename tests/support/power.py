"""A disk whose power can be cut: what its image holds at a moment, mounted again. Needs root and loop devices."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from support import memory, mounts, processes

SIZE_BYTES = 64 << 20


class Disk:
    """An ext4 in an image, mounted at `place`."""

    def __init__(self, folder: Path, place: Path) -> None:
        self.place = place
        self._folder = folder
        self._cuts = 0

    @contextlib.contextmanager
    def after_a_power_cut(self) -> Iterator[Path]:
        """Mount what is on the disk now, without what the kernel has yet to write; the journal is replayed.

        Nobody may be writing, or the copy would be of several moments at once.
        """
        self._cuts += 1
        copy = self._folder / f"cut{self._cuts}.image"
        processes.run("cp", "--reflink=never", "--sparse=always", self.place.with_suffix(".image"), copy)
        place = self._folder / f"cut{self._cuts}"
        with mounts.mounted(place, "mount", "-t", "ext4", "-o", "loop", copy):
            yield place
        copy.unlink()


@contextlib.contextmanager
def disk() -> Iterator[Disk]:
    """Make a disk for the length of a `with` block."""
    with memory.folder() as folder, mounts.ext4(folder / "disk", SIZE_BYTES) as place:
        yield Disk(folder, place)
