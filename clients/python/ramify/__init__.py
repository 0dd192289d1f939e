"""Ramify for Python: start runs, follow them live without a gap, read what they produced.

`AsyncClient` is the client; `RamifyClient` is the same for code without an event loop. `View` is
a local replica of one project, fed by the events of `AsyncClient.watch`. Failures are subclasses
of `RamifyError`.

Names load on first use, so that `ramify.v1` and `ramify --help` do not pay for gRPC.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ramify.client import AsyncClient
    from ramify.cursor import WatchOptions, WatchStart
    from ramify.errors import RamifyError
    from ramify.events import (
        WatchBookmark,
        WatchConnected,
        WatchDelta,
        WatchDisconnected,
        WatchEvent,
        WatchResync,
        WatchSnapshot,
    )
    from ramify.sync import RamifyClient
    from ramify.view import View

__all__ = [
    "AsyncClient",
    "RamifyClient",
    "RamifyError",
    "View",
    "WatchStart",
    "WatchOptions",
    "WatchEvent",
    "WatchConnected",
    "WatchSnapshot",
    "WatchDelta",
    "WatchBookmark",
    "WatchResync",
    "WatchDisconnected",
]

_MODULES = {
    "AsyncClient": "ramify.client",
    "RamifyClient": "ramify.sync",
    "RamifyError": "ramify.errors",
    "View": "ramify.view",
    "WatchStart": "ramify.cursor",
    "WatchOptions": "ramify.cursor",
    "WatchEvent": "ramify.events",
    "WatchConnected": "ramify.events",
    "WatchSnapshot": "ramify.events",
    "WatchDelta": "ramify.events",
    "WatchBookmark": "ramify.events",
    "WatchResync": "ramify.events",
    "WatchDisconnected": "ramify.events",
}


def __getattr__(name: str) -> object:
    """Import a public name from its module, once."""
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module 'ramify' has no attribute {name!r}")
    value: object = getattr(import_module(module), name)
    globals()[name] = value
    return value
