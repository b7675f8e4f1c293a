"""`ana init`, `ana key new`, `ana key rotate`: new stores, and their keys."""

import dataclasses
from pathlib import Path

import click

from ana import maintenance
from ana.cli.common import AGE, DONE, PARTLY, SIZE, Output, counted, emit, lock_option, printable, store_options, warn
from ana.cli.progress import progress
from ana.cli.tables import problems_table, said

__all__ = ["init", "key"]

INIT_EXAMPLES = """\b
Examples:
  ana -d /shared/pickles init
  ana -d /shared/group/pickles init --shared
  ana -d /shared/pickles init --keyed
  ana -d /shared/pickles init --pack-bytes 64k --ttl 30d

\b
JSON: path, store_id, mode, key_file ("" for none).
Exit codes: 0; 1 if the store or the key file exists.
"""

ROTATE_EXAMPLES = """\b
Examples:
  ana -d /shared/pickles key rotate

\b
JSON: key_file, states, signed, resumed, finished, problems.
Exit codes: 0; 3 if some states could not be signed (the old key stays valid:
run it again); 11 if other maintenance runs.
"""


@click.command("init", epilog=INIT_EXAMPLES)
@click.option("--keyed", is_flag=True, help="Create a key: readers accept only what it has signed.")
@click.option("--shared", is_flag=True, help="Share the store with a group that you trust: mode 2770 instead of 0700.")
@click.option(
    "--key-file",
    type=click.Path(path_type=Path),
    help="Where to put the key, instead of ~/.config/ana/keys/STORE_ID. Set ANA_KEY_FILE to it.",
)
@click.option(
    "--pack-bytes",
    type=SIZE,
    default=0,
    metavar="SIZE",
    help="Put states of at most this raw size into packs: few files hold all of them. For example 64k; at most 1MiB.",
)
@click.option(
    "--ttl",
    type=AGE,
    metavar="TIME",
    help="How long states that no root keeps stay before `ana gc` takes them, for example 30d.",
)
@store_options
@click.pass_obj
def init(output: Output, /, key_file: Path | None, *, pack_bytes: int, ttl: float | None, **kinds: bool) -> int:
    """Create a store in a new or empty folder.

    A program that stores something also creates its store: private to its
    user, and without a key. SECURITY.md compares the kinds of store.
    """
    if key_file is not None and not kinds["keyed"]:
        msg = "--key-file needs --keyed."
        raise click.UsageError(msg)
    made = maintenance.init(output.place[0], key_file=key_file, pack_bytes=pack_bytes, ttl=ttl, **kinds)
    if output.as_json:
        emit(dataclasses.asdict(made))
    elif not output.quiet:
        said(printable(f"created {made.path} (mode {made.mode}, id {made.store_id})"))
        if made.key_file:
            said(printable(f"its key is in {made.key_file}: keep a copy, because nobody can read the store without it"))
    return DONE


@click.group("key")
def key() -> None:
    """Create and replace the keys of stores."""


@key.command("new", short_help="Create a key in a new file.")
@click.argument("path", type=click.Path(path_type=Path))
@store_options
@click.pass_obj
def new(output: Output, /, path: Path) -> int:
    """Create a key in a new file with mode 0600, for set_dl(pickle_dir=..., key=PATH).

    `ana init --keyed` creates a store together with its key.
    """
    where = maintenance.new_key(path)
    if output.as_json:
        emit({"key_file": where})
    elif not output.quiet:
        said(printable(f"created {where}"))
    return DONE


@key.command("rotate", short_help="Replace a store's key.", epilog=ROTATE_EXAMPLES)
@lock_option
@store_options
@click.pass_obj
def rotate(output: Output, /, lock_seconds: float) -> int:
    """Replace a store's key: create a new one, sign all states, drop the old one.

    Until all states are signed, both keys are valid for processes that read
    the key file from now on. Jobs that opened the store before do not know
    the new key: restart them. An interrupted rotation resumes when it is run
    again.
    """
    with progress(output, "ana key rotate") as on_progress:
        done = maintenance.rotate_key(output.store, on_progress=on_progress, lock_seconds=lock_seconds)
    if output.as_json:
        emit(dataclasses.asdict(done))
    elif not output.quiet:
        said(
            printable(
                f"signed {done.signed:,} of {counted(done.states, 'state', 'states')} with the key in {done.key_file}"
            )
        )
        if done.problems:
            said(problems_table(done.problems))
    if not done.finished:
        warn("some states could not be signed: the old key stays valid; run it again")
    return DONE if done.finished else PARTLY
