"""The log on standard error, without images, identities or secrets.

Each entry is a line with a JSON object, or on a terminal a line for people.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sqlite3
import sys
import time
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from service.api_keys import redacted
from service.settings import LogFormat, LogLevel

log = logging.getLogger(__name__)
# Fields of every record; other fields were passed as `extra` and belong in the line. Uvicorn's
# `color_message` repeats the message for terminals.
STANDARD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"taskName", "color_message"}
UNFINISHED_ANSWER = "ASGI callable returned without completing response."
# Messages of these errors name code, tables or sizes. Other messages may repeat client input.
CODE_ERRORS = (AttributeError, ImportError, NameError, NotImplementedError, TypeError)
COLOURS = {logging.WARNING: "\33[1;33m", logging.ERROR: "\33[1;31m", logging.CRITICAL: "\33[1;31m"}
COLOUR_END = "\33[0m"
IMPERSONAL = (*CODE_ERRORS, MemoryError, RecursionError, TimeoutError, sqlite3.Error)


class JsonFormatter(logging.Formatter):
    """Formats a log record as a JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["traceback"] = "".join(_format_traceback(record.exc_info[1]))
        return redacted(json.dumps(line, default=str, ensure_ascii=False))


class TextFormatter(logging.Formatter):
    """Formats a log record as a line of local time, level, message and fields; a traceback follows.

    Attributes:
        coloured: whether warnings and errors are coloured.
    """

    def __init__(self, coloured: bool) -> None:
        super().__init__()
        self.coloured = coloured

    def format(self, record: logging.LogRecord) -> str:
        level = f"{record.levelname.lower():8}"
        if self.coloured and record.levelno in COLOURS:
            level = f"{COLOURS[record.levelno]}{level}{COLOUR_END}"
        fields = [f"{name}={value}" for name, value in _fields(record).items()]
        text = "  ".join([record.getMessage(), *fields])
        lines = [f"{datetime.fromtimestamp(record.created):%Y-%m-%d %H:%M:%S} {level} "]
        lines[0] += _without_control_characters(text)
        if record.exc_info and record.exc_info[1] is not None:
            traceback_lines = "".join(_format_traceback(record.exc_info[1])).splitlines()
            lines += [f"  {_without_control_characters(line)}" for line in traceback_lines]
        return redacted("\n".join(lines))


def configure_logging(level: LogLevel, log_format: LogFormat) -> None:
    """Send the log to standard error, of other libraries than uvicorn from `warning` on alone.

    Their finer messages repeat input, or report tries that do not matter.
    """
    is_terminal = sys.stderr.isatty()
    handler = logging.StreamHandler(sys.stderr)
    if log_format == "text" or (log_format == "auto" and is_terminal):
        # https://no-color.org
        handler.setFormatter(TextFormatter(is_terminal and not os.environ.get("NO_COLOR")))
    else:
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


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in STANDARD_FIELDS}


def _without_control_characters(text: str) -> str:
    """Escape characters by which a client's text could change the terminal or add lines."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


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
