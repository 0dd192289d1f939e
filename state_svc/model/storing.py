"""How a project is stored: the service's configuration, a preset, a project's own keys. Pure."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from ramify.v1.project_pb2 import StatePreset, StateSettings

_PREFIX = "STATE_PRESET_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Storing:
    """The keys in force for a project. Defaults equal those of the contract."""

    state_batch_size: int = 50
    state_batch_timeout_ms: int = 100
    eager_commit: bool = True
    enable_state_compression: bool = True
    compression_threshold_bytes: int = 1_024
    retention_seconds: int = 0  #: 0: history is kept for ever
    retention_revisions: int = 0  #: 0: all
    retention_bytes: int = 0  #: 0: all

    @property
    def compression_threshold(self) -> int:
        """Bytes from which a segment is compressed; if none is, more than any has."""
        return self.compression_threshold_bytes if self.enable_state_compression else sys.maxsize

    @property
    def keeps_everything(self) -> bool:
        """Whether no history is ever dropped by itself."""
        return not (self.retention_seconds or self.retention_revisions or self.retention_bytes)


KEYS = tuple(field.name for field in fields(Storing))

#: Values by preset, as configuration files name it (S0.9). A key that is chosen wins over them.
PRESETS: Mapping[str, Mapping[str, int | bool]] = {
    "high_throughput": {
        "state_batch_size": 200,
        "state_batch_timeout_ms": 500,
        "eager_commit": False,
    },
    "low_latency": {"state_batch_size": 10, "state_batch_timeout_ms": 50, "eager_commit": True},
    "constrained": {"enable_state_compression": True, "compression_threshold_bytes": 512},
    "debug": {"state_batch_size": 1, "state_batch_timeout_ms": 0},
}


class StoringRules:
    """Finds the keys in force for projects; equal settings share one result."""

    def __init__(self, base: Storing) -> None:
        self.base = base
        self._known: dict[bytes, Storing] = {}

    def of(self, settings: StateSettings) -> Storing:
        """Return the keys in force for a project with these settings."""
        key = settings.SerializeToString(deterministic=True)
        found = self._known.get(key)
        if found is None:
            if len(self._known) > _MAX_KNOWN:
                self._known.clear()
            found = self._known[key] = effective(self.base, settings)
        return found


_MAX_KNOWN = 1_000


def effective(base: Storing, settings: StateSettings) -> Storing:
    """Return `base` with the preset of some settings, and above it their keys."""
    chosen: dict[str, int | bool] = {}
    if settings.preset in StatePreset.values() and settings.preset:
        chosen.update(PRESETS[preset_name(settings.preset)])
    for field, value in settings.ListFields():
        if field.name in KEYS:
            chosen[field.name] = value
    return replace(base, **chosen)  # type: ignore[arg-type]


def preset_name(preset: StatePreset.ValueType) -> str:
    """Return a preset as configuration files name it."""
    return StatePreset.Name(preset).removeprefix(_PREFIX).lower()
