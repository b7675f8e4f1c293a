"""What all commands share: options, the store, messages, JSON. Imports little, because `ana --help` does, too."""

import dataclasses
import json
import logging
import math
import re
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ana import settings, units
from ana.errors import (
    ANAError,
    CorruptedStateError,
    LockTimeoutError,
    StateNotFoundError,
    StoreError,
)
from ana.fs import paths
from ana.units import age, size, three_digits

if TYPE_CHECKING:
    from ana import maintenance

__all__ = [
    "AGE",
    "SIZE",
    "NoStoreError",
    "Output",
    "WrongArgumentError",
    "age",
    "counted",
    "emit",
    "file_option",
    "lock_option",
    "name_or_uuid",
    "output_options",
    "output_place",
    "printable",
    "refuse_empty",
    "share",
    "size",
    "store_options",
    "three_digits",
    "times",
    "value_of",
    "warn",
    "warn_of",
]

DONE, FAILED, USAGE, PARTLY, DAMAGE, NO_STORE, BUSY = 0, 1, 2, 3, 4, 10, 11
PICKLE_DIR = settings.PICKLE_DIR.name

Command = TypeVar("Command", bound=Callable[..., Any])


class NoStoreError(ANAError):
    """There is no store at the place that the command was given."""


class WrongArgumentError(click.ClickException):
    """An argument is invalid. Nothing was changed."""

    exit_code = USAGE

    def show(self, file: Any = None) -> None:
        """Print the error as one line."""
        click.echo(f"ana: {printable(self.message)}", file=file, err=True)


@dataclasses.dataclass(slots=True)
class Output:
    """The options that the group and its commands share: how to print results, and of which store."""

    as_json: bool = False
    quiet: bool = False
    verbose: bool = False
    pickle_dir: str = ""
    _store: "maintenance.DirectoryStore | None" = None

    @property
    def store(self) -> "maintenance.DirectoryStore":
        """The store at `place`, opened once. Raises NoStoreError if there is none."""
        if self._store is None:
            self._store = self._open()
        return self._store

    def _open(self) -> "maintenance.DirectoryStore":
        from ana import maintenance  # noqa: PLC0415 - `ana --help` needs no store

        path = paths.absolute(self.place[0])
        try:
            store = maintenance.open_store(path)
        except StoreError as error:
            if isinstance(error.__cause__, OSError) or error.errno != 2:  # noqa: PLR2004 - ENOENT
                raise
            msg = f"{error} (-d/--pickle-dir or {PICKLE_DIR} says where it is)"
            raise NoStoreError(msg) from error
        if store.tree.is_purged and not self.quiet:
            warn(f"{path}/ana.json is gone (purged?): the next program that stores something writes it again")
        return store

    @property
    def place(self) -> tuple[str, str]:
        """The store's path, and the option or variable that it comes from."""
        if self.pickle_dir:
            return self.pickle_dir, "-d/--pickle-dir"
        named = settings.PICKLE_DIR.value()
        return (named, PICKLE_DIR) if named else (paths.absolute("pickles"), "the default, ./pickles")


def _noting(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    """Return a callback that sets an option in the context's Output, before or after the command."""

    def note(context: click.Context, _parameter: click.Parameter, given: Any) -> None:
        output = context.ensure_object(Output)
        setattr(output, name, given or getattr(output, name))
        if name == "verbose" and given:
            logging.basicConfig(level=logging.INFO, format="ana: %(message)s")

    return note


def output_options(command: Command) -> Command:
    """Give a command `--json`, `-q` and `-v`. The group has them, too: they may come before or after the command."""
    for flags, name, text in (
        (("-v", "--verbose"), "verbose", "Log what is done to stderr."),
        (("-q", "--quiet"), "quiet", "Print nothing but errors."),
        (("--json",), "as_json", "Print one JSON document, or JSON lines for a list."),
    ):
        note = _noting(name)
        add = click.option(*flags, name, is_flag=True, expose_value=False, callback=note, help=text)
        command = add(command)
    return command


def store_options(command: Command) -> Command:
    """Give a command `-d`, and the options of `output_options`."""
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
    from ana import maintenance  # noqa: PLC0415 - as above

    add = click.option(
        "--wait",
        "lock_seconds",
        type=AGE,
        metavar="TIME",
        default=f"{maintenance.LOCK_SECONDS:g}s",
        show_default=True,
        help="How long to wait for other maintenance of this store. After that, exit with 11.",
    )
    return add(command)


def file_option(command: Command) -> Command:
    """Give a command `-o FILE`, as `path`; see `output_place`."""
    add = click.option(
        "-o",
        "--output",
        "path",
        metavar="FILE",
        required=True,
        type=click.Path(dir_okay=False, allow_dash=True),
        help="Where to write; - is standard output.",
    )
    return add(command)


def _quantity(name: str, parse: Callable[[str], float], examples: str) -> Callable[[str], float]:
    """Return a type of option: a number with a unit."""

    def convert(text: str) -> float:
        try:
            return parse(text)
        except ValueError:
            msg = f"{text!r} is not a {name}: use {examples}."
            raise click.BadParameter(msg) from None

    convert.__name__ = name
    return convert


def share(text: str) -> float:
    """Return a percentage as a fraction, more than 0 and at most 1."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", text.strip())
    if found is None or not 0 < float(found[1]) <= 100:  # noqa: PLR2004 - percent
        msg = f"{text!r} is not a percentage: use 5%."
        raise click.BadParameter(msg)
    return float(found[1]) / 100


def refuse_empty(words: Sequence[str]) -> None:
    """Refuse an empty argument: it is usually a shell variable that is not set."""
    for number, word in enumerate(words):
        if not word or (word.startswith("--") and word.find("=") == len(word) - 1 and "--" not in words[:number]):
            which = word or f"argument {number + 1}" + (f", after {words[number - 1]}," if number else "")
            msg = f"{which} is empty: is a shell variable not set?"
            raise WrongArgumentError(msg)


def name_or_uuid(text: str) -> str:
    """Return a root's name, or a UUID or its prefix, unchanged. Raises WrongArgumentError if it is too long."""
    from ana import maintenance  # noqa: PLC0415 - as above

    if len(text) > maintenance.MAX_KEY_CHARACTERS:
        most = maintenance.MAX_KEY_CHARACTERS
        msg = f"names and UUIDs have at most {most} characters, this one has {len(text)}: {text:.40}..."
        raise WrongArgumentError(msg)
    return text


def _seconds(text: str) -> float:
    """Parse a duration. It needs a unit: somebody who types `gc --older-than 30` may mean days."""
    if not text.strip()[-1:].isalpha():
        raise ValueError
    return units.seconds(text)


SIZE = _quantity("size", units.size_bytes, "500k, 20M, 1.5G, 2T (powers of 1000) or 512KiB, 4MiB, 1GiB (of 1024)")
AGE = _quantity("time", _seconds, "90s, 45m, 12h, 30d, 8w or 1y")


# To programs


def emit(document: Any, *, one_line: bool = False) -> None:
    """Print a JSON document: a result with its fields as keys."""
    text = json.dumps(_plain(document), indent=None if one_line else 2, default=str, allow_nan=False)
    # Not `click.echo`, which flushes: there may be a million lines.
    sys.stdout.write(f"{text}\n")


def _plain(value: Any) -> Any:
    if isinstance(value, str | int) or value is None:
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _with_dates({field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)})
    if isinstance(value, float) and not math.isfinite(value):
        # JSON has neither NaN nor infinity.
        return None
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


TIMES = frozenset(
    {
        "created",
        "first_goes",
        "free_from",
        "last_goes",
        "modified",
        "now",
        "taken",
        "trashed",
        "until",
        "whole_taken",
        "young_until",
    }
)
"""Fields with times, in s since 1970."""


def _with_dates(fields: dict[str, Any]) -> dict[str, Any]:
    """Add each time as ISO 8601 in UTC, under its name and `_iso`."""
    times = {name: fields[name] for name in TIMES & fields.keys() if isinstance(fields[name], float)}
    return fields | {f"{name}_iso": _iso(seconds) for name, seconds in sorted(times.items())}


def _iso(seconds: float) -> str | None:
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        # Headers may claim any time.
        return None


# To people


def warn(text: str) -> None:
    """Print a line to standard error."""
    click.echo(f"ana: {printable(text)}", err=True)


def printable(text: str, *, lines: bool = False) -> str:
    r"""Return a text that is safe to print on a terminal: unprintable characters are written like `\x1b`.

    `lines`: keep line breaks.
    """
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() or (lines and letter == "\n") else ascii(letter)[1:-1] for letter in text
    )


def warn_of(problems: "Sequence[maintenance.Problem]", output: Output, source: str = "") -> None:
    """Print the number of problems to standard error. Programs read it from the JSON document."""
    if problems and not output.as_json:
        kinds = sorted({wrong.kind for wrong in problems})
        of = f"{source}: " if source else ""
        first = problems[0].uuid or problems[0].name
        if first.endswith("/"):
            folders = counted(len(problems), "folder cannot be", "folders cannot be")
            warn(f"{of}{folders} listed; the first: {problems[0].reason}")
            return
        states = counted(len(problems), "state", "states")
        warn(f"{of}{states}: {', '.join(kinds)} (first: {printable(first[:200])})")


def value_of(state: "maintenance.StateInfo | maintenance.Shown | maintenance.Child") -> str:
    """Return a state's class, and what its writer said about its value: of a Ref only that."""
    from ana.maintenance.common import value_text  # noqa: PLC0415 - as above

    return value_text(state.class_name, state.summary)


def counted(number: int, one: str, many: str) -> str:
    """Return a number with its noun, as "1 root" or "2,000 roots"."""
    return f"{number:,} {one if number == 1 else many}"


def times(before: float, after: float, better: str, worse: str) -> str:
    """Return how many times better or worse `after` is; "" if either is 0."""
    if not before or not after:
        return ""
    ratio = before / after
    return f"{three_digits(max(ratio, 1 / ratio))} times {better if ratio >= 1 else worse}"


def output_place(path: str) -> tuple[str, bool]:
    """Return the path that `-o` means ("-" is standard output), and whether messages may go to standard output."""
    return ("/dev/stdout", False) if path in ("-", "/dev/stdout") else (path, True)


def exit_code(error: BaseException) -> int:
    """Return the exit code for an error."""
    if isinstance(error, NoStoreError):
        return NO_STORE
    if isinstance(error, LockTimeoutError):
        return BUSY
    if isinstance(error, ValueError):
        # Arguments that make no sense, such as an ambiguous prefix of a UUID.
        return USAGE
    return DAMAGE if isinstance(error, StateNotFoundError | CorruptedStateError) else FAILED
