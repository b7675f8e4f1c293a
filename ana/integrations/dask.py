"""dask.distributed: opens workers' layers before their first task, and tokenizes subclasses of dict and list.

```
client.register_plugin(AnaPlugin())                     # in the program that called set_dl
dask worker ADDRESS --preload ana.integrations.dask     # or on the command line, with ANA_PICKLE_DIR
dask scheduler --preload ana.integrations.dask          # passes objects on without loading them
```
"""

import os
from collections import OrderedDict
from typing import Any, Unpack

from dask.tokenize import normalize_token as _dask_tokens
from distributed import Scheduler, Worker, WorkerPlugin

from ana import settings
from ana.layers import current, kinds, resolve
from ana.storable import Storable

__all__ = ["AnaPlugin", "dask_setup"]

normalize_token: Any = _dask_tokens  # it is not typed


class AnaPlugin(WorkerPlugin):
    """Makes a folder the current layer of each worker process, also of workers that start later.

    Attributes:
        name: The name that dask registers the plugin under.
        options: The options of the workers' layer.
    """

    name = "ana"

    def __init__(self, pickle_dir: str | None = None, **options: Unpack[settings.DataLayerOptions]) -> None:
        """Choose the folder and the options of the workers' layers.

        Args:
            pickle_dir: The folder. Default: that of the current layer.
            **options: Other options of `set_dl`.

        Raises:
            TypeError, ValueError: An option is invalid.
            ValueError: The current layer is in memory, which workers do not see.

        """
        # Here, not in each worker.
        settings.checked({**options, "pickle_dir": pickle_dir})
        home = current.get_dl().home if pickle_dir is None else os.fsdecode(pickle_dir)
        if kinds.is_process_local(home):
            msg = "workers do not see a layer in memory: AnaPlugin(pickle_dir=...) or set_dl(pickle_dir=...)"
            raise ValueError(msg)
        self.options: settings.CurrentLayerOptions = {"pickle_dir": home, **options}

    def setup(self, worker: Worker) -> None:  # noqa: ARG002 - dask passes it by its name
        """Open the folder. If that raises, the registration fails."""
        current.set_dl(**self.options)


def dask_setup(server: Worker | Scheduler) -> None:
    """Open the layer that `ANA_PICKLE_DIR` names, so that problems show when the worker starts.

    A scheduler unpickles the tasks that it gets. There, objects become ghosts and are not loaded.
    """
    current.get_dl()
    if isinstance(server, Scheduler):
        resolve.defer_loads()


def _by_uuid(base: type) -> None:
    """Tokenize subclasses of a built-in type by their UUID, if they have one: dask dispatches on the type."""
    plain = normalize_token.dispatch(base)

    def normalize(obj: Any) -> Any:
        method = getattr(obj, "__dask_tokenize__", None) if isinstance(obj, Storable) else None
        return plain(obj) if method is None else method()

    normalize_token.register(base, normalize)


for _base in (dict, OrderedDict, list, set):
    _by_uuid(_base)
