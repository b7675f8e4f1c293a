"""Files that one process appends to, and files that are kept open to read parts of them.

Errors are raised as StoreError, with the path and a cure.
"""

import errno
import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from stat import S_ISREG

from ana.errors import UntrustedStoreError
from ana.fs import atomic, files, permissions
from ana.fs.files import Check, Status
from ana.fs.permissions import FILE_BITS, Access

__all__ = ["AppendFile", "KeptFile", "finish", "unique_name"]

_HOST_CHARACTERS = 40


def unique_name() -> str:
    """Return a name for a file that no other process makes: host, process and a random number."""
    host = re.sub(r"[^A-Za-z0-9.-]", "-", os.uname().nodename).strip("-.")[:_HOST_CHARACTERS]
    return f"{host or 'host'}-{os.getpid()}-{os.urandom(8).hex()}"


class AppendFile:
    """A new file, open for writing. The caller keeps threads apart. Closed with its last reference, if not before."""

    def __init__(self, path: str, access: Access, *, durable: bool) -> None:
        """Create the file, which must not exist. With `durable`, wait until its name is on the disk.

        Raises StoreError; then no file is left.
        """
        self.path: str = path
        self._descriptor = -1
        with files.reported(path):
            # Not for reading too: an NFS client would read the last page again before it appends.
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                self._descriptor = os.open(path, flags, access.mode & FILE_BITS)
                found = os.fstat(self._descriptor)
                permissions.settle(self._descriptor, found, access, access.mode & FILE_BITS)
                if durable:
                    atomic.sync_folder(os.path.dirname(path))
            except BaseException:
                self.close()
                # No other process uses this name; and a server may have made the file although it said that it failed.
                with suppress(OSError):
                    os.unlink(path)
                raise
        self.identity: tuple[int, int] = (found.st_dev, found.st_ino)

    @property
    def is_open(self) -> bool:
        """Whether it has not been closed."""
        return self._descriptor >= 0

    def has_a_name(self) -> bool:
        """Return whether the file has not been deleted, as far as this host knows. Raises StoreError."""
        try:
            return os.fstat(self._descriptor).st_nlink > 0
        except OSError as error:
            # Another NFS client has deleted it.
            if error.errno == errno.ESTALE:
                return False
            with files.reported(self.path):
                raise

    def write(self, offset: int, parts: Sequence[memoryview | bytes]) -> None:
        """Write all parts, one after the other, from `offset` on. Raises StoreError: some may have been written."""
        with files.reported(self.path):
            atomic.write_all(self._descriptor, offset, parts)

    def sync(self) -> None:
        """Wait until all that was written is on the disk. Raises StoreError: then nobody knows what is."""
        with files.reported(self.path):
            os.fdatasync(self._descriptor)

    def rename(self, path: str, *, durable: bool) -> None:
        """Give the file another name, whatever has that name; with `durable`, wait for the disk. Raises StoreError."""
        with files.reported(path):
            atomic.rename(self.path, path, self.identity)
            self.path = path
            if durable:
                atomic.sync_folder(os.path.dirname(path))

    def remove(self) -> None:
        """Close the file, and remove its name if the system lets us."""
        self.close()
        with suppress(OSError):
            os.unlink(self.path)

    def cut(self, size_bytes: int) -> None:
        """Cut off what lies behind a size, if the system lets us."""
        with suppress(OSError):
            os.ftruncate(self._descriptor, size_bytes)

    def close(self) -> None:
        """Close the file. Closing twice does nothing."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with suppress(OSError):
                os.close(descriptor)

    def __del__(self) -> None:
        self.close()


def finish(path: str, size_bytes: int, data: bytes) -> bool:
    """Append to a file that its writer has left, if it still has this size; its time of change stays as it is.

    Returns False if it has another size by now, or has gone. Raises StoreError: part of the data may be there.
    """
    with files.reported(path):
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            found = os.fstat(descriptor)
            if found.st_size != size_bytes or not S_ISREG(found.st_mode):
                return False
            atomic.write_all(descriptor, size_bytes, [data])
            os.fdatasync(descriptor)
            with suppress(PermissionError):
                os.utime(descriptor, ns=(found.st_atime_ns, found.st_mtime_ns))
        finally:
            os.close(descriptor)
    return True


class KeptFile:
    """A regular file that is kept open for reading. Safe between threads and after fork; the last holder closes it."""

    __slots__ = ("_descriptor", "path", "status")

    def __init__(self, path: str, descriptor: int, status: Status) -> None:
        self.path: str = path
        self.status: Status = status
        """Its status when it was opened."""
        self._descriptor = descriptor

    @classmethod
    def open(cls, path: str, check: Check) -> "KeptFile | None":
        """Open a file; None if it does not exist.

        Raises:
            StoreError: The system refused.
            UntrustedStoreError: It is not a regular file, or `check` refused its status.

        """
        with files.reported(path):
            try:
                descriptor = os.open(path, files.READ)
            except FileNotFoundError:
                return None
            try:
                found = os.fstat(descriptor)
            except BaseException:
                os.close(descriptor)
                raise
            kept = cls(path, descriptor, Status(found.st_size, found.st_mtime, (found.st_dev, found.st_ino), found))
        if not S_ISREG(found.st_mode):
            raise UntrustedStoreError(path, "it is not a regular file")
        check(path, found)
        return kept

    def read(self, offset: int, size: int) -> bytearray:
        """Read up to `size` bytes from `offset` on; fewer if the file ends before, or was deleted on its server."""
        data = bytearray(size)
        done = 0
        try:
            done = os.preadv(self._descriptor, [data], offset)
            while 0 < done < size:
                got = os.preadv(self._descriptor, [memoryview(data)[done:]], offset + done)
                if not got:
                    break
                done += got
        except OSError as error:
            if error.errno != errno.ESTALE:
                with files.reported(self.path):
                    raise
            done = 0
        return data if done == size else data[:done]

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        # As a default: at the interpreter's end the module's own names are gone.
        try:  # noqa: SIM105 - `suppress` is gone, too
            close(self._descriptor)
        except OSError:
            pass
