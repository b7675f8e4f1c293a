"""What all commands share: options, where the store is, how to say things to people and to programs."""

import dataclasses
import json
import logging
import math
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import click
from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table

from ana import maintenance, settings, units
from ana.errors import (
    ANAError,
    CorruptedStateError,
    LockTimeoutError,
    StateNotFoundError,
    StoreError,
)
from ana.fs import paths
from ana.units import age, size, three_digits

__all__ = [
    "AGE",
    "SIZE",
    "NoStoreError",
    "Output",
    "WrongArgumentError",
    "age",
    "emit",
    "lock_option",
    "name_or_uuid",
    "output_options",
    "output_place",
    "printable",
    "problems_table",
    "refuse_empty",
    "said",
    "share",
    "size",
    "store_options",
    "table",
    "three_digits",
    "times",
    "warn",
    "warn_of",
    "when",
]

DONE, FAILED, USAGE, PARTLY, DAMAGE, NO_STORE, BUSY = 0, 1, 2, 3, 4, 10, 11
PICKLE_DIR = settings.PICKLE_DIR.name

Command = TypeVar("Command", bound=Callable[..., Any])

_MANY = 20


class NoStoreError(ANAError):
    """There is no store where a command was to look for one."""


class WrongArgumentError(click.ClickException):
    """An argument that cannot be meant; nothing was touched."""

    exit_code = USAGE

    def show(self, file: Any = None) -> None:
        """Say it in a line."""
        click.echo(f"ana: {printable(self.message)}", file=file, err=True)


@dataclasses.dataclass(slots=True)
class Output:
    """How to say it, and of which store: the options that the group and its commands share."""

    as_json: bool = False
    quiet: bool = False
    verbose: bool = False
    pickle_dir: str = ""
    _store: maintenance.DirectoryStore | None = None

    @property
    def store(self) -> maintenance.DirectoryStore:
        """The store at `place`, opened once. Raises NoStoreError if there is none."""
        if self._store is None:
            self._store = self._open()
        return self._store

    def _open(self) -> maintenance.DirectoryStore:
        path = paths.absolute(self.place[0])
        try:
            store = maintenance.open_store(path)
        except StoreError as error:
            if isinstance(error.__cause__, OSError) or error.errno != 2:  # noqa: PLR2004 - ENOENT
                raise
            msg = f"{error} (-d/--pickle-dir or {PICKLE_DIR} says where it is)"
            raise NoStoreError(msg) from error
        if store.tree.is_purged and not self.quiet:
            warn(f"{path}/ana.json is gone (purged?): the next program that stores something writes it anew")
        return store

    @property
    def place(self) -> tuple[str, str]:
        """Return the store's path, and what says so."""
        if self.pickle_dir:
            return self.pickle_dir, "-d/--pickle-dir"
        named = settings.PICKLE_DIR.value()
        return (named, PICKLE_DIR) if named else (paths.absolute("pickles"), "the default, ./pickles")


def _noting(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    """Return a callback that notes an option in the context's Output, wherever on the command line it stood."""

    def note(context: click.Context, _parameter: click.Parameter, given: Any) -> None:
        output = context.ensure_object(Output)
        setattr(output, name, given or getattr(output, name))
        if name == "verbose" and given:
            logging.basicConfig(level=logging.INFO, format="ana: %(message)s")

    return note


def output_options(command: Command) -> Command:
    """Give a command `--json`, `-q` and `-v`. The group has them too: they may stand before its name or after."""
    for flags, name, text in (
        (("-v", "--verbose"), "verbose", "Say more on stderr about what is done."),
        (("-q", "--quiet"), "quiet", "Print nothing but what failed."),
        (("--json",), "as_json", "Print one JSON document (of a list: JSON lines), for programs."),
    ):
        note = _noting(name)
        add = click.option(*flags, name, is_flag=True, expose_value=False, callback=note, help=text)
        command = add(command)
    return command


def store_options(command: Command) -> Command:
    """Give a command `-d` as well as what `output_options` gives."""
    add = click.option(
        "-d",
        "--pickle-dir",
        "pickle_dir",
        metavar="DIR",
        expose_value=False,
        callback=_noting("pickle_dir"),
        type=click.Path(file_okay=False),
        help=f"The store.  [default: ${PICKLE_DIR}, then ./pickles]",
    )
    return add(output_options(command))


def lock_option(command: Command) -> Command:
    """Give a command `--wait`."""
    add = click.option(
        "--wait",
        "lock_seconds",
        type=AGE,
        metavar="TIME",
        default=f"{maintenance.LOCK_SECONDS:g}s",
        show_default=True,
        help="How long to wait for other maintenance of this store; then exit with 11.",
    )
    return add(command)


def _quantity(name: str, parse: Callable[[str], float], examples: str) -> Callable[[str], float]:
    """Return a type of option: a number with a unit."""

    def convert(text: str) -> float:
        try:
            return parse(text)
        except ValueError:
            msg = f"{text!r} is no {name}: say {examples}."
            raise click.BadParameter(msg) from None

    convert.__name__ = name
    return convert


def share(text: str) -> float:
    """Return a percentage as a fraction of more than 0 and at most 1."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", text.strip())
    if found is None or not 0 < float(found[1]) <= 100:  # noqa: PLR2004 - percent
        msg = f"{text!r} is no share: say 5%."
        raise click.BadParameter(msg)
    return float(found[1]) / 100


def refuse_empty(words: Sequence[str]) -> None:
    """Refuse a command line with an empty argument, as a shell's variable is that is not set: it means nothing here."""
    for number, word in enumerate(words):
        if not word or (word.startswith("--") and word.find("=") == len(word) - 1 and "--" not in words[:number]):
            which = word or f"argument {number + 1}" + (f", after {words[number - 1]}," if number else "")
            msg = f"{which} is empty: is a variable of the shell not set?"
            raise WrongArgumentError(msg)


def name_or_uuid(text: str) -> str:
    """Return the name of a root, or a UUID or its beginning, if it can be one."""
    if len(text) > maintenance.MAX_KEY_CHARACTERS:
        most = maintenance.MAX_KEY_CHARACTERS
        msg = f"names and UUIDs have at most {most} characters, this one has {len(text)}: {text:.40}..."
        raise WrongArgumentError(msg)
    return text


def _seconds(text: str) -> float:
    """Return the seconds that a text means: with a unit, as who types `gc --older-than 30` may think of days."""
    if not text.strip()[-1:].isalpha():
        raise ValueError
    return units.seconds(text)


SIZE = _quantity("size", units.size_bytes, "500k, 20M, 1.5G, 2T (powers of 1000) or 512KiB, 4MiB, 1GiB (of 1024)")
AGE = _quantity("time", _seconds, "90s, 45m, 12h, 30d, 8w or 1y")


# To programs


def emit(document: Any, *, one_line: bool = False) -> None:
    """Print a JSON document: a result with its fields as keys."""
    click.echo(json.dumps(_plain(document), indent=None if one_line else 2, default=str, allow_nan=False))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, float) and not math.isfinite(value):
        # JSON has no such numbers.
        return None
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


# To people


def said(*things: object) -> None:
    """Print tables and lines to standard output."""
    console = _Console(soft_wrap=not sys.stdout.isatty())
    for thing in things:
        console.print(thing)


class _Console(Console):
    """A terminal, pipe or file that gets nothing but letters and what rich itself says to terminals."""

    def __init__(self, **options: Any) -> None:
        # No markup: names are what users and headers say.
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Escape control characters in what is printed."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else printable(text, lines=True), style, control)


def warn(text: str) -> None:
    """Print a line to standard error."""
    click.echo(f"ana: {printable(text)}", err=True)


def table(*columns: str, right: Sequence[int] = ()) -> Table:
    """Return an empty table; the columns of those numbers hold figures."""
    made = Table(box=box.SIMPLE_HEAD, header_style="bold")
    for number, name in enumerate(columns):
        made.add_column(name, justify="right" if number in right else "left", overflow="fold")
    return made


def problems_table(problems: Sequence[maintenance.Problem]) -> Table:
    """Return what is wrong, as a table of the first few."""
    made = table("wrong", "state", "why")
    for wrong in problems[:_MANY]:
        made.add_row(wrong.kind, printable(wrong.uuid or wrong.name), printable(wrong.reason))
    if len(problems) > _MANY:
        made.add_row("", f"and {len(problems) - _MANY:,} more (--json lists all)", "")
    return made


def printable(text: str, *, lines: bool = False) -> str:
    r"""Return a text that says nothing to a terminal: what is no character to be seen is written like `\x1b`.

    `lines`: it may have more than one line.
    """
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() or (lines and letter == "\n") else ascii(letter)[1:-1] for letter in text
    )


def warn_of(problems: Sequence[maintenance.Problem], output: Output, source: str = "") -> None:
    """Say on standard error how many states something is wrong with; programs read that from the document."""
    if problems and not output.as_json:
        kinds = sorted({wrong.kind for wrong in problems})
        of = f"{source}: " if source else ""
        first = problems[0].uuid or problems[0].name
        warn(f"{of}{len(problems):,} states: {', '.join(kinds)} (first: {printable(first[:200])})")


def when(seconds: float) -> str:
    """Write a time, given in s since 1970."""
    return maintenance.date(seconds, "%Y-%m-%d %H:%M:%S UTC")


def times(before: float, after: float, better: str, worse: str) -> str:
    """Say how many times better or worse; nothing where either is nothing."""
    if not before or not after:
        return ""
    ratio = before / after
    return f"{three_digits(max(ratio, 1 / ratio))} times {better if ratio >= 1 else worse}"


def output_place(path: str) -> tuple[str, bool]:
    """Return what `-o` means, "-" being standard output, and whether that leaves standard output for words."""
    return ("/dev/stdout", False) if path in ("-", "/dev/stdout") else (path, True)


def exit_code(error: BaseException) -> int:
    """Return what the command line answers an error with."""
    if isinstance(error, NoStoreError):
        return NO_STORE
    if isinstance(error, LockTimeoutError):
        return BUSY
    if isinstance(error, ValueError):
        # Arguments that make no sense, ambiguous beginnings of UUIDs among them.
        return USAGE
    return DAMAGE if isinstance(error, StateNotFoundError | CorruptedStateError) else FAILED
