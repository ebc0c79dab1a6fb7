"""A service whose record is in PostgreSQL: killed, without its server, and on another machine."""

import itertools
import threading
from dataclasses import dataclass, field

import httpx2
import pytest

from tests.postgres import postgres
from tests.service.conftest import Served
from tests.torture.images import draw
from tests.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.promise("1")]

CLIENTS = 3
KILLS = 3
TRAFFIC_SECONDS = 1.5


@dataclass
class Ledger:
    """The crops whose enrollment, or deletion, a service has acknowledged."""

    enrolled: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)
    # Deletions without an answer: each may have happened.
    doubtful: set[str] = field(default_factory=set)
    numbers: itertools.count = field(default_factory=itertools.count)

    def send(self, http, stop):
        """Enroll crops and delete every third until told to stop, or until nobody answers."""
        while not stop.is_set():
            number = next(self.numbers)
            files = [("images", ("crop", draw(number, 7)))]
            data = {"identity": f"person {number % 5}"}
            try:
                answer = http.post("/v1/galleries/lobby/crops", files=files, data=data)
                if answer.status_code != 201:
                    assert answer.status_code == 503, answer.text
                    continue
                (crop,) = answer.json()["results"]
                self.enrolled.add(crop["crop_id"])
                if number % 3 == 0:
                    self.delete(http, crop["crop_id"])
            except httpx2.TransportError:
                return

    def delete(self, http, crop_id):
        self.doubtful.add(crop_id)
        answer = http.delete(f"/v1/galleries/lobby/crops/{crop_id}")
        if answer.status_code == 200:
            self.deleted.add(crop_id)

    def check(self, served):
        pages = served.results("/v1/galleries/lobby/crops", params={"limit": 1000})
        there = {crop["crop_id"] for crop in pages}
        assert self.enrolled - self.doubtful <= there
        assert not there & self.deleted


@pytest.fixture
def place(tiny_artefact, tmp_path):
    """Yield a server and a function that starts a service of a machine, given by its name."""
    started = []
    logs = itertools.count()
    with postgres() as server:
        url = server.url("record")

        def start(machine="first"):
            settings = {"data_dir": tmp_path / machine, "artefact": tiny_artefact}
            log = tmp_path / f"log.{next(logs)}"
            started.append(Served(log, database_url=url, **settings))
            return started[-1]

        try:
            yield server, start
        finally:
            for served in started:
                if served.process.poll() is None:
                    served.kill()


def _under_traffic(ledger, served, act):
    """Act while clients send requests, and return once they have ended."""
    stop = threading.Event()
    clients = [
        threading.Thread(target=ledger.send, args=(served.http, stop)) for _ in range(CLIENTS)
    ]
    for client in clients:
        client.start()
    stop.wait(TRAFFIC_SECONDS)
    act()
    stop.set()
    for client in clients:
        client.join(60)
        assert not client.is_alive()


def test_what_was_acknowledged_survives_kills_of_the_service_and_of_the_server(place):
    server, start = place
    ledger = Ledger()
    served = start()
    served.create("lobby")
    for _ in range(KILLS):
        _under_traffic(ledger, served, served.process.kill)
        served.ended_with()
        served = start()
        ledger.check(served)
    for _ in range(KILLS):
        _under_traffic(ledger, served, server.kill)
        assert served.http.get("/v1/galleries/lobby/crops").status_code == 503
        assert served.http.get("/livez").status_code == 200
        server.start()
        eventually(lambda: served.http.get("/readyz").status_code == 200)
        ledger.check(served)
    assert len(ledger.enrolled) > 10
    assert ledger.deleted


def test_who_forgets_a_person_is_told_that_postgresql_keeps_deleted_rows(place, drawn_crops):
    _, start = place
    served = start()
    served.create("lobby")
    served.fill("lobby", drawn_crops)
    answer = served.http.delete("/v1/galleries/lobby/identities/0000").json()
    (remainder,) = [part for part in answer["remaining"] if "PostgreSQL" in part["where"]]
    assert "VACUUM" in remainder["until"]
    assert not [part for part in answer["remaining"] if "SQLite" in part["what"]]


def test_another_machine_goes_on_with_the_record_and_the_former_one_joins_it(
    place, drawn_crops, images
):
    _, start = place
    first = start("first")
    first.create("lobby")
    crop_ids = first.fill("lobby", drawn_crops)
    found = first.found("lobby", images[0])
    first.kill()
    second = start("second")
    assert second.found("lobby", images[0]) == found
    second.delete_crop("lobby", crop_ids[0])
    # Its copy of the vectors is brought up to date.
    again = start("first")
    assert crop_ids[0] not in again.found("lobby", images[0])
    assert again.found("lobby", images[0]) == second.found("lobby", images[0])


def test_a_job_is_run_by_one_machine_and_by_the_other_once_that_is_killed(place, drawn_crops):
    _, start = place
    first = start("first")
    first.create("lobby")
    first.fill("lobby", drawn_crops)
    second = start("second")
    for killed in (None, first):
        if killed:
            killed.kill()
        job = second.http.post("/v1/galleries/lobby/groups").json()
        assert second.ended_job(job)["state"] == "done"
