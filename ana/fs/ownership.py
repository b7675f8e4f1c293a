"""Trusted owners: a file counts only if no untrusted user can have written it.

Anyone who can plant a pickle can run a program here. So files that belong to other users, or that others can write to,
are refused. The check uses `fstat` on the opened file.

A user namespace (rootless containers, `unshare -U`) shows all unmapped owners as one user, usually 65534. That owner
may be anyone: this user, the root user or a stranger.
"""

import os
import stat
from collections.abc import Iterable

from ana.errors import UntrustedStoreError
from ana.fs import mounts

__all__ = ["EVERYDAY", "PLANTED", "UNMAPPED", "Trust"]

UNMAPPED = -1
"""In the set of trusted users: every owner that this user namespace does not map."""
PLANTED = (
    "it is a symbolic link, but a store needs a folder here: find out who put it there, then remove the link "
    "(if you moved the folder yourself, move it back)"
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
"""The user id of unmapped owners (user_namespaces(7)), and of owners that an NFS server hides."""


class Trust:
    """The owners and modes that a store's files may have. Immutable; safe between threads and after fork or setuid."""

    __slots__ = ("_bits", "_refused_bits", "root", "shared", "uids")

    def __init__(self, uids: Iterable[int] = (), *, shared: bool = False, root: str = "") -> None:
        """Trust this process's user, the root user and `uids`; with `shared`, also groups with write access.

        `root` is the store's top folder, named in the cures.
        """
        self.uids: frozenset[int] = frozenset(uids)
        self.shared: bool = shared
        self.root: str = root
        self._refused_bits = _OTHERS if shared else _OTHERS | _GROUP
        self._bits = _KIND | self._refused_bits

    @property
    def new_mode(self) -> int:
        """The mode of a new store's folder."""
        return _SHARED_MODE if self.shared else _PRIVATE_MODE

    def within(self, root: str) -> "Trust":
        """Return the same trust for the store at `root`, whose errors name cures for the whole store."""
        return Trust(self.uids, shared=self.shared, root=root)

    def check_file(self, path: str, found: os.stat_result) -> None:
        """Refuse a file that is not regular, or that untrusted users can have written. Raises UntrustedStoreError."""
        # The fast path, for this user's own files: every load comes through here.
        if found.st_mode & self._bits == _FILE and os.geteuid() == found.st_uid != _NOBODY:
            return
        if not stat.S_ISREG(found.st_mode):
            raise UntrustedStoreError(path, "it is not a regular file")
        self._check(path, found, anybody=self.shared)

    def check_folder(self, path: str, found: os.stat_result) -> None:
        """Refuse anything but a folder in which only trusted users can create files. Raises UntrustedStoreError."""
        if found.st_mode & self._bits == _FOLDER and os.geteuid() == found.st_uid != _NOBODY:
            return
        if not stat.S_ISDIR(found.st_mode):
            raise UntrustedStoreError(
                path, PLANTED if stat.S_ISLNK(found.st_mode) else "it is not a folder, but a store needs a folder here"
            )
        self._check(path, found, anybody=self.shared)

    def check_root(self, path: str, found: os.stat_result) -> None:
        """Refuse a store's top folder as `check_folder` does; even if shared, it must belong to a trusted user.

        The path may be a symbolic link, if the link belongs to a trusted user.
        """
        if stat.S_ISLNK(found.st_mode):
            if not self._is_ours(found):
                raise UntrustedStoreError(path, self._foreign(found))
            return
        if stat.S_ISDIR(found.st_mode):
            # For anything else the system itself reports that it is not a folder.
            self._check(path, found, anybody=False)

    def _check(self, path: str, found: os.stat_result, *, anybody: bool) -> None:
        if found.st_mode & self._refused_bits:
            raise UntrustedStoreError(path, self._writable(path, found))
        if not anybody and not self._is_ours(found):
            raise UntrustedStoreError(path, self._foreign(found))

    def _is_ours(self, found: os.stat_result) -> bool:
        uid = found.st_uid
        if _says_nothing(uid):
            # If only its owner may read it, and this process can, then it is this user's.
            return UNMAPPED in self.uids or (not found.st_mode & _ALL_BUT_OWNER and not stat.S_ISLNK(found.st_mode))
        return uid == os.geteuid() or uid == 0 or uid in self.uids

    def _writable(self, path: str, found: os.stat_result) -> str:
        others = found.st_mode & _OTHERS
        who = "everyone" if others else f"the group {found.st_gid}"
        trust = "" if others else ", or shared=True to trust the group (ANA_SHARED=1 in the environment)"
        said = f"{who} may write to it ({_described(found)}), and could run code in this process"
        if found.st_mode & stat.S_ISVTX:
            # A folder for everyone, such as /tmp.
            return f"{said}: use a folder of your own in it"
        place = self.root or path
        mount = mounts.mount_of(place)
        kind = mount.kind if mount is not None else ""
        if mounts.has_fixed_modes(kind):
            return f"{said}. {kind} has no modes of its own here: {self._mounting(kind)}"
        # For the whole store: in a copy made with another umask, every file has the wrong mode.
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
                f"this user namespace does not map its owner ({_described(found)}; strangers look the same): "
                "run outside the namespace, or map the owner (unshare --map-current-user, apptainer without "
                "--userns); or, if `ls -ln` outside the namespace shows an owner that you trust, set "
                'trusted_uids=["unmapped"] (ANA_TRUSTED_UIDS=unmapped in the environment)'
            )
        said = f"it belongs to another user ({_described(found)}), who could run code in this process"
        trust = f"trusted_uids=[{uid}] (ANA_TRUSTED_UIDS={uid} in the environment)"
        if uid == _NOBODY:
            return (
                f"{said}. The NFS server may map owners to nobody (root_squash, or different ID mapping domains on "
                f"client and server, see nfsidmap -d): correct that, or set {trust}"
            )
        return f"{said}: set {trust} if you trust that user"


EVERYDAY = Trust()
"""Trusts this process's user and the root user."""


def _described(found: os.stat_result) -> str:
    return f"owner {found.st_uid}, group {found.st_gid}, mode {stat.S_IMODE(found.st_mode):04o}"


def _says_nothing(uid: int) -> bool:
    """Return whether a user id stands for all owners that this process's user namespace does not map."""
    return uid == _NOBODY and _mapped_uids() < _ALL_UIDS


def _mapped_uids() -> int:
    # Read each time: a process can enter a namespace at any moment, and few files have this owner.
    try:
        with open("/proc/self/uid_map", "rb") as file:
            return sum(int(line.split()[2]) for line in file)
    except (OSError, ValueError, IndexError):
        return 0
