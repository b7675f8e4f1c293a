"""Temporary folders that go with the object that stands for them."""

import os
import shutil
import tempfile
import weakref

__all__ = ["TemporaryFolder", "host"]


def host() -> str:
    """Return the name of this host."""
    return os.uname().nodename


class TemporaryFolder:
    """A new folder below TMPDIR. It is removed with this object, or at exit. A forked child leaves it to its parent.

    Attributes:
        path: The folder's absolute path.

    """

    def __init__(self, prefix: str) -> None:
        """Make the folder, whose name begins with `prefix`. Raises OSError."""
        self.path: str = tempfile.mkdtemp(prefix=prefix)
        weakref.finalize(self, _remove, self.path, os.getpid())


def _remove(path: str, owner: int) -> None:
    if os.getpid() == owner:
        shutil.rmtree(path, ignore_errors=True)
