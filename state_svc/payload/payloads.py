"""The payload store as the service uses it (SEM 12). Owned by the event loop.

References are rows of their own, written in the transaction of the batch that names a digest, so
a batch without references pays nothing: no row, no look-up. Compaction drops the rows that no
retained revision needs any more (`history/archive.py`), and `collect` the bodies that no row
names.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager, suppress

from ramify.v1.payload_pb2 import PayloadRef
from state_svc.codec.payload import decode_payload, encode_payload, inflate, stated_bytes, to_ref
from state_svc.errors import (
    CorruptRecord,
    InvalidRequest,
    Overloaded,
    PayloadNotFound,
    PayloadTooLarge,
    StoreUnavailable,
)
from state_svc.failpoints import failpoint
from state_svc.metrics import ServiceMetrics
from state_svc.model.limits import Limits
from state_svc.model.project import LiveProject
from state_svc.store.base import StateStore

_log = logging.getLogger(__name__)

KEEP_MICROS = 3_600 * 1_000_000  #: a body is kept so long after it was last put, whoever names it
_MAX_KNOWN = 65_536  #: digests remembered; more than a batch can name
MAX_BYTES_IN_TRANSIT = 128 << 20  #: of all bodies being put and read


class Payloads:
    """Takes bodies in, hands them out, and knows which ones a batch may name."""

    def __init__(
        self,
        store: StateStore,
        *,
        limits: Limits,
        threshold: int,
        settled: Callable[[], Awaitable[None]],
        metrics: ServiceMetrics,
    ) -> None:
        self._store = store
        self._limits = limits
        self._threshold = threshold
        self._settled = settled  #: returns when the outcome of all that was accepted is known
        self._metrics = metrics
        self.known: dict[str, PayloadRef] = {}  #: by digest; these are stored
        self._condemned: set[str] = set()  #: may be dropped at any moment
        self._collected = asyncio.Event()
        self._collections = 0  #: that have condemned anything
        self._in_transit = 0
        self.due = False  #: whether a collection is worth its while

    async def put(
        self, data: bytes, transit: Transit, *, compressed: bool, digest: str, micros: int
    ) -> PayloadRef:
        """Store a body durably; return how it is named.

        Raises `InvalidRequest`, `PayloadTooLarge`, `Overloaded` or `StoreUnavailable`.
        """
        limit = self._limits.max_stored_payload_bytes
        body = data
        if compressed:
            size = stated_bytes(data, limit)
            transit.take(size)
            body = await asyncio.to_thread(inflate, data, size)
        if len(body) > limit:
            raise PayloadTooLarge(original_bytes=len(body), max_bytes=limit)
        record = await asyncio.to_thread(encode_payload, body, self._threshold, micros)
        if digest not in ("", record.digest):
            raise InvalidRequest(field="digest", problem=f"the body has {record.digest}")
        ref = to_ref(await self._store.payloads.put(record))
        failpoint("after_payload_put")
        self._metrics.put_payload()
        # Its time is new, so a collection that is under way leaves it alone.
        self._condemned.discard(ref.digest)
        self._remember(ref)
        return ref

    async def learn(self, digests: Collection[str]) -> bool:
        """Look digests up in the store; return whether any of them is known now.

        Again if a collection has begun meanwhile: it may drop what was there a moment ago.
        """
        while True:
            while self._condemned.intersection(digests):
                await self._collected.wait()
            collections = self._collections
            found = await self._store.payloads.find(digests)
            if self._collections == collections:
                break
        for info in found:
            self._remember(to_ref(info))
        return bool(found)

    async def get(
        self, project: LiveProject, digest: str, transit: Transit
    ) -> tuple[PayloadRef, bytes]:
        """Return a body that a project references, and how it is named.

        Raises `PayloadNotFound`, `Overloaded`, `CorruptRecord` or `StoreUnavailable`.
        """
        referenced = await self._store.payloads.is_referenced(project.uid, digest)
        found = await self._store.payloads.find([digest]) if referenced else []
        for info in found:
            transit.take(info.original_bytes + info.stored_bytes)
        record = await self._store.payloads.read(digest) if found else None
        if record is None:
            raise PayloadNotFound(project_id=project.project_id, digest=digest)
        limit = self._limits.max_stored_payload_bytes
        return to_ref(found[0]), await asyncio.to_thread(decode_payload, record, limit)

    @contextmanager
    def transit(self) -> Iterator[Transit]:
        """Account for the memory of a body while it is put or read."""
        transit = Transit(self)
        try:
            yield transit
        finally:
            self._in_transit -= transit.held

    def take(self, size: int) -> None:
        """Account for bytes in memory. Raises `Overloaded`."""
        if self._in_transit + size > MAX_BYTES_IN_TRANSIT:
            raise Overloaded(limit="payload_bytes_in_transit", value=MAX_BYTES_IN_TRANSIT)
        self._in_transit += size

    def collect_soon(self) -> None:
        """Note that a body may have lost its last reference."""
        self.due = True

    async def collect(self, now_micros: int) -> int:
        """Drop bodies that nothing references and nobody has put for an hour; return how many.

        What is condemned counts as unknown, so nothing that is admitted from here on names it;
        what was admitted before is a reference once its commit is done; and the store drops only
        what has none. Raises `StoreUnavailable`.
        """
        if self._condemned:
            return 0  # one is under way
        self.due = False
        before = now_micros - KEEP_MICROS
        candidates = await self._store.payloads.list_unreferenced(before)
        if not candidates:
            self._metrics.collected(0)
            return 0
        self._condemned.update(candidates)
        self._collections += 1
        self._collected.clear()
        for digest in candidates:
            self.known.pop(digest, None)
        try:
            await self._settled()
            dropped = await self._store.payloads.drop_payloads(candidates, before)
        finally:
            self._condemned.clear()
            self._collected.set()
        self._metrics.collected(dropped)
        await self.measure()
        _log.info("dropped unreferenced payloads", extra={"fields": {"count": dropped}})
        return dropped

    async def measure(self) -> None:
        """Tell the metrics how much the store holds; if it cannot say, they show what they know."""
        with suppress(StoreUnavailable, CorruptRecord):
            self._metrics.hold(await self._store.payloads.totals())

    def _remember(self, ref: PayloadRef) -> None:
        known = self.known
        known.pop(ref.digest, None)
        if len(known) >= _MAX_KNOWN:
            del known[next(iter(known))]
        known[ref.digest] = ref


class Transit:
    """The bytes that one call holds in memory."""

    def __init__(self, payloads: Payloads) -> None:
        self._payloads = payloads
        self.held = 0

    def take(self, size: int) -> None:
        """Hold more bytes. Raises `Overloaded`."""
        self._payloads.take(size)
        self.held += size
