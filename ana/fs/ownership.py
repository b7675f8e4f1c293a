"""Whose files a process believes: those that nobody can have written whom it does not trust.

A pickle that somebody else can plant is a program that somebody else can run here. So what belongs to another user, or
can be written to by others, is refused. What is checked is what `fstat` says of the file that was opened.

A user namespace (rootless containers, `unshare -U`) shows every owner that it has no name for as one and the same user,
mostly 65534. That says nothing: neither that a file is one's own, nor that it is root's.
"""

import os
import stat
from collections.abc import Iterable

from ana.errors import UntrustedStoreError
from ana.fs import mounts

__all__ = ["EVERYDAY", "PLANTED", "UNMAPPED", "Trust"]

UNMAPPED = -1
"""Among trusted users: whoever this user namespace has no number for."""
PLANTED = (
    "it is a symbolic link, where a store has a folder: look who put it there, then remove the link "
    "(a folder that you had moved away goes back to its place)"
)
_ALL_UIDS = 2**32 - 1
_OTHERS, _GROUP = stat.S_IWOTH, stat.S_IWGRP
_KIND, _FILE, _FOLDER = stat.S_IFMT(0xFFFF), stat.S_IFREG, stat.S_IFDIR
_ALL_BUT_OWNER = stat.S_IRWXG | stat.S_IRWXO
_PRIVATE_MODE, _SHARED_MODE = 0o700, 0o2770


def _overflow_uid() -> int:
    try:
        with open("/proc/sys/kernel/overflowuid", "rb") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 65534


_NOBODY = _overflow_uid()
"""What owners look like that have no number here (user_namespaces(7)), or that an NFS server does not tell."""


class Trust:
    """Which users and modes a store's files may have. Immutable; safe between threads, also after fork or setuid."""

    __slots__ = ("_bits", "_refused_bits", "root", "shared", "uids")

    def __init__(self, uids: Iterable[int] = (), *, shared: bool = False, root: str = "") -> None:
        """Trust this process's user, root and `uids`; with `shared`, also the groups that may write.

        `root`: the store's folder, for the cures.
        """
        self.uids = frozenset(uids)
        self.shared = shared
        self.root = root
        self._refused_bits = _OTHERS if shared else _OTHERS | _GROUP
        self._bits = _KIND | self._refused_bits

    @property
    def new_mode(self) -> int:
        """The mode of a new store's folder."""
        return _SHARED_MODE if self.shared else _PRIVATE_MODE

    def within(self, root: str) -> "Trust":
        """Return the same for the store in a folder, whose errors name cures for all of it."""
        return Trust(self.uids, shared=self.shared, root=root)

    def check_file(self, path: str, found: os.stat_result) -> None:
        """Refuse what is no regular file, or one that somebody may have written. Raises UntrustedStoreError."""
        # One's own, mostly: this is asked of each file that is loaded.
        if found.st_mode & self._bits == _FILE and os.geteuid() == found.st_uid != _NOBODY:
            return
        if not stat.S_ISREG(found.st_mode):
            raise UntrustedStoreError(path, "it is not a regular file")
        self._check(path, found, anybody=self.shared)

    def check_folder(self, path: str, found: os.stat_result) -> None:
        """Refuse what is no folder, or one in which somebody may have planted files. Raises UntrustedStoreError."""
        if found.st_mode & self._bits == _FOLDER and os.geteuid() == found.st_uid != _NOBODY:
            return
        if not stat.S_ISDIR(found.st_mode):
            raise UntrustedStoreError(
                path, PLANTED if stat.S_ISLNK(found.st_mode) else "it is no folder, where a store has a folder"
            )
        self._check(path, found, anybody=self.shared)

    def check_root(self, path: str, found: os.stat_result) -> None:
        """Refuse a store's own folder as `check_folder` does; it belongs to a trusted user even where it is shared.

        A symbolic link may lead there: it is the user's own choice, if it is their own link.
        """
        if stat.S_ISLNK(found.st_mode):
            if not self._is_ours(found):
                raise UntrustedStoreError(path, self._foreign(found))
            return
        if stat.S_ISDIR(found.st_mode):
            # Of anything else the system itself will say that it is no folder.
            self._check(path, found, anybody=False)

    def _check(self, path: str, found: os.stat_result, *, anybody: bool) -> None:
        if found.st_mode & self._refused_bits:
            raise UntrustedStoreError(path, self._writable(path, found))
        if not anybody and not self._is_ours(found):
            raise UntrustedStoreError(path, self._foreign(found))

    def _is_ours(self, found: os.stat_result) -> bool:
        uid = found.st_uid
        if _says_nothing(uid):
            # What nobody but its owner may enter or read, and is read here all the same, is one's own.
            return UNMAPPED in self.uids or (not found.st_mode & _ALL_BUT_OWNER and not stat.S_ISLNK(found.st_mode))
        return uid == os.geteuid() or uid == 0 or uid in self.uids

    def _writable(self, path: str, found: os.stat_result) -> str:
        others = found.st_mode & _OTHERS
        who = "everybody" if others else f"the group {found.st_gid}"
        trust = "" if others else ", or shared=True to trust the group (ANA_SHARED=1 in the environment)"
        said = f"{who} may write to it ({_described(found)}), and so have this process run code"
        place = self.root or path
        mount = mounts.mount_of(place)
        kind = mount.kind if mount is not None else ""
        if mounts.has_fixed_modes(kind):
            return f"{said}: {kind} has no modes of its own here: {self._mounting(kind)}"
        # The whole store: a copy made with another umask has it in each file.
        bits = "o" if self.shared else "go"
        import shlex  # noqa: PLC0415 - for a message only

        return f"{said}: chmod -R {bits}-w {shlex.quote(place)}{trust}"

    def _mounting(self, kind: str) -> str:
        refused = 0o007 if self.shared else 0o077
        options = f"uid={os.geteuid()},umask={refused:03o}"
        if kind in ("cifs", "smb3", "smbfs"):
            options = f"uid={os.geteuid()},file_mode=0{0o666 & ~refused:o},dir_mode=0{0o777 & ~refused:o}"
        return f"mount it with -o {options} (WSL: metadata, in /etc/wsl.conf), or use a folder on another filesystem"

    def _foreign(self, found: os.stat_result) -> str:
        uid = found.st_uid
        if _says_nothing(uid):
            return (
                f"this user namespace does not know its owner ({_described(found)}: so look all who are not mapped, "
                "also strangers): run outside of the namespace, or map the owner (unshare --map-current-user, apptainer"
                " without --userns); or, if `ls -ln` outside shows an owner whom you trust, "
                'trusted_uids=["unmapped"] (ANA_TRUSTED_UIDS=unmapped in the environment)'
            )
        said = f"it belongs to somebody else ({_described(found)}), who can have this process run code"
        trust = f"trusted_uids=[{uid}] (ANA_TRUSTED_UIDS={uid} in the environment)"
        if uid == _NOBODY:
            return (
                f"{said}: an NFS server that maps owners to nobody (root_squash, or an ID mapping domain that differs "
                f"between client and server, see nfsidmap -d) looks so; mend that, or {trust}"
            )
        return f"{said}: {trust} if you trust them"


EVERYDAY = Trust()
"""This process's user and root."""


def _described(found: os.stat_result) -> str:
    return f"owner {found.st_uid}, group {found.st_gid}, mode {stat.S_IMODE(found.st_mode):04o}"


def _says_nothing(uid: int) -> bool:
    """Return whether an owner stands for all users who have no number in this process's user namespace."""
    return uid == _NOBODY and _mapped_uids() < _ALL_UIDS


def _mapped_uids() -> int:
    # Read each time: a process may enter a namespace at any moment, and few files are nobody's.
    try:
        with open("/proc/self/uid_map", "rb") as file:
            return sum(int(line.split()[2]) for line in file)
    except (OSError, ValueError, IndexError):
        return 0
