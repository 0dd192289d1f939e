"""Keeps the beginning and the end of an output whose length nobody knows. Pure."""

from __future__ import annotations


class BoundedOutput:
    """At most `head` bytes from the start and `tail` bytes from the end of what is added."""

    def __init__(self, head: int, tail: int) -> None:
        self._head_room = head
        self._tail_room = tail
        self._head = bytearray()
        self._tail = bytearray()
        self.total = 0  #: bytes added

    def add(self, data: bytes) -> None:
        """Append what was read."""
        self.total += len(data)
        room = self._head_room - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        self._tail += data
        if len(self._tail) > 2 * self._tail_room:  # cut now and then, not with every read
            del self._tail[: len(self._tail) - self._tail_room]

    @property
    def dropped(self) -> int:
        """Bytes that `value` leaves out, all of them between its head and its tail."""
        return max(0, self.total - self._head_room - self._tail_room)

    def value(self) -> tuple[bytes, bytes]:
        """Return head and tail; nothing is missing between them if `dropped` is 0."""
        start = max(0, len(self._tail) - self._tail_room)
        return bytes(self._head), bytes(self._tail[start:])
