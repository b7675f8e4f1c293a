"""Imported by a fork server, to load the objects that `ana.integrations.multiprocessing.preload` names before it forks.

Not part of that module, because the program's main module may import that one, and has to be complete before this.
"""

import base64
import gc
import os
import pickle
from multiprocessing import process, spawn
from typing import Any

from ana.integrations.multiprocessing import VARIABLE
from ana.layers import resolve
from ana.storable import Ref

__all__ = ["preloaded"]


def _load() -> Any:
    """Load what `preload` asked for. Does nothing except in the fork server that it started."""
    said = os.environ.pop(VARIABLE, "")
    if not said:
        return None
    try:
        found = _loaded(base64.b64decode(said))
    except Exception:  # noqa: BLE001 - the server has to run; whoever uses the objects gets the error
        return None
    # Counting references to other objects, and collecting, then writes to fewer of the pages that workers share.
    gc.collect()
    gc.freeze()
    return found


def _loaded(said: bytes) -> Any:
    main, wanted = pickle.loads(said)  # noqa: S301 - from this program
    # Classes of the main module need it. Before 3.14 the server does not import it by itself.
    own: Any = process.current_process()
    # As multiprocessing does: it then refuses to start processes.
    own._inheriting = True  # noqa: SLF001 - see above
    try:
        spawn.prepare(main)
    finally:
        del own._inheriting  # noqa: SLF001 - see above
    found = pickle.loads(wanted)  # noqa: S301 - as above
    resolve.prefetch([obj for obj in found if isinstance(obj, Ref)])
    return found


preloaded: Any = _load()
"""What the fork server keeps alive for its workers."""
