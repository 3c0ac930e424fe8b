"""One line a request on standard error, for people or for programs; by the logging of the standard library."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, TextIO

FORMS = ("text", "json", "off")
"""What `--log` takes. Failures of the server are reported in any case."""
LOG = logging.getLogger("mpispec.serve")
_ALSO = logging.getLogger("uvicorn.error")
"""Says what goes wrong below the requests, such as bytes that are no HTTP."""


def set_up(form: str, stream: TextIO | None = None) -> None:
    """Write the log of this process in one of `FORMS`, by default on standard error."""
    for logger in (LOG, _ALSO):
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET if form == "off" else logging.INFO)
        logger.propagate = form == "off"
    _ALSO.setLevel(logging.ERROR if form == "off" else logging.WARNING)
    if form == "off":
        return
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_Json() if form == "json" else _Text())
    LOG.addHandler(handler)
    _ALSO.addHandler(handler)


def tell(fields: Mapping[str, Any]) -> None:
    """Write the line of a request; fields without a value are left out."""
    LOG.info("request", extra={"fields": {name: value for name, value in fields.items() if value is not None}})


def tell_failure(request: str, error: BaseException) -> None:
    """Write that the server failed at a request, and why."""
    LOG.error("The server failed at request %s.", request, exc_info=error, extra={"fields": {"id": request}})


class _Form(logging.Formatter):
    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        """Return the time in UTC, as ISO 8601 has it."""
        return datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")


class _Json(_Form):
    def format(self, record: logging.LogRecord) -> str:
        """Return an object on one line; what it says is data, so that nothing in it can begin another line."""
        found = {"time": self.formatTime(record), "level": record.levelname.lower(), "event": record.getMessage()}
        found |= getattr(record, "fields", {})
        if record.exc_info:
            found["traceback"] = self.formatException(record.exc_info)
        return json.dumps(found)


class _Text(_Form):
    def format(self, record: logging.LogRecord) -> str:
        """Return time, level and words, and `name=value` for each field."""
        fields = getattr(record, "fields", {})
        words = " ".join([record.getMessage(), *(f"{name}={value}" for name, value in fields.items())])
        line = f"{self.formatTime(record)} {record.levelname.lower()} {words}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line
