"""`python -m ana`, and the console script `ana`."""

import sys
from collections.abc import Sequence
from functools import partial

from ana.runtime import interrupts, stdio

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line, and return its exit code.

    Without `argv`, uses the process's arguments, and takes over its signals and standard streams until it exits.
    """
    program = argv is None
    if program:
        interrupts.answer()
        stdio.prepare()
    work = partial(_run, sys.argv[1:] if argv is None else argv)
    return interrupts.run(work) if program else interrupts.run_within(work)


def _run(argv: Sequence[str]) -> int:
    try:
        # Imported late: worker processes import this module, too, and need neither click nor rich.
        from ana import cli  # noqa: PLC0415 - see above

        return cli.run(argv)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in {"click", "rich"}:
            raise
        sys.stderr.write("ana: the command line needs click and rich: pip install click rich (the extra `cli`)\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
