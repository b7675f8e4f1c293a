"""Paths as users give them: `~`, and folders relative to one that may be gone."""

import os
import pwd
from pathlib import Path

import pytest
from support import care
from support.care import ran

import ana
from ana import maintenance
from ana.cli import common
from ana.fs import paths
from ana.layers import statistics
from ana.stores.directory import keyring

NOBODY = 61004


@pytest.fixture
def homeless(monkeypatch, tmp_path):
    """A container's user: without HOME, and without an entry in passwd; in an empty folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: NOBODY)
    return tmp_path / "here"


@pytest.fixture
def gone(monkeypatch, tmp_path):
    """The working folder was removed."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    return tmp_path / "gone"


def test_homes(monkeypatch):
    """HOME comes first, an empty one is none; another user's home is the system's."""
    monkeypatch.setenv("HOME", "/somewhere/")
    assert paths.absolute("~") == "/somewhere"
    assert paths.absolute(b"~/caf\xe9") == "/somewhere/caf\udce9"
    assert paths.absolute("/a/~/../b") == "/a/b"
    monkeypatch.setenv("HOME", "/")
    assert paths.absolute("~/x") == "/x"
    monkeypatch.setenv("HOME", "")
    assert paths.absolute("~/x") == f"{pwd.getpwuid(os.getuid()).pw_dir.rstrip('/')}/x"
    assert paths.absolute("~root/x") == f"{pwd.getpwnam('root').pw_dir.rstrip('/')}/x"


@pytest.mark.parametrize("said", ["~nobody-of-that-name/x", "~nobody-of-that-name"])
def test_an_unknown_user_has_no_home(said):
    """The name of a user who does not exist is an error that says so, and names the way out."""
    with pytest.raises(ana.StoreError, match="there is no user 'nobody-of-that-name'"):
        paths.absolute(said)


def test_a_relative_home_is_refused(monkeypatch):
    """HOME=home would be another folder for each program."""
    monkeypatch.setenv("HOME", "home")
    with pytest.raises(ana.StoreError, match="'home' is not an absolute path"):
        paths.absolute("~/pickles")


WAYS = {
    "set_dl": lambda: ana.set_dl(pickle_dir="~/pickles"),
    "a layer": lambda: ana.DirDataLayer("~/pickles"),
    "a node cache": lambda: ana.set_dl(pickle_dir="store", node_cache="~/cache"),
    "a key": lambda: ana.set_dl(pickle_dir="store", key="~/key"),
    "a store": lambda: maintenance.open_store("~/pickles"),
    "a new key": lambda: maintenance.new_key("~/key"),
    "a keyed store": lambda: maintenance.init("store", keyed=True),
    "statistics": lambda: statistics.summarize("~/numbers"),
    "a page": lambda: maintenance.write_file("~/page.html", b""),
}
"""Where a path is taken."""


@pytest.mark.parametrize("way", WAYS)
def test_without_a_home_nothing_is_named_tilde(homeless, way):
    """Where `~` cannot be found, an error says why, and there is never a folder of that name."""
    with pytest.raises(ana.StoreError, match=f"HOME is not set, and user {NOBODY} has no entry"):
        WAYS[way]()
    assert not list(homeless.glob("~*"))


def test_without_a_home_all_else_works(homeless, monkeypatch, capfd):
    """Stores without a key are used as ever; ANA_STATS below `~` is no affair of the program."""
    monkeypatch.setenv("ANA_STATS", "~/numbers")
    with ana.using_dl(pickle_dir="store") as layer:
        layer.store_state("mine", 5)
        assert layer.load_state("mine") == 5
    assert ran(capfd, "-d", "store", "ls").code == 0
    assert ran(capfd, "-d", "~/store", "ls").code == common.FAILED
    assert sorted(path.name for path in homeless.iterdir()) == ["store"]


@pytest.mark.parametrize("config", ["~/.config", "config"])
def test_a_folder_of_keys_is_found_from_everywhere(monkeypatch, tmp_path, config):
    """XDG_CONFIG_HOME that is not an absolute path does not count, as its specification says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.setenv("XDG_CONFIG_HOME", config)
    where = maintenance.init(tmp_path / "store", keyed=True).key_file
    assert Path(where).parent == tmp_path / "me" / ".config" / "ana" / "keys"
    assert where == keyring.default_path(Path(where).name)


def test_a_working_folder_that_is_gone(gone, tmp_path, capfd):
    """A relative path is an error that names the cause; an absolute one works."""
    with pytest.raises(ana.StoreError, match="working folder of this process is gone"):
        ana.set_dl(pickle_dir="pickles")
    with pytest.raises(ana.StoreError, match="working folder"):
        ana.DirDataLayer()
    store = care.store(tmp_path / "store")
    care.put(store, care.numbered(1))
    assert ran(capfd, "-d", store, "ls").code == 0
    for words in (("ls",), ("-d", "pickles", "ls"), ("-d", store, "export", care.numbered(1), "-o", "x.ana")):
        done = ran(capfd, *words)
        assert (done.code, len(done.err.splitlines())) == (common.FAILED, 1)
        assert "working folder of this process is gone" in done.err
