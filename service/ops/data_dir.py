"""The data directory: made, tried, and locked against processes that may not share it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from model.problems import InputProblem
from service.errors import DamagedRecord
from service.ops.durable import make_folder

DATABASE_NAME = "galleries.sqlite3"
SNAPSHOTS = "snapshots"
SNAPSHOT_SUFFIX = ".gmn"


class DataDirectory:
    """A hold on a directory; the operating system lets go of it when a process dies.

    Raises:
        InputProblem: where the directory cannot be made or written, or another process holds it.
    """

    def __init__(self, path: Path, shared: bool = False) -> None:
        """Takes hold of it.

        Args:
            path: where.
            shared: with processes that share it too, as the record is elsewhere.
        """
        self.path = path
        try:
            make_folder(path)
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise InputProblem(
                f"data directory {path}: cannot be used ({error.strerror}); name a directory that "
                "this user may write, with --data-dir or GMN_DATA_DIR"
            ) from error
        try:
            how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
            fcntl.flock(self._lock, how | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise InputProblem(
                f"data directory {path}: another process is serving it; stop that one, or name "
                "another directory with --data-dir (processes share one where all of them have the "
                "same GMN_REDIS_URL)"
            ) from error

    def require_record(self) -> None:
        """Refuses to begin anew beside the snapshots of a record that is gone.

        Files of an unknown record would be removed as strays.

        Raises:
            DamagedRecord: where there are snapshots and no database.
        """
        snapshots = list(self.path.glob(f"{SNAPSHOTS}/*/*{SNAPSHOT_SUFFIX}"))
        if snapshots and not self.database.exists():
            raise DamagedRecord(
                self.database, f"it is gone, and {len(snapshots)} snapshots are left"
            )

    @property
    def database(self) -> Path:
        """The SQLite file of record."""
        return self.path / DATABASE_NAME

    def close(self) -> None:
        """Lets go of the directory."""
        os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
