"""A file that holds something up in another process, as long as it is there."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

_HOLD_SECONDS = 0.005


class Hold:
    """Holds from the start; `str` is its path, as the failpoint `hold:FILE` wants it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def __str__(self) -> str:
        return str(self.path)

    def reached(self) -> bool:
        """Whether somebody is held up."""
        return bool(self.path.stat().st_size)

    def rearm(self) -> None:
        """Forget that somebody was held up; who is, still waits."""
        self.path.write_bytes(b"")

    def release(self) -> None:
        """Let what waits go on. Idempotent."""
        self.path.unlink(missing_ok=True)


def wait(path: Path) -> None:
    """Be held up by a file, as a failpoint is: say so in it, and wait as long as it is there."""
    with suppress(FileNotFoundError), path.open("r+") as file:
        file.write("held\n")
    while path.exists():
        time.sleep(_HOLD_SECONDS)
