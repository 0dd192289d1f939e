"""A file that holds something up in another process, as long as it is there."""

from __future__ import annotations

from pathlib import Path


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

    def release(self) -> None:
        """Let what waits go on. Idempotent."""
        self.path.unlink(missing_ok=True)
