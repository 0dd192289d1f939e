"""The name under which this orchestrator writes; kept, so that a restart is the same producer.

It and all else in the data folder belong to one process at a time.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator_svc.errors import StartupError

FILE_NAME = "name"
LOCK_NAME = "LOCK"
PREFIX = "orchestrator/"

_NAME = re.compile(r"[A-Za-z0-9._~-]{1,100}")


@contextmanager
def locked_folder(data: Path) -> Iterator[None]:
    """Create the data folder and keep other processes out of it, until the end of this one.

    Raises `StartupError` if it cannot be used, or another process uses it.
    """
    try:
        data.mkdir(parents=True, exist_ok=True)
        handle = os.open(data / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unusable(data, error) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StartupError(
                f"another orchestrator_svc uses the data folder {data}; "
                "stop it, or choose another with --data"
            ) from error
        yield
    finally:
        os.close(handle)


def producer_id(data: Path, name: str | None) -> str:
    """Return the producer id: of `name`, or of the random name that the data folder keeps."""
    try:
        return PREFIX + (name or _kept_name(data / FILE_NAME))
    except OSError as error:
        raise _unusable(data, error) from error


def _unusable(data: Path, error: OSError) -> StartupError:
    return StartupError(
        f"the data folder {data} cannot be used: {error.strerror}; choose another with --data"
    )


def _kept_name(path: Path) -> str:
    if path.exists():
        name = path.read_text("utf-8").strip()
        if not _NAME.fullmatch(name):
            raise StartupError(f"{path} does not hold a name; delete it or pass --name")
        return name
    name = secrets.token_hex(6)
    temporary = path.with_suffix(".new")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(name + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    return name
