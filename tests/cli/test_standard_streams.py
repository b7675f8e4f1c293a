"""Standard streams of the command: closed, full, in any encoding, read by nobody; names that are bad for terminals."""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import care
from support.care import numbered, put
from support.terminal import environment

import ana
from ana import maintenance
from ana.__main__ import main

COMMANDS = [
    ("--help",),
    ("--version",),
    ("no-such-command",),
    ("demo", "--size", "none"),
    ("init",),
    ("-d", "NEW", "init"),
    ("key", "new", "NEW"),
    ("info",),
    ("--json", "info"),
    ("stats",),
    ("stats", "--exact", "--by", "class"),
    ("stats", "--jobs", "."),
    ("ls",),
    ("ls", "-0"),
    ("--json", "ls"),
    ("show", "KEY"),
    ("show", "--tree", "KEY"),
    ("--json", "show", "KEY"),
    ("show", "no such state"),
    ("cat", "KEY"),
    ("verify",),
    ("keep", "a root", "KEY"),
    ("roots",),
    ("gc", "--older-than", "1d"),
    ("-q", "gc", "--older-than", "1d"),
    ("sweep",),
    ("forget", "no root"),
    ("export", "KEY", "-o", "NEW"),
    ("export", "KEY", "-o", "-"),
    ("export", "--from-file", "-", "-o", "NEW"),
    ("import", "EXPORTED"),
    ("report", "-o", "NEW"),
    ("report", "-o", "-"),
    ("completion", "bash"),
]
"""Every command; NEW is a path that is not there."""
ENCODINGS = ["ascii", "utf-16"]
MORE_ENCODINGS = ["utf-8", "latin-1", "cp1252", "koi8-r", "utf-8-sig", "utf-7"]
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


class Said:
    """How a command ended, and what it wrote."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err


def said(folder, words, *, out="file", err="file", given="/dev/null", encoding="utf-8"):
    """Run the command as the program of a forked process: its streams are "closed", a "file", or a path's."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            paths = (
                given,
                *(f"{folder}/{name}" if path == "file" else path for path, name in ((out, "o"), (err, "e"))),
            )
            for number, path in enumerate(paths):
                os.close(number)
                if path != "closed":
                    os.dup2(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), number)
                mode = "w" if number else "r"
                stream = None if path == "closed" else open(number, mode, encoding=encoding, closefd=False)  # noqa: SIM115 - to the end
                setattr(sys, ("stdin", "stdout", "stderr")[number], stream)
            sys.argv = ["ana", *(str(word) for word in words)]
            code = main()
        except BaseException as error:
            (folder / "raised").write_text(repr(error))
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert not (folder / "raised").exists(), (folder / "raised").read_text()
    done = Said(code, *(read(folder / name) for name in ("o", "e")))
    assert b"Traceback" not in done.err
    return done


def read(path):
    """Return what was written, and remove it."""
    data = path.read_bytes() if path.exists() else b""
    path.unlink(missing_ok=True)
    return data


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder to work in, with a store `pickles` of a few states, and an exported file."""
    monkeypatch.chdir(tmp_path)
    store = care.store(tmp_path / "pickles")
    for number in range(3):
        put(store, numbered(number), (numbered(number - 1),) if number else (), age_days=2)
    maintenance.keep(store, "kept", [numbered(2)])
    maintenance.export_states(store, [numbered(1)], tmp_path / "exported")
    return tmp_path


def remove(path):
    """Remove a file, or a folder and all that is in it, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def filled(words, place):
    """Put names in the places of a command line; what is new there is removed."""
    names = {"NEW": place / "new", "KEY": numbered(2), "EXPORTED": place / "exported"}
    remove(place / "new")
    return [names.get(word, word) for word in words]


@pytest.mark.slow
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_with_every_stream(words, place):
    """Closed streams lead nowhere; an output that is full is a line and exit code 1; nothing else changes."""
    usual = said(place, filled(words, place))
    assert usual.code != 99
    for streams in ({"out": "closed"}, {"err": "closed"}, {"given": "closed"}, {"err": "/dev/full"}):
        assert said(place, filled(words, place), **streams).code == usual.code, streams
    assert said(place, filled(words, place), out="closed", err="closed", given="closed").code == usual.code
    full = said(place, filled(words, place), out="/dev/full")
    if usual.out:
        assert (full.code, full.err.count(b"\n")) == (1, 1)
        assert b"No space left on device" in full.err
    else:
        assert full.code == usual.code
    assert said(place, filled(words, place), out="/dev/full", err="/dev/full").code == full.code


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("encodings", [ENCODINGS, pytest.param(MORE_ENCODINGS, marks=pytest.mark.slow)], ids=len)
def test_every_command_in_every_encoding(words, encodings, place):
    """What an encoding lacks is written in another way: exit codes do not depend on it."""
    usual = said(place, filled(words, place))
    for encoding in encodings:
        done = said(place, filled(words, place), encoding=encoding)
        assert done.code == usual.code, encoding
        if words[0] != "cat" and not {"-0", "-"} & set(words):
            done.out.decode(encoding)


def test_a_closed_output_is_not_the_next_file(place):
    """A file that is opened later does not become standard output or standard error."""
    done = said(
        place, ["--json", "export", numbered(2), "-o", place / "new"], out="closed", err="closed", given="closed"
    )
    assert done.code == 0
    there = maintenance.import_file(place / "there", place / "new")
    assert (len(there.imported), there.problems) == (3, [])


@pytest.mark.slow
def test_readers_that_have_enough(place):
    """Of a pipe whose reader has gone, nothing is said; the exit code is that of SIGPIPE."""
    for words in (
        ("ls",),
        ("cat", numbered(1)),
        ("export", numbered(1), "-o", "-"),
        ("report", "-o", "-"),
        ("--help",),
    ):
        reading, writing = os.pipe()
        os.close(reading)
        command = [sys.executable, "-m", "ana", *words]
        done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, env=environment(), check=False)
        os.close(writing)
        assert (done.returncode, done.stderr) == (141, b"")


def test_an_output_that_does_not_block(place):
    """A pipe that another program made non-blocking gets all of it."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    put(place / "pickles", "a" * 190, tuple(numbered(number) for number in range(5000)))
    words = [sys.executable, "-m", "ana", "--json", "show", "a" * 190]
    with subprocess.Popen(words, stdout=writing, env=environment()) as process:
        os.close(writing)
        with open(reading, encoding="utf-8") as stream:
            assert len(json.load(stream)["children"]) == 5000
    assert process.returncode == 0


# Names

HOSTILE = [
    "\x1b]0;pwned\x07\x1b[31m",
    "[red]mark[/red]up[/]",
    "two\nlines\rone",
    "\x9b31m\u202e\u2028",
    "caf\udce9 \ud800",
    "tab\t",
]


@pytest.fixture
def hostile(place):
    """A store below a folder of a hostile name, whose states, classes and roots have such names."""
    store = place / os.fsdecode(b"caf\xe9 \x1b[31m\n[b]x") / "pickles"
    store.parent.mkdir()
    care.store(store)
    for key in HOSTILE:
        put(store, key)
        maintenance.keep(store, key, [key])
    return store


@pytest.mark.slow
def test_names_are_escaped_for_people(hostile, place):
    """No command sends a control character, a line's end or markup that is a name's own, in any encoding."""
    shown = [word for key in HOSTILE for word in (("show", key), ("show", "--tree", key), ("keep", key, key))]
    plain = [("info",), ("ls",), ("stats",), ("stats", "--exact", "--by", "class"), ("verify",), ("roots",), ("sweep",)]
    made = [
        ("export", HOSTILE[1], "-o", f"{hostile.parent}/x"),
        ("report", "-o", f"{hostile.parent}/r"),
        ("forget", "\x1b["),
    ]
    wrong = [("show", "\x1b[31m"), ("\x1b[31m",), ("ls", "--class", "\x1b[("), ("import", "\x1b[31m")]
    for words in [*plain, *shown, *made, *wrong]:
        for encoding in ("utf-8", "ascii"):
            done = said(place, ["-d", hostile, *words], encoding=encoding)
            text = (done.out + done.err).decode(encoding)
            assert not CONTROL.search(text), words
            assert "\u202e" not in text
        remove(hostile.parent / "x")
        remove(hostile.parent / "r")
    tree = said(place, ["-d", hostile, "show", "--tree", HOSTILE[1]])
    assert HOSTILE[1].encode() in tree.out


def test_names_are_exact_for_programs(hostile, place):
    """JSON and NUL-separated lists give names to the letter, in any encoding."""
    for encoding in ENCODINGS:
        listed = said(place, ["-d", hostile, "ls", "-0"], encoding=encoding).out
        assert sorted(listed.decode("utf-8", "surrogatepass").rstrip("\0").split("\0")) == sorted(HOSTILE)
        lines = said(place, ["-d", hostile, "--json", "ls"], encoding=encoding).out.decode(encoding).splitlines()
        assert sorted(json.loads(line)["uuid"] for line in lines) == sorted(HOSTILE)
        shown = said(place, ["-d", hostile, "--json", "info"], encoding=encoding).out.decode(encoding)
        assert json.loads(shown)["path"] == str(hostile)


def test_a_page_of_a_store_with_a_hostile_path(hostile, place):
    """The report is a page in UTF-8 that says where the store is."""
    assert said(place, ["-d", hostile, "report", "-o", place / "page"]).code == 0
    page = (place / "page").read_text(encoding="utf-8")
    assert "caf\\udce9" in page
    assert "[b]x" in page


def test_numbers_that_json_has_not(capsys):
    """What is no number is null."""
    from ana.cli import common

    common.emit({"a": float("nan"), "b": [float("inf"), 1.5], "c": ana.StateNotFoundError("x", "y")})
    assert json.loads(capsys.readouterr().out)["b"] == [None, 1.5]


@pytest.mark.parametrize("columns", ["0", "1", "7", "-5", "many"])
def test_terminals_of_odd_widths(columns, place, monkeypatch):
    """Tables are printed, however narrow a terminal says it is."""
    monkeypatch.setenv("COLUMNS", columns)
    for words in (
        ("info",),
        ("stats",),
        ("show", numbered(2)),
        ("show", "--tree", numbered(2)),
        ("roots",),
        ("--help",),
    ):
        assert said(place, words).code == 0


@pytest.mark.slow
def test_any_argument(place):
    """Words that are no text are wrong usage or name nothing: a line, never a traceback."""
    odd = itertools.cycle(("caf\udce9", "ä" * 300))
    for words in COMMANDS:
        for number in range(len(words)):
            changed = [*words[:number], next(odd), *words[number + 1 :]]
            done = said(place, [*filled(changed, place)])
            assert done.code in {0, 1, 2, 4, 10}, changed
    assert Path(place / "pickles" / "ana.json").exists()
