"""Trees of the original ANA become stores; states travel between stores as files; roots are kept and forgotten."""

import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
from support import care, memory, processes, raw_tree
from support.care import numbered, put, ran
from support.classes import A, Node

import ana
import ana.d
from ana import maintenance

UUIDS = ("142be0d1-e3b4-4d7e-a2ce-9842285f3b18", "fbda537c-38f0-4db7-b5f2-3e3d8afe7c1f", "any string")


class OldReference:
    """Pickles as a reference of the original ANA: by a function `D` of a module `ana.d`."""

    def __init__(self, uuid, cls, state=None):
        self.arguments = uuid, cls, state

    def __reduce__(self):
        return ana.d.D, self.arguments


def old_state(folder, uuid, state, protocol):
    """Write a state as the original ANA did."""
    (folder / f"{uuid}.p").write_bytes(pickle.dumps(state, protocol))


@pytest.fixture(params=[2, 4], ids=["of Python 2", "of Python 3"])
def old(tmp_path, request):
    """A folder of the original ANA: an object that refers to two others, one of them twice, in a cycle."""
    folder = tmp_path / "old"
    folder.mkdir()
    top, left, right = UUIDS
    twice = [OldReference(left, A), OldReference(right, A), OldReference(left, A)]
    old_state(folder, top, {"number": 1, "after": twice}, request.param)
    old_state(folder, left, {"x": "left"}, request.param)
    old_state(folder, right, {"x": [OldReference(top, Node)]}, request.param)
    (folder / "notes.txt").write_text("mine")
    return folder


# The original ANA's trees


def test_an_old_tree_becomes_a_store(old, tmp_path, capfd):
    """Its states keep their UUIDs and load with all that they refer to; what is no state is listed."""
    store = tmp_path / "store"
    done = ran(capfd, "-d", store, "--json", "import", old)
    assert (done.code, done.document["problems"]) == (0, [])
    assert sorted(done.document["imported"]) == sorted(UUIDS)
    assert done.document["ignored"] == ["notes.txt"]
    with ana.using_dl(pickle_dir=store):
        top = Node.ana_load(UUIDS[0])
        assert top.after[0] is top.after[2]
        assert top.after[0].x == "left"
        assert top.after[1].x == [top]
        assert top.uuid == UUIDS[0]


def test_old_pickles_load_from_the_new_store(old, tmp_path):
    """A pickle of the original ANA, which names ana.d.D, loads by reference, as a copy, and with both."""
    maintenance.import_old(tmp_path / "store", old)
    with ana.using_dl(pickle_dir=tmp_path / "store"):
        assert pickle.loads(pickle.dumps(OldReference(UUIDS[1], A), 2)).x == "left"
        copy = pickle.loads(pickle.dumps(OldReference(None, A, {"x": 5}), 2))
        assert (copy.x, copy.uuid) == (5, None)
        both = pickle.loads(pickle.dumps(OldReference("with both", A, {"x": 6}), 2))
        assert (both.x, both.uuid) == (6, "with both")
        with pytest.raises(ana.ANAError):
            pickle.loads(pickle.dumps(OldReference(None, A), 2))


def test_children_are_known_without_unpickling(old, tmp_path, capfd):
    """What an old pickle refers to is in the new header, so that it is collected and kept with it."""
    store = tmp_path / "store"
    maintenance.import_old(store, old)
    children = {uuid: set(ran(capfd, "-d", store, "--json", "show", uuid).document["children"]) for uuid in UUIDS}
    assert children == {UUIDS[0]: set(UUIDS[1:]), UUIDS[1]: set(), UUIDS[2]: {UUIDS[0]}}


def test_nothing_is_executed(tmp_path):
    """A pickle that would run code is stored as any other, and does not run."""

    class Evil:
        def __reduce__(self):
            return eval, (f"open({str(tmp_path / 'ran')!r}, 'w')",)

    (tmp_path / "old").mkdir()
    old_state(tmp_path / "old", UUIDS[0], Evil(), 2)
    assert maintenance.import_old(tmp_path / "store", tmp_path / "old").imported == [UUIDS[0]]
    assert ran_verify(tmp_path / "store")
    assert not (tmp_path / "ran").exists()


def ran_verify(store):
    """Say whether a store is whole."""
    return maintenance.verify(store).problems == []


def test_an_import_can_be_run_again(old, tmp_path, capfd):
    """What is there is compared and not stored again; another content is a problem, and stays."""
    store = tmp_path / "store"
    maintenance.import_old(store, old)
    again = ran(capfd, "-d", store, "--json", "import", old)
    assert (again.code, again.document["imported"], again.document["present"]) == (0, [], 3)
    old_state(old, UUIDS[1], {"x": "another"}, 2)
    third = ran(capfd, "-d", store, "--json", "import", old)
    assert third.code == 4
    assert [wrong["uuid"] for wrong in third.document["problems"]] == [UUIDS[1]]
    with ana.using_dl(pickle_dir=store):
        assert A.ana_load(UUIDS[1]).x == "left"


def test_damaged_old_files_are_left_out(old, tmp_path, capfd):
    """A pickle that is cut short or followed by something is no state; nor is what refers to it."""
    left = old / f"{UUIDS[1]}.p"
    left.write_bytes(left.read_bytes()[:-1])
    (old / "more.p").write_bytes(pickle.dumps(1) + b"more")
    (old / "empty.p").write_bytes(b"")
    done = ran(capfd, "-d", tmp_path / "store", "--json", "import", old)
    kinds = {wrong["uuid"]: wrong["kind"] for wrong in done.document["problems"]}
    assert done.code == 4
    assert {UUIDS[1], "more", "empty"} <= {uuid for uuid, kind in kinds.items() if kind == "damaged"}
    assert kinds[UUIDS[0]] == "missing"


@pytest.mark.slow
def test_an_interrupted_import_goes_on(tmp_path):
    """Killed at any time, and run again: all is there."""
    with memory.folder() as folder:
        old = folder / "old"
        old.mkdir()
        for number in range(1500):
            old_state(old, numbered(number), {"x": number, "after": [OldReference(numbered(number + 1), A)]}, 2)
        for seconds in (0.5, 0.7, 0.9):
            with care.start("-d", folder / "store", "import", old) as process:
                time.sleep(seconds)
                process.kill()
        done = maintenance.import_old(folder / "store", old)
        assert len(done.imported) + done.present == 1500
        assert ran_verify(folder / "store")


@pytest.mark.parametrize("source", ["an empty folder", "a store", "a text"])
def test_what_is_no_import_is_refused(tmp_path, capfd, source):
    """A folder without old states, a new store, a file of another kind: one line, and nothing is made."""
    place = tmp_path / "source"
    if source == "a text":
        place.write_text("hello " * 1000)
    elif source == "a store":
        care.store(place)
    else:
        place.mkdir()
    done = ran(capfd, "-d", tmp_path / "store", "import", place)
    assert done.code == 1
    assert len(done.err.splitlines()) == 1
    assert not (tmp_path / "store").exists()


# Files


@pytest.fixture
def family(tmp_path):
    """A store with an object, what it refers to, and something else."""
    with ana.using_dl(pickle_dir=tmp_path / "store", durable=False) as layer:
        children = [A("left" * 100), A(bytes(5 << 20))]
        top = Node(1, children)
        for child in children:
            child.make_uuid()
        top.make_uuid()
        layer.store_state("…" * 100, "a long name")
        layer.store_state("else", 5)
        return tmp_path / "store", top.uuid


def test_states_travel_as_a_file(family, tmp_path, capfd):
    """What was exported with all that it refers to is imported elsewhere, byte for byte, and once."""
    store, top = family
    file = tmp_path / "family.ana"
    done = ran(capfd, "-d", store, "--json", "export", top[:8], "…" * 100, "-o", file)
    assert (done.code, len(done.document["states"])) == (0, 4)
    assert done.document["size_bytes"] == file.stat().st_size
    there = tmp_path / "there"
    taken = ran(capfd, "-d", there, "--json", "import", file).document
    assert sorted(taken["imported"]) == sorted(done.document["states"])
    assert taken["exported"] == [top, "…" * 100]
    assert {path: (there / path).read_bytes() for path in raw_tree.states(there)}.items() <= {
        path: (store / path).read_bytes() for path in raw_tree.states(store)
    }.items()
    with ana.using_dl(pickle_dir=there):
        assert len(Node.ana_load(top).after[1].x) == 5 << 20
    again = ran(capfd, "-d", there, "--json", "import", file).document
    assert (again["imported"], again["present"]) == ([], 4)


def test_an_exported_file_unpacks_into_a_store(family, tmp_path):
    """Tar makes a store of it that works."""
    store, top = family
    maintenance.export_states(store, [top], tmp_path / "family.ana")
    (tmp_path / "unpacked").mkdir()
    subprocess.run(["tar", "-xf", tmp_path / "family.ana", "-C", tmp_path / "unpacked"], check=True)
    with ana.using_dl(pickle_dir=tmp_path / "unpacked"):
        assert Node.ana_load(top).after[0].x == "left" * 100
    assert ran_verify(tmp_path / "unpacked")


def test_every_kind_of_damage_to_an_exported_file_is_noticed(family, tmp_path):
    """Flipped and cut files import nothing wrong: what is whole comes in, children first; the rest is named."""
    store, top = family
    maintenance.export_states(store, [top], tmp_path / "family.ana")
    data = (tmp_path / "family.ana").read_bytes()
    whole = {path: (store / path).read_bytes() for path in raw_tree.states(store)}
    for number, at in enumerate(range(1700, len(data), len(data) // 25)):
        broken, there = tmp_path / f"{number}.ana", tmp_path / f"there{number}"
        broken.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] if number % 2 else data[:at])
        done = maintenance.import_file(there, broken)
        assert done.problems or len(done.imported) == 3
        # Where nothing could be taken, nothing was made.
        assert there.exists() == bool(done.imported)
        if done.imported:
            found = {path: (there / path).read_bytes() for path in raw_tree.states(there)}
            assert found.items() <= whole.items()
            assert ran_verify(there)


def test_export_refuses_what_is_not_whole(family, tmp_path, capfd):
    """A missing or damaged descendant, an unknown UUID, a file that exists: an error, and no file."""
    store, top = family
    file = tmp_path / "family.ana"
    assert ran(capfd, "-d", store, "export", "nothing", "-o", file).code == 4
    file.write_text("precious")
    assert ran(capfd, "-d", store, "export", top, "-o", file).code == 1
    assert file.read_text() == "precious"
    file.unlink()
    largest = max((store / path for path in raw_tree.states(store)), key=lambda path: path.stat().st_size)
    data = largest.read_bytes()
    largest.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert ran(capfd, "-d", store, "export", top, "-o", file).code == 4
    largest.unlink()
    assert ran(capfd, "-d", store, "export", top, "-o", file).code == 4
    assert list(tmp_path.glob("*.ana")) == []
    assert list(tmp_path.glob(".tmp-*")) == []


def test_a_newer_exported_file_is_refused(family, tmp_path):
    """A file of another format version is not guessed at."""
    with tarfile.open(tmp_path / "new.ana", "w") as archive:
        data = json.dumps({"format": 2, "exported": [], "states": 0}).encode()
        member = tarfile.TarInfo("ana.json")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    with pytest.raises(ana.UnsupportedFormatError):
        maintenance.import_file(tmp_path / "there", tmp_path / "new.ana")


# Many names


@pytest.fixture
def many(tmp_path):
    """A store of a few states with names of all kinds, and their names."""
    store = care.store(tmp_path / "store")
    names = [numbered(1), numbered(2), "my mesh/1", " blanks ", "two\nlines", "caf\udce9", "ä"]
    for name in names:
        put(store, name)
    return store, names


def given_names(data, *words):
    """Run a command with names on its standard input; return its exit code and what it said."""
    with care.start(*words, stdin=subprocess.PIPE, text=False) as process:
        out, err = process.communicate(data, timeout=120)
    return process.returncode, out, err.decode()


EXPORT, KEEP = ("export", "-o", "NEW"), ("keep", "root")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "command"),
    [
        ("lines", EXPORT),
        ("lines of another system", KEEP),
        ("NULs", EXPORT),
        ("a file", KEEP),
        ("a FIFO", EXPORT),
        ("what ls writes", KEEP),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_names_come_from_a_file(many, command, how, tmp_path):
    """As many states as there are, whatever they are called: from standard input or a file, and from arguments, too."""
    store, names = many
    words = ["-d", store, "--json", *(str(tmp_path / "new") if word == "NEW" else word for word in command)]
    if how == "what ls writes":
        with care.start("-d", store, "ls", "-0", text=False) as process:
            data = process.communicate(timeout=120)[0]
    else:
        end = {"lines": "\n", "lines of another system": "\r\n"}.get(how, "\0")
        names = [name for name in names if end == "\0" or "\n" not in name]
        data = "".join(f"{name}{end}" for name in names[1:]).encode("utf-8", "surrogatepass")
        words.append(names[0])
    words += ["-0"] if b"\0" in data else []
    if how in {"a file", "a FIFO"}:
        place = tmp_path / "names"
        if how == "a file":
            place.write_bytes(data)
        else:
            os.mkfifo(place)
        with care.start(*words, "--from-file", place) as process:
            if how == "a FIFO":
                place.write_bytes(data)
            out, err = process.communicate(timeout=120)
        code = process.returncode
    else:
        code, out, err = given_names(data, *words, "--from-file", "-")
    assert (code, err) == (0, "")
    assert sorted(json.loads(out)["uuids"]) == sorted(names)


@pytest.mark.slow
def test_more_names_than_arguments(tmp_path):
    """States whose names xargs would give to more than one command become one file."""
    store = care.store(tmp_path / "store")
    names = [f"{number:0190}" for number in range(700)]
    for name in names:
        put(store, name)
    data = "\n".join([*names, *names]).encode()
    code, out, err = given_names(data, "-d", store, "--json", "export", "--from-file", "-", "-o", tmp_path / "all.ana")
    assert (code, err) == (0, "")
    assert json.loads(out)["states"] == names
    with tarfile.open(tmp_path / "all.ana") as archive:
        assert len(archive.getnames()) == 701


@pytest.mark.parametrize(
    ("data", "words", "said"),
    [
        (b"", ["--from-file", "-"], "no UUID in "),
        (b"\n\n", ["--from-file", "-"], "no UUID in "),
        (b"a\0b", ["--from-file", "-"], "add -0"),
        (b"caf\xe9", ["--from-file", "-"], "not a list of UUIDs"),
        (b"x" * 300, ["--from-file", "-"], "at most 200"),
        (b"", ["-0"], "--from-file"),
        (b"", [], "name states"),
        (b"", ["--from-file", "/nowhere"], "does not exist"),
        (b"", ["--from-file", "/"], "is a directory"),
    ],
)
def test_what_is_no_list_of_names(many, tmp_path, data, words, said, capfd):
    """A list without names, or that is none, is wrong usage, and nothing is made."""
    store, _ = many
    (tmp_path / "list").write_bytes(data)
    words = [tmp_path / "list" if word == "-" else word for word in words]
    done = ran(capfd, "-d", store, "export", "-o", tmp_path / "new", *words)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert not (tmp_path / "new").exists()


def test_what_editors_add_to_a_list(many, tmp_path):
    """A mark of the encoding, and blanks around a UUID, are not part of it."""
    store, _ = many
    data = b"\xef\xbb\xbf" + f"{numbered(1)} \r\n\t{numbered(2)}\n  \n".encode()
    code, out, err = given_names(data, "-d", store, "--json", "keep", "root", "--from-file", "-")
    assert (code, err) == (0, "")
    assert json.loads(out)["uuids"] == [numbered(1), numbered(2)]


def test_a_list_without_end_is_refused(many, monkeypatch, capfd):
    """No more is read than a root may have."""
    monkeypatch.setattr("ana.cli.uuid_arguments._MOST_BYTES", 1 << 20)
    done = care.ran(capfd, "-d", many[0], "keep", "root", "--from-file", "/dev/zero")
    assert (done.code, done.out) == (2, "")
    assert "at most 1 MiB" in done.err


@pytest.mark.parametrize("name", ["ana.json", "new", ".ana/new", "link"])
@pytest.mark.parametrize("command", ["report", "export"])
def test_nothing_is_put_into_a_store(many, tmp_path, capfd, name, command):
    """A page or an exported file for a place in any store is wrong usage; the store stays as it is."""
    store, _ = many
    other = care.store(tmp_path / "other")
    (other / ".ana").mkdir(exist_ok=True)
    (tmp_path / "link").symlink_to(other / "ana.json")
    before = {path: path.read_bytes() for path in other.rglob("*") if path.is_file()}
    place = tmp_path / "link" if name == "link" else other / name
    words = ["export", numbered(1)] if command == "export" else ["report"]
    done = care.ran(capfd, "-d", store, *words, "-o", place)
    assert done.code == 2
    assert f"is in the store {other}" in done.err
    assert {path: path.read_bytes() for path in other.rglob("*") if path.is_file()} == before


def test_too_many_names_for_one_file(many, tmp_path, monkeypatch):
    """What an import would refuse is not written."""
    monkeypatch.setattr("ana.maintenance.export.MOST_MANIFEST_BYTES", 100)
    store, names = many
    with pytest.raises(ana.StoreError, match="too many for one file"):
        maintenance.export_states(store, names, tmp_path / "new")
    assert not (tmp_path / "new").exists()


# Roots


def test_roots_are_kept_listed_and_forgotten(family, capfd):
    """A name keeps what was given to it in any number of calls, until it is forgotten."""
    store, top = family
    assert ran(capfd, "-d", store, "keep", "exp/7", top[:8]).code == 0
    assert ran(capfd, "-d", store, "keep", "exp/7", "else", top).code == 0
    assert ran(capfd, "-d", store, "keep", "exp/7", "else", top).code == 0
    (root,) = (json.loads(line) for line in ran(capfd, "-d", store, "--json", "roots").out.splitlines())
    assert (root["name"], root["uuids"], root["missing"]) == ("exp/7", sorted([top, "else"]), [])
    assert "exp/7" in ran(capfd, "-d", store, "roots").out
    raw_tree.path_of(store, "else").unlink()
    assert ran(capfd, "-d", store, "roots").code == 4
    assert ran(capfd, "-d", store, "forget", "exp/7").code == 0
    assert ran(capfd, "-d", store, "roots").out == ""
    assert ran(capfd, "-d", store, "forget", "exp/7").code == 4


def test_what_is_missing_cannot_be_kept(family, capfd):
    """A UUID without a state is refused, and nothing is kept; a hole below is reported, and the rest is kept."""
    store, top = family
    assert ran(capfd, "-d", store, "keep", "mine", top, "nothing").code == 4
    assert maintenance.roots(store) == []
    with ana.using_dl(pickle_dir=store):
        child = Node.ana_load(top).after[0].uuid
    raw_tree.path_of(store, child).unlink()
    done = ran(capfd, "-d", store, "--json", "keep", "mine", top)
    assert (done.code, [wrong["uuid"] for wrong in done.document["problems"]]) == (4, [child])
    assert [root.uuids for root in maintenance.roots(store)] == [[top]]


def test_keep_from_python(tmp_path):
    """dl.keep stores the objects and keeps them; what was believed to be there and is not is stored again."""
    with ana.using_dl(pickle_dir=tmp_path / "store") as layer:
        child = A("child")
        top = Node(1, child)
        (uuid,) = layer.keep("experiment-7", top)
        assert uuid == top.uuid
        assert [(root.name, root.uuids) for root in maintenance.roots(tmp_path / "store")] == [("experiment-7", [uuid])]
        raw_tree.path_of(tmp_path / "store", child.make_uuid()).unlink(missing_ok=True)
        raw_tree.path_of(tmp_path / "store", uuid).unlink()
        layer.keep("again", top, child)
        assert raw_tree.path_of(tmp_path / "store", uuid).exists()
        assert raw_tree.path_of(tmp_path / "store", child.uuid).exists()
        with pytest.raises(TypeError):
            layer.keep("wrong", "a string")
        with pytest.raises(ValueError, match="1 to 200"):
            layer.keep("", top)
    with ana.using_dl(ana.DataLayer()) as layer:
        assert layer.keep("in memory", A(1)) == [A(1).make_uuid()]


def test_keep_behind_a_node_cache(tmp_path):
    """With a node cache the root is in the store, too, and what the node alone still has is stored again."""
    with ana.using_dl(pickle_dir=tmp_path / "store", node_cache=tmp_path / "node") as layer:
        top = A(bytes(2 << 20))
        (uuid,) = layer.keep("mine", top)
        assert [root.uuids for root in maintenance.roots(tmp_path / "store")] == [[uuid]]
    with ana.using_dl(pickle_dir=tmp_path / "store", node_cache=tmp_path / "node") as layer:
        again = A.ana_load(uuid)
        raw_tree.path_of(tmp_path / "store", uuid).unlink()
        layer.keep("again", again)
        assert raw_tree.path_of(tmp_path / "store", uuid).exists()


@pytest.mark.slow
def test_many_keep_at_once(tmp_path):
    """Processes that keep under one name at the same time lose nothing."""
    store = care.store(tmp_path / "store")
    for number in range(40):
        put(store, numbered(number))
    program = (
        "import sys; from ana import maintenance\n"
        "for uuid in sys.argv[2:]: maintenance.keep(sys.argv[1], 'shared', [uuid])"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program, store, *(numbered(number) for number in range(part, 40, 4))],
            env=processes.environment(),
        )
        for part in range(4)
    ]
    assert [process.wait(60) for process in started] == [0] * 4
    (root,) = maintenance.roots(store)
    assert root.uuids == sorted(numbered(number) for number in range(40))
    assert maintenance.forget(store, "shared") == 40


@pytest.mark.slow
def test_a_tree_that_the_original_ana_wrote(tmp_path, capfd):
    """The ANA of 2019 itself writes a tree; its states load from the store that the tree becomes."""
    from test_old_programs import _old_packages

    site = _old_packages("ana")
    (tmp_path / "shapes.py").write_text(
        "import ana\nclass Shape(ana.Storable):\n    def __init__(self, n, held=()):\n"
        "        self.n = n\n        self.held = held\n"
    )
    program = (
        "import ana, pickle, sys; from shapes import Shape; ana.set_dl(ana.DirDataLayer(sys.argv[1]))\n"
        "a = Shape(1); b = Shape(2, [a, a]); a.make_uuid(); b.make_uuid(); data = pickle.dumps(b)\n"
        "open(sys.argv[2], 'wb').write(data); print(b.ana_uuid)"
    )
    words = [sys.executable, "-c", program, tmp_path / "old", tmp_path / "reference"]
    done = subprocess.run(
        words, env={"PYTHONPATH": f"{site}:{tmp_path}"}, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert ran(capfd, "-d", tmp_path / "store", "import", tmp_path / "old").code == 0
    load = (
        "import ana, pickle, sys; ana.set_dl(sys.argv[1]); b = pickle.load(open(sys.argv[2], 'rb'))\n"
        "assert b.n == 2 and b.held[0] is b.held[1] and b.held[0].n == 1; print(b.uuid)"
    )
    environment = processes.environment()
    environment["PYTHONPATH"] += f":{tmp_path}"
    said = processes.run(sys.executable, "-c", load, tmp_path / "store", tmp_path / "reference", env=environment)
    assert said == done.stdout
    assert Path(tmp_path / "store" / "ana.json").exists()
