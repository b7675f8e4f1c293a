"""Memory for what is loaded."""

import errno
import mmap
import sys

from ana.runtime import buffers


class WithoutHugePages(mmap.mmap):
    """Memory on a kernel that was built without huge pages."""

    def madvise(self, *_):
        raise OSError(errno.EINVAL, "Invalid argument")


def test_huge_pages_are_not_needed(monkeypatch):
    """Without numpy, large memory is there and writable also where the kernel knows no huge pages."""
    monkeypatch.setitem(sys.modules, "numpy", None)
    monkeypatch.setattr(mmap, "mmap", WithoutHugePages)
    found = buffers.allocate(8 << 20)
    found[-1] = 1
    assert (len(found), found.readonly) == (8 << 20, False)
