"""Exported files and old folders that are broken, or made to do harm: a line that names the file, and nothing left."""

import gzip
import io
import json
import os
import pickle
import subprocess
import tarfile
import zipfile

import pytest
from support import care, raw_tree
from support.care import ran
from support.classes import A, Node

import ana
from ana import maintenance

MANIFEST = {"format": 1, "levels": 2, "id": "x", "exported": [], "states": 1}
NAME = "aa/bb/x.pkl.zst"


def manifest(**changed):
    """Return a manifest as bytes."""
    return json.dumps({**MANIFEST, **changed}).encode()


def block(name, size=0, kind=b"0", **places):
    """Return a member's header with bytes put at places of it (`at124=b"..."`), under a right checksum."""
    member = tarfile.TarInfo(name)
    member.size = size
    member.type = kind
    data = bytearray(member.tobuf(tarfile.GNU_FORMAT)[-512:])
    for place, text in places.items():
        at = int(place.removeprefix("at"))
        data[at : at + len(text)] = text
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data)
    return bytes(data)


def padded(data):
    """Return content as it lies in a tar file."""
    return data + bytes(-len(data) % 512)


def file(*parts, first=None):
    """Return an exported file of a manifest and these parts."""
    head = manifest() if first is None else first
    return b"".join([block("ana.json", len(head)), padded(head), *parts, bytes(1024)])


def extended(text, name=NAME):
    """Return a member with an extended header."""
    return block("x", len(text), b"x") + padded(text) + block(name)


NO_EXPORT = {
    "nothing": b"",
    "a byte": b"x",
    "half a block": bytes(300),
    "a text": b"hello " * 1000,
    "zeros": bytes(4096),
    "compressed": gzip.compress(file()),
    "no manifest": block(NAME) + bytes(1024),
    "a manifest that is a folder": block("ana.json", kind=b"5") + bytes(1024),
    "infinite": file(first=manifest(states=float("inf"))),
    "NaN": file(first=manifest(states=float("nan"))),
    "negative": file(first=manifest(states=-1)),
    "very many": file(first=manifest(states=10**400)),
    "states by name": file(first=manifest(states="1")),
    "exported once": file(first=manifest(exported="abc")),
    "exported numbers": file(first=manifest(exported=[1])),
    "a list": file(first=b"[]"),
    "a number": file(first=b"1"),
    "no JSON": file(first=b"{"),
    "not UTF-8": file(first=b'{"\xff": 1}'),
    "a long number": file(first=manifest()[:-1] + b',"x":' + b"9" * 10_000 + b"}"),
    "deep": file(first=b"[" * 200_000),
    "a newer format, at length": file(first=manifest(format="9" * 100_000)),
    "a manifest of 40 GB": block("ana.json", 40 << 30),
}
"""What is refused as a whole."""

DAMAGED = {
    "cut before the first state": file()[:1024],
    "cut in a header": file(block(NAME))[:1300],
    "cut in a state": file(block(NAME, 10_000)),
    "a state of 40 GB": file(block(NAME, 40 << 30)),
    "no checksum": file(block(NAME)[:148] + bytes(8) + block(NAME)[156:]),
    "a negative size": file(extended(b"14 size=-1536\n")),
    "a negative size in binary": file(block(NAME, at124=b"\xff" * 12)),
    "a negative size in octal": file(block(NAME, at124=b"-00000001000")),
    "a size that is none": file(extended(b"11 size=zz\n")),
    "a size in other digits": file(extended("13 size=\u0663\n".encode())),
    "a sparse map": file(extended(b"22 GNU.sparse.map=zz\n")),
    "a sparse file": file(block(NAME, kind=b"S")),
    "a record of no length": file(extended(b"0 path=x\n")),
    "a record that is longer": file(extended(b"99 path=x\n")),
    "no record": file(extended(b"path=x\n")),
    "a long name of 40 GB": file(block("long", 40 << 30, b"L")),
    "headers of 40 GB": file(block("long", 40 << 30, b"x")),
    "long headers": file(block("long", 1 << 20, b"x"), bytes(1 << 20), block(NAME)),
    "a thousand headers": file(*[block("x", 8, b"x") + padded(b"8 a=bcd\n")] * 2000, block(NAME, 1)),
    "no record in a state": file(block(NAME, 3) + padded(b"abc")),
    "too large a record": file(block(NAME, 2000) + padded(b"\x50\x2a\x4d\x18" + b"\xff" * 1996)),
    "only other files": file(block("a"), block("b\n\x1b[31m"), block("../../etc/passwd")),
}
"""What begins as an exported file does."""


@pytest.mark.parametrize("kind", [*NO_EXPORT, *DAMAGED])
@pytest.mark.parametrize("sparse", [False, True], ids=["as it is", "in a sparse file of 41 GB"])
def test_what_is_no_exported_file(kind, sparse, tmp_path, capfd):
    """Whatever a file holds, importing it ends with a line that names the file, and makes nothing."""
    place = tmp_path / "gift.ana"
    place.write_bytes(NO_EXPORT.get(kind) or DAMAGED.get(kind, b""))
    if sparse:
        os.truncate(place, 41 << 30)
    done = ran(capfd, "-d", tmp_path / "new", "import", place)
    assert done.code == (1 if kind in NO_EXPORT else 4)
    assert len(done.err.splitlines()) == 1
    assert str(place) in done.err
    assert len(done.err) < 1000
    assert [path.name for path in tmp_path.iterdir()] == ["gift.ana"]


@pytest.fixture
def family(tmp_path):
    """A store with two objects that another refers to, its export, and the UUID of the third."""
    with ana.using_dl(pickle_dir=tmp_path / "store", durable=False):
        children = [A("left"), A("right")]
        top = Node(1, children)
        for child in children:
            child.make_uuid()
        top.make_uuid()
        maintenance.export_states(tmp_path / "store", [top.uuid], tmp_path / "family.ana")
        return tmp_path / "store", tmp_path / "family.ana", top.uuid


def test_every_cut_is_said_as_one(family, tmp_path):
    """A file that is cut short anywhere is said to be: nobody is told to try again, and what is whole comes in."""
    _, exported, _ = family
    data = exported.read_bytes()
    for at in range(1024, len(data) - 1024, 700):
        broken = tmp_path / "broken.ana"
        broken.write_bytes(data[:at])
        done = maintenance.import_file(tmp_path / f"there{at}", broken)
        assert "cut short" in done.problems[-1].reason
        assert not any("try again" in wrong.reason for wrong in done.problems)


def rewritten(source, target, *, change=lambda members: members, **options):
    """Write an archive's members anew by tarfile, changed."""
    with tarfile.open(source) as archive, tarfile.open(target, "w", **options) as new:
        found = [(member, archive.extractfile(member).read()) for member in archive]
        for member, data in change(found):
            new.addfile(member, io.BytesIO(data))


def named(names):
    """Return what gives members other names."""

    def change(found):
        for (member, _), name in zip(found[1:], names, strict=False):
            member.name = name
            member.pax_headers = {}
        return found

    return change


@pytest.mark.parametrize("written", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize(
    "change",
    [
        lambda found: found,
        lambda found: [found[0], *reversed(found[1:])],
        lambda found: [found[0], (tarfile.TarInfo("a folder/"), b""), (tarfile.TarInfo("notes"), b""), *found[1:]],
        named(["../../a.pkl.zst", "/etc/b.pkl.zst", "c\n\x1b]0;.pkl.zst"]),
        named(["d/" * 60 + "a.pkl.zst", "d/" * 40 + "ä" * 30 + ".pkl.zst"]),
    ],
    ids=["as they are", "parents first", "with others", "with hostile names", "with long names"],
)
def test_what_others_packed_is_taken(family, tmp_path, written, change):
    """Archives by other programs, in another order, under any names: the records say what they are, and lie there."""
    store, exported, _ = family
    rewritten(exported, tmp_path / "again.ana", change=change, format=written)
    done = maintenance.import_file(tmp_path / "there", tmp_path / "again.ana")
    assert done.problems == []
    assert {path: (tmp_path / "there" / path).read_bytes() for path in raw_tree.states(tmp_path / "there")} == {
        path: (store / path).read_bytes() for path in raw_tree.states(store)
    }
    assert raw_tree.strangers(tmp_path / "there") == []


def test_what_is_there_twice_is_stored_once(family, tmp_path):
    """A state that is in the file twice is taken, and the file's wrong count is a problem."""
    _, exported, _ = family
    rewritten(exported, tmp_path / "twice.ana", change=lambda found: [*found, *found[1:]])
    done = maintenance.import_file(tmp_path / "there", tmp_path / "twice.ana")
    assert len(done.imported) == 3
    assert ["6 of 3" in wrong.reason for wrong in done.problems] == [True]


def test_a_state_without_its_child_is_not_taken(family, tmp_path):
    """What a state refers to has to be in the file or in the store; all others come in."""
    _, exported, top = family
    rewritten(exported, tmp_path / "hole.ana", change=lambda found: [found[0], *found[2:]])
    done = maintenance.import_file(tmp_path / "there", tmp_path / "hole.ana")
    assert [wrong.kind for wrong in done.problems if wrong.uuid == top] == ["missing"]
    assert len(done.imported) == 1


def test_states_that_refer_to_each_other_travel(tmp_path):
    """A cycle is exported and imported, with what refers to it."""
    with ana.using_dl(pickle_dir=tmp_path / "store"):
        left, right = A(None), A(None)
        left.x, right.x = right, left
        top = A(left)
        left.make_uuid("left")
        right.make_uuid("right")
        top.make_uuid()
        maintenance.export_states(tmp_path / "store", [top.uuid], tmp_path / "cycle.ana")
    done = maintenance.import_file(tmp_path / "there", tmp_path / "cycle.ana")
    assert (len(done.imported), done.problems) == (3, [])
    assert maintenance.verify(tmp_path / "there").problems == []


def test_a_link_to_an_exported_file(family, tmp_path, capfd):
    """The user names the file: by symbolic links, too. What is no file is refused, and never waited for."""
    _, exported, _ = family
    (tmp_path / "one.ana").symlink_to(exported)
    (tmp_path / "two.ana").symlink_to("one.ana")
    assert ran(capfd, "-q", "-d", tmp_path / "there", "import", tmp_path / "two.ana").code == 0
    os.mkfifo(tmp_path / "fifo.ana")
    (tmp_path / "loop.ana").symlink_to("loop.ana")
    for name in ("fifo.ana", "loop.ana"):
        done = ran(capfd, "-d", tmp_path / "there", "import", tmp_path / name)
        assert done.code in {1, 2}
        assert name in done.err
    assert ran(capfd, "-d", tmp_path / "there", "import", "/dev/zero").code == 1


def test_an_import_is_bounded_in_memory(family, tmp_path):
    """A record whose header claims the largest of sizes takes no memory for them."""
    store, exported, top = family
    data = bytearray(raw_tree.path_of(store, top).read_bytes())
    data[4:8] = (len(data) - 8).to_bytes(4, "little")
    data[20:40] = b"\xff" * 20
    rewritten(exported, tmp_path / "large.ana", change=lambda found: [*found[:-1], (found[-1][0], bytes(data))])
    done = maintenance.import_file(tmp_path / "there", tmp_path / "large.ana")
    assert [wrong.kind for wrong in done.problems] == ["damaged"]
    assert len(done.imported) == 2


# The original ANA's folders


def test_an_old_folder_of_all_kinds(tmp_path, capfd):
    """Links, FIFOs, files of terabytes and names of all kinds are problems or passed over; the rest is imported."""
    old = tmp_path / "old"
    old.mkdir()
    (old / "good.p").write_bytes(pickle.dumps({"x": 1}))
    (old / "caf\udce9.p").write_bytes(pickle.dumps({"x": 2}))
    (old / f"{'n' * 201}.p").write_bytes(pickle.dumps({"x": 3}))
    (tmp_path / "secret").write_bytes(pickle.dumps("secret"))
    (old / "link.p").symlink_to(tmp_path / "secret")
    os.mkfifo(old / "fifo.p")
    (old / "folder.p").mkdir()
    (old / "huge.p").touch()
    os.truncate(old / "huge.p", 1 << 42)
    (old / "claims.p").write_bytes(b"\x80\x04\x8e" + b"\xff" * 7 + b"\x00" + b"abc")
    (old / "other.txt").write_text("mine")
    done = ran(capfd, "-d", tmp_path / "store", "--json", "import", old)
    assert done.code == 4
    assert sorted(done.document["imported"]) == ["caf\udce9", "good"]
    assert sorted(wrong["uuid"] for wrong in done.document["problems"]) == sorted(
        ["n" * 201, "link", "fifo", "huge", "claims"]
    )
    assert done.document["ignored"] == ["other.txt"]
    assert care.ran(capfd, "-d", tmp_path / "store", "import", old).err.count("\n") == 1


def test_zip_files_and_folders_of_none(tmp_path, capfd):
    """Archives of other kinds are no exported files."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("ana.json", manifest())
    assert ran(capfd, "-d", tmp_path / "store", "import", tmp_path / "a.zip").code == 1
    subprocess.run(["tar", "-czf", tmp_path / "a.tgz", "-C", tmp_path, "a.zip"], check=True)
    assert ran(capfd, "-d", tmp_path / "store", "import", tmp_path / "a.tgz").code == 1
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("kind", ["a file", "an old folder"])
def test_many_states_wait_for_the_disk_together(kind, tmp_path, monkeypatch):
    """States that do not refer to each other are written at the same time, and each after those that it refers to."""
    from ana.stores.directory.store import DirectoryStore

    store = care.store(tmp_path / "store")
    number = 200
    for at in range(number):
        care.put(store, care.numbered(at), (care.numbered(at - 1),) if at % 2 else ())
    old = tmp_path / "old"
    old.mkdir()
    for at in range(number):
        (old / f"{care.numbered(at)}.p").write_bytes(pickle.dumps(at))
    maintenance.export_states(store, [care.numbered(at) for at in range(number)], tmp_path / "all.ana")
    at_work, most = [], []
    publish = DirectoryStore.publish

    def counting(self, key, fill):
        at_work.append(key)
        most.append(len(at_work))
        os.sched_yield()
        try:
            return publish(self, key, fill)
        finally:
            at_work.remove(key)

    monkeypatch.setattr(DirectoryStore, "publish", counting)
    if kind == "a file":
        done = maintenance.import_file(tmp_path / "there", tmp_path / "all.ana")
        order = {key: place for place, key in enumerate(done.imported)}
        assert all(order[care.numbered(at)] > order[care.numbered(at - 1)] for at in range(1, number, 2))
    else:
        done = maintenance.import_old(tmp_path / "there", old)
    assert (len(done.imported), done.problems) == (number, [])
    assert max(most) > 4
