"""A service and the ledger of everything that was asked of it."""

import time

from tests.torture.clients import GALLERIES
from tests.torture.forked import ForkedService
from tests.torture.ledger import Ledger, Violation
from tests.torture.operations import Caller


class World:
    """One record that lives through many crashes.

    Attributes:
        folder: everything it keeps.
        artefacts: the newest first; the second one answers for the galleries that it filled.
        starts: seconds that each start took.
        service, beside: the processes; `beside` shares the data directory for a while.
    """

    def __init__(self, folder, artefacts, chance):
        self.folder = folder
        self.artefacts = artefacts
        self.chance = chance
        self.ledger = Ledger()
        self.lost = []
        self.starts = []
        self.audited = 0
        self.service = None
        self.beside = None
        self._logs = 0
        (folder / "data").mkdir(parents=True)

    def begin_start(self, failpoint=None):
        if self.service is not None:
            self.service.http.close()
        self.service = self._begin_process(failpoint)
        return self.service

    def start_beside(self):
        self.beside = self._begin_process(None)
        if not self.beside.serving():
            raise Violation("lost", f"a second process does not start: {self.beside.said}")
        return self.beside

    def go_on_with_survivor(self):
        """Return whether one of two processes still lives, which is the service from now on."""
        processes = (self.service, self.beside)
        alive = [
            process
            for process in processes
            if process is not None and process.process.poll() is None
        ]
        if len(alive) == 1:
            self.service = alive[0]
        self.beside = None
        return len(alive) == 1

    def _begin_process(self, failpoint):
        self._logs += 1
        settings = {
            "artefact": self.artefacts[0],
            "previous": self.artefacts[1],
            "data_dir": self.folder / "data",
            # In many cycles the restore itself has to leave out deleted crops.
            "housekeeping_seconds": 0.5 if failpoint else self.chance.choice((0.5, 3600)),
            "max_images_per_request": 8,
            "webhook_private": "true",
            "log_level": "info",
        }
        if failpoint is not None:
            settings["failpoint"] = failpoint
        return ForkedService(self.folder / f"service-{self._logs}.log", **settings)

    def start(self):
        """Start the service and create the galleries that are missing.

        Raises:
            Violation: where it cannot be started again.
        """
        begun = time.monotonic()
        service = self.begin_start()
        if not service.serving():
            raise Violation("lost", f"the service does not start: {service.said}")
        self.starts.append(time.monotonic() - begun)

    def begin_galleries(self):
        caller = self.caller("driver")
        for gallery in GALLERIES:
            if gallery not in self.ledger.galleries:
                caller.create_gallery(gallery)

    def running(self):
        if self.service is None:
            raise RuntimeError("start comes before it")
        return self.service

    def caller(self, name):
        seed = self.chance.randrange(2**31)
        return Caller(name, self.ledger, self.running().http, seed)

    def kill(self):
        for process in (self.service, self.beside):
            if process is not None:
                process.kill()

    def exchange_artefacts(self):
        self.artefacts = self.artefacts[::-1]

    def close(self):
        self.kill()
        if self.service is not None:
            self.service.http.close()
