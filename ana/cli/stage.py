"""`ana stage`: states on the nodes before their tasks start."""

import click

from ana import maintenance
from ana.cli.common import DONE, Output, counted, emit, output_place, printable, size, store_options
from ana.cli.progress import progress
from ana.cli.tables import said
from ana.cli.uuid_arguments import given, uuids_argument

__all__ = ["stage"]

STAGE_EXAMPLES = """\b
Examples:
  ana stage sweep-7 -o sweep.ana   # then, in the job:
  sbcast sweep.ana /local/sweep.ana
  ANA_STAGED=/local/sweep.ana srun python task.py
  srun -n $SLURM_NNODES --ntasks-per-node=1 ana stage sweep-7 --node-cache

\b
JSON: path, uuids (as requested), states (all of them), size_bytes; with
--node-cache also entries (how many states are entries of the cache).
Exit codes: 0; 1 if the file exists, or the node has no cache or no room; 4 if
a state is missing or damaged.
"""


@click.command("stage", epilog=STAGE_EXAMPLES)
@uuids_argument
@click.option(
    "-o",
    "--output",
    "path",
    metavar="FILE",
    type=click.Path(dir_okay=False, allow_dash=True),
    help="Write all states to one file, for sbcast; - is standard output.",
)
@click.option(
    "--node-cache", is_flag=True, help="Put the states into this node's cache (ANA_NODE_CACHE, or its usual folder)."
)
@store_options
@click.pass_obj
def stage(
    output: Output, /, path: str | None, from_file: str | None, *, node_cache: bool, uuids: tuple[str, ...], null: bool
) -> int:
    """Copy states, and all that they refer to, to the nodes before tasks start.

    Tasks that have the file (ANA_STAGED=FILE), or share the node cache, load
    these states without opening the store. Every state is verified when it is
    loaded. If it is not staged, or is damaged, it comes from the store.

    Name states by UUIDs, unique prefixes of UUIDs, or names of roots.
    """
    if (path is None) != node_cache:
        msg = "say where the states go: -o FILE, or --node-cache."
        raise click.UsageError(msg)
    names = given(uuids, from_file, null=null)
    with progress(output, "ana stage") as on_progress:
        if path is None:
            here = maintenance.stage_in_cache(output.store, names, on_progress=on_progress)
            return _tell(output, here, f"{counted(here.entries, 'entry', 'entries')} and {here.path}")
        place, speaks = output_place(path)
        file = maintenance.stage_states(output.store, names, place, on_progress=on_progress)
        return _tell(output, file, file.path) if speaks else DONE


def _tell(output: Output, found: maintenance.Exported | maintenance.StagedHere, where: str) -> int:
    if output.as_json:
        emit(found)
    elif not output.quiet:
        said(printable(f"{counted(len(found.states), 'state', 'states')} in {where}, {size(found.size_bytes)}"))
    return DONE
