"""The name under which this orchestrator writes; kept, so that a restart is the same producer."""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

from orchestrator_svc.errors import StartupError

FILE_NAME = "name"
PREFIX = "orchestrator/"

_NAME = re.compile(r"[A-Za-z0-9._~-]{1,100}")


def producer_id(data: Path, name: str | None) -> str:
    """Return the producer id: of `name`, or of the random name that the data folder keeps."""
    try:
        data.mkdir(parents=True, exist_ok=True)
        return PREFIX + (name or _kept_name(data / FILE_NAME))
    except OSError as error:
        raise StartupError(
            f"the data folder {data} cannot be used: {error.strerror}; choose another with --data"
        ) from error


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
