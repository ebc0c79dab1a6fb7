"""The record that the environment names, for commands that work on it without a service."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from service.record.record import Record

# No option: what stands on a command line, with its password, is for every user to see.
REDIS_URL = "GMN_REDIS_URL"
REDIS_PASSWORD_FILE = "GMN_REDIS_PASSWORD_FILE"  # pragma: allowlist secret


def open_record(data_dir: Path) -> Record:
    """The record in Redis where GMN_REDIS_URL names one, and else in the data directory.

    Raises:
        InputProblem: where it cannot be used.
    """
    from service.ops.data_dir import DATABASE_NAME
    from service.record.open_store import open_store

    password_file = os.environ.get(REDIS_PASSWORD_FILE)
    return open_store(
        os.environ.get(REDIS_URL),
        data_dir / DATABASE_NAME,
        Path(password_file) if password_file else None,
    )
