"""Frames between the orchestrator and its process host: 4 bytes of length, then JSON.

To the host: `{"op": "start", "id", "argv" | "function", …}` and `{"op": "end", "id", "grace"}`.
From it: `{"id", "line"}` now and then, and `{"id", "ended": {…}}` once per start.
"""

from __future__ import annotations

import json
import struct

LENGTH = struct.Struct(">I")
MAX_FRAME_BYTES = 16 << 20

Frame = dict[str, object]


def encode(frame: Frame) -> bytes:
    """Return a frame as it is sent."""
    body = json.dumps(frame, separators=(",", ":")).encode()
    return LENGTH.pack(len(body)) + body


def decode(body: bytes) -> Frame:
    """Return the frame of a body. Raises ValueError."""
    frame = json.loads(body)
    if not isinstance(frame, dict):
        raise ValueError("a frame is an object")
    return frame
