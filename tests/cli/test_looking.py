"""What people and programs see of a store: values, dates, headings, help."""

import re
from datetime import datetime

import click
import pytest
from support import classes, raw_tree
from support.care import ran
from support.terminal import on_a_terminal

import ana
from ana.cli import COMMANDS
from ana.cli import ana as ana_command


def test_help_is_a_command_too(capfd):
    """`ana help ls` shows what `ana ls --help` shows, and a command that does not exist is wrong usage."""
    assert ran(capfd, "help").out == ran(capfd, "--help").out
    assert ran(capfd, "help", "ls").out == ran(capfd, "ls", "--help").out
    wrong = ran(capfd, "help", "list")
    assert (wrong.code, "ana help" in wrong.err) == (2, True)


def test_values_are_told_apart(tmp_path, capfd):
    """A Ref is listed by what it holds, in lists, trees and sums; other states by their class."""
    ana.set_dl(pickle_dir=tmp_path)
    inner = ana.Ref([1, 2])
    top = ana.Ref({"inner": inner}).make_uuid()
    classes.A(1).make_uuid()
    assert sorted(line.split("  ")[-1] for line in ran(capfd, "-d", tmp_path, "ls").out.splitlines()) == [
        *("dict of 1", "list of 2", "support.classes:A"),
    ]
    assert "value  dict of 1\n" in ran(capfd, "-d", tmp_path, "show", top).out
    assert re.search(r"dict of 1\n.*list of 2\n", ran(capfd, "-d", tmp_path, "show", top, "--tree").out)
    document = ran(capfd, "-d", tmp_path, "--json", "show", top, "--tree").document
    assert [document["summary"], document["children"][0]["summary"]] == ["dict of 1", "list of 2"]
    groups = ran(capfd, "-d", tmp_path, "--json", "stats", "--by", "class").document["summary"]["by_class"]
    names = {"ana.storable:Ref of dict", "ana.storable:Ref of list", "support.classes:A"}
    assert {group["name"] for group in groups} == names


def test_a_small_store_is_counted_at_once(tmp_path, capfd):
    """Without --exact its sizes are those of its files, and nothing is written."""
    ana.set_dl(pickle_dir=tmp_path)
    classes.A(b"x" * 5000).make_uuid()
    before = sorted(tmp_path.rglob("*"))
    found = ran(capfd, "-d", tmp_path, "--json", "stats").document
    (path,) = tmp_path.rglob("*.pkl.zst")
    assert (found["exact"], found["summary"]["stored_bytes"]) == (True, path.stat().st_size)
    assert sorted(tmp_path.rglob("*")) == before


def test_json_times_are_dates_too(tmp_path, capfd):
    """Each time in s since 1970 is there a second time, for people and for jq."""
    ana.set_dl(pickle_dir=tmp_path)
    uuid = classes.A(1).make_uuid()
    shown = ran(capfd, "-d", tmp_path, "--json", "show", uuid).document
    for name in ("created", "modified"):
        date = datetime.fromisoformat(shown[f"{name}_iso"])
        assert date.timestamp() == pytest.approx(shown[name], abs=0.001)


@pytest.mark.slow
def test_on_a_terminal_columns_have_names_and_uuids_stay_in_one_piece(tmp_path):
    """At 80 columns, whatever is listed; a pipe gets no heading."""
    ana.set_dl(pickle_dir=tmp_path)
    uuid = classes.A(1).make_uuid()
    path = raw_tree.path_of(tmp_path, uuid)
    path.write_bytes(path.read_bytes() + b"x")
    for words, found in ((["ls"], uuid), (["verify"], uuid)):
        _, printed = on_a_terminal("-d", str(tmp_path), *words, COLUMNS="80")
        assert found in printed
    assert "UUID  " in on_a_terminal("-d", str(tmp_path), "ls", COLUMNS="80")[1]
    path.write_bytes(path.read_bytes()[:-1])
    _, printed = on_a_terminal("-d", str(tmp_path), "show", uuid, COLUMNS="80")
    assert str(path) in printed


@pytest.mark.parametrize(
    ("kind", "said"), [("nothing", "was tested"), ("empty", "the empty folder was tested"), ("foreign", "other files")]
)
def test_a_place_is_judged_before_there_is_a_store(tmp_path, capfd, kind, said):
    """`ana info` tests the nearest folder, says what it means for a store, and leaves nothing."""
    place = tmp_path / "a" / "b"
    if kind != "nothing":
        place.mkdir(parents=True)
    if kind == "foreign":
        (place / "notes.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    found = ran(capfd, "-d", place, "--json", "info")
    assert (found.code, found.document["exists"], found.document["path"]) == (0, False, str(place))
    assert found.document["hard_links"] is True
    assert said in found.document["findings"][0]["what"]
    assert "none there yet" in ran(capfd, "-d", place, "info").out
    assert sorted(tmp_path.rglob("*")) == before


def test_a_newer_store_is_not_taken_for_none(tmp_path, capfd):
    """Its format is unknown, so nothing is said about the place."""
    (tmp_path / "ana.json").write_text('{"format": 99}')
    assert ran(capfd, "-d", tmp_path, "info").code == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_each_option_has_a_long_form_and_each_summary_is_whole(capfd, name):
    """Scripts are read by others; and `ana --help` does not end a line in dots."""
    command = ana_command.get_command(None, name)
    for option in command.params:
        assert isinstance(option, click.Argument) or any(word.startswith("--") for word in option.opts)
    listed = ran(capfd, "--help").out
    assert COMMANDS[name][1] in re.sub(r"\s+", " ", listed)
