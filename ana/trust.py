"""Whose files a process believes: those that nobody can have written whom it does not trust.

A pickle that somebody else can plant is a program that somebody else can run here. So what belongs to another user, or
can be written to by others, is refused. What is checked is what `fstat` says of the file that was opened.
"""

import os
import stat
from collections.abc import Iterable

from ana.errors import UntrustedStoreError

__all__ = ["EVERYDAY", "Trust"]

_NOBODY = 65534
_OTHERS, _GROUP = stat.S_IWOTH, stat.S_IWGRP
_KIND, _FILE, _FOLDER = stat.S_IFMT(0xFFFF), stat.S_IFREG, stat.S_IFDIR
_PRIVATE_MODE, _SHARED_MODE = 0o700, 0o2770


class Trust:
    """Which users and modes a store's files may have. Immutable; safe between threads, also after fork or setuid."""

    __slots__ = ("_bits", "_refused_bits", "shared", "uids")

    def __init__(self, uids: Iterable[int] = (), *, shared: bool = False) -> None:
        """Trust this process's user, root and `uids`; with `shared`, also the groups that may write."""
        self.uids = frozenset(uids)
        self.shared = shared
        self._refused_bits = _OTHERS if shared else _OTHERS | _GROUP
        self._bits = _KIND | self._refused_bits

    @property
    def new_mode(self) -> int:
        """The mode of a new store's folder."""
        return _SHARED_MODE if self.shared else _PRIVATE_MODE

    def check_file(self, path: str, found: os.stat_result) -> None:
        """Refuse what is no regular file, or one that somebody may have written. Raises UntrustedStoreError."""
        # One's own, mostly: this is asked of each file that is loaded.
        if found.st_mode & self._bits == _FILE and found.st_uid == os.geteuid():
            return
        if not stat.S_ISREG(found.st_mode):
            raise UntrustedStoreError(path, "it is not a regular file")
        self._check(path, found, anybody=self.shared)

    def check_folder(self, path: str, found: os.stat_result) -> None:
        """Refuse what is no folder, or one in which somebody may have planted files. Raises UntrustedStoreError."""
        if found.st_mode & self._bits == _FOLDER and found.st_uid == os.geteuid():
            return
        if not stat.S_ISDIR(found.st_mode):
            kind = "a symbolic link" if stat.S_ISLNK(found.st_mode) else "no folder"
            raise UntrustedStoreError(path, f"it is {kind}, where a store has a folder")
        self._check(path, found, anybody=self.shared)

    def check_root(self, path: str, found: os.stat_result) -> None:
        """Refuse a store's own folder as `check_folder` does; it belongs to a trusted user even where it is shared.

        A symbolic link may lead there: it is the user's own choice, if it is their own link.
        """
        if stat.S_ISLNK(found.st_mode):
            if not self._is_ours(found.st_uid):
                raise UntrustedStoreError(path, self._foreign(path, found))
            return
        if stat.S_ISDIR(found.st_mode):
            # Of anything else the system itself will say that it is no folder.
            self._check(path, found, anybody=False)

    def _check(self, path: str, found: os.stat_result, *, anybody: bool) -> None:
        if found.st_mode & self._refused_bits:
            raise UntrustedStoreError(path, self._writable(path, found))
        if not anybody and not self._is_ours(found.st_uid):
            raise UntrustedStoreError(path, self._foreign(path, found))

    def _is_ours(self, uid: int) -> bool:
        return uid == os.geteuid() or uid == 0 or uid in self.uids

    def _writable(self, path: str, found: os.stat_result) -> str:
        who = "everybody" if found.st_mode & _OTHERS else f"the group {found.st_gid}"
        trust = "" if found.st_mode & _OTHERS else ", or shared=True to trust the group"
        cure = f"chmod {'o' if found.st_mode & _OTHERS else 'g'}-w {path}{trust}"
        return f"{who} may write to it ({_described(found)}), and so have this process run code: {cure}"

    def _foreign(self, path: str, found: os.stat_result) -> str:
        said = f"it belongs to somebody else ({_described(found)}), who can have this process run code"
        if found.st_uid == _NOBODY:
            return (
                f"{said}: an NFS server that maps owners to nobody (root_squash, or an ID mapping domain that differs "
                f"between client and server, see nfsidmap -d) looks so; mend that, or trusted_uids=[{_NOBODY}]"
            )
        return f"{said}: trusted_uids=[{found.st_uid}] if you trust them, or chown {os.geteuid()} {path}"


EVERYDAY = Trust()
"""This process's user and root."""


def _described(found: os.stat_result) -> str:
    return f"owner {found.st_uid}, group {found.st_gid}, mode {stat.S_IMODE(found.st_mode):04o}"
