"""The command line: arguments, tables and progress bars around the functions of `ana.maintenance`."""

import errno
import io
import os
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor
from typing import Any

import click

from ana._version import __version__
from ana.cli.collect import gc
from ana.cli.common import DONE, FAILED, exit_code, printable, refuse_empty, store_options, warn
from ana.cli.completion import completion
from ana.cli.demo import demo_command
from ana.cli.export_import import export, import_command
from ana.cli.info import info
from ana.cli.init import init, key
from ana.cli.ls import ls
from ana.cli.pack import pack, unpack
from ana.cli.report import report
from ana.cli.roots import forget, keep, roots
from ana.cli.show import cat, show
from ana.cli.stats import stats
from ana.cli.sweep import sweep
from ana.cli.verify import verify
from ana.errors import ANAError
from ana.runtime.stdio import OutputError

__all__ = ["ana", "run"]

EPILOG = """\b
Examples:
  ana demo                                  see what ANA saves, in five seconds
  ana -d /shared/pickles info               is this a good place for a store?
  ana -d /shared/pickles stats --by class   what is in the store?
  ana -d /shared/pickles verify             check every byte
  ana ls --larger 1G --sort size -n 20      the largest states
  ana keep experiment-7 5f3ac0e1            never collect this state
  ana gc --unreachable                      collect what no root refers to
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


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=EPILOG)
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


for _command in (
    demo_command,
    init,
    key,
    info,
    stats,
    ls,
    show,
    cat,
    verify,
    keep,
    forget,
    roots,
    gc,
    sweep,
    pack,
    unpack,
    import_command,
    export,
    report,
    completion,
):
    ana.add_command(_command)


def run(argv: Sequence[str]) -> int:
    """Run the command line and return its exit code. An error is printed as one line on stderr."""
    try:
        refuse_empty(argv)
        code = _invoke(list(argv))
        sys.stdout.flush()
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(file=shown)
        click.echo(printable(shown.getvalue(), lines=True), err=True, nl=False)
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
