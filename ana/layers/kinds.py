"""Registers ana's own kinds of stores, one line each. Other packages call `ana.stores.register`."""

from ana.stores import base, memory, registry
from ana.stores.registry import is_home, is_process_local, open_home

__all__ = ["is_home", "is_process_local", "open_home"]


def _open_folder(home: str) -> base.Store:
    from ana.layers import opening  # noqa: PLC0415 - a quarter of what `import ana` would cost

    return opening.existing(home)


registry.add(registry.PATHS, _open_folder)
registry.add(memory.SCHEME, None)
