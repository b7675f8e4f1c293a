"""System calls one at a time: something else happens before one of them, or one of them fails."""

import contextlib
import errno
import os
import threading

from ana.fs import append_file, atomic, files
from ana.stores.directory import trash


class Killed(BaseException):
    """Ends a collection like SIGKILL: no code of ana catches it, and what it would do then is not done."""


class Stepping:
    """The module `os` for one thread's calls, each of which is a step; something happens before one of them."""

    CALLS = ("link", "mkdir", "open", "rename", "rmdir", "scandir", "stat", "unlink", "utime")

    def __init__(self, at, happens):
        self.at = at
        self.happens = happens
        self.steps = 0
        self.dead = False
        self.busy = False
        self.thread = threading.get_ident()

    def __getattr__(self, called):
        real = getattr(os, called)
        # A lock is asked for in a thread of its own, which nobody kills.
        if called not in self.CALLS or threading.get_ident() != self.thread:
            return real
        return lambda *args, **options: self.step(real, *args, **options)

    def step(self, real, *arguments, **options):
        """Count a call, and let it happen before the right one."""
        if self.dead:
            raise Killed
        if not self.busy:
            if self.steps == self.at:
                self.busy = True
                try:
                    self.happens()
                except Killed:
                    self.dead = True
                    raise
                finally:
                    self.busy = False
            self.steps += 1
        return real(*arguments, **options)


@contextlib.contextmanager
def stepping(at, happens):
    """Let something happen before the system call of that number."""
    with patched(Stepping(at, happens)) as stand_in:
        yield stand_in


@contextlib.contextmanager
def patched(stand_in):
    """Let a stand-in make the system calls on files."""
    modules = files, atomic, trash, append_file
    before = [module.os for module in modules]
    for module in modules:
        module.os = stand_in
    try:
        yield stand_in
    finally:
        for module, own in zip(modules, before, strict=True):
            module.os = own


REPEATED = {"link": errno.EEXIST, "mkdir": errno.EEXIST, "unlink": errno.ENOENT, "rename": errno.ENOENT}
"""What an NFS server says to a call that it has done already, when its reply was lost."""


class Failing(Stepping):
    """The same, where one of the calls fails, done or not."""

    def __init__(self, at, code):
        super().__init__(at, None)
        self.code = code
        self.struck = False

    def __getattr__(self, called):
        step = super().__getattr__(called)
        return step if called not in self.CALLS else lambda *args, **options: self.fail(called, step, args, options)

    def fail(self, called, step, arguments, options):
        """Fail where it is time to: of a call whose reply is lost, it is done all the same."""
        self.steps += 1
        if self.steps - 1 != self.at or (self.code is None and called not in REPEATED):
            return getattr(os, called)(*arguments, **options)
        self.struck = True
        if self.code is None:
            getattr(os, called)(*arguments, **options)
            raise OSError(REPEATED[called], "the reply was lost")
        raise OSError(self.code, os.strerror(self.code))
