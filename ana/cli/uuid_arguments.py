"""UUIDs as arguments, or from a file such as `ana ls -0` writes."""

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from ana.cli.common import name_or_uuid
from ana.cli.completion import uuids
from ana.format import address

__all__ = ["given", "uuids_argument"]

_MOST_BYTES = 256 << 20
"""Also the size limit of a root."""

Command = TypeVar("Command", bound=Callable[..., Any])


def uuids_argument(command: Command, metavar: str = "[UUID|ROOT]...") -> Command:
    """Give a command UUIDs, `--from-file` and `-0`, which `given` turns into one list."""
    for add in (
        click.option(
            "-0", "--null", "null", is_flag=True, help="UUIDs in FILE are followed by NUL, as ana ls -0 writes them."
        ),
        click.option(
            "--from-file",
            metavar="FILE",
            type=click.Path(exists=True, dir_okay=False, allow_dash=True),
            help="Read UUIDs from FILE, too, one a line; - is standard input.",
        ),
        click.argument("uuids", metavar=metavar, type=name_or_uuid, nargs=-1, shell_complete=uuids),
    ):
        command = add(command)
    return command


def given(uuids: tuple[str, ...], from_file: str | None, *, null: bool) -> list[str]:
    """Return all UUIDs, each once. Raises OSError, and UsageError if there are none or the file is not a list."""
    if null and from_file is None:
        msg = "-0 needs --from-file: add --from-file FILE, or --from-file - for standard input."
        raise click.UsageError(msg)
    read = [] if from_file is None else _read(from_file, null=null)
    found = list(dict.fromkeys([*uuids, *read]))
    if not found:
        msg = f"no UUID in {from_file}." if from_file else "name states: UUID..., or --from-file FILE."
        raise click.UsageError(msg)
    return found


def _read(path: str, *, null: bool) -> list[str]:
    if path == "-":
        data = sys.stdin.buffer.read(_MOST_BYTES + 1)
    else:
        with open(path, "rb") as file:
            data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        msg = f"{path}: not a list of UUIDs, or too long: at most {_MOST_BYTES >> 20} MiB are read"
        raise click.UsageError(msg)
    try:
        # `ls -0` may write lone surrogates.
        text = data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        msg = f"{path}: not a list of UUIDs ({error.reason} at byte {error.start})"
        raise click.UsageError(msg) from None
    lines = text.split("\0") if null else [_plain(line) for line in text.removeprefix("\ufeff").split("\n")]
    if not null and "\0" in text:
        msg = f"{path}: it contains NULs: add -0."
        raise click.UsageError(msg)
    return [name_or_uuid(line) for line in lines if line]


def _plain(line: str) -> str:
    """Strip what editors and other systems add to a line. Names that are not UUIDs keep their blanks."""
    stripped = line.strip()
    return stripped if not stripped or address.is_canonical(stripped) else line.rstrip("\r")
