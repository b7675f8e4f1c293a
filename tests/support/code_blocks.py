"""The fenced blocks of a Markdown page, and how each is run: as a reader would, in order, in one folder."""

import doctest
import json
import re
import sys
import textwrap
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from support import engines, processes

FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[^\n`]*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
NAME = re.compile(r"\A(?:#!.*\n)?# ([\w-]+\.(?:py|sh))\n")
"""The first line of a block that is a file: its name. A script's #! may stand before it."""

SLURM = re.compile(r"sbatch|srun|submitit")
LAX = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
END = "-- end of a command --"
CRON = re.compile(r"\S+ \S+ \S+ \S+ \S+ +(?P<command>[^#\n]+)")
UNCHECKED = {"text"}
"""Drawings and trees of files: nothing that anybody types or is shown."""


@dataclass
class Block:
    """One fenced block."""

    language: str
    text: str
    line: int

    @property
    def file(self) -> str | None:
        """The name of the file that the block is, if it says so."""
        found = NAME.match(self.text)
        return found[1] if found else None


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a page, from top to bottom."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(found["language"].strip(), textwrap.dedent(found["text"]), text.count("\n", 0, found.start()) + 2)
        for found in FENCE.finditer(text)
    ]


@dataclass
class Reader:
    """Follows a page in a folder.

    A block of Python or of shell commands is a process of its own. If it begins with the name of a file, and a later
    block uses that name, it is only written to the file.
    """

    folder: Path
    places: dict[str, str]
    starter: list[str] = field(default_factory=list)
    """What starts a block that uses Slurm: its lab."""
    variables: dict[str, str] = field(default_factory=dict)
    timeout: float = processes.PATIENCE_SECONDS
    printed: str = ""

    def follow(self, block: Block, later: list[Block]) -> None:
        """Do what a reader does with a block. `later` is the rest of the page."""
        text = self.here(block.text)
        if block.file:
            (self.folder / block.file).write_text(text, encoding="utf-8")
            if _is_used(block.file, later):
                return
        FOLLOW[block.language](self, block.file or f"line_{block.line}.{block.language}", text)

    def here(self, text: str) -> str:
        """Return a text with the page's places (/shared …) in this folder."""
        for place, path in self.places.items():
            text = re.sub(rf"(?<![\w.}}]){re.escape(place)}(?![\w-])", path, text)
        return text

    def run(self, *command: object) -> str:
        """Run a command and return what it printed."""
        return engines.run(*command, folder=self.folder, timeout=self.timeout, **self.variables)

    def python(self, name: str, text: str) -> None:
        """Run a script, or, if it is a test module, its tests."""
        (self.folder / name).write_text(text, encoding="utf-8")
        how = ["-m", "pytest", "-q", "-p", "no:cacheprovider"] if name.startswith("test_") else []
        # ANA's own warning is one: an object goes by value.
        self.printed = self.run(sys.executable, "-W", "error::RuntimeWarning", *how, name)

    def shell(self, name: str, text: str) -> None:
        """Run commands, of which none may fail."""
        (self.folder / name).write_text(text, encoding="utf-8")
        starter = self.starter if SLURM.search(text) else []
        self.printed = self.run(*starter, "bash", "-euo", "pipefail", name)

    def console(self, name: str, text: str) -> None:
        """Run the commands behind `$`, and compare what each prints on both streams with what stands below it."""
        steps = [step.split("\n", 1) for step in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]]
        script = "exec 2>&1\n" + "".join(f"{command}\necho '{END}'\n" for command, _ in steps)
        (self.folder / name).write_text(script, encoding="utf-8")
        *said, _ = self.run("bash", name).split(f"{END}\n")
        for (command, expected), printed in zip(steps, said, strict=True):
            _same(expected, printed, command)

    def output(self, name: str, text: str) -> None:
        """Compare with what the block before has printed."""
        _same(text, self.printed, name)

    def session(self, name: str, text: str) -> None:
        """Run `>>>` and what follows by doctest."""
        (self.folder / name).write_text(text, encoding="utf-8")
        self.run(sys.executable, "-m", "doctest", "-o", "ELLIPSIS", name)

    def crontab(self, name: str, text: str) -> None:
        """Run the command of each line, as cron does: `%` is escaped there."""
        for line in text.splitlines():
            found = CRON.fullmatch(line.split("  #")[0].rstrip())
            assert found, line
            self.run("sh", "-c", found["command"].replace("\\%", "%"))

    def toml(self, name: str, text: str) -> None:
        """Parse it."""
        assert tomllib.loads(text)

    def json(self, name: str, text: str) -> None:
        """Parse it, with anything for `...`."""
        assert json.loads(re.sub(r"\.\.\.|…", "0", text))


FOLLOW = {
    "console": Reader.console,
    "cron": Reader.crontab,
    "json": Reader.json,
    "output": Reader.output,
    "pycon": Reader.session,
    "python": Reader.python,
    "sh": Reader.shell,
    "toml": Reader.toml,
}
"""What is done with a block, by its language."""


def _is_used(name: str, later: list[Block]) -> bool:
    """Return whether a block further down names a file, or imports it as a module."""
    module = re.escape(name.removesuffix(".py"))
    used = re.compile(rf"\b{re.escape(name)}\b|^\s*(?:from|import) {module}\b", re.MULTILINE)
    return any(used.search(block.text) for block in later)


def _same(expected: str, printed: str, what: str) -> None:
    """Compare what a page shows with what was printed. `...` stands for anything."""
    expected = expected.replace("…", "...").strip()
    if not doctest.OutputChecker().check_output(expected + "\n", printed.strip() + "\n", LAX):
        message = f"{what}\n--- the page shows\n{expected}\n--- printed was\n{printed.strip()}"
        raise AssertionError(message)


def variables(clone: bool) -> dict[str, str]:
    """Return variables under which pages are read: MPI starts as root and on few cores, tables have a width.

    Ana is importable, but none of the tests' modules; where a reader installs it, it is not.
    """
    return {
        "COLUMNS": "100",
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONPATH": "" if clone else str(processes.ROOT),
    }
