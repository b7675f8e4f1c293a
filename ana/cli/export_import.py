"""`ana import`, `ana export`: copy states from and to other stores."""

import os
from typing import Any

import click

from ana import maintenance
from ana.cli.common import (
    DAMAGE,
    DONE,
    Output,
    counted,
    emit,
    file_option,
    lock_option,
    output_place,
    size,
    store_options,
    warn_of,
)
from ana.cli.progress import progress
from ana.cli.tables import problems_table, said
from ana.cli.uuid_arguments import given, uuids_argument

__all__ = ["export", "import_command"]

IMPORT_EXAMPLES = """\b
Examples:
  ana -d /shared/pickles import /home/me/old-pickles
  ana -d /shared/pickles import experiment-7.ana

\b
JSON: found, imported (UUIDs), present, size_bytes, exported (UUIDs named on
export), ignored, problems.
Exit codes: 0; 4 if states are damaged, missing, or differ from those in the
store: these were not imported.
"""

EXPORT_EXAMPLES = """\b
Examples:
  ana export 5f3ac0e1 -o model.ana
  ana export experiment-7 -o experiment-7.ana
  ana ls --class '^paper[.]' -0 | ana export -o paper.ana -0 --from-file -
  tar tf model.ana

\b
JSON: path, uuids (as requested), states (all of them), size_bytes.
Exit codes: 0; 1 if the file exists; 4 if a state is missing or damaged.
"""


@click.command("import", epilog=IMPORT_EXAMPLES)
@click.argument("source", metavar="OLD_DIR|FILE", type=click.Path(exists=True))
@lock_option
@store_options
@click.pass_obj
def import_command(output: Output, /, source: str, lock_seconds: float) -> int:
    """Import states from a folder of the original ANA, or from an exported file.

    OLD_DIR is a folder of UUID.p files, as ANA wrote them until 2019. The
    states keep their UUIDs, and references to them still load. Nothing is
    unpickled: each file is checked opcode by opcode, which also finds the
    states that it refers to. FILE is a file from `ana export`; every byte is
    verified.

    The source is only read. The store is created if needed. States that exist
    are not stored again, so an interrupted import can be run again.
    """
    work: Any = maintenance.import_old if os.path.isdir(source) else maintenance.import_file
    with progress(output, "ana import") as on_progress:
        found: maintenance.Imported = work(output.place[0], source, on_progress=on_progress, lock_seconds=lock_seconds)
    if output.as_json:
        emit(found)
    elif not output.quiet:
        total = counted(found.found, "state", "states")
        said(f"{len(found.imported):,} of {total} imported, {size(found.size_bytes)}")
        foreign = counted(len(found.ignored), "foreign file", "foreign files") if found.ignored else "no foreign files"
        said(f"{found.present:,} already stored; {foreign}")
        if found.problems:
            said(problems_table(found.problems))
    warn_of(found.problems, output, source)
    return DAMAGE if found.problems else DONE


@click.command("export", epilog=EXPORT_EXAMPLES)
@uuids_argument
@file_option
@store_options
@click.pass_obj
def export(output: Output, /, path: str, from_file: str | None, *, uuids: tuple[str, ...], null: bool) -> int:
    """Export states, and all that they refer to, to one file for another site.

    The file is a tar archive of the states' files. Import it with `ana
    import`, or unpack it: it is a store. Every byte is verified. Name states
    by UUIDs, unique prefixes of UUIDs, or names of roots.
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
        said(f"{counted(len(found.states), 'state', 'states')} in {found.path}, {size(found.size_bytes)}")
    return DONE
