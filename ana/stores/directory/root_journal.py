"""The file of a root that one process appends to: what it stores is kept under the root from then on.

Nothing is locked, because each process has a file of its own. An append costs one write, and waits for nothing. The
lines of a killed process are in the file. A power cut may lose lines, but these are of young states, which no
collection takes. `docs/format.md` describes the file.
"""

import json
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from ana.errors import ANAError
from ana.format import address
from ana.fs import files
from ana.fs.append_file import AppendFile, unique_name
from ana.stores.base import Keeper
from ana.stores.directory import roots, trash

if TYPE_CHECKING:
    from ana.stores.directory.store import DirectoryStore

__all__ = ["RootJournal"]

CHECK_SECONDS = 1.0
"""How long a process trusts that its file still has its name."""
MOST_NOTED = 1 << 16
"""How many keys of its file a process remembers. A key may be in the file twice."""


class RootJournal(Keeper):
    """One process's file. Safe between threads; a forked child begins its own."""

    def __init__(self, store: "DirectoryStore", name: str, ttl_seconds: float) -> None:
        """Keep under a name. The file is made when it is needed."""
        self._store = store
        self._name = name
        self._ttl_seconds = ttl_seconds
        self._path = ""
        self._file: AppendFile | None = None
        self._end = 0
        self._checked = 0.0
        self._noted: set[str] = set()
        self._lock = threading.Lock()

    def note(self, key: str) -> None:
        """Append a key, unless it is in the file."""
        with self._lock:
            file = self._open()
            if key not in self._noted:
                line = json.dumps(key).encode() + b"\n"
                file.write(self._end, [line])
                self._end += len(line)
                if len(self._noted) >= MOST_NOTED:
                    self._noted.clear()
                self._noted.add(key)

    def renew(self) -> None:
        """Give the root a sign of life; make the file if there is none."""
        with self._lock:
            self._checked = 0.0
            self._open().sync()
            files.touch(self._path)

    def close(self) -> None:
        """Close the file, after a last sign of life. From then on, the time to live runs."""
        with self._lock:
            file, self._file = self._file, None
            if file is not None:
                with suppress(ANAError):
                    file.sync()
                    files.touch(self._path)
                file.close()

    def after_fork(self) -> None:
        """Leave the file to the parent."""
        self._lock = threading.Lock()
        file, self._file = self._file, None
        if file is not None:
            file.close()
        self._noted = set()

    def _open(self) -> AppendFile:
        """Return the file, which still has its name; another one if it has been removed."""
        now = time.monotonic()
        file = self._file
        if file is None or (now - self._checked >= CHECK_SECONDS and not self._is_there(file)):
            file = self._begin()
        self._checked = now
        return file

    def _is_there(self, file: AppendFile) -> bool:
        found = files.stat(self._path)
        if found is None and trash.bring_back(self._path):
            # This process was stopped for so long that its root had ended.
            found = files.stat(self._path)
        return found is not None and found.identity == file.identity

    def _begin(self) -> AppendFile:
        store = self._store
        fields = {**roots.fields_of(self._name, self._ttl_seconds), "grows": True, "uuids": []}
        line = json.dumps(fields).encode() + b"\n"
        folder = store.tree.own_folder(roots.FOLDER)
        path = f"{folder}/{roots.file_prefix(self._name)}{address.short_digest(unique_name())}{roots.SUFFIX}"
        file = AppendFile(files.temporary_name(folder), store.tree.access, durable=False)
        try:
            file.write(0, [line])
            file.sync()
            file.rename(path, durable=store.durable)
        except BaseException:
            file.remove()
            raise
        if self._file is not None:
            self._file.close()
        self._file, self._path, self._end = file, path, len(line)
        self._noted.clear()
        roots.note_roots(store)
        return file
