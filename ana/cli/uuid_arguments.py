"""Many UUIDs for a command: as arguments, or from a file, as `ana ls -0` writes them."""

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from ana.cli.common import name_or_uuid
from ana.cli.completion import uuids
from ana.format import address

__all__ = ["given", "uuids_argument"]

_MOST_BYTES = 256 << 20
"""As much as a root may have."""

Command = TypeVar("Command", bound=Callable[..., Any])


def uuids_argument(command: Command) -> Command:
    """Give a command UUIDs, `--from-file` and `-0`: `given` takes the three."""
    for add in (
        click.option("-0", "null", is_flag=True, help="In that file each is followed by NUL, as ana ls -0 does it."),
        click.option(
            "--from-file",
            metavar="FILE",
            type=click.Path(exists=True, dir_okay=False, allow_dash=True),
            help="Take UUIDs from there, too, one a line; - is standard input.",
        ),
        click.argument("uuids", metavar="[UUID]...", type=name_or_uuid, nargs=-1, shell_complete=uuids),
    ):
        command = add(command)
    return command


def given(uuids: tuple[str, ...], from_file: str | None, *, null: bool) -> list[str]:
    """Return all UUIDs, each once. Raises UsageError for none, and for what is no text; OSError."""
    if null and from_file is None:
        msg = "-0 says how UUIDs are written in a file: give --from-file FILE, or --from-file - for standard input."
        raise click.UsageError(msg)
    read = [] if from_file is None else _read(from_file, null=null)
    found = list(dict.fromkeys([*uuids, *read]))
    if not found:
        msg = f"no UUID in {from_file}." if from_file else "say which states: UUID..., or --from-file FILE."
        raise click.UsageError(msg)
    return found


def _read(path: str, *, null: bool) -> list[str]:
    if path == "-":
        data = sys.stdin.buffer.read(_MOST_BYTES + 1)
    else:
        with open(path, "rb") as file:
            data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        msg = f"{path}: it is no list of UUIDs, or too long a one: at most {_MOST_BYTES >> 20} MiB are read"
        raise click.UsageError(msg)
    try:
        # As `ls -0` writes them: there may be lone surrogates in them.
        text = data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        msg = f"{path}: it is no list of UUIDs ({error.reason} at byte {error.start})"
        raise click.UsageError(msg) from None
    lines = text.split("\0") if null else [_plain(line) for line in text.removeprefix("\ufeff").split("\n")]
    if not null and "\0" in text:
        msg = f"{path}: there are NULs in it: give -0."
        raise click.UsageError(msg)
    return [name_or_uuid(line) for line in lines if line]


def _plain(line: str) -> str:
    """Take away what editors and other systems add to a line; the blanks of another name may be its own."""
    stripped = line.strip()
    return stripped if not stripped or address.is_canonical(stripped) else line.rstrip("\r")
