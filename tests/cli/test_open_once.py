"""Commands open their store once: on a shared filesystem every look at `ana.json` is a round trip to its server."""

import pytest
from support.care import numbered, put, ran, store

from ana import maintenance
from ana.fs import files


@pytest.fixture
def opened(monkeypatch):
    """Count how often each file is opened."""
    paths = []
    open_file = files.open_file

    def counting(path, *arguments):
        paths.append(path)
        return open_file(path, *arguments)

    monkeypatch.setattr(files, "open_file", counting)
    return paths


COMMANDS = [
    ["info"],
    ["stats"],
    ["stats", "--exact"],
    ["ls"],
    ["show", numbered(1)],
    ["show", "--tree", numbered(1)],
    ["cat", numbered(1)],
    ["verify"],
    ["roots"],
    ["keep", "name", numbered(2)],
    ["extend", "name"],
    ["forget", "name"],
    ["why", numbered(1)],
    ["rm", numbered(2)],
    ["gc", "--unreachable", "--dry-run"],
    ["sweep"],
    ["export", numbered(1), "-o", "out.tar"],
    ["report", "-o", "page.html"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command_reads_ana_json_once(tmp_path, monkeypatch, capfd, opened, command):
    """Each command opens its store once, whatever it then does with it."""
    monkeypatch.chdir(tmp_path)
    tree = store(tmp_path / "tree")
    for number in (1, 2):
        put(tree, numbered(number))
    maintenance.keep(tree, "name", [numbered(1)])
    opened.clear()
    assert ran(capfd, "-q", "-d", tree, *command).code == 0
    assert opened.count(f"{tree}/ana.json") == 1


def test_the_first_root_is_noted_by_two_more_reads(tmp_path, capfd, opened):
    """`ana.json` says that there are roots: it is read before that is written and after it."""
    tree = store(tmp_path / "tree")
    put(tree, numbered(1))
    opened.clear()
    assert ran(capfd, "-q", "-d", tree, "keep", "name", numbered(1)).code == 0
    assert opened.count(f"{tree}/ana.json") == 3


def test_functions_take_an_open_store(tmp_path, opened):
    """Every function of `ana.maintenance` that looks at a store accepts one that is open already."""
    tree = store(tmp_path / "tree")
    put(tree, numbered(1))
    one = maintenance.open_store(tree)
    opened.clear()
    assert maintenance.find(one, numbered(1)[:8]) == numbered(1)
    assert [state.uuid for state in maintenance.ls(one)] == [numbered(1)]
    assert maintenance.stats(one).states == maintenance.verify(one).checked == 1
    assert maintenance.sweep(one).removed == []
    assert f"{tree}/ana.json" not in opened
