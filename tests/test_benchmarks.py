"""The benchmarks run, each part at a tiny size, and give figures that a document can be made of. Never how fast."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import extras, wheels
from test_nfs_lab import needs_lab

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parent.parent
STATES = ("1 kB dict", "1 kB Python floats", "float64 noise", "text records", "int64 < 1000")
LMDB = {"LMDB"} if "lmdb" not in wheels.left_out() else set()
PEERS = {
    "pickle file",
    "ANA",
    "original ANA",
    "joblib",
    "diskcache",
    "ProxyStore file",
    "shelve",
    *LMDB,
}
LIBRARIES = "diskcache", "joblib", "proxystore"
WAYS = {"by value", "joblib file, mapped", "joblib.Parallel, its own pool", "ProxyStore file", "ANA"}
SIGNED = re.compile("MiB|round trips")
"""Columns that may be zero or less: memory beyond an object's own, where pages come and go; calls to a server."""


def benchmarks(*words):
    """Run the command line in a process of its own, as people do; returns its standard output."""
    command = [sys.executable, "-m", "benchmarks", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_part(part, folder, *words):
    """Run one part at its smallest; returns its tables by name, after checks that hold for all parts."""
    path = folder / f"{part}.json"
    printed = benchmarks(part, "--size", "tiny", "--rounds", 1, "--folder", folder, "--json", path, *words)
    assert [entry.name for entry in folder.iterdir()] == [path.name]
    (result,) = json.loads(path.read_text("utf-8"))
    assert result["part"] == part
    assert {"CPU", "kernel", "filesystem", "Python", "libraries"} <= set(result["machine"])
    assert "--size" in result["command"]
    assert result["command"] in printed
    tables = {table["name"]: table for table in result["tables"]}
    check_markdown(printed, tables)
    for table in tables.values():
        check_figures(table)
    return {name: table["rows"] for name, table in tables.items()}


def check_figures(table):
    """Each table has rows, and each figure is a positive number; shares of outcomes may be none."""
    assert table["rows"], table["name"]
    for row in table["rows"]:
        for column, value in row.items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            assert math.isfinite(value), (table["name"], column, value)
            assert value > 0 or table["name"] == "damage" or SIGNED.search(column), (table["name"], column, value)


def check_markdown(text, tables):
    """Each table is a rectangle below its title, with as many lines as it has rows."""
    blocks = re.findall(r"^\*\*(.+)\*\*\n\n((?:\|.*\n)+)", text, re.MULTILINE)
    found = {title: block.splitlines() for title, block in blocks}
    for table in tables.values():
        lines = found[table["title"]]
        assert len(lines) == 2 + len(table["rows"])
        assert len({line.count("|") for line in lines}) == 1
        assert re.fullmatch(r"\|( -+:? \|)+", lines[1])


def column(rows, name):
    """Return a column's values as a set."""
    return {row[name] for row in rows}


@pytest.mark.slow
def test_plain_has_all_workloads_and_targets(tmp_path):
    """Each state is stored and loaded next to a pickle file; each target is there with its verdict."""
    tables = run_part("plain", tmp_path, "--durable")
    assert set(tables) == {"plain", "durable", "disk", "others", "memory"}
    for state in STATES:
        rows = [row for row in tables["plain"] if state in row["state"]]
        assert {row["what"].split(",")[0] for row in rows} == {"store", "load"}
        assert all(row["target"].startswith("≤ ") and row["met"] in (True, False) for row in rows)
    assert {"store, new tree", "store, warm folders"} <= column(tables["plain"], "what")
    assert len(tables["others"]) == 4
    assert column(tables["memory"], "way") == {"ANA", "pickle file"}
    assert all("target" not in row for row in tables["durable"])


@pytest.mark.slow
def test_peers_are_all_there_and_ana_alone_notices_damage(tmp_path):
    """All peers are installed with the tests; a flipped byte never comes out of ANA as data."""
    extras.require(*LIBRARIES, extra="bench")
    tables = run_part("peers", tmp_path, "--durable")
    assert column(tables["peers"], "with") == column(tables["damage"], "with") == PEERS
    assert len(tables["peers"]) == 4 * len(PEERS)
    assert column(tables["peers-durable"], "with") == {"pickle file", "ANA", "diskcache", "shelve"} | LMDB
    (ours,) = (row for row in tables["damage"] if row["with"] == "ANA")
    assert ours["noticed"] == ours["flips"]
    (plain,) = (row for row in tables["damage"] if row["with"] == "pickle file")
    assert plain["came back wrong"]


@pytest.mark.slow
def test_tasks_are_done_in_each_way(tmp_path):
    """By value the array is in each task's pickle; by reference a task is small."""
    extras.require(*LIBRARIES, extra="bench")
    rows = run_part("tasks", tmp_path, "--tasks", "50")["tasks"]
    pipe = {row["way"]: row["bytes through the pipe per task"] for row in rows}
    assert set(pipe) == WAYS
    assert pipe["by value"] > 1 << 18
    assert pipe["ANA"] < 1000


@pytest.mark.slow
def test_objects_are_exchanged_in_each_way(tmp_path):
    """Objects of their own, and one for all; by reference next to nothing travels."""
    extras.require(*LIBRARIES, extra="bench")
    rows = run_part("exchange", tmp_path)["exchange"]
    assert [row["objects"] for row in rows] == ["each task its own", "one for all"]
    for row in rows:
        assert all(row[way] > 0 for way in ("by value", "pickle file", "ProxyStore file", "ANA", "ANA, durable=False"))
        assert row["ana.Executor"] > 0
        assert row["bytes, ANA"] < 3000
        assert row["bytes, ana.Executor"] < 3000
    assert rows[0]["bytes, by value"] > 600_000


@pytest.mark.slow
def test_growth_measures_each_decade_and_many_writers(tmp_path):
    """One row for each power of ten, one for each number of writers."""
    tables = run_part("growth", tmp_path)
    assert [row["states"] for row in tables["growth"]] == [100, 1000]
    for name in ("grown-files", "grown-packs"):
        (row,) = tables[name]
        assert row["states"] == 1000
        assert all(value > 0 for value in row.values())
    assert [row["writers"] for row in tables["writers"]] == [1, 2]


def test_many_states_are_stored_and_loaded_both_ways(tmp_path):
    """A part that is a program of its own gives a table like the others."""
    rows = run_part("many", tmp_path)["many"]
    assert {(row["operation"], row["waits for the disk"]) for row in rows} >= {("store", "yes"), ("load", "no")}


@pytest.mark.slow
def test_tier_has_all_ways_and_its_targets(tmp_path):
    """The second process has targets for time and memory; a crowd with a node cache reads the tree once."""
    tables = run_part("tier", tmp_path)
    assert set(tables) == {"tier", "tier-memory", "tier-crowd"}
    assert len(tables["tier"]) == 4
    for name in ("tier", "tier-memory"):
        (second,) = (row for row in tables[name] if row.get("target"))
        assert "second process" in second["way"]
        assert second["met"] in (True, False)
    without, tiered = (row["MiB read by all"] for row in tables["tier-crowd"])
    assert tiered == pytest.approx(without / tables["tier-crowd"][0]["processes"], rel=0.1)


@pytest.mark.slow
def test_packs_have_all_targets(tmp_path):
    """Each row has its target and a verdict; round trips are counted where the lab can run."""
    extras.require("disk_objectstore", extra="bench")
    tables = run_part("packs", tmp_path)
    counted = set() if needs_lab.args[0] else {"packs-nfs"}
    assert set(tables) == {"packs", "packs-files", "packs-large", "packs-writers", *counted}
    assert all(row["target"][0] in "≤≥" and row["met"] in (True, False) for rows in tables.values() for row in rows)
    assert column(tables["packs"], "other") == {"pickle file", "pickle file, fsync", "disk-objectstore"}
    assert [row["met"] for row in tables["packs-files"]] == [True]
    assert {"`has` of a content address", "memory of the index", "`ana ls`"} <= column(tables["packs-large"], "what")
    for row in tables.get("packs-nfs", ()):
        assert row["met"] or row["what"] not in {"store one, pack open", "cold load by reference: at random"}


@pytest.mark.slow
def test_parts_have_all_targets(tmp_path):
    """A sweep shares its array on the disk and in memory, whatever it takes on this machine."""
    tables = run_part("parts", tmp_path)
    assert set(tables) == {"parts", "parts-alone"}
    met = {row["what"]: row["met"] for row in tables["parts"] if "target" in row}
    assert len(met) == 7
    assert all(met[what] for what in met if not what.startswith("store all"))
    assert column(tables["parts-alone"], "what") == {"store", "load"}


@pytest.mark.slow
@needs_lab
def test_nfs_is_measured_in_the_lab(tmp_path):
    """The part boots the lab by itself, and counts more round trips for a new tree than for a file."""
    tables = run_part("nfs", tmp_path)
    assert set(tables) == {"wire", "latency"}
    assert column(tables["latency"], "network") == {"delay 0ms each way", "delay 1ms each way"}


def test_the_list_and_the_help_name_all_parts():
    """`list` and `--help` say what there is."""
    listed, helped = benchmarks("list"), benchmarks("--help")
    for part in ("plain", "sizes", "peers", "tasks", "exchange", "tier", "nfs", "packs", "parts", "growth", "many"):
        assert re.search(rf"^{part} ", listed, re.MULTILINE)
        assert re.search(rf"^  {part} ", helped, re.MULTILINE)


@pytest.mark.slow
def test_a_report_is_written_of_results(tmp_path):
    """The document has the tables, the missed targets, and charts that are there; so has the one of two files."""
    extras.require("matplotlib", extra="bench")
    path = tmp_path / "results" / "made_up.json"
    path.parent.mkdir()
    path.write_text(json.dumps(MADE_UP), encoding="utf-8")
    benchmarks("report", "--from", path, path, "--write", tmp_path / "docs.md", "--png", tmp_path / "png")
    text = (tmp_path / "docs.md").read_text("utf-8")
    charts = re.findall(r"^!\[.+\]\((charts/\w+\.svg)\)$", text, re.MULTILINE)
    assert charts == [
        f"charts/{name}.svg" for name in ("tasks", "wire", "latency", "growth", "writers", "plain", "peers")
    ]
    for chart in charts:
        assert (tmp_path / chart).read_text("utf-8").startswith("<?xml")
        assert (tmp_path / "png" / Path(chart).with_suffix(".png").name).stat().st_size
    assert "Of 2 targets, 1 is not met" in text
    assert "16 MB noise, load: 2, target ≤ 1.2" in text
    titles = re.findall("^## (.+)", benchmarks("report", "--from", path), re.MULTILINE)
    assert (len(titles), titles[0], titles[-1]) == (6, "One object for many tasks", "What is not met, and why")


@pytest.mark.slow
def test_a_part_replaces_its_own_section_of_a_document(tmp_path):
    """The other parts stay as they are, and the count of missed targets is that of all."""
    extras.require("matplotlib", extra="bench")
    path, document = tmp_path / "made_up.json", tmp_path / "docs.md"
    path.write_text(json.dumps(MADE_UP), encoding="utf-8")
    benchmarks("report", "--from", path, "--write", document)
    before = document.read_text("utf-8")
    benchmarks("report", "--from", path, "--update", document)
    assert document.read_text("utf-8") == before
    limit = {"what": "files", "value": 7, "target": "≤ 5", "met": False}
    path.write_text(json.dumps([made_up("packs", limits=[limit])]), encoding="utf-8")
    benchmarks("report", "--from", path, "--update", document)
    benchmarks("many", "--size", "tiny", "--folder", tmp_path, "--update", document)
    after = document.read_text("utf-8")
    assert "Of 3 targets, 2 are not met:\n\n- packs: files: 7, target ≤ 5\n- plain: 16 MB noise, load: 2" in after
    titles = re.findall("^## (.+)", before, re.MULTILINE)
    where = titles.index("Many states, many writers")
    titles[where:where] = ["Small states in packs", "Many states at once"]
    assert re.findall("^## (.+)", after, re.MULTILINE) == titles
    tables = set(re.findall(r"^\|.+", before, re.MULTILINE))
    assert tables <= set(re.findall(r"^\|.+", after, re.MULTILINE))


def made_up(part, **tables):
    """Make a result as a part would."""
    rows = [{"name": name, "title": f"The {name}", "rows": rows, "note": "."} for name, rows in tables.items()]
    return {"part": part, "size": "tiny", "tables": rows, "machine": {"CPU": "none"}, "command": "python"}


PLAIN = {"state": "16 MB noise", "ANA µs": 2.0, "other µs": 1.0}
NETWORK = {"network": "rate 1gbit", "what": "store"}
GROWTH = ("put µs", "get µs", "pickle file put µs", "pickle file get µs", "look-up µs", "listing µs per state")
MADE_UP = [
    made_up(
        "tasks", tasks=[{"way": "by value", "tasks": 2, "tasks/s": 3.0}, {"way": "ANA", "tasks": 2, "tasks/s": 90.0}]
    ),
    made_up(
        "plain",
        plain=[
            {**PLAIN, "what": "store", "ratio": 1.1, "target": "≤ 1.6", "met": True},
            {**PLAIN, "what": "load", "ratio": 2.0, "target": "≤ 1.2", "met": False},
        ],
    ),
    made_up("peers", peers=[{"state": "a", "with": name, "put µs": 3.0, "get µs": 2.0} for name in ("ANA", "LMDB")]),
    made_up(
        "nfs",
        wire=[{**NETWORK, "ANA s": 1.0, "pickle file s": 2.0}],
        latency=[{**NETWORK, "ANA ms": 1.0, "pickle file ms": 2.0}],
    ),
    made_up(
        "growth",
        growth=[{"states": states, **dict.fromkeys(GROWTH, 5.0)} for states in (10, 100)],
        writers=[{"writers": count, "own states/s": 9.0, "the same states/s": 8.0} for count in (1, 2)],
    ),
]
"""A result of each part, in no order."""
