"""Shell completion. click completes commands and options; UUIDs and names of roots come from the store."""

import os

import click
from click.shell_completion import CompletionItem, get_completion_class

from ana import maintenance
from ana.cli.common import Output, store_options
from ana.errors import ANAError

__all__ = ["completion", "roots", "uuids"]

MOST = 100

EXAMPLES = """\b
Examples:
  eval "$(ana completion bash)"   # in ~/.bashrc
  ana completion zsh > ~/.zfunc/_ana
  ana completion fish > ~/.config/fish/completions/ana.fish
"""


@click.command("completion", epilog=EXAMPLES)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@store_options
def completion(shell: str) -> int:
    """Print a script that makes a shell complete commands, options and UUIDs.

    UUIDs are completed after two digits, from the store of -d (on the line
    being completed), ANA_PICKLE_DIR or ./pickles.
    """
    from ana.cli import ana  # noqa: PLC0415 - the group that this command is in

    made = get_completion_class(shell)
    if made is None:
        msg = f"click has no completion for {shell}."
        raise click.UsageError(msg)
    click.echo(made(ana, {}, "ana", "_ANA_COMPLETE").source())
    return 0


def uuids(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the store's UUIDs, and the names of its roots, with the given prefix."""
    output = context.find_object(Output) or Output()
    if len(incomplete) < 2 or not os.path.isdir(output.place[0]):  # noqa: PLR2004 - one of 256 folders
        return []
    try:
        found = maintenance.beginning(output.store, incomplete)
    except (ANAError, OSError):
        return []
    return [*roots(context, _parameter, incomplete), *(CompletionItem(uuid) for uuid in found[:MOST])]


def roots(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the names of the store's roots with the given prefix."""
    output = context.find_object(Output) or Output()
    try:
        found = maintenance.root_names(output.store)
    except (ANAError, OSError):
        return []
    return [CompletionItem(name) for name in found if name.startswith(incomplete)][:MOST]
