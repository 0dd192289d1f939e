"""Values as people read them. Pure."""

import re
import textwrap
from collections.abc import Iterator

from google.protobuf.timestamp_pb2 import Timestamp


def seconds_of(stamp: Timestamp) -> float:
    """Return a timestamp as seconds since 1970."""
    return stamp.seconds + stamp.nanos / 1e9


def duration(seconds: float) -> str:
    """Return a duration as `45 ms`, `1.4 s`, `12 s`, `3m 05s`, `2h 10m` or `4d 3h`."""
    seconds = max(0.0, seconds)
    if seconds < 0.9995:
        return f"{seconds * 1e3:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3_600:
        return f"{whole // 60}m {whole % 60:02d}s"
    if whole < 86_400:
        return f"{whole // 3_600}h {whole % 3_600 // 60:02d}m"
    return f"{whole // 86_400}d {whole % 86_400 // 3_600}h"


def one_line(text: str, width: int = 0) -> str:
    """Return text without line breaks, cut to `width` characters (0: not cut)."""
    line = " ".join(text.split())
    if width and len(line) > width:
        return line[: max(0, width - 1)].rstrip() + "…"
    return line


_MARGIN = re.compile(r"[\s│├└─]*(?:\d+\. )?")
_LEAST_ROOM = 20  #: columns; in less than that nothing is kept in its place


def fold(line: str, width: int, hang: int = 0) -> Iterator[str]:
    """Yield a line in pieces of at most `width` characters, broken between words.

    What continues a line stands below its text, behind the guides of its tree, and `hang` columns
    further in. A line with a command behind `→` stays whole, to be copied.
    """
    found = _MARGIN.match(line)
    margin = found[0] if found else ""
    room = width - len(margin) - hang
    if len(line) <= width or room < _LEAST_ROOM or line.lstrip().startswith("→"):
        yield line
        return
    below = re.sub(r"[^│\s]", " ", margin.replace("├", "│")) + " " * hang
    text = line[len(margin) :]
    for number, part in enumerate(textwrap.wrap(text, room, break_on_hyphens=False)):
        yield (below if number else margin) + part


def plural(count: int, noun: str) -> str:
    """Return `1 node`, `2 nodes`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def size(count: float) -> str:
    """Return a number of bytes: `812 B`, `4.2 KiB`, `1.3 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1_024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1_024
    raise AssertionError("unreachable")
