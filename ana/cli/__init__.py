"""The command line: arguments, tables and progress bars over functions that return typed results."""

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
  ana demo                                  what it is good for, in five seconds
  ana -d /shared/pickles info               is this a good place for a store?
  ana -d /shared/pickles stats --by class   what is in it?
  ana -d /shared/pickles verify             is every byte of it right?
  ana ls --larger 1G --sort size -n 20      the largest states
  ana keep experiment-7 5f3ac0e1            never collect this
  ana gc --unreachable                      collect what no root leads to
  ana --json stats | jq .states

\b
Exit codes:
  0    done
  1    failed; a line on stderr says why
  2    wrong usage
  3    partly done: some of it failed
  4    damaged or missing states were found
  10   there is no store at that place
  11   another maintenance of this store runs
  130  interrupted (143 by SIGTERM, 129 by SIGHUP); it can be run again
  141  who read the output has enough, as head does
"""


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=EPILOG)
@click.version_option(__version__, prog_name="ana")
@store_options
def ana() -> None:
    """Store large Python objects once, and send references to them; look after such a store.

    The store is the folder given with -d, or the one that ANA_PICKLE_DIR
    names, or ./pickles. Nothing is ever unpickled: looking at a store runs no
    code from it. Every command is safe beside running jobs, may be
    interrupted at any time, and run again. Tables are for people; --json
    prints one document for programs, whose keys are those of the functions in
    ana.maintenance. NO_COLOR switches colours off.
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
    import_command,
    export,
    report,
    completion,
):
    ana.add_command(_command)


def run(argv: Sequence[str]) -> int:
    """Run the command line and return its exit code. What went wrong is said in a line on stderr."""
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
            # Whoever reads has enough, as `head` does.
            return 128 + signal.SIGPIPE
        warn(str(error))
        return FAILED
    except (ANAError, OSError, BrokenExecutor, MemoryError, ValueError) as error:
        if isinstance(error, OSError) and error.errno == errno.EPIPE:
            # The same, where `-o` was a pipe.
            return 128 + signal.SIGPIPE
        warn(str(error) or type(error).__name__)
        return exit_code(error)
    return code if isinstance(code, int) else DONE


def _invoke(words: list[str]) -> Any:
    if "_ANA_COMPLETE" in os.environ:
        return ana.main(words, prog_name="ana", standalone_mode=False)
    # Not by main(), which has answers of its own to Ctrl-C and to errors of streams.
    try:
        with ana.make_context("ana", words) as context:
            return ana.invoke(context)
    except click.exceptions.Exit as end:
        return end.exit_code
