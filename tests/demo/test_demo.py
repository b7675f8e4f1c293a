"""The demonstration's measurements, taken by its Python interface at a tiny size."""

import contextlib
import dataclasses
import multiprocessing
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import pytest

import ana
from ana import demo
from ana.demo import workers

SIZE_BYTES = 2_000_000
SETTINGS = demo.Settings(size_bytes=SIZE_BYTES, tasks=6, workers=2)


@pytest.fixture(scope="module")
def result(tmp_path_factory) -> demo.DemoResult:
    """One run, for the tests that only look at its figures."""
    return demo.run(dataclasses.replace(SETTINGS, folder=tmp_path_factory.mktemp("demo")))


def test_all_checks_pass(result):
    """On a healthy store every promise that the demonstration checks is kept."""
    assert [check.name for check in result.checks if not check.passed] == []
    assert len(result.checks) == 8
    assert result.passed


def test_by_value_every_task_carries_the_object(result):
    """The pipe's figure is what travelled: the object in each task, and once back."""
    value = result.by_value
    assert SETTINGS.tasks * result.object_bytes < value.sent_bytes < SETTINGS.tasks * result.object_bytes * 1.2
    assert result.object_bytes < value.received_bytes < result.object_bytes * 1.2
    assert value.disk_bytes == 0
    assert value.store_seconds < value.wall_seconds


def test_by_value_every_task_makes_a_copy(result):
    """Each task unpickles one, and so does the parent for the one that comes back; no two are the same."""
    value = result.by_value
    assert value.copies == SETTINGS.tasks + 1
    assert value.same_object_tasks == 0
    assert value.later_tasks == SETTINGS.tasks - value.workers
    assert not value.original_came_back


def test_by_reference_each_worker_loads_once(result):
    """Copies are counted per worker, not per task, and the original comes back as itself."""
    reference = result.by_reference
    assert 1 <= reference.workers <= SETTINGS.workers
    assert reference.copies == reference.workers
    assert reference.same_object_tasks == reference.later_tasks == SETTINGS.tasks - reference.workers
    assert reference.original_came_back


def test_by_reference_only_references_travel(result):
    """A task costs a few hundred bytes, whatever the object's size; the object is on disk instead."""
    reference = result.by_reference
    assert reference.sent_bytes < SETTINGS.tasks * 1000
    assert reference.received_bytes < SETTINGS.tasks * 1000
    assert 0 < reference.disk_bytes < result.object_bytes * 1.1


def test_tasks_compute_the_same_both_ways(result):
    """The object that a reference loads gives the results that a copy gives."""
    assert result.by_value.heats == result.by_reference.heats
    assert len(set(result.by_value.heats)) == SETTINGS.tasks


def test_an_equal_object_writes_nothing(result):
    """Storing it again finds the UUID in the store, and no file changes."""
    again = result.stored_again
    assert again.same_uuid
    assert again.files_before >= 2  # ana.json and the state
    assert again.files_changed == 0


def test_a_flipped_byte_is_caught_and_healed(result):
    """The error is the typed one, names UUID and path, and storing the object again mends the file."""
    flipped = result.flipped_byte
    assert flipped.error == "CorruptedStateError"
    assert result.uuid in flipped.message
    assert str(result.pickle_dir) in flipped.message
    assert flipped.names_uuid
    assert flipped.names_path
    assert 0 < flipped.offset < result.by_reference.disk_bytes
    assert flipped.healed


@pytest.mark.parametrize(
    ("check", "part", "figure", "broken"),
    [
        ("pipe", "by_reference", "sent_bytes", SIZE_BYTES),
        ("pipe", "by_reference", "received_bytes", SIZE_BYTES),
        ("results", "by_value", "heats", (0.0,)),
        ("copies", "by_reference", "copies", SETTINGS.tasks),
        ("identity_in_worker", "by_reference", "same_object_tasks", 0),
        ("identity_of_result", "by_reference", "original_came_back", False),
        ("stored_again", "stored_again", "files_changed", 1),
        ("stored_again", "stored_again", "files_before", 0),
        ("stored_again", "stored_again", "same_uuid", False),
        ("damage_caught", "flipped_byte", "error", ""),
        ("damage_caught", "flipped_byte", "error", "StateNotFoundError"),
        ("damage_caught", "flipped_byte", "names_path", False),
        ("damage_caught", "flipped_byte", "names_uuid", False),
        ("damage_healed", "flipped_byte", "healed", False),
    ],
)
def test_each_check_fails_on_its_figure(result, check, part, figure, broken):
    """A figure that breaks its promise fails exactly the check of that name, and the whole run."""
    measured = dataclasses.replace(getattr(result, part), **{figure: broken})
    altered = dataclasses.replace(result, **{part: measured})
    assert [found.name for found in altered.checks if not found.passed] == [check]
    assert not altered.passed


@pytest.mark.slow
def test_nothing_is_left_unless_kept(tmp_path):
    """The temporary folder goes, or stays with a store in it that still loads."""
    demo.run(dataclasses.replace(SETTINGS, tasks=1, workers=1, folder=tmp_path))
    assert list(tmp_path.iterdir()) == []
    kept = demo.run(dataclasses.replace(SETTINGS, tasks=1, workers=1, folder=tmp_path, keep=True))
    with ana.using_dl(pickle_dir=kept.pickle_dir):
        assert demo.Mesh.ana_load(kept.uuid).point_count == kept.points


def test_the_caller_s_layer_is_not_touched(tmp_path):
    """The demonstration stores in its own folder, whatever layer and variable the program has."""
    layer = ana.set_dl(pickle_dir=tmp_path / "mine")
    demo.run(dataclasses.replace(SETTINGS, tasks=1, workers=1, folder=tmp_path))
    assert ana.get_dl() is layer
    assert list(tmp_path.rglob("*.pkl.zst")) == []


def test_a_store_in_the_environment_is_not_touched(tmp_path, monkeypatch):
    """With ANA_PICKLE_DIR set, nothing is written there, by workers either, and the figures are the same."""
    monkeypatch.setenv("ANA_PICKLE_DIR", str(tmp_path / "mine"))
    result = demo.run(dataclasses.replace(SETTINGS, folder=tmp_path))
    assert result.passed
    assert list(tmp_path.rglob("*.pkl.zst")) == []


def test_progress_tells_each_step(tmp_path):
    """The steps that are told add up to the tasks both ways and the two experiments."""
    told: list[tuple[str, int]] = []
    demo.run(dataclasses.replace(SETTINGS, folder=tmp_path), lambda what, done: told.append((what, done)))
    assert sum(done for _, done in told) == 2 * SETTINGS.tasks + 2
    assert all(what for what, _ in told)


def test_equal_sizes_give_equal_meshes():
    """Two meshes of one size are equal and pickle to the same bytes; another size, another mesh."""
    one, other = demo.build_mesh(SIZE_BYTES), demo.build_mesh(SIZE_BYTES)
    assert one._ana_getstate() == other._ana_getstate()
    assert pickle.dumps(one, protocol=5) == pickle.dumps(other, protocol=5)
    assert demo.build_mesh(SIZE_BYTES * 2)._ana_getstate() != one._ana_getstate()


def test_every_process_computes_the_same_uuid():
    """The mesh's address does not depend on the process: not on its hash seed, for one."""
    code = f"from ana import demo; print(demo.build_mesh({SIZE_BYTES}).make_uuid())"
    uuids = set()
    for seed in ("1", "2"):
        environment = {
            **os.environ,
            "PYTHONHASHSEED": seed,
            "PYTHONPATH": os.fspath(Path(ana.__file__).parents[1]),
        }
        command = [sys.executable, "-c", code]
        uuids.add(subprocess.run(command, env=environment, check=True, capture_output=True).stdout)
    assert len(uuids) == 1


def test_the_mesh_is_what_it_says():
    """About the size asked for; regions cover all cells, their materials exist, fields lie in [1, 2)."""
    mesh = demo.build_mesh(SIZE_BYTES)
    assert abs(sum(len(array.data) for array in mesh.arrays.values()) - SIZE_BYTES) < SIZE_BYTES / 10
    assert sum(region.cell_count for region in mesh.regions.values()) == mesh.point_count
    assert {region.material for region in mesh.regions.values()} <= set(mesh.materials)
    assert {len(array.values) for array in mesh.arrays.values()} == {mesh.point_count}
    assert all(1 <= value < 2 for value in mesh.arrays["temperature"].values)
    corners = [mesh.arrays[f"corner_{number}"].values[0] for number in range(8)]
    assert len(set(corners)) == 8


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_arrays_pickle_with_every_protocol(protocol):
    """An array survives pickling in band, and with protocol 5 out of band without a copy."""
    array = demo.Array(bytes(range(16)) * 1000, "i")
    assert pickle.loads(pickle.dumps(array, protocol)) == array
    if protocol == 5:
        buffers: list[pickle.PickleBuffer] = []
        stream = pickle.dumps(array, protocol, buffer_callback=buffers.append)
        assert len(stream) < 200
        assert [len(buffer.raw()) for buffer in buffers] == [len(array.data)]
        assert pickle.loads(stream, buffers=[array.data]).data is array.data


def test_the_meter_counts_what_travels():
    """Sent and received bytes are those of the messages, to the byte, for a message of a known size."""
    meter = workers.PipeMeter()
    with workers.pool(1) as executor, meter.counting():
        assert executor.submit(len, b"").result() == 0
        empty_sent, empty_received = meter.sent_bytes, meter.received_bytes
        payload = b"x" * 100_000
        assert executor.submit(bytes, payload).result() == payload
    assert 0 <= meter.sent_bytes - 2 * empty_sent - len(payload) < 50
    assert 0 <= meter.received_bytes - 2 * empty_received - len(payload) < 50


def test_the_pool_starts_all_its_workers():
    """When the pool is handed out, every process is up, so that the clock does not measure their start."""
    before = set(multiprocessing.active_children())
    with workers.pool(3):
        assert len(set(multiprocessing.active_children()) - before) == 3
    assert set(multiprocessing.active_children()) == before


def test_an_exception_kills_the_workers():
    """Leaving the pool with an exception does not wait for what runs in it."""
    with contextlib.suppress(KeyboardInterrupt), workers.pool(2) as executor:
        executor.submit(time.sleep, 600)
        raise KeyboardInterrupt
    assert multiprocessing.active_children() == []
