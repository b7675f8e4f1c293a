"""What each step costs on NFS: the calls to the server, by name, for plain system calls and for ana.

    tests/nfs/lab python tests/nfs/roundtrips.py                                  # NFSv4.2 and NFSv3
    ANA_TEST_MOUNTS=/mnt/a:/mnt/b python tests/nfs/roundtrips.py --repeat 9 ana   # a cluster; ana's steps only

Each step runs several times, each time on a file that this client has not touched; the commonest list of calls is
printed, and how often it came. `near` is the client that is counted, `far` the one that prepares.
"""

import argparse
import contextlib
import itertools
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import clients
from mountstats import RoundTrips

import ana

SHARD = "ab12"
DATA = bytes(range(256)) * 12
WRITE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Place(NamedTuple):
    """A folder as two clients see it, and the mount point whose calls are counted."""

    near: Path
    far: Path
    mount: Path


class Step(NamedTuple):
    """What is counted, and what the other client does before; both get the place and a running number."""

    name: str
    act: Callable[[Place, int], object]
    prepare: Callable[[Place, int], object] = lambda _place, _number: None


def count(place: Place, step: Step, numbers: Iterator[int], repeat: int) -> list[RoundTrips]:
    """Run a step several times and return what each run cost."""
    found = []
    for number in itertools.islice(numbers, repeat):
        step.prepare(place, number)
        with RoundTrips(place.mount) as trips:
            step.act(place, number)
        found.append(trips)
    return found


# Plain system calls: what there is to choose from.


def publish(
    place: Place, number: int, *, flags: int = WRITE, sync: bool = True, check: bool = False, link: bool = True
) -> None:
    """Write a temporary file, and give it its name."""
    temporary, final = place.near / f".tmp-{number}", place.near / f"{number}"
    descriptor = os.open(temporary, flags, 0o666)
    try:
        os.write(descriptor, DATA)
        if sync:
            os.fsync(descriptor)
        if check:
            os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if link:
        os.link(temporary, final)
        os.unlink(temporary)
    else:
        os.rename(temporary, final)


def look_then_publish(place: Place, number: int) -> None:
    """Look whether it is there, and publish it."""
    look(place, number)
    publish(place, number, check=True)


def publish_in_new_folder(place: Place, number: int) -> None:
    """Make a folder, as a fresh shard needs it, and publish in it."""
    inner = Place(place.near / f"folder-{number}", place.far, place.mount)
    with contextlib.suppress(FileNotFoundError):
        os.close(os.open(inner.near / ".tmp", WRITE, 0o666))
    inner.near.mkdir()
    publish(inner, number, check=True)


def write_in_place(place: Place, number: int) -> None:
    """Write a file under its final name."""
    (place.near / f"{number}").write_bytes(DATA)


def far_writes(place: Place, number: int) -> None:
    """Have the other client make the file."""
    (place.far / f"{number}").write_bytes(DATA)


def look(place: Place, number: int) -> None:
    """Look a file up."""
    with contextlib.suppress(FileNotFoundError):
        os.stat(place.near / f"{number}", follow_symlinks=False)


def read(place: Place, number: int) -> None:
    """Read a file, if it is there."""
    with contextlib.suppress(FileNotFoundError):
        descriptor = os.open(place.near / f"{number}", READ)
        try:
            size_bytes = os.fstat(descriptor).st_size
            os.read(descriptor, size_bytes)
        finally:
            os.close(descriptor)


def look_then_read(place: Place, number: int) -> None:
    """Look a file up, and read it."""
    look(place, number)
    read(place, number)


def read_again(place: Place, number: int) -> None:
    """Read a file twice; the second time is what a running job sees."""
    read(place, number)
    read(place, number)


def open_folder(place: Place, number: int) -> None:
    """Open the folder, which makes the client look whether it has changed."""
    del number
    os.close(os.open(place.near, FOLDER))


def link_over(place: Place, number: int) -> None:
    """Publish under a name that the other client has taken meanwhile."""
    look(place, number)
    far_writes(place, number)
    with contextlib.suppress(FileExistsError):
        publish(place, number, check=True)
    (place.near / f".tmp-{number}").unlink()


PLAIN = (
    Step("write in place", write_in_place),
    Step("temporary + rename", lambda place, number: publish(place, number, link=False)),
    Step("temporary + link + unlink", publish),
    Step("  without fsync", lambda place, number: publish(place, number, sync=False)),
    Step("  with O_EXCL", lambda place, number: publish(place, number, flags=WRITE | os.O_EXCL)),
    Step("  with fstat after fsync", lambda place, number: publish(place, number, check=True)),
    Step("  with a look before", look_then_publish),
    Step("  name was taken meanwhile", link_over),
    Step("  in a new folder", publish_in_new_folder),
    Step("look: absent", look),
    Step("look: there", look, far_writes),
    Step("read: absent", read),
    Step("read: there", read, far_writes),
    Step("read: there, looked before", look_then_read, far_writes),
    Step("read twice", read_again, far_writes),
    Step("open the folder", open_folder),
)


# A file that one client appends to, and another reads by offset and size.

RECORD = bytes(1000)
ALL_BYTES = 1_000_000

_appenders: dict[int, clients.Appender] = {}
_readers: dict[int, int] = {}
_open_files = contextlib.ExitStack()
"""Both stay open to the end of the table: closing is not counted."""


def near_creates(place: Place, number: int) -> None:
    """Create a file to append to."""
    _appenders[number] = _open_files.enter_context(clients.Appender(place.near / f"{number}"))


def far_creates(place: Place, number: int) -> None:
    """Have the other client append the first records."""
    _appenders[number] = _open_files.enter_context(clients.Appender(place.far / f"{number}"))
    _appenders[number].append(*[RECORD] * (ALL_BYTES // len(RECORD)))


def far_grows(place: Place, number: int) -> None:
    """Open the file and read all there is; then have the other client append one more record."""
    far_creates(place, number)
    _readers[number] = os.open(place.near / f"{number}", READ)
    _open_files.callback(os.close, _readers[number])
    read_all(place, number)
    _appenders[number].append(RECORD)


def append(count: int, size_bytes: int = len(RECORD)) -> Callable[[Place, int], object]:
    """Return what appends records, and syncs once."""
    return lambda _place, number: _appenders[number].append(*[bytes(size_bytes)] * count)


def read_one(place: Place, number: int) -> None:
    """Open the file and read one record."""
    _readers[number] = os.open(place.near / f"{number}", READ)
    _open_files.callback(os.close, _readers[number])
    assert len(os.pread(_readers[number], len(RECORD), ALL_BYTES // 2)) == len(RECORD)


def read_new(place: Place, number: int) -> None:
    """Open the file once more, and read the new record through the first descriptor."""
    os.close(os.open(place.near / f"{number}", READ))
    assert len(os.pread(_readers[number], len(RECORD), ALL_BYTES)) == len(RECORD)


def read_all(place: Place, number: int) -> None:
    """Read all but the new record through the first descriptor."""
    del place
    assert len(os.pread(_readers[number], ALL_BYTES, 0)) == ALL_BYTES


def read_new_and_all(place: Place, number: int) -> None:
    """Read the new record, and then all the others again."""
    read_new(place, number)
    read_all(place, number)


APPEND = (
    Step("create the file", near_creates),
    Step("append 1 kB, sync", append(1), near_creates),
    Step("append 100 times 1 kB, sync", append(100), near_creates),
    Step("append 1 MB, sync", append(1, ALL_BYTES), near_creates),
    Step("open, read 1 kB of 1 MB", read_one, far_creates),
    Step("grown: open again, read the new kB", read_new, far_grows),
    Step("  and the old MB, read before", read_new_and_all, far_grows),
    Step("grown: read the old MB only", read_all, far_grows),
)


# ana, each state under a UUID in the same warm shard folder.


def near_layer(place: Place) -> ana.DataLayer:
    """Return a layer on the counted client, as a process that has just started has it."""
    return ana.DataLayer(pickle_dir=place.near)


_layers: dict[Path, ana.DataLayer] = {}


def warm_layer(place: Place) -> ana.DataLayer:
    """Return the layer of a process that has worked in the shard folder before."""
    if place.near not in _layers:
        clients.store(str(place.near), "warm", clients.numbered_uuid(0, SHARD))
        _layers[place.near] = near_layer(place)
    return _layers[place.near]


def value_of(number: int) -> dict[str, object]:
    """Return a small state, a different one for each number."""
    return {"number": number, "text": "a state of about one kB " * 40}


def store_new(place: Place, number: int) -> None:
    """Store a new small state."""
    with ana.using_dl(warm_layer(place)):
        model = clients.Model(value_of(number))
        model.make_uuid(clients.numbered_uuid(number, SHARD))
        model.ana_store()


def far_stores(place: Place, number: int) -> None:
    """Have the other client store the state."""
    warm_layer(place)
    clients.store(str(place.far), value_of(number), clients.numbered_uuid(number, SHARD))


def load(place: Place, number: int) -> None:
    """Load a state that this process does not have."""
    with ana.using_dl(warm_layer(place)), contextlib.suppress(ana.StateNotFoundError):
        clients.Model.ana_load(clients.numbered_uuid(number, SHARD))


def is_missing(place: Place, number: int) -> None:
    """Ask for a state that is nowhere."""
    with ana.using_dl(warm_layer(place)), contextlib.suppress(ana.StateNotFoundError):
        clients.Model.ana_load(clients.numbered_uuid(number, SHARD))


def content_uuid(number: int) -> str:
    """Return the UUID that a state's content has, without storing it anywhere but in memory."""
    with ana.using_dl(ana.DataLayer()):
        return clients.Model(value_of(number)).make_uuid()


def warm_shard(place: Place, number: int) -> None:
    """Make the shard folder of a state's content address known to this client."""
    warm_layer(place)
    neighbour = clients.numbered_uuid(number, content_uuid(number).replace("-", "")[:4])
    clients.store(str(place.near), "neighbour", neighbour)


def address_new(place: Place, number: int) -> None:
    """Give a new object its content's address, which stores it."""
    with ana.using_dl(warm_layer(place)):
        clients.Model(value_of(number)).make_uuid()


def far_addresses(place: Place, number: int) -> None:
    """Have the other client store the same content."""
    warm_shard(place, number)
    clients.store(str(place.far), value_of(number))


def near_process_starts(place: Place, number: int) -> None:
    """Open the store, as every new process does."""
    del number
    near_layer(place)


ANA = (
    Step("open the store", near_process_starts, lambda place, _number: warm_layer(place)),
    Step("make_uuid of a new small state", address_new, warm_shard),
    Step("make_uuid of a state that is there", address_new, far_addresses),
    Step("ana_store under a given UUID", store_new, lambda place, _number: warm_layer(place)),
    Step("ana_load, cold", load, far_stores),
    Step("ana_load, no such state", is_missing, lambda place, _number: warm_layer(place)),
)


def open_both(place: Place) -> None:
    """Make both clients know the folder, so that the first step does not pay for that."""
    for folder in (place.near, place.far):
        os.close(os.open(folder, FOLDER))


def print_table(place: Place, steps: tuple[Step, ...], repeat: int) -> None:
    """Measure and print steps on one place."""
    numbers = itertools.count(1)
    for step in steps:
        runs = Counter(str(trips) for trips in count(place, step, numbers, repeat))
        [(calls, often), *rest] = runs.most_common()
        others = f"   ({often} of {repeat}; else {'; '.join(name for name, _ in rest)})" if rest else ""
        print(f"{step.name:36}{calls}{others}", flush=True)


def main() -> int:
    """Print the tables of all mounts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["plain", "append", "ana", "all"], default="all")
    parser.add_argument("--repeat", type=int, default=5, help="runs of each step (default: 5)")
    options = parser.parse_args()
    pairs = [pair.split(":") for pair in os.environ.get("ANA_TEST_MOUNTS", "").split(",") if pair]
    if not pairs:
        parser.error("set ANA_TEST_MOUNTS=/mnt/a:/mnt/b, or run this in tests/nfs/lab")
    # How long a miss waits for other hosts is not a matter of round trips.
    os.environ["ANA_WAIT"] = "0"
    for near, far in pairs:
        for title, steps in (("plain", PLAIN), ("append", APPEND), ("ana", ANA)):
            if options.what in {title, "all"}:
                with tempfile.TemporaryDirectory(prefix=f"roundtrips-{title}-", dir=near) as folder:
                    print(f"\n{near}: {title}")
                    name = Path(folder).name
                    place = Place(Path(near, name), Path(far, name), Path(near))
                    open_both(place)
                    with _open_files:
                        print_table(place, steps, options.repeat)
    return 0


if __name__ == "__main__":
    sys.exit(main())
