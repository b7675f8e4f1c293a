"""`ana init`, `ana key new`, `ana key rotate`: stores of a kind, and their keys."""

import dataclasses
from pathlib import Path

import click

from ana import maintenance
from ana.cli.common import (
    DONE,
    PARTLY,
    Output,
    emit,
    lock_option,
    printable,
    problems_table,
    said,
    store_options,
    warn,
)
from ana.cli.progress import progress

__all__ = ["init", "key"]

INIT_EXAMPLES = """\b
Examples:
  ana -d /shared/pickles init
  ana -d /shared/group/pickles init --shared
  ana -d /shared/pickles init --keyed

\b
JSON: path, store_id, mode, key_file ("" for none).
Exit codes: 0; 1 if there is a store, or a key file, already.
"""

ROTATE_EXAMPLES = """\b
Examples:
  ana -d /shared/pickles key rotate

\b
JSON: key_file, states, signed, resumed, finished, problems.
Exit codes: 0; 3 if states could not be signed anew (the old key stays until
they are: run it again); 11 if other maintenance runs.
"""


@click.command("init", epilog=INIT_EXAMPLES)
@click.option("--keyed", is_flag=True, help="With a key: nothing counts in it that the key has not signed.")
@click.option("--shared", is_flag=True, help="For a group, which is trusted then: mode 2770 instead of 0700.")
@click.option(
    "--key-file",
    type=click.Path(path_type=Path),
    help="Where the key goes, instead of ~/.config/ana/keys/STORE_ID: name it with ANA_KEY_FILE then.",
)
@store_options
@click.pass_obj
def init(output: Output, /, *, keyed: bool, shared: bool, key_file: Path | None) -> int:
    """Make a new store, in a folder that is not there yet or is empty.

    A store also comes into being by itself when a program first stores
    something in it, for its user alone and without a key. SECURITY.md says
    what the kinds are worth.
    """
    if key_file is not None and not keyed:
        msg = "--key-file is for a store with a key: give --keyed, too."
        raise click.UsageError(msg)
    made = maintenance.init(output.place[0], keyed=keyed, shared=shared, key_file=key_file)
    if output.as_json:
        emit(dataclasses.asdict(made))
    elif not output.quiet:
        said(printable(f"made {made.path} (mode {made.mode}, id {made.store_id})"))
        if made.key_file:
            said(printable(f"its key is in {made.key_file}: keep a copy, without it nobody reads the store"))
    return DONE


@click.group("key")
def key() -> None:
    """Make keys for stores, and replace them."""


@key.command("new")
@click.argument("path", type=click.Path(path_type=Path))
@store_options
@click.pass_obj
def new(output: Output, /, path: Path) -> int:
    """Make a key in a new file with mode 0600, for set_dl(pickle_dir=..., key=PATH).

    `ana init --keyed` makes a store together with its key.
    """
    where = maintenance.new_key(path)
    if output.as_json:
        emit({"key_file": where})
    elif not output.quiet:
        said(printable(f"made {where}"))
    return DONE


@key.command("rotate", epilog=ROTATE_EXAMPLES)
@lock_option
@store_options
@click.pass_obj
def rotate(output: Output, /, lock_seconds: float) -> int:
    """Give a store another key: make it, sign all states with it, forget the old.

    Until all are signed, both keys are believed by whoever reads the key file
    from now on. Jobs that have opened the store before do not know the new
    key: start them anew. May be interrupted, and goes on when it is run again.
    """
    with progress(output, "ana key rotate") as on_progress:
        done = maintenance.rotate_key(output.store, on_progress=on_progress, lock_seconds=lock_seconds)
    if output.as_json:
        emit(dataclasses.asdict(done))
    elif not output.quiet:
        said(printable(f"{done.signed:,} of {done.states:,} states signed anew with the key in {done.key_file}"))
        if done.problems:
            said(problems_table(done.problems))
    if not done.finished:
        warn("some states could not be signed: the old key stays in the file; run it again")
    return DONE if done.finished else PARTLY
