"""The log: JSON objects, one per line on standard error, without images, identities or secrets."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import sys
import time
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from service.http.keys import redacted

log = logging.getLogger(__name__)
# Fields of every record; other fields were passed as `extra` and belong in the line. Uvicorn's
# `color_message` repeats the message for terminals.
STANDARD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"taskName", "color_message"}
UNFINISHED_ANSWER = "ASGI callable returned without completing response."
# Messages of these errors name code, tables or sizes. Other messages may repeat client input.
CODE_ERRORS = (AttributeError, ImportError, NameError, NotImplementedError, TypeError)
IMPERSONAL = (*CODE_ERRORS, MemoryError, RecursionError, TimeoutError, sqlite3.Error)


class JsonFormatter(logging.Formatter):
    """Formats a log record as a JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{key: value for key, value in vars(record).items() if key not in STANDARD_FIELDS},
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["traceback"] = "".join(_format_traceback(record.exc_info[1]))
        return redacted(json.dumps(line, default=str, ensure_ascii=False))


def configure_logging(level: str) -> None:
    """Send the log to standard error, of other libraries than uvicorn from `warning` on alone.

    Their finer messages repeat input, or report tries that do not matter.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    wanted = logging.getLevelNamesMapping()[level.upper()]
    logging.basicConfig(level=max(wanted, logging.WARNING), handlers=[handler], force=True)
    for package in ("service", "model", "uvicorn"):
        logging.getLogger(package).setLevel(wanted)
    # It warns of each malformed form, of which the line of the request tells more.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    logging.getLogger("uvicorn.error").addFilter(_is_not_told_otherwise)


def _is_not_told_otherwise(record: logging.LogRecord) -> bool:
    # A client causes this error by a malformed body, or by not reading its answer. The middleware
    # logs both as warnings, and failures of the service as errors.
    return record.msg != UNFINISHED_ANSWER


class LoopErrorLog:
    """Logs errors that no task awaited, each kind once a second: clients may cause many."""

    def __init__(self) -> None:
        self._logged: dict[str, float] = {}

    def __call__(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        kind = context["message"].partition("(")[0]
        now = time.monotonic()
        if now - self._logged.get(kind, -1.0) >= 1.0:
            self._logged[kind] = now
            # Leave out the task, whose arguments may name a person.
            log.error("event loop: %s", context["message"], exc_info=context.get("exception"))


def _format_traceback(error: BaseException, seen: frozenset[int] = frozenset()) -> Iterator[str]:
    seen |= {id(error)}
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    # Some libraries raise an error from itself.
    if cause is not None and id(cause) not in seen:
        yield from _format_traceback(cause, seen)
        yield "\nafter which:\n"
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            yield from _format_traceback(member, seen)
    yield "Traceback (most recent call last):\n"
    yield from traceback.format_tb(error.__traceback__)
    yield f"{type(error).__module__}.{type(error).__qualname__}{_impersonal_message(error)}\n"


def _impersonal_message(error: BaseException) -> str:
    if isinstance(error, IMPERSONAL) or type(error).__module__.partition(".")[0] == "torch":
        return f": {error}"
    if isinstance(error, OSError) and error.strerror:
        # The whole message would name files.
        return f": [Errno {error.errno}] {error.strerror}"
    return ""
