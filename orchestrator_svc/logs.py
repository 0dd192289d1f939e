"""Structured logs: one JSON object per line on stderr, from `Logger` and from the stdlib alike."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

#: What every record has: whatever else is there was given with `extra`.
_STANDARD = {*logging.makeLogRecord({}).__dict__, "message", "asctime", "fields"}


class Logger:
    """Logs a constant message with fields of its own."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, event: str, **fields: object) -> None:
        """Log what is of use while looking for a fault."""
        self._write(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: object) -> None:
        """Log a rare step of the service's life."""
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """Log what the service recovers from."""
        self._write(logging.WARNING, event, fields)

    def error(self, event: str, *, exc_info: BaseException | None = None, **fields: object) -> None:
        """Log what was lost, with the traceback of its cause."""
        self._write(logging.ERROR, event, fields, exc_info)

    def _write(
        self,
        level: int,
        event: str,
        fields: dict[str, object],
        cause: BaseException | None = None,
    ) -> None:
        self._logger.log(level, "%s", event, exc_info=cause, extra={"fields": fields})


class JsonFormatter(logging.Formatter):
    """Turns a record into one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line. What is no JSON is written as text."""
        time = datetime.fromtimestamp(record.created, UTC).replace(tzinfo=None)
        line: dict[str, object] = {
            **{name: value for name, value in vars(record).items() if name not in _STANDARD},
            **getattr(record, "fields", {}),
            "event": record.getMessage(),
            "logger": record.name,
            "level": record.levelname.lower(),
            "timestamp": time.isoformat(timespec="microseconds") + "Z",
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def get_logger(name: str) -> Logger:
    """Return the logger of a module."""
    return Logger(name)


def configure(level: str) -> None:
    """Send all logs of the process to stderr as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
