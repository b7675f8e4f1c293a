"""Files that are kept open."""

import os

from ana.fs import append_file


def test_a_kept_file_that_outlives_its_module(monkeypatch, tmp_path):
    """At the interpreter's end a module's names are gone before the last objects: the file is closed without a word."""
    path = tmp_path / "file"
    path.write_bytes(b"1")
    kept = append_file.KeptFile.open(str(path), lambda *_: None)
    before = os.listdir("/proc/self/fd")
    for name in ("os", "suppress", "files"):
        monkeypatch.setattr(append_file, name, None)
    del kept
    assert len(os.listdir("/proc/self/fd")) == len(before) - 1
