"""The demonstration's measurements: an object sent to worker processes by value and by reference."""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import ana
from ana.demo.mesh import Mesh, build_mesh
from ana.demo.workers import PipeMeter, TaskReport, pool, task, uninterrupted

__all__ = ["Check", "DemoResult", "FlippedByte", "Progress", "Round", "Settings", "StoredAgain", "run"]

Progress = Callable[[str, int], None]
"""Called with the next step's name, and the number of steps done since the last call."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What to run. The temporary folder is created in `folder` (None: the system's default)."""

    size_bytes: int = 100_000_000
    """The size of the object."""
    tasks: int = 8
    """How many tasks take it."""
    workers: int = 2
    """How many processes run the tasks."""
    folder: Path | None = None
    """Where the temporary folder is created; None: the system's default."""
    keep: bool = False
    """Whether the folder stays."""


@dataclass(frozen=True, slots=True)
class Round:
    """The measurements of all tasks, sent in one of the two ways."""

    sent_bytes: int
    """Bytes of the pickles that went to the workers."""
    received_bytes: int
    """Bytes of the pickles that came back."""
    wall_seconds: float
    """The time of all tasks."""
    store_seconds: float
    """How much of it storing the object took."""
    disk_bytes: int
    """The size of the store."""
    copies: int
    """How many copies of the object the workers made."""
    workers: int
    """How many workers had tasks."""
    later_tasks: int
    """Tasks that were not the first of their worker."""
    same_object_tasks: int
    """How many of these got the object that an earlier task had."""
    original_came_back: bool
    """Whether a task that returned the object gave back the original."""
    heats: tuple[float, ...]
    """The tasks' results."""

    @property
    def pipe_bytes(self) -> int:
        """The bytes of all pickles that went through the pipe, in both directions."""
        return self.sent_bytes + self.received_bytes


@dataclass(frozen=True, slots=True)
class StoredAgain:
    """An equal object, built and stored a second time."""

    same_uuid: bool
    """Whether it got the UUID of the first."""
    files_before: int
    """The number of files in the store."""
    files_changed: int
    """How many of them the second one changed or added."""
    wall_seconds: float
    """How long it took."""


@dataclass(frozen=True, slots=True)
class FlippedByte:
    """One byte of the stored file was changed, the state loaded, and the equal object stored again."""

    offset: int
    """Which byte of the file."""
    path: Path
    """The file."""
    error: str
    """The class of the error that loading raised; "" for none."""
    reason: str
    """The error's reason."""
    message: str
    """The error's message."""
    names_uuid: bool
    """Whether the message names the UUID."""
    names_path: bool
    """Whether the message names the file."""
    healed: bool
    """Whether the state loads again, once an equal object has been stored."""
    wall_seconds: float
    """How long it took."""


@dataclass(frozen=True, slots=True)
class Check:
    """A condition that must hold, and whether it did."""

    name: str
    passed: bool


@dataclass(frozen=True, slots=True)
class DemoResult:
    """All measurements of one run."""

    settings: Settings
    """What was run."""
    points: int
    """The number of points of the mesh."""
    object_bytes: int
    """The size of the object."""
    uuid: str
    """Its UUID."""
    pickle_dir: Path
    """The store's folder."""
    by_value: Round
    """The tasks that got the object as usual."""
    by_reference: Round
    """The tasks that got it by reference."""
    stored_again: StoredAgain
    """The equal object, stored a second time."""
    flipped_byte: FlippedByte
    """The flipped byte."""
    total_seconds: float
    """The time of everything."""

    @property
    def checks(self) -> tuple[Check, ...]:
        """The conditions that must hold, in the order of the measurements."""
        value, reference = self.by_value, self.by_reference
        again, flipped = self.stored_again, self.flipped_byte
        unchanged = again.same_uuid and again.files_changed == 0 and again.files_before > 0
        caught = flipped.error == ana.CorruptedStateError.__name__ and flipped.names_uuid and flipped.names_path
        return (
            Check("pipe", 0 < reference.pipe_bytes * 100 < value.pipe_bytes),
            Check("results", reference.heats == value.heats),
            Check("copies", reference.copies == reference.workers),
            Check("identity_in_worker", reference.same_object_tasks == reference.later_tasks),
            Check("identity_of_result", reference.original_came_back),
            Check("stored_again", unchanged),
            Check("damage_caught", caught),
            Check("damage_healed", flipped.healed),
        )

    @property
    def passed(self) -> bool:
        """Whether all checks passed."""
        return all(check.passed for check in self.checks)


def run(settings: Settings, progress: Progress = lambda _next, _done: None) -> DemoResult:
    """Run the demonstration in a temporary folder, and remove the folder unless `settings.keep` is set."""
    begin = time.perf_counter()
    with _folder(settings) as folder:
        pickle_dir = folder / "pickles"
        progress("building the object", 0)
        mesh = build_mesh(settings.size_bytes)
        by_value = _round(mesh, settings, pickle_dir, progress, by_reference=False)
        with ana.using_dl(pickle_dir=pickle_dir):
            by_reference = _round(mesh, settings, pickle_dir, progress, by_reference=True)
            progress("storing an equal object", 0)
            twin = build_mesh(settings.size_bytes)
            stored_again = _store_again(mesh, twin, pickle_dir)
            progress("flipping a byte", 1)
            flipped_byte = _flip_a_byte(twin, pickle_dir)
            progress("done", 1)
        return DemoResult(
            settings=settings,
            points=mesh.point_count,
            object_bytes=sum(len(values.data) for values in mesh.arrays.values()),
            uuid=mesh.ana_uuid,
            pickle_dir=pickle_dir,
            by_value=by_value,
            by_reference=by_reference,
            stored_again=stored_again,
            flipped_byte=flipped_byte,
            total_seconds=time.perf_counter() - begin,
        )


@contextmanager
def _folder(settings: Settings) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="ana-demo-", dir=settings.folder))
    try:
        yield folder.resolve()
    finally:
        if not settings.keep:
            with uninterrupted():
                shutil.rmtree(folder)


def _round(mesh: Mesh, settings: Settings, pickle_dir: Path, progress: Progress, *, by_reference: bool) -> Round:
    """Send the mesh with every task, and measure from storing it to the last result.

    Starting the workers is not included: it takes the same time both ways.
    """
    way = "by reference" if by_reference else "pickled as usual"
    meter, copies_before = PipeMeter(), Mesh.copies
    progress(f"{way}: starting {settings.workers} workers", 0)
    with pool(settings.workers) as executor, meter.counting():
        begin = time.perf_counter()
        if by_reference:
            progress(f"{way}: storing it, once", 0)
            mesh.make_uuid()
        store_seconds = time.perf_counter() - begin
        last = settings.tasks - 1
        futures = [executor.submit(task, mesh, number, send_back=number == last) for number in range(last + 1)]
        reports = _collect(futures, partial(progress, f"{way}: {settings.tasks} tasks"))
        wall_seconds = time.perf_counter() - begin
    copies = _copies_by_worker(reports)
    return Round(
        sent_bytes=meter.sent_bytes,
        received_bytes=meter.received_bytes,
        wall_seconds=wall_seconds,
        store_seconds=store_seconds,
        disk_bytes=sum(size for size, *_ in _tree(pickle_dir).values()),
        copies=sum(copies.values()) + Mesh.copies - copies_before,
        workers=len(copies),
        later_tasks=sum(report.same_object is not None for report in reports),
        same_object_tasks=sum(report.same_object is True for report in reports),
        original_came_back=reports[-1].mesh is mesh,
        heats=tuple(report.heat for report in reports),
    )


def _copies_by_worker(reports: list[TaskReport]) -> dict[int, int]:
    """Return the number of copies that each process made, from its last report."""
    copies: dict[int, int] = {}
    for report in reports:
        copies[report.pid] = max(copies.get(report.pid, 0), report.copies)
    return copies


def _collect(futures: list[Future[TaskReport]], progress: Callable[[int], None]) -> list[TaskReport]:
    progress(0)
    reports = []
    for future in futures:
        reports.append(future.result())
        progress(1)
    return reports


def _store_again(mesh: Mesh, twin: Mesh, pickle_dir: Path) -> StoredAgain:
    before, begin = _tree(pickle_dir), time.perf_counter()
    uuid = twin.make_uuid()
    wall_seconds = time.perf_counter() - begin
    changed = before.items() ^ _tree(pickle_dir).items()
    return StoredAgain(uuid == mesh.uuid, len(before), len({path for path, _ in changed}), wall_seconds)


def _flip_a_byte(mesh: Mesh, pickle_dir: Path) -> FlippedByte:
    """Damage the middle of the stored file, load it as a new process would, store the mesh again, and load it."""
    begin, uuid = time.perf_counter(), mesh.ana_uuid
    (path,) = (path for path in _files(pickle_dir) if uuid in path.name)
    offset = path.stat().st_size // 2
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 1]))
    error = _load_error(uuid, pickle_dir)
    mesh.ana_store()
    return FlippedByte(
        offset=offset,
        path=path,
        error=type(error).__name__ if error is not None else "",
        reason=getattr(error, "reason", ""),
        message=str(error or ""),
        names_uuid=uuid in str(error),
        names_path=str(path) in str(error),
        healed=_loads_equal(mesh, pickle_dir),
        wall_seconds=time.perf_counter() - begin,
    )


def _load_error(uuid: str, pickle_dir: Path) -> ana.ANAError | None:
    # A new layer: the current one has the live object, and would not read the file.
    with ana.using_dl(pickle_dir=pickle_dir):
        try:
            Mesh.ana_load(uuid)
        except ana.ANAError as error:
            return error
    return None


def _loads_equal(mesh: Mesh, pickle_dir: Path) -> bool:
    with ana.using_dl(pickle_dir=pickle_dir):
        loaded = Mesh.ana_load(mesh.ana_uuid)
    return loaded is not mesh and loaded._ana_getstate() == mesh._ana_getstate()


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _tree(folder: Path) -> dict[str, tuple[int, int, int]]:
    """List all files below the folder: size in bytes, modification time in ns, inode."""
    listing = {}
    for path in _files(folder):
        status = path.stat()
        listing[str(path)] = (status.st_size, status.st_mtime_ns, status.st_ino)
    return listing
