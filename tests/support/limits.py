"""Limits of this process, for the length of a `with` block."""

import contextlib
import os
import resource
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def largest_file(size_bytes: int) -> Iterator[None]:
    """Let no file grow beyond a size: writing fails with EFBIG (Python ignores SIGXFSZ)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def no_more_files() -> Iterator[None]:
    """Let no file be opened: all descriptors below the limit are taken."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.open(os.devnull, os.O_RDONLY)]
    try:
        # The lowest free descriptor is the next one to be had: so none is free below the limit.
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(taken) + 1, hard))
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in taken:
            os.close(descriptor)


def no_more_threads() -> None:
    """Let this process start no thread and no process from now on, for good; root becomes nobody for that."""
    if os.geteuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
    try:
        threading.Thread(target=int).start()
    except RuntimeError:
        return
    msg = "this system lets a user have more threads than RLIMIT_NPROC says"
    raise AssertionError(msg)
