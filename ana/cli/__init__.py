"""The command line: arguments, tables and progress bars around the functions of `ana.maintenance`."""

import errno
import importlib
import io
import os
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor
from typing import Any

import click

from ana._version import __version__
from ana.cli.common import DONE, FAILED, exit_code, printable, refuse_empty, store_options, warn
from ana.errors import ANAError
from ana.runtime.stdio import OutputError

__all__ = ["ana", "run"]

EPILOG = """\b
Examples:
  ana demo                                  # see what ANA saves, in seconds
  ana -d /shared/pickles info               # is this a good place for a store?
  ana -d /shared/pickles stats --by class   # what is in the store?
  ana -d /shared/pickles verify             # check every byte
  ana ls --larger 1G --sort size -n 20      # the largest states
  ana keep experiment-7 5f3ac0e1            # never collect this state
  ana gc --unreachable                      # collect what no root refers to
  ana --json stats | jq .states

\b
Exit codes:
  0    done
  1    failed; the reason is on stderr
  2    wrong usage
  3    partly done: some of it failed
  4    damaged or missing states were found
  10   no store at that path
  11   other maintenance of this store is running
  130  interrupted (143 by SIGTERM, 129 by SIGHUP); safe to run again
  141  the reader of the output closed it, as head does
"""


COMMANDS = {
    "cat": ("show:cat", "Check a state, and write its raw pickle to stdout."),
    "completion": ("completion:completion", "Print a script that makes a shell complete commands."),
    "copy": ("copy:copy", "Copy states, and all they refer to, to another store."),
    "demo": ("demo:demo_command", "Send a large object to workers, by value and by reference."),
    "diff": ("copy:diff", "Compare the states and roots of two stores."),
    "expiring": ("expiring:expiring", "List what a scratch filesystem will purge next."),
    "export": ("export_import:export", "Export states, and all they refer to, to one file."),
    "extend": ("roots:extend", "Extend a root: its time to live starts again."),
    "forget": ("roots:forget", "Remove a root."),
    "gc": ("collect:gc", "Move unneeded states to the trash; delete them later."),
    "help": ("help_command:help_command", "Show what ana or one of its commands does."),
    "import": ("export_import:import_command", "Import an export, or a folder of the original ANA."),
    "info": ("info:info", "Show what would make the store slow or unsafe here."),
    "init": ("init:init", "Create a store in a new or empty folder."),
    "keep": ("roots:keep", "Keep states, and all they refer to, from collection."),
    "key": ("init:key", "Create and replace the keys of stores."),
    "ls": ("ls:ls", "List the states: UUID, size, age and class."),
    "pack": ("pack:pack", "Move small states into packs; merge small packs."),
    "report": ("report:report", "Write an HTML page about the store."),
    "rm": ("why:rm", "Move states that nothing needs to the trash."),
    "roots": ("roots:roots", "List the roots: states, size, end, and who added to them."),
    "show": ("show:show", "Show a state's header, without unpickling the state."),
    "stage": ("stage:stage", "Copy states to the nodes before tasks start."),
    "stats": ("stats:stats", "Count states, bytes, inodes, trash and leftovers."),
    "sweep": ("sweep:sweep", "Remove temporary files that killed writers left."),
    "unpack": ("pack:unpack", "Give each state in a pack a file of its own again."),
    "verify": ("verify:verify", "Read every byte of every state, and check its digests."),
    "why": ("why:why", "Show what keeps a state, and until when."),
}
"""Each command's module and name there, and its line in `ana --help`."""


class _Commands(click.Group):
    """The commands. Each is imported when it is used: importing all of them takes longer than most commands run."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - of click
        return sorted(COMMANDS)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib  # noqa: PLC0415 - after a failure only

            near = difflib.get_close_matches(args[0], COMMANDS, 1)
            if not near:
                raise
            msg = f"{error.message} Is it {near[0]!r}?"
            raise click.UsageError(msg, ctx) from None

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - of click
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(f"ana.cli.{module}"), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - of click
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in sorted(COMMANDS)])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]}, epilog=EPILOG)
@click.version_option(__version__, prog_name="ana")
@store_options
def ana() -> None:
    """Inspect and maintain a store of Python objects.

    The store is the folder given with -d, else the one in ANA_PICKLE_DIR,
    else ./pickles. Nothing is unpickled: no command runs code from a store.
    Every command is safe while jobs run, and can be interrupted at any time
    and run again. Tables are for people. --json prints one document for
    programs, with the field names of the functions in ana.maintenance.
    NO_COLOR turns colours off.
    """


def run(argv: Sequence[str]) -> int:
    """Run the command line and return its exit code. An error is printed as one line on stderr."""
    try:
        refuse_empty(argv)
        code = _invoke(list(argv))
        sys.stdout.flush()
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(file=shown)
        click.echo(printable(shown.getvalue().expandtabs(4), lines=True), err=True, nl=False)
        return error.exit_code
    except (OutputError, BrokenPipeError) as error:
        if error.errno == errno.EPIPE:
            # The reader closed the pipe, as `head` does.
            return 128 + signal.SIGPIPE
        warn(str(error))
        return FAILED
    except (ANAError, OSError, BrokenExecutor, MemoryError, ValueError) as error:
        if isinstance(error, OSError) and error.errno == errno.EPIPE:
            # The same, with a pipe as `-o`.
            return 128 + signal.SIGPIPE
        warn(str(error) or type(error).__name__)
        return exit_code(error)
    return code if isinstance(code, int) else DONE


def _invoke(words: list[str]) -> Any:
    if "_ANA_COMPLETE" in os.environ:
        return ana.main(words, prog_name="ana", standalone_mode=False)
    # Not by main(), which handles Ctrl-C and stream errors in its own way.
    try:
        with ana.make_context("ana", words) as context:
            return ana.invoke(context)
    except click.exceptions.Exit as end:
        return end.exit_code
