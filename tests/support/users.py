"""Other users, and what they plant."""

import contextlib
import os
from pathlib import Path

__all__ = ["Trap", "user"]


class Trap:
    """Pickles into making a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


@contextlib.contextmanager
def user(uid, *groups, gid=None, umask=0o022):
    """Be another user, in this very process: of the group `gid`, or else of their own, and of `groups`."""
    gid = uid if gid is None else gid
    os.setgroups([gid, *groups])
    os.setegid(gid)
    os.seteuid(uid)
    before = os.umask(umask)
    try:
        yield
    finally:
        os.umask(before)
        os.seteuid(0)
        os.setegid(0)
        os.setgroups([])
