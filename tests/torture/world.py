"""A service, its Redis where it has one, and the ledger of everything that was asked of them."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from service.record.record import Record, open_store
from tests.service.redis_server import RedisServer
from tests.torture.clients import GALLERIES
from tests.torture.forked import ForkedService
from tests.torture.ledger import Ledger, Violation
from tests.torture.operations import Caller, LostEnrolment

StoreKind = Literal["sqlite", "redis"]
READY_SECONDS = 30.0


class World:
    """One record that lives through many crashes.

    Attributes:
        folder: everything it keeps.
        artefacts: the newest first; the second one answers for what it filled.
        expiring: galleries whose crops housekeeping deletes.
        starts: seconds that each start took.
    """

    def __init__(
        self, store: StoreKind, folder: Path, artefacts: list[Path], chance: random.Random
    ) -> None:
        self.store: StoreKind = store
        self.folder = folder
        self.artefacts = artefacts
        self.chance = chance
        self.ledger = Ledger()
        self.lost: list[LostEnrolment] = []
        self.expiring: list[str] = []
        self.starts: list[float] = []
        self.audited: dict[str, int] = {}
        self.service: ForkedService | None = None
        self.redis: RedisServer | None = None
        self._logs = 0
        (folder / "data").mkdir(parents=True)
        if store == "redis":
            (folder / "redis").mkdir()
            self.redis = RedisServer(folder / "redis")

    def begin_start(self, failpoint: str | None = None) -> ForkedService:
        """Begins to start the service; whoever calls waits for it."""
        self._logs += 1
        if self.service is not None:
            self.service.http.close()
        settings = {
            "artefact": self.artefacts[0],
            "previous": self.artefacts[1],
            "data_dir": self.folder / "data",
            # Often it must be the restore itself that leaves out whoever was deleted.
            "housekeeping_seconds": 0.5 if failpoint else self.chance.choice((0.5, 3600)),
            "max_images_per_request": 8,
            # An index of a few crops lies in files, or in memory.
            "index_files_from": 1 if failpoint else self.chance.choice((1, 20_000)),
            "replica_name": "torture",
            "log_level": "info",
        }
        if self.redis is not None:
            settings["redis_url"] = self.redis.url
        if failpoint is not None:
            settings["failpoint"] = failpoint
        self.service = ForkedService(self.folder / f"service-{self._logs}.log", **settings)
        return self.service

    def start(self) -> None:
        """Starts the service and creates what is not there yet.

        Raises:
            Violation: where it cannot be started again.
        """
        begun = time.monotonic()
        service = self.begin_start()
        if not service.serving():
            raise Violation("lost", f"the service does not start: {service.said}")
        self.wait_until_in_step()
        self.starts.append(time.monotonic() - begun)

    def begin_galleries(self) -> None:
        """Creates the galleries that clients share."""
        caller = self.caller("driver")
        for gallery in GALLERIES:
            if gallery not in self.ledger.galleries:
                caller.create_gallery(gallery)

    def running(self) -> ForkedService:
        """The service."""
        if self.service is None:
            raise RuntimeError("start comes before it")
        return self.service

    def caller(self, name: str) -> Caller:
        """Somebody who sends requests to the service as it is now."""
        seed = self.chance.randrange(2**31)
        return Caller(name, self.ledger, self.running().http, seed)

    def wait_until_in_step(self) -> None:
        """Returns once the service shows what the record has."""

        def in_step() -> bool:
            answer = self.running().http.get("/readyz")
            return answer.status_code == 200 and answer.json()["record"]["state"] == "in_step"

        eventually(in_step, "the service is not in step with its record")

    def kill(self, redis: bool = False) -> None:
        """kill -9 of the service, and of Redis too."""
        if redis and self.redis is not None:
            self.redis.kill()
        if self.service is not None:
            self.service.kill()

    def exchange_artefacts(self) -> None:
        """From the next start on the other model is the newest."""
        self.artefacts = self.artefacts[::-1]

    @contextmanager
    def open_record(self) -> Iterator[Record]:
        """The record itself, as a process beside the service, or while it is down, has it."""
        url = self.redis.url if self.redis is not None else None
        store = open_store(url, self.folder / "data" / "galleries.sqlite3")
        try:
            yield store
        finally:
            store.close()

    def close(self) -> None:
        """Ends what runs."""
        self.kill(redis=True)
        if self.service is not None:
            self.service.http.close()


def eventually(so: Callable[[], bool], otherwise: str, seconds: float = READY_SECONDS) -> None:
    """Returns once something is so.

    Raises:
        Violation: where it does not come about.
    """
    until = time.monotonic() + seconds
    while not so():
        if time.monotonic() > until:
            raise Violation("lost", otherwise)
        time.sleep(0.02)
