"""The tree on disk: where files lie, what is opened and what is refused, and what stands in a state's place."""

import contextlib
import errno
import json
import os
import pickle
import random
import shutil
import socket
import stat
import threading

import pytest
from support import raw_record, raw_tree

import ana
from ana import maintenance
from ana.format import record
from ana.stores.directory.store import DirectoryStore
from ana.stores.directory.tree import Tree

KEY = "5f3ac0e1-1234-8123-9123-123456789abc"


class Part(ana.Storable):
    """An object whose state has any size."""

    def __init__(self, value):
        self.value = value


@pytest.fixture
def tree(tmp_path):
    """Where a tree may be made; nothing is there yet."""
    return tmp_path / "pickles"


def _make_config(tree, **changes):
    """Write `ana.json` by hand."""
    tree.mkdir()
    fields = {"format": 1, "levels": 2, "id": "0b8f4a53-5c1e-4d6b-9a57-3f1d2c7e8a90", **changes}
    (tree / "ana.json").write_text(json.dumps(fields))


def _stored(tree, value="state"):
    """Store an object in a layer of its own, and return its UUID."""
    with ana.using_dl(pickle_dir=tree):
        return Part(value).make_uuid()


def _load(tree, uuid):
    with ana.using_dl(pickle_dir=tree):
        return Part.ana_load(uuid).value


# Layout


def test_a_new_tree_has_a_configuration_and_a_file_for_each_state(tree):
    """`ana.json` with format, levels and a store id; each state two folders down, by its first four digits."""
    uuid = _stored(tree)
    assert raw_tree.files(tree) == [f"{uuid[:2]}/{uuid[2:4]}/{uuid}.pkl.zst", "ana.json"]
    config = raw_tree.config(tree)
    assert (config["format"], config["levels"]) == (1, 2)
    assert len(config["id"]) == 36


def test_each_tree_has_its_own_id(tmp_path):
    """Two stores are two stores, also on the same host."""
    trees = [tmp_path / "one", tmp_path / "two"]
    for each in trees:
        ana.DirDataLayer(each)
    assert len({raw_tree.config(each)["id"] for each in trees}) == 2


def test_folders_above_the_tree_are_made(tmp_path):
    """What is missing of the path is made, like `mkdir -p`."""
    tree = tmp_path / "a" / "b" / "c"
    assert _load(tree, _stored(tree)) == "state"


def test_an_existing_tree_is_opened_without_writing(tree):
    """Opening and loading change nothing, not even a time of change."""
    uuid = _stored(tree)
    before = {path: os.stat(path).st_mtime_ns for path in (tree, *tree.rglob("*"))}
    assert _load(tree, uuid) == "state"
    assert {path: os.stat(path).st_mtime_ns for path in (tree, *tree.rglob("*"))} == before


@pytest.mark.parametrize("levels", range(9))
@pytest.mark.parametrize("key", [KEY, "any string"])
def test_the_levels_of_a_tree_are_honoured(tree, levels, key):
    """States go where `ana.json` says, and are found there by the next process."""
    _make_config(tree, levels=levels)
    ana.DirDataLayer(tree).store_state(key, "state")
    assert raw_tree.states(tree) == [str(raw_tree.path_of(tree, key, levels).relative_to(tree))]
    assert ana.DirDataLayer(tree).load_state(key) == "state"


def test_a_tree_can_be_moved(tree, tmp_path):
    """Nothing in a tree says where it lies: references between its states hold after a move."""
    with ana.using_dl(pickle_dir=tree):
        inner = Part("inner")
        inner.make_uuid()
        outer = Part(inner).make_uuid()
        del inner
    shutil.move(tree, tmp_path / "elsewhere")
    assert _load(tmp_path / "elsewhere", outer).value == "inner"


def test_a_tree_that_was_purged_is_made_again(tree):
    """A layer whose folder was emptied stores on: the same configuration, folders and states are made anew."""
    layer = ana.set_dl(pickle_dir=tree)
    layer.store_state(KEY, "state")
    before = raw_tree.config(tree)
    for entry in tree.iterdir():
        (shutil.rmtree if entry.is_dir() else os.unlink)(entry)
    with pytest.raises(ana.StateNotFoundError):
        layer.load_state(KEY)
    layer.store_state(KEY, "state")
    assert raw_tree.config(tree) == before
    assert layer.load_state(KEY) == "state"


def gone_by_move(tree):
    """The store is elsewhere now."""
    tree.rename(tree.with_name("elsewhere"))


def gone_by_removal(tree):
    """The store is nowhere any more."""
    shutil.rmtree(tree)


def gone_below_a_mount(tree):
    """An empty folder is left, as where a filesystem was mounted."""
    tree.rename(tree.with_name("elsewhere"))
    tree.mkdir(mode=0o700)


GONE = [gone_by_move, gone_by_removal, gone_below_a_mount]


@pytest.mark.once
@pytest.mark.parametrize("many", [False, True], ids=["one", "many"])
@pytest.mark.parametrize("go", GONE)
def test_no_new_store_is_made_in_the_place_of_one_that_has_gone(tree, go, many):
    """What is stored next is an error that says so, again and again; when it is back, all goes on."""
    layer = ana.set_dl(pickle_dir=tree)
    child = Part("child")
    uuid = child.make_uuid()
    go(tree)
    parent = Part(child)
    for _ in range(2):
        with pytest.raises(ana.StoreError, match="the store that was opened here has gone"):
            layer.store_many([parent]) if many else parent.make_uuid()
        with pytest.raises(ana.StoreError, match="the store that was opened here has gone"):
            layer.store_state("bare", 1)
    assert parent.uuid is None
    assert not tree.exists() or list(tree.iterdir()) == []
    if go is gone_by_move:
        with pytest.raises(ana.StateNotFoundError):
            layer.load_state(uuid)
    if go is not gone_by_removal:
        with contextlib.suppress(FileNotFoundError):
            tree.rmdir()
        tree.with_name("elsewhere").rename(tree)
        found = parent.make_uuid()
        del parent, child
        assert _load(tree, found).value == "child"


def another_by_a_program(tree):
    """Another program makes a store there."""
    shutil.rmtree(tree)
    ana.DirDataLayer(tree)


def another_by_an_old_copy(tree):
    """A copy of it from before anything was stored, with the same id."""
    config = (tree / "ana.json").read_bytes()
    tree.rename(tree.with_name("elsewhere"))
    tree.mkdir(mode=0o700)
    (tree / "ana.json").write_bytes(config)


def emptied(tree):
    """All that is in it is removed."""
    for entry in tree.iterdir():
        (shutil.rmtree if entry.is_dir() else os.unlink)(entry)


@pytest.mark.parametrize("many", [False, True], ids=["one", "many"])
@pytest.mark.parametrize("replace", [another_by_a_program, another_by_an_old_copy, emptied])
def test_in_a_store_that_was_replaced_all_is_stored_again(tree, caplog, replace, many):
    """Nothing that was in the old one is believed to be in the new one; it is said once."""
    layer = ana.set_dl(pickle_dir=tree)
    grandchild = Part("grandchild")
    grandchild.make_uuid()
    child = Part(grandchild)
    child.make_uuid()
    replace(tree)
    parent, other = Part(child), Part([grandchild, "other"])
    uuids = layer.store_many([parent, other]) if many else [parent.make_uuid(), other.make_uuid()]
    pickle.dumps(Part(child))
    said = [record.message for record in caplog.records if "was purged or replaced" in record.message]
    assert [text.partition(":")[0] for text in said] == [
        f"the store at {tree} was purged or replaced (id {raw_tree.config(tree)['id']})"
    ]
    del parent, other, child, grandchild
    assert _load(tree, uuids[0]).value.value == "grandchild"
    assert _load(tree, uuids[1])[0].value == "grandchild"
    assert maintenance.verify(tree).problems == []


def test_threads_that_notice_at_the_same_moment_say_it_once(tree, caplog, monkeypatch):
    """Each is told not to believe what it knew, while `ana.json` still changes because a busy disk is slow."""
    store = ana.DirDataLayer(tree).store
    assert store.tree.is_same()
    remove, pause = os.unlink, threading.Event()
    started = threading.Barrier(4)
    answers = []

    def remove_slowly(path):
        # Between the link to the final name and the end of the temporary one, the file's time of change is not final.
        pause.wait(random.random() / 50)
        remove(path)

    def look():
        started.wait()
        answers.append(store.tree.is_same())

    monkeypatch.setattr(os, "unlink", remove_slowly)
    for number in range(1, 21):
        remove(tree / "ana.json")
        threads = [threading.Thread(target=look) for _ in range(started.parties)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # A thread that looks when all is over already sees the store that is there now.
        assert False in answers
        answers.clear()
        assert len([record for record in caplog.records if "was purged or replaced" in record.message]) == number
    assert store.tree.is_same()


def _made_by_another_after_the_first_look(tree, monkeypatch, mode):
    """Have another process create the store between this one's looks at the folder and at `ana.json`."""
    read, todo = Tree._read_config, [tree]

    def read_later(self):
        while todo:
            maintenance.init(todo.pop())
            tree.chmod(mode)
        return read(self)

    monkeypatch.setattr(Tree, "_read_config", read_later)


def test_a_store_that_another_process_creates_at_the_same_moment(tree, caplog, monkeypatch):
    """It is used like any other, and not taken for one that replaced the one that was opened."""
    _made_by_another_after_the_first_look(tree, monkeypatch, 0o700)
    layer = ana.set_dl(pickle_dir=tree)
    assert layer.store.tree.is_same()
    uuid = Part("stored").make_uuid()
    assert _load(tree, uuid) == "stored"
    assert caplog.records == []


def test_a_store_that_anybody_may_write_to_is_refused_also_if_it_is_just_being_created(tree, monkeypatch):
    """The folder is checked though it was not there at first."""
    _made_by_another_after_the_first_look(tree, monkeypatch, 0o777)
    with pytest.raises(ana.UntrustedStoreError, match="everyone may write"):
        ana.set_dl(pickle_dir=tree)


def test_a_bare_state_goes_into_the_store_that_is_there_now(tree):
    """As an object does."""
    layer = ana.set_dl(pickle_dir=tree)
    layer.store_state("first", 1)
    another_by_a_program(tree)
    layer.store_state("second", 2)
    assert layer.load_state("second") == 2
    with pytest.raises(ana.StateNotFoundError):
        layer.load_state("first")


def test_a_shard_folder_that_was_removed_is_made_again(tree):
    """A purge that takes empty folders away as well is no obstacle."""
    layer = ana.set_dl(pickle_dir=tree)
    layer.store_state(KEY, "state")
    shutil.rmtree(tree / "5f")
    layer.store_state(KEY, "state")
    assert raw_tree.states(tree) == [f"5f/3a/{KEY}.pkl.zst"]


def test_a_tree_that_another_makes_at_the_same_moment_is_shared(tree, monkeypatch):
    """Who finds `ana.json` only after the folder was made takes the other's tree, and refuses nothing."""
    mkdir = os.mkdir
    others = []

    def make_late(*arguments, **options):
        monkeypatch.setattr(os, "mkdir", mkdir)
        others.append(DirectoryStore(str(tree)).config)
        mkdir(*arguments, **options)

    monkeypatch.setattr(os, "mkdir", make_late)
    assert [DirectoryStore(str(tree)).config] == others


@pytest.mark.parametrize(("repair", "durable"), [(False, True), (True, True), (True, False)])
def test_a_state_that_vanishes_after_the_look_is_written_again(tree, monkeypatch, repair, durable):
    """Removed or set aside by another between our look and what we do then: it has to be stored."""
    store = DirectoryStore(str(tree), durable=durable)
    content = record.content("", [memoryview(b"state")])
    store.put(KEY, content, (), repair=False)
    path = raw_tree.path_of(tree, KEY)
    os_open = os.open

    def open_late(name, *arguments):
        # What was found by a look is opened to be read, or to be brought to the disk.
        if name == str(path):
            monkeypatch.setattr(os, "open", os_open)
            path.unlink()
        return os_open(name, *arguments)

    monkeypatch.setattr(os, "open", open_late)
    assert store.put(KEY, content, (), repair=repair)
    assert [bytes(segment) for segment in store.get(KEY).segments()] == [b"state"]


def test_a_tree_whose_configuration_was_purged_is_adopted(tree):
    """Shard folders alone are still a tree: it gets a new `ana.json`, and its states are there."""
    uuid = _stored(tree)
    (tree / "ana.json").unlink()
    assert _load(tree, uuid) == "state"
    assert raw_tree.config(tree)["levels"] == 2


@pytest.mark.leaves_temporaries("one of them is another writer's")
@pytest.mark.parametrize("name", [".tmp-node7-12-00ff", ".ana", ".nfs000000000001", ".snapshot", "lost+found"])
def test_what_file_servers_and_ana_leave_does_not_count(tree, name):
    """A folder with nothing but such names is empty enough for a new tree."""
    tree.mkdir()
    (tree / name).mkdir()
    assert _load(tree, _stored(tree)) == "state"


def test_paths_need_not_be_text(tmp_path):
    """Folders whose names are no UTF-8 work, and references to them too."""
    tree = tmp_path / os.fsdecode(b"tree-\xff")
    with ana.using_dl(pickle_dir=tree):
        part = Part("state")
        part.make_uuid()
        pickled = pickle.dumps(part)
        assert pickle.loads(pickled) is part
    assert raw_tree.states(tree) != []


def test_a_symlink_to_a_tree_is_a_tree(tree, tmp_path):
    """Homes and scratch folders are often links: the path that the user gives may be one."""
    uuid = _stored(tree)
    (tmp_path / "link").symlink_to(tree)
    assert _load(tmp_path / "link", uuid) == "state"
    assert _load(tree, _stored(tmp_path / "link", "another")) == "another"


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("how", ["store", "store large", "import", "load from the trash"])
def test_nothing_is_written_through_a_planted_link(tree, tmp_path, depth, how):
    """A shard folder that is a link is refused before anything is written behind it; it is named, with the cure."""
    size = (64 << 20) if how == "store large" else 10
    uuid = _stored(tmp_path / "source", "x" * size)
    exported = tmp_path / "exported.ana"
    maintenance.export_states(tmp_path / "source", [uuid], exported)
    _stored(tree, "another")
    place = tmp_path / "outside"
    shutil.rmtree(tree / uuid[:2], ignore_errors=True)
    link = tree / uuid[:2] if depth == 1 else tree / uuid[:2] / uuid[2:4]
    link.parent.mkdir(mode=0o700, exist_ok=True)
    (place / uuid[2:4] if depth == 1 else place).mkdir(mode=0o700, parents=True)
    link.symlink_to(place)
    if how == "load from the trash":
        path = raw_tree.path_of(tree, uuid)
        shutil.copy(raw_tree.path_of(tmp_path / "source", uuid), path.with_name(f".trash-{path.name}"))
    before = raw_tree.files(place)
    if how == "import":
        (wrong,) = maintenance.import_file(tree, exported).problems
        said = wrong.reason
    else:
        with pytest.raises(ana.ANAError) as caught:
            _load(tree, uuid) if how == "load from the trash" else _stored(tree, "x" * size)
        said = str(caught.value)
    # Nobody looks for trash behind a link that is the innermost folder: there it is not found.
    if (how, depth) != ("load from the trash", 2):
        assert str(link) in said
        assert "remove the link" in said
    assert raw_tree.files(place) == before
    name = str(link.relative_to(tree))
    assert [wrong.name for wrong in maintenance.verify(tree).problems] == [name]
    assert [info.name for info in maintenance.ls(tree) if info.problem] == [name]
    assert [wrong.name for wrong in maintenance.stats(tree).problems] == [name]
    assert list(maintenance.sweep(tree).failed) == [name]


# Configurations that are not understood


@pytest.mark.parametrize("version", [0, 3, 17])
def test_another_format_is_refused_with_its_version(tree, version):
    """UnsupportedFormatError names the version that is there and the one that is known; nothing is written."""
    _make_config(tree, format=version)
    with pytest.raises(ana.UnsupportedFormatError) as caught:
        ana.DirDataLayer(tree)
    assert (caught.value.found, caught.value.supported) == (version, 2)
    assert f"format {version}," in str(caught.value)
    assert "reads 2" in str(caught.value)
    assert str(tree) in str(caught.value)
    assert raw_tree.files(tree) == ["ana.json"]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\0" * 73,
        b"\xff\xfe\xfd",
        b"null",
        b"[]",
        b"{}",
        b"7",
        b'"format"',
        b'{"format": null}',
        b'{"format": "one"}',
        b'{"format": [1]}',
        b'{"format": NaN}',
        b'{"format": Infinity}',
        b'{"format": 1, "levels": 1e999}',
        b'{"format": 1, "levels": -1}',
        b'{"format": 1, "levels": 9}',
        b'{"format": 1, "levels": "two"}',
        b'{"format": 1, "levels": {}}',
        b'{"format": 1',
        b"[" * 60_000,
        b'{"format": ' + b"9" * 5_000 + b"}",
    ],
    ids=lambda text: f"{len(text)}-{text[:30]!r}",
)
def test_an_unreadable_configuration_is_refused(tree, text):
    """Whatever is in `ana.json`: UnsupportedFormatError that names the file, which stays as it is."""
    tree.mkdir()
    (tree / "ana.json").write_bytes(text)
    with pytest.raises(ana.UnsupportedFormatError, match=r"ana\.json"):
        ana.DirDataLayer(tree)
    assert (tree / "ana.json").read_bytes() == text
    assert raw_tree.files(tree) == ["ana.json"]


def test_a_huge_configuration_is_not_read(tree):
    """A file of 1 TiB (a hole) under the name of `ana.json` is refused by its size."""
    tree.mkdir()
    with open(tree / "ana.json", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ana.ANAError, match=r"ana\.json"):
        ana.DirDataLayer(tree)


def test_unknown_fields_of_the_configuration_are_ignored(tree):
    """What a later version adds without changing the format does no harm."""
    _make_config(tree, colour="green", compression={"level": 3})
    assert _load(tree, _stored(tree)) == "state"


# Folders that are no trees


@pytest.mark.parametrize("name", ["thesis.tex", "data", "5f3", "zz", ".bashrc", "ana.json.bak", "5f.txt"])
def test_a_folder_of_something_else_is_refused(tree, name):
    """UntrustedStoreError names folder and file; nothing is written into somebody's folder."""
    tree.mkdir()
    (tree / name).write_text("precious")
    with pytest.raises(ana.UntrustedStoreError, match="choose an empty folder") as caught:
        ana.DirDataLayer(tree)
    assert caught.value.path == str(tree)
    assert name in caught.value.reason
    assert raw_tree.files(tree) == [name]


@pytest.mark.parametrize("name", ["ab/cdef0123", "ab/cd/ef0123", f"ab/{KEY}.pkl.zst", f"ab/cd/{KEY}.pkl.zst"])
def test_shards_of_something_else_are_refused(tree, name):
    """Another tool's cache, or a folder within a store, does not become a store: nothing is written there."""
    (tree / name).parent.mkdir(parents=True)
    (tree / name).write_text("precious")
    with pytest.raises(ana.UntrustedStoreError, match="choose an empty folder"):
        ana.DirDataLayer(tree).store_state("x", 1)
    assert raw_tree.files(tree) == [name]


def test_shards_without_files_are_room_for_a_store(tree):
    """What a purge has left of a store: its folders."""
    (tree / "ab" / "cd").mkdir(parents=True)
    assert _load(tree, _stored(tree)) == "state"


def test_a_file_that_is_named_like_a_shard_is_something_else(tree):
    """Only folders are shards."""
    tree.mkdir()
    (tree / "5f").write_text("precious")
    with pytest.raises(ana.UntrustedStoreError):
        ana.DirDataLayer(tree)


def test_a_store_of_the_original_ana_is_refused_with_a_hint(tree):
    """Its folder is full of `<uuid>.p`: the message says what it looks like."""
    tree.mkdir()
    (tree / f"{KEY}.p").write_bytes(pickle.dumps({"state": 1}))
    with pytest.raises(ana.UntrustedStoreError, match="original ANA"):
        ana.DirDataLayer(tree)
    assert raw_tree.files(tree) == [f"{KEY}.p"]


@pytest.mark.parametrize("below", ["", "pickles", "a/b"])
def test_a_path_that_is_or_passes_a_file_is_refused(tmp_path, below):
    """StoreError (ENOTDIR) names the path, and says that a store is a folder; the file stays."""
    (tmp_path / "file").write_text("precious")
    with pytest.raises(ana.StoreError, match="a store is a folder") as caught:
        ana.DirDataLayer(tmp_path / "file" / below)
    assert caught.value.errno == errno.ENOTDIR
    assert str(tmp_path / "file") in caught.value.path
    assert (tmp_path / "file").read_text() == "precious"


def test_a_path_that_is_too_long_is_refused(tmp_path):
    """StoreError (ENAMETOOLONG) with its cure."""
    with pytest.raises(ana.StoreError, match="use a shorter pickle_dir") as caught:
        ana.DirDataLayer(tmp_path / ("x" * 300))
    assert caught.value.errno == errno.ENAMETOOLONG


def test_a_link_to_nowhere_is_refused(tmp_path):
    """A dangling link where the tree should be: a typed error, and the link stays."""
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ana.ANAError, match="link"):
        ana.DirDataLayer(tmp_path / "link")
    assert os.readlink(tmp_path / "link") == str(tmp_path / "nowhere")


def test_a_tree_that_is_only_looked_for_is_not_made(tree):
    """Following a reference's home opens a tree, and makes none: StoreError (ENOENT)."""
    with pytest.raises(ana.StoreError) as caught:
        DirectoryStore(str(tree), create=False)
    assert caught.value.errno == errno.ENOENT
    assert not tree.exists()


# What stands in the place of a file


def _symlink(path, tmp_path):
    path.symlink_to(tmp_path / "copy")


def _long_symlink(path, tmp_path):
    path.symlink_to(f"{tmp_path}{'/.' * 300}/copy")


def _dangling_symlink(path, _):
    path.symlink_to("nowhere")


def _fifo(path, _):
    os.mkfifo(path)


def _folder(path, _):
    path.mkdir()


def _socket(path, tmp_path):
    # A socket's path has at most 107 bytes: it is made nearby and moved.
    here = os.getcwd()
    os.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
    os.rename("socket", path)
    os.chdir(here)


def _device(path, _):
    if os.geteuid():
        pytest.skip("only root makes device files")
    os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 5))


IMPOSTORS = [_symlink, _long_symlink, _dangling_symlink, _fifo, _folder, _socket, _device]

every_impostor = pytest.mark.parametrize("impostor", IMPOSTORS, ids=[make.__name__.strip("_") for make in IMPOSTORS])


def _replace(path, impostor, tmp_path):
    shutil.copy(path, tmp_path / "copy")
    path.unlink()
    impostor(path, tmp_path)
    return os.lstat(path)


@every_impostor
def test_what_is_no_file_is_not_loaded(tree, tmp_path, impostor):
    """A link, FIFO, folder, socket or device in a state's place: UntrustedStoreError, at once, and it stays."""
    path = raw_tree.path_of(tree, _stored(tree))
    before = _replace(path, impostor, tmp_path)
    with pytest.raises(ana.UntrustedStoreError) as caught:
        _load(tree, path.name.removesuffix(".pkl.zst"))
    assert caught.value.path == str(path)
    assert os.lstat(path) == before


@every_impostor
def test_what_is_no_file_is_not_taken_for_stored(tree, tmp_path, impostor):
    """Storing the object again says the same, in every way to do it; it is neither overwritten nor believed."""
    path = raw_tree.path_of(tree, _stored(tree))
    before = _replace(path, impostor, tmp_path)
    with ana.using_dl(pickle_dir=tree) as layer:
        part = Part("state")
        with pytest.raises(ana.UntrustedStoreError):
            part.make_uuid()
        assert part.uuid is None
        with pytest.raises(ana.UntrustedStoreError):
            layer.store_state(path.name.removesuffix(".pkl.zst"), "state")
    assert os.lstat(path) == before


@every_impostor
def test_objects_that_were_stored_before_notice_it(tree, tmp_path, impostor):
    """Who stored a state earlier and looks again does not believe what is there now."""
    with ana.using_dl(pickle_dir=tree, recheck_seconds=0):
        part = Part("state")
        path = raw_tree.path_of(tree, part.make_uuid())
        before = _replace(path, impostor, tmp_path)
        with pytest.raises(ana.UntrustedStoreError):
            pickle.dumps(part)
        with pytest.raises(ana.UntrustedStoreError):
            part.ana_store()
    assert os.lstat(path) == before


@every_impostor
def test_what_is_no_file_is_no_configuration(tree, tmp_path, impostor):
    """In the place of `ana.json` it is refused as well, and not waited for."""
    _stored(tree)
    before = _replace(tree / "ana.json", impostor, tmp_path)
    with pytest.raises(ana.ANAError, match=r"ana\.json"):
        ana.DirDataLayer(tree)
    assert os.lstat(tree / "ana.json") == before


# Leftovers


@pytest.mark.leaves_temporaries("a writer that died left them")
def test_temporaries_are_not_states(tree):
    """What a dead writer left, whole or half, is neither found, nor in the way, nor removed by readers."""
    uuid = _stored(tree)
    path = raw_tree.path_of(tree, uuid)
    whole = path.read_bytes()
    leftovers = [path.with_name(f".tmp-node7-{number}-00000000000000ff") for number in range(2)]
    leftovers[0].write_bytes(whole)
    leftovers[1].write_bytes(whole[:50])
    path.unlink()
    with pytest.raises(ana.StateNotFoundError):
        _load(tree, uuid)
    assert _stored(tree) == uuid
    assert _load(tree, uuid) == "state"
    assert [leftover.read_bytes() for leftover in leftovers] == [whole, whole[:50]]


def test_what_was_set_aside_is_not_a_state(tree):
    """A damaged file keeps its bytes under a name of its own, and is never loaded."""
    uuid = _stored(tree)
    path = raw_tree.path_of(tree, uuid)
    damaged = path.read_bytes()[:-1] + b"\0"
    path.write_bytes(damaged)
    with ana.using_dl(pickle_dir=tree):
        Part("state").ana_store()
    (aside,) = raw_tree.strangers(tree)
    assert (tree / aside).name.startswith(".bad-")
    assert (tree / aside).read_bytes() == damaged
    assert _load(tree, uuid) == "state"


def test_who_has_seen_damage_does_not_take_it_for_stored(tree):
    """After a failed load in this process, any storing of the same state heals it, with no extra request."""
    with ana.using_dl(pickle_dir=tree) as layer:
        layer.store_state(KEY, "state")
        path = raw_tree.path_of(tree, KEY)
        path.write_bytes(path.read_bytes()[:-1] + b"\0")
        with pytest.raises(ana.CorruptedStateError):
            layer.load_state(KEY)
        layer.store_state(KEY, "state")
        assert layer.load_state(KEY) == "state"
    assert raw_record.read(path.read_bytes())[0].key == KEY


def test_an_empty_file_is_no_state(tree):
    """What a power cut leaves of somebody's file, no bytes, is written again without being asked."""
    with ana.using_dl(pickle_dir=tree) as layer:
        layer.store_state(KEY, "state")
        path = raw_tree.path_of(tree, KEY)
        path.write_bytes(b"")
        layer.store_state(KEY, "state")
        assert layer.load_state(KEY) == "state"
    assert len(raw_tree.strangers(tree)) == 1


def test_a_store_whose_config_was_purged_is_still_one(tmp_path):
    """Scratch filesystems remove the oldest file first: readers and maintenance find the states, and write nothing."""
    ana.set_dl(pickle_dir=tmp_path / "tree")
    part = Part("state")
    uuid, reference = part.make_uuid(), pickle.dumps(part)
    del part
    (tmp_path / "tree" / "ana.json").unlink()
    ana.set_dl()
    ana.layers.resolve._met.clear()
    assert pickle.loads(reference).value == "state"
    assert raw_tree.states(tmp_path / "tree")
    assert maintenance.verify(tmp_path / "tree").problems == []
    assert not (tmp_path / "tree" / "ana.json").exists()
    assert uuid
    (tmp_path / "empty").mkdir()
    with pytest.raises(ana.StoreError, match="no ANA store"):
        maintenance.verify(tmp_path / "empty")
    assert not list((tmp_path / "empty").iterdir())


@pytest.mark.parametrize("text", [b"", b"\n", bytes(60), b'{"format": 1, "lev'])
def test_a_damaged_configuration_has_a_cure_that_works(tree, text):
    """Emptied or cut short: not by a newer version, and removing it makes the store whole again."""
    uuid = _stored(tree)
    (tree / "ana.json").write_bytes(text)
    with pytest.raises(ana.UnsupportedFormatError, match=r"ana\.json.*damaged.*remove it") as caught:
        ana.DirDataLayer(tree)
    assert "newer" not in str(caught.value)
    (tree / "ana.json").unlink()
    assert _load(tree, uuid) == "state"
