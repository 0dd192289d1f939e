"""A TCP proxy that misbehaves on demand: resets, stalls, black-holes, half-closes."""

from __future__ import annotations

import asyncio
import socket
import struct
from types import TracebackType
from typing import Self

from tests.support.bound import WAIT_SECONDS

_CHUNK = 65_536


class Proxy:
    """Forwards connections to an address; used as an asynchronous context."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._links: set[_Link] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._black_hole = False
        self._idle = asyncio.Event()
        self._idle.set()
        self.accepted = 0  #: connections so far
        self.address = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()[:2]
        self.address = f"{host}:{port}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.close()
        self.heal()
        self.reset()
        async with asyncio.timeout(WAIT_SECONDS):
            await self._idle.wait()
        await self._server.wait_closed()

    def reset(self) -> int:
        """Break every connection with RST; return how many there were."""
        links = list(self._links)
        for link in links:
            link.reset()
        return len(links)

    def stall(self) -> None:
        """Forward nothing until `heal`; what was sent arrives then."""
        self._flowing.clear()

    def swallow(self) -> None:
        """Take everything and forward nothing: a black hole.

        Connections that exist now or are made before `heal` never come back, as after a route
        that is gone; what TCP has lost is lost with its connection.
        """
        self._black_hole = True
        for link in self._links:
            link.lost = True

    def half_close(self) -> None:
        """Send the end of the stream to the clients, but go on taking what they send."""
        for link in list(self._links):
            link.half_close()

    def heal(self) -> None:
        """Behave again, for connections that are still whole."""
        self._black_hole = False
        self._flowing.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        link = _Link(writer, far_writer, self._black_hole)
        self._links.add(link)
        self._idle.clear()
        try:
            await asyncio.gather(
                self._pump(link, reader, far_writer), self._pump(link, far_reader, writer)
            )
        except OSError:
            pass
        finally:
            link.close()
            self._links.discard(link)
            if not self._links:
                self._idle.set()

    async def _pump(
        self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while data := await reader.read(_CHUNK):
            await self._flowing.wait()
            if link.lost or writer.transport.is_closing():
                continue
            writer.write(data)
            await writer.drain()
        if not link.lost and writer.can_write_eof() and not writer.transport.is_closing():
            writer.write_eof()


class _Link:
    """One connection and the one behind it."""

    def __init__(self, near: asyncio.StreamWriter, far: asyncio.StreamWriter, lost: bool) -> None:
        self.lost = lost
        self._near = near
        self._far = far

    def reset(self) -> None:
        for writer in (self._near, self._far):
            sock = writer.get_extra_info("socket")
            if sock is not None and sock.fileno() >= 0:
                linger = struct.pack("ii", 1, 0)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()

    def half_close(self) -> None:
        if self._near.can_write_eof() and not self._near.transport.is_closing():
            self._near.write_eof()

    def close(self) -> None:
        self._near.transport.abort()
        self._far.transport.abort()
