"""Stores for the tests of maintenance, made past ana where that is quicker; the command line within this process."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import ana
from ana.__main__ import main
from ana.format import record
from support import processes, raw_tree

DAY_SECONDS = 86400.0


def numbered(number: int) -> str:
    """Return a canonical UUID; they are spread over a thousand folders."""
    return f"{number * 37 % 256:02x}{number // 256 % 4:02x}{number:04x}-0000-4000-8000-{number:012x}"


def put(tree: Path, key: str, children: tuple[str, ...] = (), *, size: int = 100, age_days: float = 0.0) -> Path:
    """Write a bare state's record straight into a tree, as old as that; it unpickles into bytes."""
    data = b"\x80\x05B" + size.to_bytes(4, "little") + os.urandom(size) + b"."
    content = record.content("made:Up", [memoryview(data)])
    path = raw_tree.put(tree, key, record.encode(key, content, children, record.Encoding(time.time_ns(), level=0)))
    make_older(path, age_days)
    return path


def make_older(path: Path, days: float) -> None:
    """Set a file's or folder's time back."""
    then = time.time() - days * DAY_SECONDS
    os.utime(path, (then, then))


def store(tree: Path) -> Path:
    """Make an empty store."""
    ana.DirDataLayer(tree, durable=False)
    return tree


def big_store(tree: Path, states: int) -> Path:
    """Make a store of so many states in chains of ten, the first of each referring to the next and so on."""
    store(tree)
    for number in range(states):
        put(tree, numbered(number), (numbered(number + 1),) if number % 10 < 9 and number + 1 < states else ())
    return tree


class Ran:
    """What a command said."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err

    @property
    def document(self) -> Any:
        """The JSON document on standard output."""
        return json.loads(self.out)


def ran(capfd: Any, *arguments: object) -> Ran:
    """Run the command line in this process."""
    capfd.readouterr()
    code = main([str(argument) for argument in arguments])
    said = capfd.readouterr()
    return Ran(code, said.out, said.err)


def start(*arguments: object, **options: Any) -> "subprocess.Popen[str]":
    """Start the command line in a process of its own."""
    words = [sys.executable, "-m", "ana", *(str(argument) for argument in arguments)]
    usual = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(words, env=processes.environment(), **{**usual, **options})
