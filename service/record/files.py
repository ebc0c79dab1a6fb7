"""Files beside the record: unneeded files, and pictures kept in a folder or a bucket.

A file is noted in the commit that makes it useless, or before it is written if no row refers to it
yet. A file with neither a note nor a row may belong to another record and is never removed.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from gmn_client.addresses import REMEDY, is_malformed, without_secret, without_secrets
from model.problems import InputProblem
from service.errors import RecordUnavailable, StorageFailed
from service.ops.data_directory import UNFINISHED, make_folder, sync
from service.ops.threads import MonitoredThreadPool
from service.record.database import RecordPart, transactional
from service.record.transaction import Transaction

PICTURE_THREADS = 4
# Number of calls that may wait for a thread.
WAITING_CALLS = 64
# Upper bound on simultaneous transfers of all calls; a bucket has a high latency per file.
TRANSFERS = 32
# A slower call is answered with 503; its thread may keep hanging.
ANSWERS_WITHIN_SECONDS = 30.0
# Once all threads have hung for this long, further calls fail at once.
STUCK_SECONDS = 5.0
Result = TypeVar("Result")


class UnneededFiles(RecordPart):
    """Files that can be removed, by path relative to the data directory."""

    def all(self) -> list[str]:
        return [row["path"] for row in self._reader.rows("unneeded_files")]

    @transactional
    def add(self, transaction: Transaction, paths: Sequence[str]) -> None:
        transaction.note_unneeded(paths)

    def note_removed(self, paths: Sequence[str]) -> None:
        # Other machines may have files of these names; the notes are dropped when they are old.
        if self._database.machine is None:
            self._database.write(forget_unneeded, paths)


class StrayFiles(RecordPart):
    """Pictures outside the record whose crop was removed or does not exist yet."""

    @transactional
    def expect(
        self, transaction: Transaction, gallery_id: int, names: Sequence[str], until: datetime
    ) -> None:
        """Note pictures about to be written: strays unless their crops are stored by `until`."""
        rows = [{"gallery_id": gallery_id, "name": name, "until": until} for name in names]
        transaction.insert("stray_pictures", *rows, instead=True, is_private=False)

    def all(self, now: datetime, limit: int) -> list[tuple[int, str]]:
        """Return up to `limit` pictures that may be removed, as (gallery id, name)."""
        clauses = "WHERE until <= ? ORDER BY gallery_id, name LIMIT ?"
        rows = self._reader.rows("stray_pictures", clauses, (now, limit))
        return [(row["gallery_id"], row["name"]) for row in rows]

    @transactional
    def forget(self, transaction: Transaction, gallery_id: int, names: Sequence[str]) -> None:
        forget_strays(transaction, gallery_id, names)


def forget_unneeded(transaction: Transaction, paths: Sequence[str]) -> None:
    delete = f"DELETE FROM unneeded_files WHERE {transaction.dialect.among('path')}"
    transaction.change(delete, (paths,))


def forget_strays(transaction: Transaction, gallery_id: int, names: Sequence[str]) -> None:
    named = transaction.dialect.among("name")
    delete = f"DELETE FROM stray_pictures WHERE gallery_id = ? AND {named}"
    transaction.change(delete, (gallery_id, names), is_private=False)


class PictureThreads(MonitoredThreadPool):
    """Threads that call a store of pictures; a hanging store fails only its callers.

    The process is not restarted, because a new one could not reach the store either.
    """

    def __init__(self, name: str) -> None:
        super().__init__(PICTURE_THREADS, name, math.inf)

    def submit(self, call: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Future[Result]:
        """Queue a call; raises `RecordUnavailable` if too many wait or all threads hang."""
        if self._work_queue.qsize() >= WAITING_CALLS or self.stuck(STUCK_SECONDS):
            raise RecordUnavailable("too many calls wait for the store of images, GMN_IMAGES_URL")
        return super().submit(call, *args, **kwargs)

    async def run(self, call: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Result:
        """Run a call; raises `RecordUnavailable` if it does not finish in time."""
        try:
            async with asyncio.timeout(ANSWERS_WITHIN_SECONDS):
                return await super().run(call, *args, **kwargs)
        except TimeoutError as error:
            raise RecordUnavailable(
                "the store of images, GMN_IMAGES_URL, does not answer"
            ) from error


class PictureFolder:
    """Pictures as files `GALLERY/CROP` in a folder.

    Attributes:
        views, changes: threads that run the methods, all of which block.
    """

    def __init__(self, url: str) -> None:
        """Open the folder of an fsspec URL, creating it if it is missing.

        Raises:
            InputProblem: the file system is unknown, not installed or unreachable.
        """
        # Imported where it is used: most records keep their pictures themselves.
        import fsspec
        from fsspec.implementations.local import LocalFileSystem

        if is_malformed(url):
            raise InputProblem(
                f"GMN_IMAGES_URL: {REMEDY}; write it like s3://bucket/crops or file:///srv/crops"
            )
        # Messages name it.
        self._url = without_secret(url)
        self.views = PictureThreads("image views")
        self.changes = PictureThreads("image changes")
        self._transfers = MonitoredThreadPool(TRANSFERS, "image transfers")
        try:
            files, root = fsspec.core.url_to_fs(url)
            self._local = isinstance(files, LocalFileSystem)
            if self._local:
                make_folder(Path(root))
            else:
                files.makedirs(root, exist_ok=True)
        except (ImportError, ValueError, OSError) as error:
            raise InputProblem(
                f"GMN_IMAGES_URL={self._url}: cannot be used ({without_secrets(str(error))}); name "
                "a folder such as file:///srv/crops, or install the package of its file system"
            ) from error
        self._files: Any = files
        self._root = root

    @property
    def hangs(self) -> bool:
        return bool(self.views._under_way or self.changes._under_way)

    def close(self) -> None:
        for threads in (self.views, self.changes, self._transfers):
            threads.shutdown(wait=False, cancel_futures=True)

    def put(self, gallery_id: int, contents: Mapping[str, bytes]) -> None:
        """Write files, synced on a local disk; raises `StorageFailed` on any error."""
        folder = Path(self._root) / str(gallery_id)
        try:
            if self._local:
                make_folder(folder)
            self._transfer_all(self._put, [(gallery_id, *file) for file in contents.items()])
            if self._local:
                sync(folder)
        # Clients of object stores raise their own exceptions.
        except Exception as error:
            raise StorageFailed(
                f"an image could not be kept at {self._url} ({without_secrets(str(error))}); "
                "nothing was stored, fix that and send the request again"
            ) from error

    def replace(self, gallery_id: int, name: str, content: bytes) -> None:
        """Write a file in place of another; a kill leaves the one or the other.

        Raises:
            StorageFailed: the store fails.
        """
        path = self._path(gallery_id, name)
        try:
            if self._local:
                part = Path(f"{path}{UNFINISHED}")
                self._files.pipe_file(str(part), content)
                sync(part)
                part.replace(path)
                sync(part.parent)
            else:
                self._files.pipe_file(path, content)
        # Clients of object stores raise their own exceptions.
        except Exception as error:
            raise StorageFailed(
                f"an image at {self._url} could not be replaced ({without_secrets(str(error))}); "
                "fix that and try again"
            ) from error

    def get(self, gallery_id: int, name: str) -> bytes | None:
        """Read a file, or None if missing; raises `RecordUnavailable` if the store fails."""
        try:
            content: bytes = self._files.cat_file(self._path(gallery_id, name))
        except FileNotFoundError:
            return None
        except Exception as error:
            raise RecordUnavailable(
                f"{self._url}, where images are kept, does not answer "
                f"({without_secrets(str(error))})"
            ) from error
        return content

    def remove(self, gallery_id: int, names: Sequence[str]) -> dict[str, Exception]:
        """Remove files, durably on a local disk; missing files are ignored.

        Returns:
            The errors of files that could not be removed, by name.
        """
        errors = self._transfer_all(self._remove, [(gallery_id, name) for name in names])
        failed = {
            name: error for name, error in zip(names, errors, strict=True) if error is not None
        }
        folder = Path(self._root) / str(gallery_id)
        if self._local and folder.is_dir():
            sync(folder)
        return failed

    def _put(self, gallery_id: int, name: str, content: bytes) -> None:
        path = self._path(gallery_id, name)
        self._files.pipe_file(path, content)
        if self._local:
            sync(Path(path))

    def _remove(self, gallery_id: int, name: str) -> Exception | None:
        try:
            self._files.rm_file(self._path(gallery_id, name))
        except FileNotFoundError:
            return None
        except Exception as error:
            return error
        return None

    def _transfer_all(
        self, call: Callable[..., Result], arguments: Sequence[tuple[Any, ...]]
    ) -> list[Result]:
        calls = [self._transfers.submit(call, *args) for args in arguments]
        return [transfer.result() for transfer in calls]

    def _path(self, gallery_id: int, name: str) -> str:
        return f"{self._root}/{gallery_id}/{name}"
