"""What the process may use: quotas and limits of cgroups, on all levels, of both versions."""

import pytest

from ana.runtime import cgroups


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.cfs_quota_us": "50000\n", "cpu.cfs_period_us": "100000\n"}, 0.5),
        ({"cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu.max": "nonsense"}, None),
        ({}, None),
    ],
)
def test_a_cgroups_quota(tmp_path, files, expected):
    """Of version 2 and 1; no limit, or none that can be read, is none."""
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert cgroups._quota(str(tmp_path)) == expected


def test_the_least_quota_of_all_levels_counts(monkeypatch, tmp_path):
    """A group above may grant less than the process's own; a part of a CPU is a thread."""
    (tmp_path / "job" / "step").mkdir(parents=True)
    (tmp_path / "job" / "cpu.max").write_text("130000 100000\n")
    (tmp_path / "job" / "step" / "cpu.max").write_text("800000 100000\n")
    (tmp_path / "cgroup").write_text("0::/job/step\n")
    monkeypatch.setattr(cgroups, "_CGROUP", str(tmp_path / "cgroup"))
    monkeypatch.setattr(cgroups, "_CGROUP_ROOT", str(tmp_path))
    cgroups._cpus.cache_clear()
    try:
        assert cgroups._cpus(0) == 2
    finally:
        cgroups._cpus.cache_clear()


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"memory.max": "1048576\n"}, 1 << 20),
        ({"memory.max": "max\n"}, None),
        ({"memory.limit_in_bytes": "2097152\n"}, 2 << 20),
        ({"memory.limit_in_bytes": "9223372036854771712\n"}, None),
        ({"memory.max": "nonsense"}, None),
        ({}, None),
    ],
)
def test_a_cgroups_memory(tmp_path, files, expected):
    """Of version 2 and 1; no limit, one beyond the machine's memory, or none that can be read, is none."""
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert cgroups._limit_bytes(str(tmp_path)) == expected


def test_the_least_memory_of_all_levels_counts(monkeypatch, tmp_path):
    """A job's limit holds for its steps; without any, it is the machine's memory."""
    (tmp_path / "job" / "step").mkdir(parents=True)
    (tmp_path / "cgroup").write_text("0::/job/step\n")
    monkeypatch.setattr(cgroups, "_CGROUP", str(tmp_path / "cgroup"))
    monkeypatch.setattr(cgroups, "_CGROUP_ROOT", str(tmp_path))
    cgroups._memory_bytes.cache_clear()
    try:
        assert cgroups._memory_bytes(0) == cgroups._machine_bytes() > 1 << 28
        (tmp_path / "job" / "memory.max").write_text("300000000\n")
        (tmp_path / "job" / "step" / "memory.max").write_text("500000000\n")
        assert cgroups._memory_bytes(1) == 300_000_000
    finally:
        cgroups._memory_bytes.cache_clear()
