"""The latest value of each entity over a stretch of revisions, joined as the stretch grows."""

from __future__ import annotations

from collections.abc import Iterable

from ramify.v1.mutation_pb2 import RevisionInfo
from state_svc.model.merge import Shown, join
from state_svc.watch.filter import encode_shown

MAX_JOINED_BYTES = 4 << 20  #: of changes that are held before they are joined


class Joined:
    """Holds few bytes however many come, as long as it is taken once it is `full`. Pure."""

    def __init__(self) -> None:
        self.full = False  #: joining makes no room for more: it is time to take what is held
        self._infos: list[RevisionInfo] = []
        self._shown: list[Shown] = []
        self._bytes = 0  #: of what is held
        self._most = MAX_JOINED_BYTES  #: of them, before they are joined

    def add(self, infos: Iterable[RevisionInfo], shown: Iterable[Shown]) -> None:
        """Put what a filter shows of later revisions behind what is held."""
        self._infos += infos
        for item in shown:
            self._shown.append(item)
            self._bytes += item.change.ByteSize()
            if self._bytes > self._most:
                self._join()

    def take(self) -> bytes:
        """Return the encoded body of a delta, and hold nothing any more."""
        body = encode_shown(self._infos, self._shown, coalesced=True)
        self._infos, self._shown, self._bytes = [], [], 0
        self._most, self.full = MAX_JOINED_BYTES, False
        return body

    def _join(self) -> None:
        self._shown = join(self._shown)
        self._bytes = sum(item.change.ByteSize() for item in self._shown)
        self._most = max(MAX_JOINED_BYTES, 2 * self._bytes)
        self.full = self._bytes > MAX_JOINED_BYTES // 2
        seen = {item.change.revision for item in self._shown}
        self._infos = [info for info in self._infos if info.revision in seen]
