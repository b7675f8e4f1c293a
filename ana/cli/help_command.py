"""`ana help`: what `--help` shows, for those who type it as a command."""

import click

from ana.cli.common import DONE

__all__ = ["help_command"]


@click.command("help")
@click.argument("command", required=False)
@click.pass_context
def help_command(context: click.Context, command: str | None) -> int:
    """Show what ana or one of its commands does, as --help does."""
    parent = context.find_root()
    group = parent.command
    if command is None:
        click.echo(group.get_help(parent))
        return DONE
    found = group.get_command(parent, command) if isinstance(group, click.Group) else None
    if found is None:
        msg = f"No such command {command!r}. `ana help` lists all."
        raise click.UsageError(msg, parent)
    click.echo(found.get_help(click.Context(found, info_name=command, parent=parent)))
    return DONE
