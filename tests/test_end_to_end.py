"""What is published hashes to its address, and what loads does: whatever changes, flips or was planted in between."""

import pickle
import threading

import numpy as np
import pytest
from support import classes, raw_record, raw_tree
from support.care import ran
from support.node import Node

import ana
from ana import maintenance
from ana.format import chunks, codec, record

KIB, MIB = 1 << 10, 1 << 20
MANY = 4 * MIB + 300 * KIB
"""A buffer of two chunks, behind that of the pickle stream."""
STORES = ["directory", "directory with a node cache", "keyed directory", "dict", "mapping", "methods"]


class _Mapping(dict):
    """A mapping that is no plain dict, as one over a network."""


class _Methods(ana.DataLayer):
    """An old program's backend."""

    states: dict[str, bytes]

    def store_state(self, uuid, state):
        """Keep a state."""
        self.states[uuid] = pickle.dumps(state, 5)

    def load_state(self, uuid):
        """Give it back."""
        return pickle.loads(self.states[uuid])


class _Store:
    """One store, and new layers over it, as other processes have them."""

    def __init__(self, kind, folder):
        self.kind = kind
        self.tree = folder / "tree" if "directory" in kind else None
        self.cache = folder / "cache"
        self.mapping = _Mapping() if kind == "mapping" else {}

    def layer(self):
        if self.kind == "methods":
            made = _Methods()
            made.states = self.mapping
            return made
        if self.tree is None:
            return ana.DictDataLayer(self.mapping)
        options = {"node_cache": self.cache} if "cache" in self.kind else {}
        key = {"key": bytes(range(32))} if "keyed" in self.kind else {}
        return ana.DirDataLayer(self.tree, durable=False, **options, **key)

    def load(self, uuid):
        with ana.using_dl(self.layer()):
            return ana.Ref.ana_load(uuid).value

    def holds(self):
        """What is stored, and what is left of what was not."""
        if self.tree is None:
            return sorted(self.mapping)
        return raw_tree.states(self.tree) + raw_tree.strangers(self.tree)


@pytest.fixture(params=STORES)
def store(request, tmp_path):
    """A store of each kind."""
    return _Store(request.param, tmp_path)


def _noise(size):
    return np.frombuffer(np.random.default_rng(size).bytes(size), "u1").copy()


def _text(size):
    return np.resize(np.frombuffer(b"compressible, and not too much: " * 8, "u1"), size).copy()


def _mapped(size, folder):
    path = folder / "mapped"
    path.write_bytes(_noise(size).tobytes())
    return np.asarray(np.memmap(path, "u1", "r+"))


def _read_only(buffer):
    view = buffer[:]
    view.flags.writeable = False
    return view


BUFFERS = {
    "noise in one chunk": lambda _: _noise(MIB),
    "noise in three chunks": lambda _: _noise(MANY),
    "text in one chunk": lambda _: _text(MIB),
    "text in three chunks": lambda _: _text(MANY),
    "a small last chunk": lambda _: _noise(4 * MIB + 100),
    "small noise": lambda _: _noise(20 * KIB),
    "small text": lambda _: _text(20 * KIB),
    "a memory map": lambda folder: _mapped(5 * MIB, folder),
    "a bytearray": lambda _: bytearray(_noise(MIB)),
    "a bytearray within": lambda _: classes.ZeroCopy(_text(MIB)),
}


def _hook(monkeypatch, module, name, *, before=lambda: None, after=lambda: None):
    real = getattr(module, name)

    def hooked(*arguments, **options):
        before()
        try:
            return real(*arguments, **options)
        finally:
            after()

    monkeypatch.setattr(module, name, hooked)


MOMENTS = {
    "before the first pass": (record, "content", "before"),
    "between the passes": (record, "content", "after"),
    "before a chunk is made": (chunks, "encode", "before"),
    "after the sample": (chunks, "_compressible", "after"),
    "after the compression": (chunks, "_compress", "after"),
    "after a chunk was made": (chunks, "encode", "after"),
}


@pytest.mark.parametrize("store", ["directory", "dict"], indirect=True)
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("kind", BUFFERS)
def test_a_buffer_that_changes_is_stored_as_it_was_or_not_at_all(store, tmp_path, monkeypatch, kind, moment):
    """Whenever a buffer changes: nothing is acknowledged or left, or what is stored is what its address says."""
    buffer = BUFFERS[kind](tmp_path)
    view = np.frombuffer(buffer, "u1")
    value = {"it": _read_only(buffer) if kind == "a memory map" else buffer, "other": 1}
    contents = {view.tobytes()}

    def change():
        view[-1] ^= 1
        contents.add(view.tobytes())

    module, name, when = MOMENTS[moment]
    with ana.using_dl(store.layer()):
        ref = ana.Ref(value)
        with monkeypatch.context() as patch:
            _hook(patch, module, name, **{when: change})
            try:
                uuid = ref.make_uuid()
            except ana.StateChangedError:
                uuid = None
        if uuid is None:
            assert ref.uuid is None
            assert store.holds() == []
            # Now it stays as it is.
            uuid = ref.make_uuid()
    loaded = bytes(store.load(uuid)["it"])
    assert loaded in contents
    view[:] = np.frombuffer(loaded, "u1")
    with ana.using_dl(store.layer()):
        assert ana.Ref(value).make_uuid() == uuid


@pytest.mark.parametrize(
    "kind", ["noise in three chunks", "text in three chunks", "a small last chunk", "a memory map"]
)
def test_a_large_buffer_that_changed_after_it_was_hashed_is_refused(store, tmp_path, monkeypatch, kind):
    """The error names UUID and class, says what to do, and survives pickling; also of bare and named states."""
    monkeypatch.setattr(record, "COPIED_BYTES", 0)
    buffer = BUFFERS[kind](tmp_path)

    def change():
        buffer[-1] ^= 1

    with ana.using_dl(store.layer()) as layer:
        named = ana.Ref(buffer)
        named.make_uuid("named")
        _hook(monkeypatch, record, "content", after=change)
        with pytest.raises(ana.StateChangedError, match="store a copy") as caught:
            ana.Ref(buffer).make_uuid()
        assert pickle.loads(pickle.dumps(caught.value)).uuid == caught.value.uuid
        for attempt in (named.ana_store, lambda: pickle.dumps(named)):
            with pytest.raises(ana.StateChangedError, match="named"):
                attempt()
        if store.kind != "methods":
            with pytest.raises(ana.StateChangedError, match="bare"):
                layer.store_state("bare", buffer)
    assert store.holds() == []


@pytest.mark.parametrize("given", [None, "named"])
def test_what_changed_once_is_stored_as_it_is_then(store, monkeypatch, given):
    """It is pickled once more: an object without a UUID gets the address of what it is now."""
    monkeypatch.setattr(record, "COPIED_BYTES", 0)
    buffer, changes = _noise(MANY), [1]

    def change():
        buffer[-1] ^= changes.pop() if changes else 0

    _hook(monkeypatch, record, "content", after=change)
    with ana.using_dl(store.layer()):
        ref = ana.Ref(buffer)
        ref.make_uuid(given)
        uuid = ref.ana_store()
        assert uuid == given or ana.Ref(buffer.copy()).make_uuid() == uuid
    assert np.array_equal(store.load(uuid), buffer)
    assert len(store.holds()) == 1


def test_a_thread_that_goes_on_writing(tmp_path):
    """No state that a busy thread's buffer gave is wrong, whichever moment it was taken at."""
    buffer, stop = _text(6 * MIB), threading.Event()

    def work():
        while not stop.is_set():
            buffer[::4096] += 1

    thread = threading.Thread(target=work)
    thread.start()
    store = _Store("directory", tmp_path)
    try:
        with ana.using_dl(store.layer()):
            uuids = []
            for _ in range(5):
                try:
                    uuids.append(ana.Ref(buffer).make_uuid())
                except ana.StateChangedError:
                    continue
    finally:
        stop.set()
        thread.join()
    for uuid in uuids:
        store.load(uuid)
    assert not maintenance.verify(store.tree).problems


def test_of_many_only_the_one_that_changes_is_not_stored(store, monkeypatch):
    """`store_many` stores the others, and says which one it was."""
    refs = [ana.Ref(_noise(MIB + number)) for number in range(3)]
    real = record.write

    def write(sink, key, state, *arguments, **options):
        if state.raw_bytes > MIB + len(pickle.dumps(0)) and state.views[-1].nbytes == MIB + 1:
            refs[1].value[0] ^= 1
        return real(sink, key, state, *arguments, **options)

    monkeypatch.setattr(record, "write", write)
    with ana.using_dl(store.layer()) as layer:
        with pytest.raises(ana.StateChangedError) as caught:
            layer.store_many(refs)
        assert any("object 1 of 3" in note for note in caught.value.__notes__)
        assert [ref.uuid is None for ref in refs] == [False, True, False]
        assert len(store.holds()) == 2


# Faults of the host


@pytest.fixture
def faulty(monkeypatch):
    """Make zstd flip a bit of larger content, in what it compresses or gives back, so many times."""

    def plant(name, times=1000):
        real, turns = getattr(codec, name), [None] * times

        def flipped(data):
            if len(data) < 10 * KIB or not turns:
                return data
            turns.pop()
            wrong = bytearray(data)
            wrong[len(wrong) // 2] ^= 1
            return bytes(wrong)

        def call(data, number):
            return real(flipped(data), number) if name == "compress" else flipped(real(data, number))

        monkeypatch.setattr(codec, name, call)

    return plant


SIZES = [20 * KIB, MIB, MANY]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["compress", "decompress"])
def test_what_zstd_gets_wrong_is_stored_uncompressed(store, faulty, caplog, name, size):
    """A frame that does not give back what was hashed is never published; the log says so."""
    faulty(name)
    with ana.using_dl(store.layer()):
        uuid = ana.Ref(_text(size)).make_uuid()
    assert "a compressed chunk" in caplog.text
    assert np.array_equal(store.load(uuid), _text(size))


@pytest.mark.parametrize("size", SIZES)
def test_a_decoder_that_flips_gives_no_wrong_data(store, faulty, size):
    """What does not hash to its address is damaged, whatever the frame's digest says; the node cache has none of it."""
    with ana.using_dl(store.layer()):
        uuid = ana.Ref(_text(size)).make_uuid()
    if store.kind == "methods":
        return
    faulty("decompress")
    with pytest.raises(ana.CorruptedStateError, match="content"):
        store.load(uuid)
    assert not store.layer().store.is_whole(uuid)
    assert not store.cache.exists() or not [path for path in store.cache.rglob("*") if path.suffix == ".zst"]


@pytest.mark.parametrize("size", SIZES)
def test_a_decoder_that_flips_once_is_asked_again(faulty, tmp_path, size):
    """A folder's state is read a second time."""
    store = _Store("directory", tmp_path)
    with ana.using_dl(store.layer()):
        uuid = ana.Ref(_text(size)).make_uuid()
    faulty("decompress", times=1)
    with ana.using_dl(ana.DirDataLayer(store.tree)):
        assert np.array_equal(ana.Ref.ana_load(uuid).value, _text(size))


# What was published wrong by other versions


def _wrong_content(part, segments):
    """Keep the header's content digest, and change the content beneath."""
    return _rebuilt(part, [*segments[:-1], segments[-1][:-1] + bytes([segments[-1][-1] ^ 1])], part.content)


def _another_state(part, segments):
    """Put another state, right in itself, under the address."""
    segments = [*segments[:-1], segments[-1][:-1] + bytes([segments[-1][-1] ^ 1])]
    return _rebuilt(part, segments, None)


def _rebuilt(part, segments, content):
    data, pieces = b"".join(segments), record.plan([len(segment) for segment in segments])
    cut = [data[at : at + size] for at, size in pieces]
    made = tuple(
        raw_record.zstd_chunk(piece) if chunk.method == raw_record.ZSTD else raw_record.raw_chunk(piece)
        for chunk, piece in zip(part.chunks, cut, strict=True)
    )
    right = raw_record.content_digest(part.class_name, segments, cut, part.bytes_segments)
    return raw_record.Record(
        part.key,
        part.class_name,
        part.children,
        part.segments,
        made,
        content=content or right,
        bytes_segments=part.bytes_segments,
    )


POISONED = {
    "small noise": _noise(2 * KIB),
    "small text": _text(20 * KIB),
    "noise": _noise(MANY),
    "text": _text(MANY),
    "bytes": bytes(_noise(MIB)),
}


@pytest.fixture(params=[_wrong_content, _another_state], ids=["wrong content", "another state"])
def poison(request):
    """Replace a record by one whose every digest is right but one."""

    def apply(tree, uuid):
        path = raw_tree.path_of(tree, uuid)
        path.write_bytes(raw_record.write(request.param(*raw_record.read(path.read_bytes()))))

    return apply


@pytest.mark.parametrize("kind", POISONED)
@pytest.mark.parametrize("where", ["directory", "directory with a node cache", "mapping"])
def test_what_was_published_under_a_wrong_address_heals(tmp_path, poison, where, kind):
    """It is never loaded, it counts as damaged, and who has the true object puts it right."""
    store, value = _Store(where, tmp_path), POISONED[kind]
    with ana.using_dl(store.layer()):
        uuid = ana.Ref(value).make_uuid()
    if store.tree is None:
        raw_tree.put(tmp_path, uuid, store.mapping[uuid])
        poison(tmp_path, uuid)
        store.mapping[uuid] = raw_tree.path_of(tmp_path, uuid).read_bytes()
    else:
        poison(store.tree, uuid)
    with pytest.raises(ana.CorruptedStateError, match="content"):
        store.load(uuid)
    if store.tree is not None:
        (wrong,) = maintenance.verify(store.tree).problems
        assert (wrong.uuid, wrong.kind) == (uuid, "damaged")
    with ana.using_dl(store.layer()):
        assert ana.Ref(value).ana_store() == uuid
    assert bytes(store.load(uuid)) == bytes(value)


def test_maintenance_takes_it_for_damaged(tmp_path, poison, capfd):
    """`verify --set-aside` and `--repair-from`, `export` and `import` all look at the content."""
    trees = [tmp_path / name for name in ("good", "bad", "new")]
    for tree in trees:
        with ana.using_dl(ana.DirDataLayer(tree, durable=False)):
            uuid = ana.Ref(_text(5 * MIB)).make_uuid()
    good, bad, new = trees
    raw_tree.path_of(new, uuid).unlink()
    poison(bad, uuid)
    assert ran(capfd, "-d", bad, "export", uuid, "-o", tmp_path / "out").code != 0
    assert not (tmp_path / "out").exists()
    exported = tmp_path / "exported"
    assert ran(capfd, "-d", good, "export", uuid, "-o", exported).code == 0
    record_bytes = raw_tree.path_of(good, uuid).read_bytes()
    poisoned = raw_tree.path_of(bad, uuid).read_bytes()
    if len(poisoned) == len(record_bytes):
        exported.write_bytes(exported.read_bytes().replace(record_bytes, poisoned))
        assert ran(capfd, "-d", new, "import", exported).code != 0
        assert raw_tree.states(new) == []
    assert maintenance.verify(bad, repair_from=good).repaired == [uuid]
    poison(bad, uuid)
    assert len(maintenance.verify(bad, set_aside=True).set_aside) == 1
    assert raw_tree.states(bad) == []


# Objects that change


def test_an_object_that_changed_is_not_stored_under_its_old_address(tmp_path):
    """In a second store its UUID stands for what it was: that is taken from the first, or nothing is stored."""
    with ana.using_dl(ana.DirDataLayer(tmp_path / "first", durable=False)) as first:
        obj = classes.A([1])
        uuid = obj.make_uuid()
        obj.x.append(2)
        with ana.using_dl(ana.DirDataLayer(tmp_path / "second", durable=False)):
            obj.ana_store()
        assert first.store.is_whole(uuid)
    with ana.using_dl(ana.DirDataLayer(tmp_path / "second")):
        assert classes.A.ana_load(uuid).x == [1]
    raw_tree.path_of(tmp_path / "first", uuid).unlink()
    raw_tree.path_of(tmp_path / "second", uuid).unlink()
    third = ana.DirDataLayer(tmp_path / "third", durable=False)
    with ana.using_dl(third), pytest.raises(ana.StateChangedError, match=uuid):
        pickle.dumps(obj)
    assert raw_tree.states(tmp_path / "third") == []


def test_what_the_node_cache_made_read_only_keeps_its_address(tmp_path):
    """Read-only arrays pickle into other bytes: another store gets the state as it was."""
    node = Node(tmp_path)
    uuid = node.store(_noise(MIB))
    with ana.using_dl(node.layer()):
        ref = ana.Ref.ana_load(uuid)
        assert not ref.value.flags.writeable
        with ana.using_dl(ana.DirDataLayer(tmp_path / "other", durable=False)):
            pickle.dumps(ref)
    with ana.using_dl(ana.DirDataLayer(tmp_path / "other")):
        assert np.array_equal(ana.Ref.ana_load(uuid).value, _noise(MIB))


def test_what_an_object_holds_may_get_a_uuid_later(tmp_path):
    """It was part of the state that was stored, and is when that is stored again."""
    with ana.using_dl(ana.DirDataLayer(tmp_path / "store", durable=False)):
        child = classes.A("child")
        top = classes.Node(1, child)
        uuid = top.make_uuid()
        child.make_uuid()
        raw_tree.path_of(tmp_path / "store", uuid).unlink()
        assert top.ana_store() == uuid
    with ana.using_dl(ana.DirDataLayer(tmp_path / "store")):
        assert classes.Node.ana_load(uuid).after.x == "child"
