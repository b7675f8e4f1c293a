"""`python -m ana`, and the console script `ana`."""

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line, and return its exit code; say what to install where its libraries are missing."""
    # Imported here: worker processes import this module again, and need neither click nor rich.
    try:
        from ana import cli  # noqa: PLC0415 - see above
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in {"click", "rich"}:
            raise
        sys.stderr.write("ana: the command line needs click and rich: pip install click rich (the extra `cli`)\n")
        return 1
    return cli.run(argv)


if __name__ == "__main__":
    sys.exit(main())
