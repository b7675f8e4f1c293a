"""`ana import`, `ana export`: states from elsewhere, and for elsewhere."""

import os
from typing import Any

import click

from ana import maintenance
from ana.cli.common import (
    DAMAGE,
    DONE,
    Output,
    emit,
    lock_option,
    output_place,
    problems_table,
    said,
    size,
    store_options,
    warn_of,
)
from ana.cli.progress import progress
from ana.cli.uuid_arguments import given, uuids_argument

__all__ = ["export", "import_command"]

IMPORT_EXAMPLES = """\b
Examples:
  ana -d /shared/pickles import /home/me/old-pickles
  ana -d /shared/pickles import experiment-7.ana

\b
JSON: found, imported (UUIDs), present, size_bytes, exported (UUIDs that were
asked for), ignored, problems.
Exit codes: 0; 4 if states are damaged or missing, or differ from what the
store has: those were not imported.
"""

EXPORT_EXAMPLES = """\b
Examples:
  ana export 5f3ac0e1 -o model.ana
  ana ls --class '^paper[.]' -0 | ana export -o paper.ana -0 --from-file -
  tar tf model.ana

\b
JSON: path, uuids (asked for), states (all of them), size_bytes.
Exit codes: 0; 1 if the file exists; 4 if a state is missing or damaged.
"""


@click.command("import", epilog=IMPORT_EXAMPLES)
@click.argument("source", metavar="OLD_DIR|FILE", type=click.Path(exists=True))
@lock_option
@store_options
@click.pass_obj
def import_command(output: Output, /, source: str, lock_seconds: float) -> int:
    """Store the states of a folder of the original ANA, or of an exported file.

    OLD_DIR is a folder of files UUID.p, as ANA wrote them until 2019. They
    keep their UUIDs; references to them load as before. Nothing is unpickled:
    each file is checked opcode by opcode, and what it refers to is found on
    the way. FILE is what `ana export` wrote; every byte is verified.

    The source is only read. The store is made if it is not there. What is there
    already is not stored again: an import can be interrupted and run again.
    """
    work: Any = maintenance.import_old if os.path.isdir(source) else maintenance.import_file
    with progress(output, "ana import") as on_progress:
        found: maintenance.Imported = work(output.place[0], source, on_progress=on_progress, lock_seconds=lock_seconds)
    if output.as_json:
        emit(found)
    elif not output.quiet:
        said(f"{len(found.imported):,} of {found.found:,} states imported, {size(found.size_bytes)}")
        said(f"{found.present:,} were there already, {len(found.ignored):,} files are no states")
        if found.problems:
            said(problems_table(found.problems))
    warn_of(found.problems, output, source)
    return DAMAGE if found.problems else DONE


@click.command("export", epilog=EXPORT_EXAMPLES)
@uuids_argument
@click.option(
    "-o",
    "--output",
    "path",
    metavar="FILE",
    required=True,
    type=click.Path(dir_okay=False, allow_dash=True),
    help="Where it goes; - is standard output.",
)
@store_options
@click.pass_obj
def export(output: Output, /, path: str, from_file: str | None, *, uuids: tuple[str, ...], null: bool) -> int:
    """Write states with all that they refer to into one file, for another site.

    It is a tar file that unpacks into a store, the states' files as they are;
    `ana import` there takes it in. Every byte is verified. A beginning of a
    UUID is enough if no other begins like that. Any number of them can come
    from a file.
    """
    names = given(uuids, from_file, null=null)
    path, speaks = output_place(path)
    with progress(output, "ana export") as on_progress:
        found = maintenance.export_states(output.store, names, path, on_progress=on_progress)
    if not speaks:
        return DONE
    if output.as_json:
        emit(found)
    elif not output.quiet:
        said(f"{len(found.states):,} states in {found.path}, {size(found.size_bytes)}")
    return DONE
